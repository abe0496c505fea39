"""Which plots a report has, and what each of them says in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from aegis_tools.soak import words
from aegis_tools.soak.chart import Bars, Bin, Limit, Line, Mark, Panel, Span
from aegis_tools.soak.criteria import (
    CPU_P99,
    CPU_SUSTAINED,
    DROPPED,
    FILL,
    MEMORY,
    MEMORY_A_DAY,
)
from aegis_tools.soak.verdict import span
from aegis_tools.soak.words import amount, interval, number

FAR = 12
"""A limit so many times above the data is named, not drawn: the data would be a flat line."""
_DAY = 86400
NOT_MARKED = ("begun", "ended", "override", "gap")
_NOTHING = "no sample tells it"
_TONES = ("c1", "c2", "c3", "c4", "c5", "c6")


def panels(report: Mapping[str, Any]) -> list[Panel]:
    """Return the plots of a report, in order."""
    return [
        make(report) for make in (_cpu, _memory, _lost, _fill, _entries, _matches, _probe, _ran)
    ]


def _base(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all panels share: axis of time, gaps, marks."""
    series = report["series"]
    marks = [
        Mark(one["after_s"], words.KINDS[one["kind"]][0], one["tone"],
             f"{words.after(one['after_s'])} {words.KINDS[one['kind']][2]}: {one['text']}")
        for one in report["happened"] if one["kind"] not in NOT_MARKED
    ]  # fmt: skip
    gaps = [(low, high) for low, high in series["gaps"]]
    return {"start": report["soak"]["start"], "span": series["end"], "marks": marks, "gaps": gaps}


def _points(report: Mapping[str, Any], name: str) -> list[Bin]:
    return [Bin(*one) for one in report["series"][name]]


def _most(*lines: Sequence[Bin]) -> float:
    return max((one.high for line in lines for one in line), default=0.0)


def _levels(most: float, *limits: tuple[float, str]) -> tuple[list[Limit], str]:
    """Return the limits to draw, and words for those that lie far above."""
    near = [Limit(value, text) for value, text in limits if value <= FAR * most]
    far = [text for value, text in limits if value > FAR * most]
    return near, f" Far above: {' and '.join(far)}." if far else ""


def _criterion(report: Mapping[str, Any], identifier: str) -> Mapping[str, Any] | None:
    return next((one for one in report["criteria"] if one["id"] == identifier), None)


def _judged(report: Mapping[str, Any]) -> bool:
    """Return whether use of CPU and lost events have fixed limits: under stress they have none."""
    return bool(report["soak"]["scenario"] != "stress")


def _spread(report: Mapping[str, Any], name: str, unit: str) -> str:
    found = report["figures"][name]
    told = (("mean", "mean"), ("p95", "p95"), ("p99", "p99"), ("most", "max"))
    return ", ".join(f"{word} {number(found[key])}" for word, key in told) + f" {unit}."


def _cpu(report: Mapping[str, Any]) -> Panel:
    points = _points(report, "cpu")
    base = {**_base(report), "id": "cpu", "title": "CPU of the agent", "unit": "% of one core"}
    if not points:
        return Panel(**base, words="CPU of the agent: no sample tells it.", none=_NOTHING)
    fixed = [(CPU_SUSTAINED, f"limit sustained {CPU_SUSTAINED:g} %"),
             (CPU_P99, f"limit p99 {CPU_P99:g} %")]  # fmt: skip
    drawn, far = _levels(_most(points), *(fixed if _judged(report) else []))
    p99 = report["figures"]["cpu"]["p99"]
    return Panel(
        **base,
        words=f"CPU, % of one core: {_spread(report, 'cpu', '%')}{far}",
        lines=[Line("mean, and least to most", "c1", points, band=True)],
        limits=[*drawn, Limit(p99, f"p99 {number(p99)} %", "c4")],
    )


