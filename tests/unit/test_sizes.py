"""How large the ring and the maps have to be, by formula."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.control.sizes import (
    FILE_RECORD,
    MOST_ENTRIES,
    NET_RECORD,
    RING_MOST,
    enough,
    events_in,
    full,
    ring_size,
)
from aegis_tools.control.stats import MapUse
from aegis_tools.kernel.layout import POLICY_MAPS

NAMES = [spec.name for spec in POLICY_MAPS]
RINGS = st.integers(12, 30).map(lambda power: 1 << power)


def use(entries: int, capacity: int, name: str = "deny_inode_map") -> MapUse:
    return MapUse(name, entries, capacity)


@given(needed=st.floats(0, 1e12), present=RINGS)
def test_a_ring_is_a_power_of_two_large_enough_and_never_smaller_than_it_was(
    needed: float, present: int
) -> None:
    size = ring_size(needed, present=present)
    assert size & (size - 1) == 0
    assert present <= size <= max(RING_MOST, present)
    assert size >= min(needed, RING_MOST)
    assert size in (present, 4096, RING_MOST) or size < 2 * needed


@given(first=st.floats(0, 1e12), second=st.floats(0, 1e12), present=RINGS, most=RINGS)
def test_who_needs_more_gets_no_smaller_ring(
    first: float, second: float, present: int, most: int
) -> None:
    low, high = sorted((first, second))
    sizes = [ring_size(needed, present=present, most=most) for needed in (low, high)]
    assert sizes[0] <= sizes[1] <= max(most, present)


def test_the_seeds_example_is_a_megabyte() -> None:
    assert ring_size(1000 * 336 * 2) == 1 << 20


def test_a_ring_of_the_default_size_holds_some_four_hundred_file_events() -> None:
    assert (FILE_RECORD, NET_RECORD) == (648, 128)
    assert (events_in(1 << 18), events_in(1 << 18, NET_RECORD)) == (404, 2047)


def test_a_map_that_is_nearly_full_is_found_and_others_are_not() -> None:
    uses = [use(84, 100), use(85, 100, "rules"), use(9, 10, "deny_dir_map"), use(8, 8, "nosuch")]
    assert [one.name for one in full(uses, 0.85)] == ["deny_dir_map", "rules"]
    assert full([use(0, 1)], 0.0) == []


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 9000), st.integers(1, 9000))),
       st.dictionaries(st.sampled_from(NAMES), st.integers(0, 20000)))  # fmt: skip
def test_what_is_enough_is_larger_and_at_most_half_full(
    found: list[tuple[str, int, int]], wanted: Mapping[str, int]
) -> None:
    uses = list({name: use(n, size, name) for name, n, size in found}.values())
    sizes = enough(uses, wanted, 0.85)
    for one in uses:
        need = max(one.entries, wanted.get(one.name, 0))
        if one.name in sizes:
            assert sizes[one.name] > one.capacity
            assert 2 * need <= sizes[one.name] <= MOST_ENTRIES
        else:
            assert need < 0.85 * one.capacity or need == 0


def test_hits_get_room_where_rules_do() -> None:
    assert enough([use(8, 8, "rule_hits"), use(1, 100, "rules")], {}, 0.85) == {"rules": 200}
    assert full([use(8, 8, "rule_hits")], 0.85)
