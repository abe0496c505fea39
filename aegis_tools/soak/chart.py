"""The geometry of a plot over time: axes, thinned lines that break at gaps, what is marked. Pure.

A panel says what is to be seen in units of the thing itself; :mod:`aegis_tools.soak.svg` and
scripts/plot_soak_metrics.py draw it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import NamedTuple

BINS = 360
"""At most so many points a line: one for every two or three pixels."""
LATEST = 253_402_300_799
"""The last second that a date can say: of the year 9999."""
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STEPS = (
    1, 5, 10, 30, _MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE, _HOUR, 2 * _HOUR,
    3 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY, 2 * _DAY, 7 * _DAY, 14 * _DAY, 28 * _DAY, 91 * _DAY,
)  # fmt: skip
"""Seconds between the marks of a time axis."""


class Bin(NamedTuple):
    """The samples of a short time: when, and the least, the mean and the most of them."""

    at: float
    low: float
    mid: float
    high: float


class Tick(NamedTuple):
    """A mark on an axis, and what is written there."""

    at: float
    label: str


class Span(NamedTuple):
    """A stretch of time in one state."""

    start: float
    end: float
    state: str


class Mark(NamedTuple):
    """A moment at which something happened: ``sign`` is one letter, ``tone`` good to bad."""

    at: float
    sign: str
    tone: str
    text: str


@dataclass(frozen=True)
class Line:
    """One line of a panel.

    Attributes:
        name: What it is, for the legend.
        tone: Its colour: ``c1`` to ``c6``, ``soft`` or ``limit``.
        bins: Its points in the order of time.
        band: Also show the least and the most of each point.
        breaks: Seconds at which it ends and begins anew.
        measured: It breaks where samples are missing.
    """

    name: str
    tone: str
    bins: Sequence[Bin]
    band: bool = False
    breaks: Sequence[float] = ()
    measured: bool = True


@dataclass(frozen=True)
class Limit:
    """A level that must not be passed."""

    value: float
    text: str
    tone: str = "limit"


@dataclass(frozen=True)
class Bars:
    """What happened in each of many equally long times: one pile of counts a time."""

    width: float
    starts: Sequence[float]
    layers: Sequence[tuple[str, str, Sequence[int]]]
    """Name, tone, and a count for each start; the first lies at the bottom."""


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        id: For links and tests.
        title: What it shows.
        words: The same in a sentence, for who reads, and who cannot see it.
        start: Unix time at the left edge.
        span: Seconds from edge to edge, more than 0.
        unit: Of the vertical axis.
        trends: Straight pieces of a fitted line; ``low`` and ``high`` are its interval.
        strips: Rows of states instead of a vertical axis: a name, and its spans.
        gaps: Times of which nothing is known, as (from, to).
        none: Why there is nothing to draw; empty where there is something.
        whole: Its values are counts.
    """

    id: str
    title: str
    words: str
    start: float
    span: float
    unit: str = ""
    lines: Sequence[Line] = ()
    bars: Bars | None = None
    trends: Sequence[Sequence[Bin]] = ()
    limits: Sequence[Limit] = ()
    strips: Sequence[tuple[str, Sequence[Span]]] = ()
    marks: Sequence[Mark] = ()
    gaps: Sequence[tuple[float, float]] = ()
    none: str = ""
    whole: bool = False
    keys: Sequence[tuple[str, str]] = field(default_factory=tuple)
    """Further entries of the legend: a tone, and what it stands for."""


def thin(points: Iterable[tuple[float, float]], span: float, bins: int = BINS) -> list[Bin]:
    """Return at most ``bins`` points that keep the least and the most of all they stand for.

    Args:
        points: (seconds since the start, value), in the order of time.
        span: Seconds that the whole axis has.
        bins: How many there may be.
    """
    wide = max(span, 1e-9) / bins
    found: list[Bin] = []
    held: list[tuple[float, float]] = []
    for point in points:
        if held and int(point[0] / wide) != int(held[0][0] / wide):
            found.append(_bin(held))
            held = []
        held.append(point)
    return [*found, _bin(held)] if held else found


