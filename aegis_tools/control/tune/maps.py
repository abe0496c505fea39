"""The maps that should be larger: nearly full now, or to be expected so. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from aegis_tools.control import sizes
from aegis_tools.control.footprint import policy_memory
from aegis_tools.control.stats import MapUse
from aegis_tools.control.tune.model import Aims, Item, Settings
from aegis_tools.control.tune.observe import Observed
from aegis_tools.kernel.layout import SPECS


def map_items(seen: Observed, aims: Aims) -> tuple[list[Item], dict[str, int]]:
    """Return the maps that should be larger, or else the fullest; and all sizes, by map."""
    uses = [outlook.use for outlook in seen.maps if outlook.use.name in sizes.SIZED]
    expected = expect(seen, aims.days)
    found = sizes.enough(uses, expected, aims.tight)
    if not found:
        return [_fullest(uses, aims)], {}
    capacities = together(seen.sizes.capacities, found)
    items = [_item(seen, name, capacities[name], expected, aims) for name in found]
    return items, capacities


def expect(seen: Observed, days: float) -> dict[str, int]:
    """Return the entries that each map will have in some days, if it grows as it did."""
    found = {}
    for outlook in seen.maps:
        entries = outlook.use.entries + round(max(outlook.per_day or 0.0, 0.0) * days)
        found[outlook.use.name] = min(entries, sizes.MOST_ENTRIES)
    return found


def together(now: Mapping[str, int], found: Mapping[str, int]) -> dict[str, int]:
    """Return the sizes of all maps that the options give one: none of them becomes smaller.

    Args:
        now: Sizes of all maps.
        found: Those that are to be larger.
    """
    result: dict[str, int] = {}
    for name in found:
        same = sizes.OPTIONS[sizes.option_of(name)]
        size = max(found[name], *(now[each] for each in same))
        result.update({each: max(size, result.get(each, 0)) for each in same})
    return result


def _fullest(uses: list[MapUse], aims: Aims) -> Item:
    use = max(uses, key=lambda use: use.share)
    why = f"the fullest; from {aims.tight:.0%} on, now or in {aims.days:g} days, it is too full"
    return Item(use.name, use.capacity, use.capacity, use.line(), why)


def _item(seen: Observed, name: str, size: int, expected: Mapping[str, int], aims: Aims) -> Item:
    because = _because(seen, name)
    why = f"{because.share:.0%} full, and {aims.tight:.0%} is too full"
    if because.share < aims.tight:
        why = f"{expected[because.name]:,} entries are to be expected in {aims.days:g} days"
    now, there, spec = seen.sizes.capacities[name], seen.entries.get(name, 0), SPECS[name]

    def more(before: int, after: int) -> int:
        first = policy_memory(spec, before, now, seen.kernel).bytes
        return policy_memory(spec, after, size, seen.kernel).bytes - first

    command = Settings(capacities={name: size}).commands()[0]
    return Item(
        name, now, size, because.line(), why, more(there, there), more(now, size), command
    )  # fmt: skip


def _because(seen: Observed, name: str) -> MapUse:
    """Return the map because of which a size is wanted: hits have room for as many as rules."""
    names = {name, sizes.HITS} if name == "rules" else {name}
    found = (outlook.use for outlook in seen.maps if outlook.use.name in names)
    return max(found, key=lambda use: use.share)
