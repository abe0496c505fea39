"""Two soaks beside each other: where the figures differ by more than their intervals. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aegis_tools.soak.brief import Brief
from aegis_tools.soak.verdict import Criterion
from aegis_tools.soak.words import amount, interval

NONE, HIGHER, LOWER, UNKNOWN = "none", "higher", "lower", "unknown"
"""How the second soak's figure differs from the first's."""
MORE_IS_BETTER = ("agent_present", "coverage", "same_policy")
_SAME = ("scenario", "host", "system", "kernel", "version", "policy", "mode", "workload")


def compare(first: Brief, second: Brief) -> dict[str, Any]:
    """Return both soaks with the difference of each criterion that either has."""
    known = {one.id: one for soak in (first, second) for one in soak.criteria}
    return {
        "a": _about(first),
        "b": _about(second),
        "conditions": list(_conditions(first, second)),
        "criteria": [
            _pair(one, first.criterion(name), second.criterion(name)) for name, one in known.items()
        ],
    }


def difference(first: Criterion | None, second: Criterion | None) -> str:
    """Return how the second figure differs: not at all where the intervals touch.

    A figure without an interval, as a count, is what it is.
    """
    left, right = _bounds(first), _bounds(second)
    if left is None or right is None:
        return UNKNOWN
    if left[1] < right[0]:
        return HIGHER
    return LOWER if right[1] < left[0] else NONE


def _bounds(one: Criterion | None) -> tuple[float, float] | None:
    if one is None or one.value is None:
        return None
    low = one.value if one.low is None else one.low
    return low, one.value if one.high is None else one.high


def _pair(known: Criterion, first: Criterion | None, second: Criterion | None) -> dict[str, Any]:
    how = difference(first, second)
    better = None
    if how in (HIGHER, LOWER):
        better = (how == HIGHER) == (known.id in MORE_IS_BETTER)
    return {
        "id": known.id,
        "title": known.title,
        "unit": known.unit,
        "limit": known.limit,
        "a": _figure(first),
        "b": _figure(second),
        "difference": how,
        "b_is_better": better,
    }


def _figure(one: Criterion | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {"value": one.value, "low": one.low, "high": one.high, "status": one.status}


def _about(one: Brief) -> dict[str, Any]:
    names = ("id", "started", "ended", "length_s", "status", "text", "override", *_SAME)
    return {name: getattr(one, name) for name in names}


def _conditions(first: Brief, second: Brief) -> Iterator[dict[str, str]]:
    """Yield what was not the same, and may be why figures differ."""
    for name in _SAME:
        if getattr(first, name) != getattr(second, name):
            yield {"what": name, "a": getattr(first, name), "b": getattr(second, name)}


def told(pair: Mapping[str, Any], side: str) -> str:
    """Return one side of a criterion: ``0.62 % (0.61 to 0.63)``."""
    one = pair[side]
    if one is None:
        return "-"
    between = interval(one["low"], one["high"])
    text = amount(one["value"], pair["unit"])
    return text if between in ("-", text) or one["value"] is None else f"{text} ({between})"


def verdict(pair: Mapping[str, Any]) -> str:
    """Return a criterion's difference in words."""
    how = pair["difference"]
    if how in (NONE, UNKNOWN):
        return "no difference" if how == NONE else "not comparable"
    return f"B is {how}: {'better' if pair['b_is_better'] else 'worse'}"