def _bin(held: Sequence[tuple[float, float]]) -> Bin:
    values = [value for _, value in held]
    at = sum(time for time, _ in held) / len(held)
    return Bin(at, min(values), sum(values) / len(values), max(values))


def runs(line: Line, gaps: Sequence[tuple[float, float]]) -> list[list[Bin]]:
    """Return the pieces of a line that no gap and no break of its own divides."""
    middles = [(low + high) / 2 for low, high in gaps] if line.measured else []
    middles = sorted([*middles, *line.breaks])
    found: list[list[Bin]] = []
    number = 0
    for one in line.bins:
        before = number
        while number < len(middles) and middles[number] <= one.at:
            number += 1
        if not found or number > before:
            found.append([])
        found[-1].append(one)
    return found


def top_of(panel: Panel) -> float:
    """Return the value at the upper edge: a little over the data and the limits; never 0."""
    values = [one.high for line in panel.lines for one in line.bins]
    values += [one.mid for piece in panel.trends for one in piece]
    values += [limit.value for limit in panel.limits]
    if panel.bars:
        values += [sum(pile) for pile in zip(*(n for _, _, n in panel.bars.layers), strict=True)]
    most = max((value for value in values if math.isfinite(value)), default=0.0)
    return most * 1.06 if most > 0 else 1.0


def ticks(top: float, *, most: int = 5, whole: bool = False) -> list[Tick]:
    """Return round values from 0 to ``top``, at most ``most`` and the 0."""
    raw = top / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * n for n in (1, 2, 2.5, 5, 10) if power * n >= raw * (1 - 1e-9))
    if whole:
        step = max(1.0, math.ceil(step))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step, digits) != step:
        digits += 1
    count = int(top / step + 1e-9)
    return [Tick(n * step, f"{n * step:,.{digits}f}") for n in range(count + 1)]


def time_ticks(start: float, span: float, *, most: int = 9) -> list[Tick]:
    """Return round times of day, UTC, as seconds since ``start``.

    Days are written ``01-15``, hours ``06:00``, and a midnight among hours as its day.
    """
    step = next((n for n in _STEPS if span / n <= most), math.ceil(span / most))
    first = math.ceil(start / step) * step
    found = []
    while first <= start + span:
        found.append(Tick(first - start, _moment(first, step)))
        first += step
    return found


def _moment(unix: float, step: int) -> str:
    at = datetime.fromtimestamp(min(unix, LATEST), tz=timezone.utc)
    if unix % _DAY == 0 or step > _DAY:
        return at.strftime("%m-%d")
    return at.strftime("%H:%M" if step >= _MINUTE else "%H:%M:%S")


def gather(marks: Iterable[Mark], near: float) -> list[list[Mark]]:
    """Return marks in groups that lie within ``near`` seconds of their first."""
    found: list[list[Mark]] = []
    for mark in sorted(marks):
        if found and mark.at - found[-1][0].at < near:
            found[-1].append(mark)
        else:
            found.append([mark])
    return found


_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(points: Sequence[Sequence[float]], end: float, width: int) -> str:
    """Return a line of blocks from 0 to the most; of a time without points a space.

    Args:
        points: (seconds since the start, low, mid, high), in the order of time.
        end: Seconds that the whole line stands for.
        width: How many characters.
    """
    tops: list[float | None] = [None] * width
    for at, _, _, high in points:
        number = min(width - 1, int(at / end * width))
        tops[number] = max(high, tops[number] or 0.0)
    most = max((top for top in tops if top is not None), default=0.0) or 1.0
    last = len(_BLOCKS) - 1
    return "".join(" " if top is None else _BLOCKS[round(top / most * last)] for top in tops)
