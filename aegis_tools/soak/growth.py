"""How fast a figure grows, and whether that is a leak: more in the end, and ever more.

A line is laid through the values: one slope, a level for each section (a process), and a day's
rise and fall where there are days enough. What is growth by nature and no leak is told apart by a
second line, from which single rises and falls have been taken out:

* A step is growth that is not sustained: without it the second line is flat.
* The teeth of a saw are growth that does not add up: what rises falls again, and the falls that
  were taken out count against the rise.
* A leak is both: it goes on apart from any step, and is there in the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import median
from typing import NamedTuple

from aegis_tools.soak import stats
from aegis_tools.soak.stats import Interval

DAY = 86400.0
BLOCKS = 400
LEAST_BLOCKS = 8
_COSINES = 12
_SIGNIFICANT = 10.0
"""How far above the noise (F, one degree of freedom) a step must stand out at the best place."""
_HIGH = 3.0
"""How many standard deviations of the noise a step must be high."""
_EDGE = 3
"""Blocks between a step and the next or the end of a section."""
_DAYS_A_STEP = 2.0
_MOST_STEPS = 7
DAYS_OF_A_CYCLE = 2.0
"""From when on a day's rise and fall can be told from growth."""
DAYS_TO_BE_ALONE = 2.5


@dataclass(frozen=True)
class Section:
    """Values of one process.

    Attributes:
        times: Seconds, growing.
        values: As many.
    """

    times: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Step:
    """A single rise or fall that was taken out.

    Attributes:
        time: Seconds, as the sections have them.
        height: By how much.
    """

    time: float
    height: float


@dataclass(frozen=True)
class Growth:
    """How fast something grows, a day.

    Attributes:
        plain: The slope of the first line.
        sustained: The slope of the second line, without single steps.
        steps: What was taken out for that.
        range: From the lowest to the highest value, in the section where that is most.
        days: How long was watched: all sections together.
        samples: Values that were used.
    """

    plain: Interval
    sustained: Interval
    steps: tuple[Step, ...]
    range: float
    days: float
    samples: int

    @property
    def rise(self) -> float:
        """By how much it has risen in all, apart from single rises."""
        return self.interval.value * self.days

    @property
    def interval(self) -> Interval:
        """Growth that is sustained and adds up.

        The least is what the second line allows, less what fell by more than rose in steps. The
        most is what it allows, and the rises that were taken out of it, and one more, which may
        be due: but for a single one that stands out from all others, where there were days enough
        to see that it is alone. It is no more than both lines allow. Of less than two days, which
        can be the rise of one day, all counts from lowest to highest.
        """
        fallen = max(0.0, -sum(step.height for step in self.steps)) / self.days
        rises = sorted(step.height for step in self.steps if step.height > 0)
        alone = len(rises) == 1 or (len(rises) > 1 and rises[-2] < rises[-1] / 2)
        if alone and self.days >= DAYS_TO_BE_ALONE:
            rises.pop()
        risen = (sum(rises) + max(rises, default=0.0)) / self.days
        high = min(self.sustained.high + risen, max(self.plain.high, self.sustained.high))
        return Interval(
            self.sustained.value - fallen,
            self.sustained.low - fallen,
            high + (self.range / self.days if self.days < DAYS_OF_A_CYCLE else 0.0),
        )


Block = tuple[float, float]


class _Test(NamedTuple):
    at: int
    height: float
    clear: float
    high: bool


