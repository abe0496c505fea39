"""Who fills a map, and how large it has to be."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.control.history import Entry
from aegis_tools.control.stats import MapUse
from aegis_tools.incident.filling import MOST_ENTRIES, adders, enough, fillers, full
from aegis_tools.incident.provenance import who
from aegis_tools.kernel.layout import FILE_ENTRY, POLICY_MAPS
from aegis_tools.policy.model import Kind, Op, Rule

NAMES = [spec.name for spec in POLICY_MAPS]


def use(entries: int, capacity: int, name: str = "deny_inode_map") -> MapUse:
    return MapUse(name, entries, capacity)


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


def test_who_fills_is_told_by_rule_and_by_folder() -> None:
    def entry(uid: int) -> bytes:
        return FILE_ENTRY.pack(uid, 0, 0, 0, 0, 0, 0)

    maps = {
        "deny_inode_map": {bytes([n]) * 16: entry(n) for n in range(1, 6)},
        "rules": {n.to_bytes(8, "little"): b"" for n in (1, 2)},
    }
    maps["deny_inode_map"][b"x" * 16] = entry(0)
    named = {n: Rule(f"r{n}", Kind.PATH, f"/srv/a/{n}", Op.READ) for n in (1, 2, 3)}
    named[4] = Rule("r4", Kind.DIRECTORY, "/srv/b/", Op.READ)
    found = fillers([use(6, 6), use(2, 2, "rules")], maps, {2, 3}, named)
    assert dict(found[0].by) == {"policy": 2, "by hand": 2, "unknown": 1}
    assert found[0].folders == (("/srv/a", 3), ("/srv", 1))
    assert dict(found[1].by) == {"policy": 1, "by hand": 1}
    assert found[0].to_dict()["percent"] == 100.0


def test_who_added_most_comes_first() -> None:
    history = [
        Entry(50, "block add", uid=7, counts={"added": 3}),
        Entry(60, "block add", uid=7, counts={"added": 4}),
        Entry(61, "network deny add", sudo_user="ann", counts={"added": 1}),
        Entry(62, "block add", uid=8, counts={"added": 90}, result="kernel"),
        Entry(63, "block del", uid=8, counts={"removed": 90}),
        Entry(1, "block add", uid=9, counts={"added": 90}),
    ]
    assert adders(history, 10, who) == [
        {"by": "uid 7", "action": "block add", "added": 7},
        {"by": "ann (uid 0)", "action": "network deny add", "added": 1},
    ]
