"""Maps and pins by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from edit_support import Host


def test_every_map_is_listed_and_dumped_in_words_and_bytes(host: Host, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("secret")
    (tmp_path / "folder").mkdir()
    host("block", "add", tmp_path / "x", f"{tmp_path}/folder/", "1:2")
    host("network", "deny", "add", "--ip", "198.51.100.1", "--ip", "2001:db8::1",
         "--cidr", "198.51.100.0/24",
         "--cidr", "2001:db8::/32", "--port", "2022", "--ip-port", "198.51.100.1:1",
         "--ip-port", "[2001:db8::1]:1")  # fmt: skip
    host("allow", "add", "/")
    listed = {row["name"]: row for row in host("map", "list")["maps"]}
    assert listed["deny_inode_map"] | {"capacity": 0} == {
        "name": "deny_inode_map", "entries": 2, "capacity": 0, "kind": "policy",
    }  # fmt: skip
    for name, row in listed.items():
        if row["kind"] == "ring":
            assert "ring" in host("map", "dump", name, code=6)["message"]
            continue
        shown = host.entries(name)
        raw = host("map", "dump", name, "--hex")["entries"]
        assert len(shown) == len(raw) == row["entries"]


def test_what_a_dump_prints_can_be_deleted_and_written_back(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    host("block", "add", folder, f"{folder}/")
    host("network", "deny", "add", "--port", "2022", "--ip", "2001:db8::1")
    names = ("deny_inode_map", "deny_path_map", "deny_dir_map", "rules", "deny_port_map",
             "deny_ipv6_map", "audit_path_map")  # fmt: skip
    for name in names:
        before = host("map", "dump", name, "--hex")["entries"]
        for entry in host.entries(name):
            key, value = json.dumps(entry["key"]), json.dumps(entry["value"])
            host("map", "delete", name, key)
            host("map", "delete", name, key, code=3)
            host("map", "update", name, key, value)
            assert host("map", "update", name, key, value)["changed"] is False
        assert host("map", "dump", name, "--hex")["entries"] == before
    host.check()


def test_writing_behind_the_back_is_tampering(host: Host) -> None:
    host("block", "add", "1:2")
    host("map", "update", "deny_inode_map", '{"dev": 1, "ino": 3}', '{"read": "1"}')
    assert host("policy", "verify-live", code=9)["tampered"] is True


def test_vital_maps_want_force(host: Host) -> None:
    for argv in (
        ("config", '{"setting": "mode"}', "1"),
        ("slot_info", '{"slot": "0"}', "00"),
        ("capacities", '{"map": "rules"}', "1"),
    ):
        assert "--force" in host("map", "update", *argv, code=2)["hint"]
    host("map", "update", "config", '{"setting": "sample"}', "5", "--force")
    assert {"key": {"setting": "sample"}, "value": 5} in host.entries("config")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("nonsense", "00", "00"),
        ("deny_inode_map", "00", "00"),
        ("deny_inode_map", "{}", "{}"),
        ("deny_inode_map", "{", "{}"),
        ("deny_inode_map", '{"dev": -1, "ino": 1}', "{}"),
        ("deny_inode_map", '{"dev": 1, "ino": 1}', '{"fly": "1"}'),
        ("deny_inode_map", '{"dev": 1, "ino": 1}', '{"read": "zz"}'),
        ("deny_inode_map", '{"dev": 1, "ino": 1}', '{"depth": 99999}'),
        ("deny_inode_map", "[1]", "1"),
        ("rules", '{"uid": "1"}', '{"mode": "maybe"}'),
        ("rule_hits", '{"uid": "1"}', '{"blocks": 1}'),
        ("block_stats", '{"stat": "blocks"}', "1"),
    ],
)
def test_what_a_map_cannot_hold_is_refused(host: Host, name: str, key: str, value: str) -> None:
    host("block", "add", "1:2")
    host("map", "update", name, key, value, code=2)


def test_pins_are_listed_and_removed(host: Host) -> None:
    pins = host("pin", "list")["pins"]
    assert pins[0]["part"] == "links"
    assert host("pin", "remove", "aegis_sys_enter", code=2)["hint"]
    host("pin", "remove", code=2)
    assert host("pin", "remove", "links/aegis_sys_enter")["removed"] == ["links/aegis_sys_enter"]
    assert len(host("pin", "list")["pins"]) == len(pins) - 1
    host("pin", "remove", "--all")
    assert host("pin", "list")["pins"] == []
    assert not host.paths.pins.exists()
