"""The figures of a soak: what its rows say about each thing that is judged."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean, median

from aegis_tools.soak import segments, stats
from aegis_tools.soak.columns import Sample
from aegis_tools.soak.growth import DAY, DAYS_OF_A_CYCLE, Growth, growth
from aegis_tools.soak.hits import Hit
from aegis_tools.soak.reading import Soak
from aegis_tools.soak.segments import Clock
from aegis_tools.soak.stats import Interval

_PARTS = 8
"""Into so many parts a stretch is cut that is compared with another."""
_SPARE = 0.05
"""Of a day, by which the first of whole days may be shorter."""


@dataclass(frozen=True)
class Level:
    """How much there was of something.

    Attributes:
        samples: Rows that tell it.
        mean: Over all of them.
        median: With its interval; so the next two.
        p95: What was exceeded in 5 % of the rows.
        p99: What was exceeded in 1 %.
        highest: Of all.
    """

    samples: int
    mean: float
    median: Interval
    p95: Interval
    p99: Interval
    highest: float


@dataclass(frozen=True)
class Change:
    """How much something has grown from the beginning of a soak to its end, in %.

    Attributes:
        grown: With its interval.
        samples: Rows that were compared.
        load: The load average then and now, where rows tell it.
    """

    grown: Interval
    samples: int
    load: tuple[float, float] | None = None


@dataclass(frozen=True)
class Drops:
    """Events that found the ring full.

    Attributes:
        dropped: How many; None where rows do not tell.
        events: Of how many; None where rows do not tell.
        rate: From beginning to end; None where there are too few.
        samples: Rows that tell it.
    """

    dropped: int | None
    events: int | None
    rate: Change | None
    samples: int


@dataclass(frozen=True)
class Maps:
    """How full the maps were.

    Attributes:
        entries: How fast entries have grown while the policy was the same.
        highest: The most entries there were.
        fill: The highest share of its capacity that any map held; None where rows do not tell.
        samples: Rows that tell it.
    """

    entries: Growth | None
    highest: float
    fill: float | None
    samples: int


@dataclass(frozen=True)
class Cover:
    """How much of a soak was watched.

    Attributes:
        length_s: Seconds from its beginning to its end, or until now.
        watched_s: Seconds of them without gaps.
        rows: Turns that were made.
        due: Turns that were due.
        present: Turns that found the agent.
        dead: How often the agent was found dead after it had been there.
        other: Turns that found another policy or mode than the soak began with.
    """

    length_s: float
    watched_s: float
    rows: int
    due: int
    present: int
    dead: int
    other: int


@dataclass(frozen=True)
class Denials:
    """What was denied, but for the canary.

    Attributes:
        blocks: Denials that the kernel counted.
        unexpected: Those by rules that nobody expected to deny, by rule, most first.
        untold: Those that no rule's row tells of.
    """

    blocks: int
    unexpected: tuple[tuple[str, int], ...]
    untold: int

    @property
    def wrong(self) -> int:
        """How many by rules that nobody expected to deny."""
        return sum(count for _, count in self.unexpected)


@dataclass(frozen=True)
class Figures:
    """All of them; None where the rows are too few or do not tell.

    Attributes:
        cover: How much was watched.
        cpu: The agent's processor time, in % of one core.
        memory: Its memory in MiB, but for the first minutes of each process.
        growth: How fast that grows, in MiB a day.
        drops: Events that were lost.
        maps: How full the maps were.
        slower: How much longer a file took to open in the end than in the beginning.
        denials: What was denied.
        tries: How often the canary was tried.
        misses: How often that was not seen.
    """

    cover: Cover
    cpu: Level | None
    memory: Level | None
    growth: Growth | None
    drops: Drops
    maps: Maps
    slower: Change | None
    denials: Denials
    tries: int
    misses: int


def figures(soak: Soak, confidence: float) -> Figures:
    """Return the figures of a soak."""
    rows, settings = soak.samples, soak.settings
    clock = segments.clock(settings, rows)
    memory = segments.processes(clock, rows, lambda one: one.mem_mb)
    tries = Counter(one.canary for one in rows)
    missed = sum(one.kind == "canary-miss" for one in soak.happened)
    return Figures(
        cover=_cover(soak, clock),
        cpu=level([one.cpu_pct for one in rows if one.cpu_pct is not None], confidence),
        memory=level([value for part in memory for value in part.values], confidence),
        growth=growth(memory, confidence),
        drops=_drops(clock, rows, confidence),
        maps=_maps(clock, rows, confidence),
        slower=_slower(clock, rows, confidence),
        denials=_denials(soak),
        tries=max(tries["ok"] + tries["miss"], missed),
        misses=max(tries["miss"], missed),
    )


def level(values: Sequence[float], confidence: float) -> Level | None:
    """Return how much there was of something; None without values."""
    if not values:
        return None
    middle, p95, p99 = (stats.order_interval(values, q, confidence) for q in (0.5, 0.95, 0.99))
    return Level(len(values), fmean(values), middle, p95, p99, max(values))


def _cover(soak: Soak, clock: Clock) -> Cover:
    rows, settings = soak.samples, soak.settings
    last = clock.times[-1] if rows else 0.0
    rest = soak.until - (rows[-1].timestamp if rows else settings.started)
    # What the wall clock says after the last row may be as wrong as it likes: there is no more to
    # come than what is left of the soak.
    rest = min(max(0.0, rest), max(0.0, settings.duration_s - last))
    length = last + rest
    late = rest if rest > segments.GAP * settings.interval_s else 0.0
    dead = sum(
        row.agent == "dead" and (at == 0 or rows[at - 1].agent != "dead")
        for at, row in enumerate(rows)
    )
    return Cover(
        length_s=length,
        watched_s=max(0.0, length - late - sum(clock.gaps)),
        rows=len(rows),
        due=int(length // settings.interval_s),
        present=sum(row.present for row in rows),
        dead=dead,
        other=sum(_other(soak, row) for row in rows),
    )


def _other(soak: Soak, row: Sample) -> bool:
    settings = soak.settings
    if row.mode is not None and row.mode != settings.mode:
        return True
    digest = settings.policy.digest.removeprefix("sha256:") if settings.policy else ""
    return row.mode is not None and (row.policy or "") != digest[:12]


def _drops(clock: Clock, rows: Sequence[Sample], confidence: float) -> Drops:
    lost = segments.deltas(rows, lambda one: one.ringbuf_drops)
    events = segments.deltas(rows, lambda one: one.events)
    return Drops(
        dropped=sum(lost) if lost else None,
        events=sum(events) if events else None,
        rate=_rate(clock, rows, lost, confidence) if len(lost) == len(rows) else None,
        samples=len(lost),
    )


def _rate(
    clock: Clock, rows: Sequence[Sample], lost: Sequence[int], confidence: float
) -> Change | None:
    """Return how the drops a second have grown, from the first half to the second."""
    total = list(accumulate(lost))
    parts = []
    for first in (0, len(rows) // 2):
        ends = [first + (len(rows) // 2) * part // _PARTS for part in range(_PARTS + 1)]
        pairs = pairwise(ends)
        parts.append([
            (total[b - 1] - total[a]) / (clock.times[b - 1] - clock.times[a])
            for a, b in pairs
            if b - a > 1 and clock.times[b - 1] > clock.times[a]
        ])  # fmt: skip
    before, after = parts
    if len(before) < _PARTS or len(after) < _PARTS:
        return None
    grown, usual = stats.difference(before, after, confidence), fmean(before + after)
    if not usual:
        return Change(Interval(0.0, 0.0, 0.0), len(rows))
    scale = 100 / usual
    return Change(Interval(grown.value * scale, grown.low * scale, grown.high * scale), len(rows))


def _maps(clock: Clock, rows: Sequence[Sample], confidence: float) -> Maps:
    parts = segments.policies(clock, rows, _entries)
    fills = [row.map_fill for row in rows if row.map_fill is not None]
    return Maps(
        entries=growth(parts, confidence),
        highest=max((value for part in parts for value in part.values), default=0.0),
        fill=max(fills) if fills else None,
        samples=sum(len(part.values) for part in parts),
    )


def _entries(row: Sample) -> float | None:
    known = [row.map_deny_path, row.map_deny_inode, row.map_allow_cgroup]
    counts = [count for count in known if count is not None]
    return float(sum(counts)) if counts else None


def _slower(clock: Clock, samples: Sequence[Sample], confidence: float) -> Change | None:
    """Compare each part of the beginning with that of the end, the same hours of another day.

    So what a day's work does to every day is in no difference, and in no interval. In less than
    two days there are no such hours, and parts are compared in their order.
    """
    known = [(time, row) for time, row in zip(clock.times, samples, strict=True) if row.probe_us]
    if len(known) < 4 * _PARTS:
        return None
    watched = known[-1][0] - known[0][0]
    days = watched >= DAYS_OF_A_CYCLE * DAY
    length = max(1, int(watched / 4 / DAY)) * DAY if days else watched / 4
    later = known[-1][0] - length
    begin = later - int((watched - length) / DAY + _SPARE) * DAY if days else known[0][0]
    pairs = [
        (first, last)
        for first, last in zip(_cut(known, begin, length), _cut(known, later, length), strict=True)
        if first and last
    ]
    if len(pairs) <= _PARTS // 2:
        return None
    before, after = zip(*pairs, strict=True)
    compare = stats.paired if days else stats.difference
    grown = compare(list(map(_speed, before)), list(map(_speed, after)), confidence)
    rows = [[row for part in parts for row in part] for parts in (before, after)]
    loads = [[row.load1 for row in each if row.load1 is not None] for each in rows]
    return Change(
        Interval(*(100 * math.expm1(min(x, 50.0)) for x in grown)),
        sum(map(len, rows)),
        (median(loads[0]), median(loads[1])) if all(loads) else None,
    )


def _cut(known: Sequence[tuple[float, Sample]], begin: float, length: float) -> list[list[Sample]]:
    """Return the rows of each of the parts of a stretch of time."""
    parts: list[list[Sample]] = [[] for _ in range(_PARTS)]
    for time, row in known:
        part = (time - begin) / length * _PARTS
        if 0 <= part <= _PARTS:
            parts[min(int(part), _PARTS - 1)].append(row)
    return parts


def _speed(part: Sequence[Sample]) -> float:
    return math.log(median(row.probe_us for row in part if row.probe_us))


def _denials(soak: Soak) -> Denials:
    """Count what was denied but the canary, which is in the kernel's counter and in no rule's."""
    rows = soak.samples
    tries = sum(row.canary == "ok" and row.mode == "enforce" for row in rows[1:])
    blocks = sum(segments.deltas(rows, lambda one: one.blocks)) - tries
    by_rule = denied(soak.first, soak.hits, lambda one: one.blocks)
    told, expected = sum(by_rule.values()), set(soak.settings.expected)
    unexpected = [(rule, n) for rule, n in by_rule.items() if n and rule not in expected]
    return Denials(
        blocks=max(0, blocks, told),
        unexpected=tuple(sorted(unexpected, key=lambda one: (-one[1], one[0]))),
        untold=max(0, blocks - told),
    )


def denied(first: float, hits: Sequence[Hit], value: Callable[[Hit], int]) -> dict[str, int]:
    """Return how often each rule has matched since the soak began.

    Args:
        first: When its first turn was, Unix seconds: the rows until then tell what was there
            before.
        hits: The rows, oldest first.
        value: Which of the two counters.
    """
    before: dict[str, int] = {}
    found: Counter[str] = Counter()
    begun = False  # from then on the wall clock may be set back as far as it likes
    for hit in hits:
        now = value(hit)
        begun = begun or hit.timestamp > first
        if begun:
            known = before.get(hit.rule, 0)
            found[hit.rule] += now if now < known else now - known
        before[hit.rule] = now
    return dict(found)