def growth(sections: Sequence[Section], confidence: float) -> Growth | None:
    """Return how fast values grow; None where there are too few to say.

    Args:
        sections: In the order of time.
        confidence: Of the intervals.
    """
    lengths = sorted(one.times[-1] - one.times[0] for one in sections if len(one.times) > 1)
    watched = sum(lengths)
    if watched <= 0:
        return None
    width = min(watched / BLOCKS, max(lengths[len(lengths) // 2], watched / 40) / 16)
    groups = [found for one in sections if len(found := _blocks(one, width)) >= LEAST_BLOCKS]
    if not groups:
        return None
    model = _Model(groups)
    plain = model.fit([], confidence)
    steps = model.steps()
    return Growth(
        plain=plain,
        sustained=model.fit([at for at, _ in steps], confidence) if steps else plain,
        steps=tuple(Step(model.times[at] * DAY, height) for at, height in steps),
        range=max(max(v for _, v in group) - min(v for _, v in group) for group in groups),
        days=sum(group[-1][0] - group[0][0] for group in groups),
        samples=sum(len(one.times) for one in sections),
    )


def _blocks(section: Section, width: float) -> list[Block]:
    """Return time (days) and median of each stretch of ``width`` seconds that has values."""
    found: list[Block] = []
    times, values = section.times, section.values
    start = 0
    for at in range(1, len(times) + 1):
        if at == len(times) or times[at] - times[start] >= width:
            middle = (times[start] + times[at - 1]) / 2
            found.append((middle / DAY, median(values[start:at])))
            start = at
    return found


class _Model:
    """One slope, a level for each group, a day's waves."""

    def __init__(self, groups: Sequence[Sequence[Block]]) -> None:
        self.times = [time for group in groups for time, _ in group]
        self._ends = list(accumulate((len(group) for group in groups), initial=0))
        self._values = self._centred([value for group in groups for _, value in group])
        self._line = self._centred(self.times)
        days = sum(group[-1][0] - group[0][0] for group in groups)
        self._most_steps = min(_MOST_STEPS, max(2, int(days / _DAYS_A_STEP)))
        waves = [
            self._centred([wave(2 * math.pi * turns * time) for time in self.times])
            for turns in ((1, 2, 3) if days >= DAYS_OF_A_CYCLE else ())
            for wave in (math.sin, math.cos)
        ]
        self._waves = _Basis(waves).columns

    def fit(self, steps: Sequence[int], confidence: float) -> Interval:
        """Return the slope with these steps taken out."""
        others = self._basis(*map(self._step, steps))
        line = others.rest(self._line)
        values = others.rest(self._values)
        weight = stats.dot(line, line)
        if weight <= 1e-12 * stats.dot(self._line, self._line):
            return Interval(0.0, -math.inf, math.inf)
        slope = stats.dot(line, values) / weight
        left = [value - slope * t for value, t in zip(values, line, strict=True)]
        scores = [t * u for t, u in zip(line, left, strict=True)]
        # Two estimates of one variance: each is too low for some kinds of noise.
        noise, freedom = self._noise(_Basis([line], others.columns), left)
        variance = max(stats.long_run(scores, _cosines(len(left))), noise * weight)
        reach = stats.t_quantile(freedom, confidence) * math.sqrt(variance) / weight
        return Interval(slope, slope - reach, slope + reach)

    def steps(self) -> list[tuple[int, float]]:
        """Return where single steps are, and how high."""
        # With the line there from the beginning it can take the place of two steps; without it,
        # steps that of the line.
        found = min((self._search(line=True), self._search(line=False)), key=self._remainder)
        while found:
            tests = [self._test(found, at) for at in found]
            if all(one.high and one.clear > _SIGNIFICANT for one in tests):
                return sorted((one.at, one.height) for one in tests)
            weak = [one for one in tests if not one.high or one.clear <= _SIGNIFICANT]
            found.remove(min(weak, key=lambda one: one.clear).at)
        return []

    def _search(self, *, line: bool) -> list[int]:
        """Return where as many steps as there may be explain most, one after another."""
        found: list[int] = []
        while len(found) < self._most_steps and (at := self._best(found, line=line)) is not None:
            found.append(at)
            for one in list(found):
                others = [at for at in found if at != one]
                better = self._best(others, line=line)
                found = found if better is None else [*others, better]
        return found

    def _best(self, known: list[int], *, line: bool) -> int | None:
        """Return where one more step explains most of what is left over."""
        lines = [self._line] if line else []
        left = self._basis(*lines, *map(self._step, known)).rest(self._values)
        # Of the others the line alone is like a step; the gain is exact but for the waves.
        share = 1 / stats.dot(self._line, self._line) if line else 0.0
        best, most = None, 0.0
        for start, end in pairwise(self._ends):
            tail, tail_line = 0.0, 0.0
            for at in range(end - 1, start, -1):
                tail += left[at]
                tail_line += self._line[at]
                if at - start < _EDGE or end - at < _EDGE:
                    continue
                if any(abs(at - one) < _EDGE for one in known):
                    continue
                weight = (end - at) * (at - start) / (end - start) - share * tail_line**2
                gain = tail**2 / weight if weight > 1e-9 else 0.0
                if gain > most:
                    best, most = at, gain
        return best

    def _remainder(self, steps: list[int]) -> float:
        return self._basis(self._line, *map(self._step, steps)).weight(self._values)

    def _test(self, steps: list[int], at: int) -> _Test:
        """Return how one of the steps stands out when line and others are there."""
        basis = self._basis(self._line, *(self._step(one) for one in steps if one != at))
        step, left = basis.rest(self._step(at)), basis.rest(self._values)
        weight = stats.dot(step, step)
        if weight <= 1e-9:
            return _Test(at, 0.0, 0.0, False)
        height = stats.dot(step, left) / weight
        rest = [value - height * s for value, s in zip(left, step, strict=True)]
        noise, _ = self._noise(_Basis([step], basis.columns), rest)
        high = abs(height) >= _HIGH * 1.4826 * median(map(abs, rest))
        return _Test(at, height, height * height * weight / max(noise, 1e-12), high)

    def _basis(self, *others: Sequence[float]) -> _Basis:
        return _Basis(others, self._waves)

    def _noise(self, basis: _Basis, rest: Sequence[float]) -> tuple[float, int]:
        """Return the long-run variance of what a model leaves over, and its degrees of freedom.

        Of a wave that the model has taken up in part, only what it has left counts.
        """
        waves = stats.cosines(len(rest), _cosines(len(rest)))
        seen = sum(stats.dot(wave, rest) ** 2 for wave in waves)
        count = sum(basis.weight(wave) for wave in waves) / len(rest)
        return seen / len(rest) / max(count, 1e-3), max(1, round(count))

    def _step(self, at: int) -> list[float]:
        column = [0.0] * len(self.times)
        for start, end in pairwise(self._ends):
            if start <= at < end:
                share = (end - at) / (end - start)
                column[start:at] = [-share] * (at - start)
                column[at:end] = [1 - share] * (end - at)
        return column

    def _centred(self, values: Sequence[float]) -> list[float]:
        found: list[float] = []
        for start, end in pairwise(self._ends):
            part = values[start:end]
            middle = sum(part) / len(part)
            found += [value - middle for value in part]
        return found


class _Basis:
    """Columns made orthogonal to one another (Gram and Schmidt)."""

    def __init__(
        self, columns: Sequence[Sequence[float]], known: Sequence[list[float]] = ()
    ) -> None:
        self.columns = list(known)
        for column in columns:
            rest = self.rest(column)
            weight = stats.dot(rest, rest)
            if weight > 1e-9 * stats.dot(column, column):
                scale = 1 / math.sqrt(weight)
                self.columns.append([scale * value for value in rest])

    def rest(self, values: Sequence[float]) -> list[float]:
        """Return what is left of values when the columns have been taken out."""
        left = list(values)
        for column in self.columns:
            share = stats.dot(column, left)
            left = [value - share * c for value, c in zip(left, column, strict=True)]
        return left

    def weight(self, values: Sequence[float]) -> float:
        """Return the sum of the squares of what would be left."""
        return stats.dot(values, values) - sum(stats.dot(c, values) ** 2 for c in self.columns)


def _cosines(length: int) -> int:
    return min(_COSINES, max(1, length // 4))
