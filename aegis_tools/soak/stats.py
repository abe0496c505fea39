"""Statistics of figures that follow one another in time: quantiles, shares, means.

What is measured every minute is not independent from one minute to the next. So the intervals
are those of methods that allow for it: order statistics of as many values as count
(``effective``), and long-run variances by a few cosines (Lazarus, Lewis, Stock and Watson, "HAR
Inference: Recommendations for Practice", 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import mul
from statistics import NormalDist, fmean, variance
from typing import NamedTuple

Row = Sequence[float]
_MANY = 10**9


class Interval(NamedTuple):
    """A figure with its confidence interval.

    Attributes:
        value: The figure.
        low: Where the interval begins.
        high: Where it ends.
    """

    value: float
    low: float
    high: float


def dot(left: Row, right: Row) -> float:
    """Return the sum of the products."""
    return float(sum(map(mul, left, right)))


def quantile(ordered: Row, share: float) -> float:
    """Return a quantile of sorted values, at least one; between two of them linearly."""
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


def effective(values: Row) -> float:
    """Return how many independent values tell as much as these, by how alike neighbours are."""
    if len(values) < 4:
        return float(len(values))
    middle = fmean(values)
    off = [value - middle for value in values]
    spread = dot(off, off)
    if spread <= 0:
        return float(len(values))
    alike = max(0.0, dot(off[1:], off[:-1]) / spread)
    return max(1.0, len(values) * (1 - alike) / (1 + alike))


def order_interval(values: Row, share: float, confidence: float) -> Interval:
    """Return a quantile of at least one value, with an interval from one value to another.

    Where there are too few for a bound, it is the lowest or the highest value.
    """
    ordered = sorted(values)
    found = quantile(ordered, share)
    # What lies above comes in bursts: so many values tell of it.
    number = effective([float(value > found) for value in values])
    low, high = _wilson(share, number, confidence)
    last = len(ordered) - 1
    return Interval(
        found,
        ordered[max(0, math.floor(low * len(ordered)) - 1)],
        ordered[min(last, math.ceil(high * len(ordered)))],
    )


def proportion(count: int, of: int, confidence: float) -> Interval:
    """Return the share that ``count`` is of ``of``, at least 1 (Clopper and Pearson, 1934).

    Of more than a thousand million it is Wilson's: no different, and of numbers that fit.
    """
    if of > _MANY:
        return Interval(count / of, *_wilson(count / of, of, confidence))
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else _solve(lambda p: 1 - _beta(of - count + 1, count, 1 - p), tail)
    high = 1.0 if count == of else _solve(lambda p: -_beta(of - count, count + 1, 1 - p), -tail)
    return Interval(count / of, low, high)


@lru_cache(maxsize=256)
def t_quantile(freedom: int, confidence: float) -> float:
    """Return how many standard errors an interval reaches to either side (Student's t)."""
    tail = 1 - confidence

    def within(t: float) -> float:
        return 1 - _beta(freedom / 2, 0.5, freedom / (freedom + t * t))

    return _solve(within, 1 - tail, high=1e4)


def difference(before: Row, after: Row, confidence: float) -> Interval:
    """Return by how much the mean has grown (Welch); at least two independent values each."""
    grown = fmean(after) - fmean(before)
    parts = [(variance(values) / len(values), len(values) - 1) for values in (before, after)]
    spread = sum(part for part, _ in parts)
    if spread <= 0:
        return Interval(grown, grown, grown)
    freedom = spread**2 / sum(part**2 / count for part, count in parts)
    reach = t_quantile(max(1, int(freedom)), confidence) * math.sqrt(spread)
    return Interval(grown, grown - reach, grown + reach)


def paired(before: Row, after: Row, confidence: float) -> Interval:
    """Return by how much each has grown on average (Student); at least two of each."""
    grown = [b - a for a, b in zip(before, after, strict=True)]
    reach = t_quantile(len(grown) - 1, confidence) * math.sqrt(variance(grown) / len(grown))
    return Interval(fmean(grown), fmean(grown) - reach, fmean(grown) + reach)


def long_run(scores: Row, count: int) -> float:
    """Return the variance of a sum, whatever the correlation of its neighbouring terms.

    Args:
        scores: The terms; their mean is 0.
        count: How many waves it is estimated from: so many degrees of freedom it has.
    """
    return sum(dot(scores, wave) ** 2 for wave in cosines(len(scores), count)) / count


@lru_cache(maxsize=64)
def cosines(length: int, count: int) -> tuple[tuple[float, ...], ...]:
    """Return the slowest waves, each with a mean square of 1."""
    scale = math.sqrt(2)
    return tuple(
        tuple(scale * math.cos(math.pi * wave * (at + 0.5) / length) for at in range(length))
        for wave in range(1, count + 1)
    )


def _wilson(share: float, number: float, confidence: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = share + z * z / (2 * number)
    reach = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    below = 1 + z * z / number
    return max(0.0, (middle - reach) / below), min(1.0, (middle + reach) / below)


def _solve(rises: Callable[[float], float], wanted: float, *, high: float = 1.0) -> float:
    low = 0.0
    for _ in range(80):
        middle = (low + high) / 2
        if rises(middle) < wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function (continued fraction, Lentz)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
        + a * math.log(x) + b * math.log1p(-x)
    )  # fmt: skip
    tiny, total, upper, lower = 1e-300, 1.0, 1.0, 0.0
    for step in range(1000):
        m = step // 2
        if step == 0:
            term = 1.0
        elif step % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        lower = 1 / (1 + term * lower or tiny)
        upper = 1 + term / upper or tiny
        change = upper * lower
        total *= change
        if abs(1 - change) < 1e-13:
            break
    return front * (total - 1) / a
