"""Whether two things differ, on a machine that is never quiet: A, A again and B, in turns.

A round measures all three. B to A is a difference only if the 99 % interval of its median, widened
by as much as the median of A to A is off, does not hold 1. With 11 rounds or more, two runs of the
same code are called different less than once in a hundred times (``benchmarks.noise``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.measure import Row, in_turns, interval

LEVEL = 0.99
FEWEST = 11
"""Rounds for a verdict: of fewer, no interval is wide enough."""
_AGAIN = "the same again"


@dataclass(frozen=True)
class Comparison:
    """A figure to its base, round by round.

    Attributes:
        ratio: The median.
        low: Where its interval begins, widened by the control.
        high: Where it ends.
        control: The median of the base to itself.
        rounds: Of how many.
    """

    ratio: float
    low: float
    high: float
    control: float
    rounds: int

    @property
    def differs(self) -> bool:
        """Whether there is a difference that is not noise."""
        return self.rounds >= FEWEST and not self.low <= 1 <= self.high

    @property
    def verdict(self) -> str:
        """Say it in words: figures are times, so more is slower."""
        if self.rounds < FEWEST:
            return f"fewer than {FEWEST} rounds"
        if not self.differs:
            return "no difference"
        return "slower" if self.ratio > 1 else "faster"

    def text(self) -> str:
        """Return ``ratio (low-high)``."""
        return f"{self.ratio:.3f} ({self.low:.3f}-{self.high:.3f})"

    def to_dict(self) -> Row:
        """Return it for JSON."""
        return {"ratio": self.ratio, "low_99": self.low, "high_99": self.high,
                "control": self.control, "rounds": self.rounds,
                "verdict": self.verdict}  # fmt: skip


def compare(
    values: Sequence[float],
    bases: Sequence[float],
    again: Sequence[float],
    *,
    draws: int = 2000,
) -> Comparison:
    """Compare figures with their base, both of the same rounds.

    Args:
        values: B of every round.
        bases: A of every round.
        again: A of every round, measured a second time.
        draws: See :func:`benchmarks.measure.interval`.

    Raises:
        ValueError: There are none, they are not of the same rounds, or a base is not positive.
    """
    ratios = _ratios(values, bases)
    control = median(_ratios(again, bases))
    off = max(control, 1 / control)
    low, high = interval(ratios, draws=draws, level=LEVEL)
    return Comparison(median(ratios), low / off, high * off, control, len(ratios))


def _ratios(values: Sequence[float], bases: Sequence[float]) -> list[float]:
    if not values or len(values) != len(bases):
        raise ValueError("a ratio needs both figures of every round")
    if min(*values, *bases) <= 0:
        raise ValueError("a figure must be positive")
    return [value / base for value, base in zip(values, bases, strict=True)]


def against(
    rounds: int,
    base: Callable[[], float],
    cases: Mapping[str, Callable[[], float]],
    *,
    warm_up: int = 1,
) -> tuple[list[float], dict[str, list[float]], dict[str, Comparison]]:
    """Measure cases and, twice a round, their base, in turns.

    Returns:
        The base's figures, the cases' figures, and each case compared with the base.
    """
    found = in_turns(rounds, {"": base, _AGAIN: base, **cases}, warm_up=warm_up)
    bases, again = found.pop(""), found.pop(_AGAIN)
    return bases, found, {name: compare(each, bases, again) for name, each in found.items()}
