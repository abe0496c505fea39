"""Who fills a map."""

from __future__ import annotations

from aegis_tools.control.history import Entry
from aegis_tools.control.stats import MapUse
from aegis_tools.incident.filling import adders, fillers
from aegis_tools.incident.provenance import who
from aegis_tools.kernel.layout import FILE_ENTRY
from aegis_tools.policy.model import Kind, Op, Rule


def use(entries: int, capacity: int, name: str = "deny_inode_map") -> MapUse:
    return MapUse(name, entries, capacity)


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