def _memory(report: Mapping[str, Any]) -> Panel:
    points = _points(report, "memory")
    base = {**_base(report), "id": "memory", "title": "Memory of the agent", "unit": "MB"}
    if not points:
        return Panel(**base, words="Memory of the agent: no sample tells it.", none=_NOTHING)
    growth = _criterion(report, "mem_growth")
    trends = _trends(report, points, growth)
    lines = [Line("resident", "c1", points, band=True, breaks=_ends(report))]
    keys = []
    told = " Its growth is not known."
    if growth and growth["value"] is not None:
        between = interval(growth["low"], growth["high"])
        told = (f" It grows by {amount(growth['value'], 'MB')} a day "
                f"({words.confidence(report)} {between}; limit {MEMORY_A_DAY:g}).")  # fmt: skip
        keys = [("trend", "growth, and its interval")]
        lines.append(_allowed(points, report["series"]["end"]))
    drawn, far = _levels(_most(points), (MEMORY, f"limit {MEMORY:g} MB"))
    return Panel(
        **base,
        words=f"Memory, MB: {_spread(report, 'memory', 'MB')}{told}{far}",
        lines=lines,
        limits=drawn,
        trends=trends,
        keys=keys,
    )


def _allowed(points: Sequence[Bin], end: float) -> Line:
    """Return the line of what may be grown at most, from where memory began."""
    first = points[0]
    level = median(one.mid for one in points[: max(1, len(points) // 20)])
    last = level + MEMORY_A_DAY * (end - first.at) / _DAY
    ends = [Bin(first.at, level, level, level), Bin(end, last, last, last)]
    return Line(f"limit {MEMORY_A_DAY:g} MB a day", "limit", ends, measured=False)


def _ends(report: Mapping[str, Any]) -> list[float]:
    """Return when processes of the agent ended: just after the last sample of each."""
    half = report["soak"]["interval_s"] / 2
    return [end + half for _, end in report["series"]["processes"][:-1]]


def _trends(
    report: Mapping[str, Any], points: Sequence[Bin], growth: Mapping[str, Any] | None
) -> list[list[Bin]]:
    """Return a straight piece for each process of the agent: its own level, the common growth."""
    if growth is None or growth["value"] is None:
        return []
    rate = growth["value"] / _DAY
    low, high = ((rate if growth[end] is None else growth[end] / _DAY) for end in ("low", "high"))
    found = []
    for begun, ended in report["series"]["processes"]:
        piece = [one for one in points if begun <= one.at <= ended]
        if len(piece) < 3:
            continue
        level, middle = median(one.mid for one in piece), (piece[0].at + piece[-1].at) / 2
        found.append([
            Bin(at, min(ends), level + (at - middle) * rate, max(ends))
            for at in (piece[0].at, middle, piece[-1].at)
            for ends in [[level + (at - middle) * one for one in (low, high)]]
        ])  # fmt: skip
    return found


def _lost(report: Mapping[str, Any]) -> Panel:
    lost, events = _points(report, "lost"), _points(report, "events")
    base = {**_base(report), "id": "lost", "title": "Events lost since the beginning",
            "unit": "events", "whole": True}  # fmt: skip
    if not lost:
        return Panel(**base, words="Lost events: no sample tells it.", none=_NOTHING)
    many, of = report["figures"]["lost"], report["figures"]["events"]
    told = "none" if not many else number(many)
    lines = [Line("lost", "c4", lost)]
    allowed = DROPPED / 100 * _most(events)
    if _judged(report) and (1 <= allowed <= 100 * max(1.0, _most(lost)) or many):
        share = [Bin(one.at, *(DROPPED / 100 * value for value in one[1:])) for one in events]
        lines.append(Line(f"limit {DROPPED:g} % of events", "limit", share))
    total = f" of {number(of)}" if of is not None else ""
    return Panel(**base, words=f"Events lost: {told}{total}.", lines=lines)


def _fill(report: Mapping[str, Any]) -> Panel:
    points = _points(report, "fill")
    base = {**_base(report), "id": "fill", "title": "The fullest map", "unit": "% of its capacity"}
    if not points:
        return Panel(**base, words="The fullest map: no sample tells it.", none=_NOTHING)
    drawn, far = _levels(_most(points), (100 * FILL, f"limit {FILL:.0%}"))
    told = f"The fullest map, % of its capacity: at most {amount(_most(points), '%')}.{far}"
    line = Line("the fullest map", "c3", points, band=True)
    return Panel(**base, words=told, lines=[line], limits=drawn)


def _entries(report: Mapping[str, Any]) -> Panel:
    named = (("path rules", "paths"), ("inode rules", "inodes"), ("allowed cgroups", "cgroups"))
    base = {**_base(report), "id": "entries", "title": "Entries of the maps", "unit": "entries",
            "whole": True}  # fmt: skip
    lines = [
        Line(name, tone, points)
        for (name, key), tone in zip(named, _TONES, strict=False)
        if (points := _points(report, key))
    ]
    if not lines:
        return Panel(**base, words="Entries of the maps: no sample tells them.", none=_NOTHING)
    told = ", ".join(
        f"{one.name} {number(first)} at first and {number(last)} at last"
        for one in lines
        for first, last in [(round(one.bins[0].mid), round(one.bins[-1].mid))]
    )
    return Panel(**base, words=f"Entries: {told}.", lines=lines)


def _matches(report: Mapping[str, Any]) -> Panel:
    found = report["series"]["denials"]
    base = {**_base(report), "id": "matches", "title": "Matches by rule", "unit": "matches",
            "whole": True}  # fmt: skip
    if not found["rules"]:
        none = "no rule matched"
        return Panel(**base, words="Matches by rule: no rule matched.", none=none)
    width = found["width"]
    starts = [number * width for number in range(len(found["rules"][0]["counts"]))]
    layers = [(one["rule"], tone, one["counts"])
              for one, tone in zip(found["rules"], _TONES, strict=False)]  # fmt: skip
    told = ", ".join(f"{rule} {number(sum(counts))}" for rule, _, counts in layers)
    how = "let through" if report["soak"]["mode"] != "enforce" else "denied"
    each = words.plural(max(1, round(width)), "second") if width < 120 else span(width)
    return Panel(
        **base,
        words=f"Matches, {how} in this mode, a bar for each {each}: {told}.",
        bars=Bars(width, starts, layers),
    )


def _probe(report: Mapping[str, Any]) -> Panel:
    points = _points(report, "probe")
    base = {**_base(report), "id": "probe", "title": "To open and close a file that no rule names",
            "unit": "µs"}  # fmt: skip
    if not points:
        return Panel(**base, words="Time to open a file: no sample tells it.", none=_NOTHING)
    slow = _criterion(report, "slowness")
    told = ""
    if slow and slow["value"] is not None:
        between = interval(slow["low"], slow["high"])
        told = f" End against beginning: {amount(slow['value'], '%')} slower ({between})."
    return Panel(
        **base,
        words=f"Open and close, µs: {_spread(report, 'probe', 'µs')}{told}",
        lines=[Line("median of a turn, and least to most", "c2", points, band=True)],
    )


def _ran(report: Mapping[str, Any]) -> Panel:
    base = {**_base(report), "id": "ran", "title": "Agent and canary"}
    strips = [
        (name, [Span(*one) for one in report["series"][name]]) for name in ("agent", "canary")
    ]
    if not any(spans for _, spans in strips):
        return Panel(**base, words="Agent and canary: no samples.", none="no samples")
    told = "; ".join(f"{name}: {_shares(spans)}" for name, spans in strips)
    gaps = len(base["gaps"])
    missing = f"; {words.plural(gaps, 'gap')} without samples" if gaps else "; no gap"
    return Panel(**base, words=f"{told}{missing}.", strips=strips)


def _shares(spans: Sequence[Span]) -> str:
    """Return of each state which share of the time it took."""
    total = sum(one.end - one.start for one in spans)
    if not total:
        return "never told"
    by_state: dict[str, float] = {}
    for one in spans:
        by_state[one.state] = by_state.get(one.state, 0.0) + one.end - one.start
    return ", ".join(f"{state} {_share(part / total)}" for state, part in by_state.items())


def _share(part: float) -> str:
    if 0.999 <= part < 1:
        return "over 99.9 %"
    return "all the time" if part == 1 else f"{number(round(100 * part, 1))} %"
