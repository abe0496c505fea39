"""What clear-stale finds, why, and that it can be put back."""

from __future__ import annotations

import ctypes
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from edit_support import Host

from aegis_tools.kernel.features import mount_if_missing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "files"
    found.mkdir()
    for name in "ab":
        (found / name).write_text("secret")
    return found


def classes(answer: dict[str, Any]) -> set[tuple[str, bool]]:
    return {(one["why"], one["whole_rule"]) for one in answer["findings"]}


def snapshot(host: Host) -> Any:
    with host.live() as live:
        return live.all_entries()


def test_nothing_is_stale_at_first_and_a_rule_that_waits_for_its_file_is_not(
    host: Host, folder: Path
) -> None:
    (folder / "link").symlink_to(folder / "a")
    host("block", "add", folder / "a", folder / "later", folder / "link", f"{folder}/")
    assert host("block", "clear-stale") | {"note": ""} == {
        "changed": False,
        "dry_run": False,
        "findings": [],
        "cannot_tell": [],
        "undo": "",
        "note": "",
    }


def test_a_file_that_was_replaced_leaves_a_stale_entry_and_the_rule_moves_on(
    host: Host, folder: Path
) -> None:
    host("block", "add", folder / "a")
    (folder / "b").rename(folder / "a")
    assert classes(host("block", "clear-stale")) == {("path-moved", False)}
    (entry,) = host.entries("deny_inode_map")
    assert entry["key"]["ino"] == (folder / "a").stat().st_ino
    assert host.paths_listed() == [str(folder / "a")]
    assert host("block", "clear-stale")["findings"] == []
    host.check()


def test_a_removed_file_leaves_a_stale_entry_and_a_removed_folder_a_stale_rule(
    host: Host, folder: Path
) -> None:
    host("block", "add", folder / "a", f"{folder}/")
    (folder / "a").unlink()
    assert classes(host("block", "clear-stale", "--dry-run")) == {("inode-gone", False)}
    (folder / "b").unlink()
    folder.rmdir()
    assert classes(host("block", "clear-stale")) == {("inode-gone", True)}
    assert host.paths_listed() == []
    with host.live() as live:
        assert not any(live.all_entries().values())


def test_a_number_that_another_file_has_now_is_told_by_its_generation(
    host: Host, folder: Path
) -> None:
    host("block", "add", folder / "a")
    (entry,) = host.entries("deny_inode_map")
    other = {**entry["value"], "generation": entry["value"]["generation"] ^ 1}
    host("map", "update", "deny_inode_map", json.dumps(entry["key"]), json.dumps(other))
    assert classes(host("block", "clear-stale")) == {("inode-reused", False)}
    assert host.entries("deny_inode_map") == [entry]


def test_a_file_system_that_is_gone_takes_its_rules_along(host: Host, tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount_if_missing("tmpfs", mount)
    (mount / "x").write_text("secret")
    host("block", "add", mount / "x")
    (entry,) = host.entries("deny_inode_map")
    number = f"{entry['key']['dev']}:{entry['key']['ino'] + 1}"
    host("block", "add", number)
    assert host("block", "clear-stale")["cannot_tell"] == [number]
    assert ctypes.CDLL(None).umount2(os.fsencode(mount), 0) == 0
    assert classes(host("block", "clear-stale")) == {("unmounted", True)}
    assert host.paths_listed() == []


def test_a_rule_that_was_not_hit_for_long_goes_only_when_asked_for(
    host: Host, folder: Path
) -> None:
    host("block", "add", folder / "a", folder / "b")
    time.sleep(1.2)
    (folder / "b").read_text()
    assert host("block", "clear-stale", "--older-than", "7d")["findings"] == []
    found = host("block", "clear-stale", "--older-than", "1s")
    assert [(one["why"], one["target"]) for one in found["findings"]] == [
        ("not-hit", str(folder / "a"))
    ]
    assert host.paths_listed() == [str(folder / "b")]
    host("block", "clear-stale", "--older-than", "0", code=2)
    host("block", "clear-stale", "--older-than", "soon", code=2)


def test_a_rule_by_hand_that_the_policy_makes_needless_is_a_duplicate(
    host: Host, folder: Path, tmp_path: Path
) -> None:
    host("block", "add", folder / "a", folder / "b")
    policy = tmp_path / "policy.conf"
    policy.write_text(f"version=1\n[deny_path]\n{folder / 'a'}\n")
    host("policy", "apply", policy)
    found = host("block", "clear-stale")["findings"]
    assert [(one["why"], one["rule"]) for one in found] == [
        ("duplicate", f"manual:path:{folder / 'a'}")
    ]
    assert host.paths_listed() == [str(folder / "a"), str(folder / "b")]
    assert host.check()["added"] == [f"manual:path:{folder / 'b'}"]


@pytest.mark.parametrize("command", [("block", "restore"), ("block", "clear-stale", "--undo")])
def test_what_was_removed_comes_back(host: Host, folder: Path, command: tuple[str, ...]) -> None:
    host("block", "add", folder / "a", f"{folder}/", "--operations", "read")
    before = snapshot(host)
    undo = host("block", "clear-stale", "--older-than", "0s", code=2)
    time.sleep(1.1)
    undo = host("block", "clear-stale", "--older-than", "1s")["undo"]
    assert host.paths_listed() == []
    assert Path(undo).stat().st_mode & 0o777 == 0o600
    assert host(*command, undo, "--dry-run")["restored"] == 2
    assert host(*command, undo)["restored"] == 2
    assert snapshot(host) == before
    host.check()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format": 2, "rules": [], "entries": []}',
        b'{"format": 1, "rules": [{"uid": "zz"}], "entries": []}',
        b'{"format": 1, "rules": [], "entries": [{"map": "config", "key": "", "value": ""}]}',
        b'{"format": 1, "rules": [], "entries": [{"map": "deny_ipv4_map", "key": "0a000001",'
        b' "value": "01000000000000000000000000000000"}]}',
    ],
)
def test_a_damaged_undo_file_is_refused_and_changes_nothing(
    host: Host, tmp_path: Path, content: bytes
) -> None:
    undo = tmp_path / "undo.json"
    undo.write_bytes(content)
    before = snapshot(host)
    assert "undo file" in host("block", "restore", undo, code=8)["message"]
    assert snapshot(host) == before
