"""Draw the looks at a host: when, whether it was well, and how often a rule matched. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

WIDTH, HEIGHT, MARGIN, BASE = 168, 26, 5, 19
RISE = 13
MOST_DOTS = 40


class Dot(NamedTuple):
    """One look: where it is drawn, and what is said when one points at it."""

    x: float
    well: bool
    title: str


class Timeline(NamedTuple):
    """A drawing.

    Attributes:
        dots: Looks; of many, a part, but all at which something was wrong.
        line: Points of the polyline of matches since the first look; empty where there were none.
        label: The same in words, for who cannot see it.
    """

    dots: list[Dot]
    line: str
    label: str


def seconds_of(looks: Sequence[Mapping[str, Any]]) -> float:
    """Return the time from the first to the last look."""
    return _time(looks[-1]) - _time(looks[0]) if looks else 0.0


def draw(looks: Sequence[Mapping[str, Any]], longest: float) -> Timeline | None:
    """Return the drawing; None where nobody looked.

    Args:
        looks: Of one host, in order.
        longest: Seconds that the full width stands for: the same on a page, to be compared.
    """
    if not looks:
        return None
    first = _time(looks[0])
    scale = (WIDTH - 2 * MARGIN) / longest if longest > 0 else 0.0
    places = [round(MARGIN + (_time(look) - first) * scale, 1) for look in looks]
    matches: list[int] = []
    for look in looks:
        matches.append(_matches(look, matches[-1] if matches else 0))
    step = max(1, len(looks) // MOST_DOTS)
    dots = [
        Dot(place, not look["reasons"], _title(look, _time(look) - first, count - matches[0]))
        for number, (look, place, count) in enumerate(zip(looks, places, matches, strict=True))
        if look["reasons"] or number % step == 0 or number == len(looks) - 1
    ]
    risen = max(matches) - matches[0]
    heights = [BASE - RISE * max(0, n - matches[0]) / risen if risen > 0 else BASE for n in matches]
    points = [f"{x},{y:.1f}" for x, y in zip(places, heights, strict=True)][::step]
    bad = sum(1 for look in looks if look["reasons"])
    label = f"{len(looks)} looks in {seconds_of(looks):.0f} s, {bad} not well, {risen} matches"
    return Timeline(dots, " ".join(points) if risen > 0 and len(points) > 1 else "", label)


def _time(look: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(str(look["time"]).replace("Z", "+00:00")).timestamp()


def _matches(look: Mapping[str, Any], otherwise: int) -> int:
    # A host that gave no answer has no counters: as many as at the look before.
    counters = look["counters"]
    return (
        int(counters["blocks"] + counters.get("audits", 0)) if "blocks" in counters else otherwise
    )


def _title(look: Mapping[str, Any], after: float, matches: int) -> str:
    told = "; ".join(look["reasons"]) or "well"
    return f"after {after:.0f} s: {told}" + (f", {matches} matches" if matches > 0 else "")
