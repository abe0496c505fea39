"""What a report draws: samples thinned to some hundred points on one axis of time. Pure.

The axis is seconds since the soak began, by the boot's own clock where that goes on: a wall clock
that was set moves nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any

from aegis_tools.soak.chart import BINS, thin
from aegis_tools.soak.columns import Sample
from aegis_tools.soak.reading import Soak
from aegis_tools.soak.segments import GAP, clock, deltas, processes

MOST_PROCESSES = 200
"""Of the agent, whose growth is drawn."""
MOST_RULES = 5
BARS = 72
OTHERS = "other rules"
_WORST = {"agent": ("dead", "stopped", "none", "running"), "canary": ("miss", "none", "ok")}
_VALUES: dict[str, Callable[[Sample], float | None]] = {
    "cpu": lambda one: one.cpu_pct,
    "memory": lambda one: one.mem_mb if one.present else None,
    "fill": lambda one: None if one.map_fill is None else 100 * one.map_fill,
    "paths": lambda one: one.map_deny_path,
    "inodes": lambda one: one.map_deny_inode,
    "cgroups": lambda one: one.map_allow_cgroup,
    "probe": lambda one: one.probe_us,
}
_COUNTERS: dict[str, Callable[[Sample], int | None]] = {
    "lost": lambda one: one.ringbuf_drops,
    "events": lambda one: one.events,
}


class Axis:
    """When each sample was taken, in seconds since the soak began.

    Args:
        soak: The soak.
        length_s: How long it lasted, as its verdict says.

    Attributes:
        clock: When each row was made.
        at: The same, but for what the clock knows of gaps.
        end: When what is known ends.
        gaps: (from, to) of each time without samples.
    """

    def __init__(self, soak: Soak, length_s: float) -> None:
        self._started = soak.settings.started
        self.clock = clock(soak.settings, soak.samples)
        self.at = self.clock.times
        self.end = max(1.0, length_s, self.at[-1] if self.at else 0.0)
        least = GAP * soak.settings.interval_s
        edges = [0.0, *self.at, self.end]
        self.gaps = [(low, high) for low, high in pairwise(edges) if high - low > least]
        known = sorted(zip((one.timestamp for one in soak.samples), self.at, strict=True))
        self._wall, self._at = [wall for wall, _ in known], [at for _, at in known]

    def of(self, unix: float) -> float:
        """Return where a moment of the wall clock lies, by the sample that is next to it."""
        if not self._wall:
            return min(self.end, max(0.0, unix - self._started))
        number = min(bisect_left(self._wall, unix), len(self._wall) - 1)
        return min(self.end, max(0.0, self._at[number] + unix - self._wall[number]))


def series(soak: Soak, axis: Axis) -> dict[str, Any]:
    """Return what is drawn, as ``report.json`` has it."""
    found: dict[str, Any] = {"end": _short(axis.end), "gaps": _gaps(axis)}
    for name, value in _VALUES.items():
        found[name] = _thinned(_known(soak, axis, value), axis.end)
    for name, counter in _COUNTERS.items():
        found[name] = _thinned(_grown(soak, axis, counter), axis.end)
    found["processes"] = [
        [_short(part.times[0]), _short(part.times[-1])]
        for part in processes(axis.clock, soak.samples, _VALUES["memory"])[:MOST_PROCESSES]
    ]
    found["denials"] = _denials(soak, axis)
    found["agent"] = _spans(soak, axis, "agent", lambda one: one.agent or "running")
    found["canary"] = _spans(soak, axis, "canary", lambda one: one.canary)
    return found


def _gaps(axis: Axis) -> list[list[float]]:
    """Return the longest gaps, in order."""
    longest = sorted(axis.gaps, key=lambda gap: gap[0] - gap[1])[:BINS]
    return [[_short(low), _short(high)] for low, high in sorted(longest)]


def _known(
    soak: Soak, axis: Axis, value: Callable[[Sample], float | None]
) -> list[tuple[float, float]]:
    pairs = zip(axis.at, map(value, soak.samples), strict=True)
    return [(at, found) for at, found in pairs if found is not None]


def _grown(
    soak: Soak, axis: Axis, counter: Callable[[Sample], int | None]
) -> list[tuple[float, float]]:
    """Return by how much a counter has grown since its first row; one that fell began anew."""
    at = [when for when, _ in _known(soak, axis, counter)]
    return list(zip(at, map(float, accumulate(deltas(soak.samples, counter))), strict=True))


def _thinned(points: Sequence[tuple[float, float]], end: float) -> list[list[float]]:
    return [[_short(value) for value in one] for one in thin(points, end)]


def _short(value: float) -> float:
    """Return a number of which a picture cannot tell the difference."""
    found = float(f"{value:.6g}")
    return int(found) if found == int(found) else found


def matches(soak: Soak) -> dict[str, list[tuple[int, int, int]]]:
    """Return by rule when it matched: (unix time, denials, let through) since the row before.

    What a rule had matched before the soak is in a row of the first turn.
    """
    first, begun = soak.first, False
    found: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    before: dict[str, tuple[int, int]] = {}
    for hit in soak.hits:
        blocks, audits = before.get(hit.rule, (0, 0))
        before[hit.rule] = hit.blocks, hit.audits
        begun = begun or hit.timestamp > first  # from then on the clock may be set back
        if not begun:
            continue
        if hit.blocks < blocks or hit.audits < audits:  # counted anew
            blocks = audits = 0
        found[hit.rule].append((hit.timestamp, hit.blocks - blocks, hit.audits - audits))
    return dict(found)


def _denials(soak: Soak, axis: Axis) -> dict[str, Any]:
    """Return counts of matches in BARS equal times, of the rules that matched most."""
    width = axis.end / BARS
    by_rule: dict[str, list[int]] = {}
    for rule, grown in matches(soak).items():
        counts = by_rule[rule] = [0] * BARS
        for unix, blocks, audits in grown:
            counts[min(BARS - 1, int(axis.of(unix) / width))] += blocks + audits
    ranked = sorted(by_rule, key=lambda rule: (-sum(by_rule[rule]), rule))
    ranked = [rule for rule in ranked if any(by_rule[rule])]
    rules = [{"rule": rule, "counts": by_rule[rule]} for rule in ranked[:MOST_RULES]]
    if rest := ranked[MOST_RULES:]:
        counts = [sum(by_rule[rule][n] for rule in rest) for n in range(BARS)]
        rules.append({"rule": OTHERS, "counts": counts})
    return {"width": _short(width), "rules": rules}


def _spans(
    soak: Soak, axis: Axis, name: str, state: Callable[[Sample], str | None]
) -> list[list[Any]]:
    """Return [from, to, state], of a short time the worst state."""
    worst = _WORST[name]
    wide = axis.end / BINS
    ends = {low: low + soak.settings.interval_s for low, _ in axis.gaps}
    found: list[list[Any]] = []
    edges = [*axis.at, axis.end][1:]
    for at, until, sample in zip(axis.at, edges, soak.samples, strict=True):
        said = state(sample)
        if said not in worst:
            continue
        end = min(axis.end, ends.get(at, until))
        joins = bool(found) and found[-1][1] == at
        if joins and int(found[-1][0] / wide) == int(at / wide):
            said = min(found[-1][2], said, key=worst.index)
            found[-1] = [found[-1][0], end, said]
        elif joins and found[-1][2] == said:
            found[-1][1] = end
        else:
            found.append([at, end, said])
    return [[_short(low), _short(high), said] for low, high, said in _merged(found)]


def _merged(spans: Iterable[list[Any]]) -> list[list[Any]]:
    merged: list[list[Any]] = []
    for span in spans:
        if merged and merged[-1][1] == span[0] and merged[-1][2] == span[2]:
            merged[-1][1] = span[1]
        else:
            merged.append(list(span))
    return merged
