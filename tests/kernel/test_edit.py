"""Single rules by hand, against real maps: what they leave, alone, together and killed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edit_support import Host

from aegis_tools.control.edit import Editor
from aegis_tools.control.live import Entries, Live
from aegis_tools.control.manual import manual_rule
from aegis_tools.control.names import Names
from aegis_tools.kernel import syscall
from aegis_tools.kernel.inode_keys import Identifier
from aegis_tools.kernel.layout import uid_of
from aegis_tools.kernel.pins import Pins
from aegis_tools.policy.model import OPEN_OPS, Kind

YAML = """\
version: 1
rules:
  - {{id: keep, path: {a}, mode: {mode}}}
  - {{id: other, path: {b}}}
  - {{id: net, ip: 203.0.113.7}}
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / "files" / name for name in "abc"}
    for path in found.values():
        path.parent.mkdir(exist_ok=True)
        path.write_text("secret")
    return found


def apply(host: Host, files: dict[str, Path], mode: str = "enforce") -> None:
    policy = files["a"].parent.parent / "policy.yaml"
    policy.write_text(YAML.format(**files, mode=mode))
    host("policy", "apply", policy)


def test_an_added_file_is_known_by_name_by_inode_and_to_the_fallback(
    host: Host, files: dict[str, Path]
) -> None:
    assert host("block", "add", files["a"])["rules"][0]["state"] == "added"
    (inode,) = host.entries("deny_inode_map")
    (name,) = host.entries("deny_path_map")
    (path,) = host.entries("audit_path_map")
    assert inode["key"]["ino"] == files["a"].stat().st_ino
    assert name["key"]["name"] == "a"
    assert path["key"]["path"] == str(files["a"])
    assert host.paths_listed() == [str(files["a"])]
    assert host.check()["added"] == [f"manual:path:{files['a']}"]


def test_a_match_is_counted_and_the_time_shown(host: Host, files: dict[str, Path]) -> None:
    host("block", "add", files["a"], files["b"])
    before = int(time.time())
    files["b"].read_text()
    lines = host.text("block", "list", "--sort-by=access-time", "--last-accessed")
    assert [line.split("\t")[0] for line in lines] == [str(files["b"]), str(files["a"])]
    assert lines[1].endswith("\tnever")
    hit = host("block", "list")["rules"][1]
    assert hit["hits"] == 1
    assert hit["last"] >= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(before))


def test_a_file_may_be_absent_but_not_its_directory(host: Host, tmp_path: Path) -> None:
    added = host("block", "add", tmp_path / "later")["rules"][0]
    assert (added["state"], len(added["problems"])) == ("added", 1)
    refused = host("block", "add", tmp_path / "no" / "x", code=3)
    assert str(tmp_path / "no") in refused["message"]
    refused = host("block", "add", f"{tmp_path}/no/", code=3)
    assert str(tmp_path / "no") in refused["message"]
    assert host.paths_listed() == [str(tmp_path / "later")]
    host.check()


def test_a_directory_without_its_slash_is_pointed_out(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (problem,) = host("block", "add", folder)["rules"][0]["problems"]
    assert f"{folder}/" in problem


def test_a_trailing_slash_makes_a_directory_rule_of_some_depth(host: Host, tmp_path: Path) -> None:
    host("block", "add", f"{tmp_path}/", "--depth", "3", "--operations", "write")
    (entry,) = host.entries("deny_dir_map")
    assert entry["value"]["depth"] == 3
    assert set(entry["value"]) & {"read", "write", "exec"} == {"write"}
    with host.live() as live:
        assert live.info().walk == 3
    host.check()


def test_adding_twice_changes_nothing(host: Host, files: dict[str, Path]) -> None:
    host("block", "add", files["a"])
    with host.live() as live:
        before = live.all_entries()
    again = host("block", "add", files["a"])
    assert (again["changed"], again["rules"][0]["state"]) == (False, "unchanged")
    with host.live() as live:
        assert live.all_entries() == before


def test_adding_again_with_less_makes_it_less(host: Host, files: dict[str, Path]) -> None:
    host("block", "add", files["a"])
    assert host("block", "add", files["a"], "--operations=write")["rules"][0]["state"] == "changed"
    (entry,) = host.entries("deny_inode_map")
    assert set(entry["value"]) & {"read", "write", "exec"} == {"write"}
    host.check()


def test_adding_again_follows_a_file_that_was_replaced(host: Host, files: dict[str, Path]) -> None:
    host("block", "add", files["a"])
    files["b"].rename(files["a"])
    assert host("block", "add", files["a"])["rules"][0]["state"] == "changed"
    inodes = {entry["key"]["ino"] for entry in host.entries("deny_inode_map")}
    assert files["a"].stat().st_ino in inodes
    host.check()


def test_what_the_policy_denies_already_is_said_and_not_added(
    host: Host, files: dict[str, Path]
) -> None:
    apply(host, files)
    added = host("block", "add", files["a"])
    assert added["changed"] is False
    assert (added["rules"][0]["state"], added["rules"][0]["by"]) == ("covered", ["keep"])
    assert host.check()["added"] == []


def test_an_enforcing_rule_takes_the_place_of_an_auditing_one_and_gives_it_back(
    host: Host, files: dict[str, Path]
) -> None:
    apply(host, files, mode="audit")
    with host.live() as live:
        before, bundle = live.entries("deny_inode_map"), live.info().bundle
    assert host("block", "add", files["a"])["rules"][0]["state"] == "added"
    with host.live() as live:
        assert live.entries("deny_inode_map") != before
        assert live.info().bundle == bundle
    host.check()
    host("block", "add", files["c"])
    with host.live() as live:
        rules = {rule.id: uid for uid, rule in Names(live, host.paths).all().items()}
        editor = Editor(
            live, Names(live, host.paths), lambda: Identifier(live.pins), now_ns=1, by=0
        )
        editor.remove([rules[f"manual:path:{files['a']}"], rules[f"manual:path:{files['c']}"]])
        assert live.entries("deny_inode_map") == before
    host.check()


def test_a_removed_rule_of_the_policy_is_drift_until_the_next_apply(
    host: Host, files: dict[str, Path]
) -> None:
    apply(host, files)
    removed = host("block", "del", files["a"])
    assert [row["rule"] for row in removed["removed"]] == ["keep"]
    assert host.check()["removed"] == ["keep"]
    assert host.paths_listed() == [str(files["b"])]
    apply(host, files)
    assert host.check()["removed"] == []
    assert len(host.paths_listed()) == 2


def test_a_rule_is_found_by_its_inode(host: Host, files: dict[str, Path]) -> None:
    host("block", "add", files["a"])
    host("block", "add", "--inode", "1234:5678")
    key = host.entries("deny_inode_map")
    target = next(e["key"] for e in key if e["key"]["ino"] != 5678)
    host("block", "del", "--inode", "1234:5678")
    assert host.paths_listed() == [str(files["a"])]
    host("block", "del", "--inode", f"{target['dev']}:{target['ino']}")
    assert host.paths_listed() == []
    host.check()


def test_deleting_what_is_not_there_is_an_error_that_can_be_allowed(
    host: Host, files: dict[str, Path]
) -> None:
    host("block", "add", f"{files['a'].parent}/", files["a"])
    refused = host("block", "del", files["a"].parent, code=3)
    assert f"{files['a'].parent}/" in refused["hint"]
    assert host("block", "del", "/nowhere", "--missing-ok")["changed"] is False
    assert host("block", "del", files["a"], "/nowhere", code=3)["removed"]
    assert host.paths_listed() == [f"{files['a'].parent}/"]


def test_a_dry_run_changes_nothing(host: Host, files: dict[str, Path]) -> None:
    host("block", "add", files["b"])
    with host.live() as live:
        before = live.all_entries()
    for argv in (
        ("block", "add", files["a"]),
        ("block", "del", files["b"]),
        ("block", "clear"),
        ("block", "clear-stale"),
        ("network", "deny", "add", "--cidr", "10.0.0.0/8"),
        ("network", "deny", "clear"),
        ("allow", "cgroup", "add", "/"),
        ("pin", "remove", "--all"),
    ):
        assert host(*argv, "--dry-run")["dry_run"] is True
    with host.live() as live:
        assert live.all_entries() == before


def test_clear_leaves_the_network_and_the_cgroups(host: Host, files: dict[str, Path]) -> None:
    apply(host, files)
    host("block", "add", files["c"])
    host("network", "deny", "add", "--port", "23:tcp")
    host("allow", "cgroup", "add", "/")
    assert host("block", "clear")["removed"] == 3
    assert host.paths_listed() == []
    listed = {row["target"] for row in host("network", "deny", "list")["rules"]}
    assert listed == {"203.0.113.7", "23:tcp"}
    assert [row["cgroup"] for row in host("allow", "list")["cgroups"]] == ["/"]
    assert host.check()["removed"] == ["keep", "other"]
    assert host("network", "deny", "clear")["removed"] == 2
    assert host("network", "deny", "list")["rules"] == []


def test_a_full_map_is_named_and_the_rule_is_not_half_there(host: Host, tmp_path: Path) -> None:
    policy = tmp_path / "policy.conf"
    policy.write_text("version=1\n[deny_inode]\n" + "\n".join(f"1:{n}" for n in range(2, 513)))
    host("policy", "apply", policy)
    host("block", "add", "1:1")
    before = host.check()
    (tmp_path / "folder").mkdir()
    refused = host("block", "add", tmp_path / "x", f"{tmp_path}/folder/", "2:1", code=6)
    assert refused["map"] == "rules"
    assert "--max-rules" in refused["hint"]
    assert host.check() == before
    host("block", "del", "1:1")
    host("block", "add", tmp_path / "x")
    host.check()


def test_many_targets_are_one_line_of_the_history(host: Host, tmp_path: Path) -> None:
    targets = [tmp_path / f"f{n}" for n in range(40)]
    host("block", "add", *targets)
    host("block", "del", *targets)
    told = [(one["action"], one["counts"]) for one in host("history")["entries"]]
    assert told == [("block del", {"removed": 40}), ("block add", {"added": 40})]


def test_what_was_added_before_the_map_was_full_is_told_and_in_the_history(
    host: Host, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.conf"
    policy.write_text("version=1\n[deny_inode]\n" + "\n".join(f"1:{n}" for n in range(3, 513)))
    host("policy", "apply", policy)
    refused = host("block", "add", "2:1", "2:2", "2:3", "2:4", code=6)
    added = ["manual:inode:2:1", "manual:inode:2:2"]
    assert refused["added"] == added
    assert "; 2 of 4 rules were added before" in refused["message"]
    assert sorted(host.check()["added"]) == added
    last = host("history")["entries"][0]
    assert (last["action"], last["result"], last["counts"]) == ("block add", "kernel", {"added": 2})
    assert last["note"] == ", ".join(added)
    host("block", "del", "2:1", "2:2")


def test_a_narrow_network_keeps_what_the_wide_one_denies(host: Host) -> None:
    host("network", "deny", "add", "--cidr", "198.51.100.0/24", "--mode", "audit")
    host("network", "deny", "add", "--cidr", "198.51.0.0/16")
    entries = {e["key"]["cidr"]: e["value"]["egress"] for e in host.entries("deny_cidr_v4_map")}
    assert entries["198.51.100.0/24"] == entries["198.51.0.0/16"]
    host("network", "deny", "del", "--cidr", "198.51.0.0/16")
    (left,) = host.entries("deny_cidr_v4_map")
    assert left["key"] == {"cidr": "198.51.100.0/24"}
    assert left["value"]["egress"] != entries["198.51.0.0/16"]
    host.check()


def test_an_apply_keeps_what_was_added_by_hand(host: Host, files: dict[str, Path]) -> None:
    host("block", "add", files["c"], "--signal", "term", "--mode", "audit")
    host("allow", "add", "/")
    apply(host, files)
    rows = {row["target"]: row for row in host("block", "list")["rules"]}
    assert rows[str(files["c"])]["mode"] == "audit"
    assert [row["source"] for row in host("allow", "list")["cgroups"]] == ["manual"]
    host("allow", "del", "/")
    assert host("allow", "list")["cgroups"] == []
    host.check()


def test_rules_without_a_stored_policy_are_listed_and_can_be_removed(
    host: Host, files: dict[str, Path]
) -> None:
    apply(host, files)
    for stored in host.paths.bundles.iterdir():
        stored.unlink()
    listed = host("block", "list")
    assert "cannot be named" in listed["note"]
    assert [row["rule"] for row in listed["rules"]] == ["unknown", "unknown"]
    host("block", "del", *[row["target"] for row in listed["rules"]])
    assert host("block", "list")["rules"] == []


class NoBulk(Live):
    """Live maps that nobody may read as a whole."""

    def entries(self, name: str, slot: int | None = None) -> Entries:
        raise AssertionError(f"{name} was read as a whole, in slot {slot}")


def test_adding_reads_no_map_as_a_whole(host: Host, files: dict[str, Path]) -> None:
    apply(host, files)
    rule = manual_rule(Kind.PATH, str(files["c"]), OPEN_OPS)
    with NoBulk(Pins(host.paths.pins)) as live, Identifier(live.pins) as identifier:
        editor = Editor(
            live, Names(live, host.paths), lambda: identifier, now_ns=time.time_ns(), by=0
        )
        assert [one.state for one in editor.add([rule])] == ["added"]
    host.check()


def test_twenty_at_once_leave_twenty(host: Host, files: dict[str, Path], tmp_path: Path) -> None:
    apply(host, files)
    wanted = [tmp_path / f"file {number}" for number in range(20)]
    for path in wanted:
        path.write_text("secret")
    started = [host.start("block", "add", path) for path in wanted]
    assert [process.wait(timeout=60) for process in started] == [0] * 20
    for process in started:
        process.communicate()
    listed = set(host.paths_listed()) - {str(files["a"]), str(files["b"])}
    assert listed == {str(path) for path in wanted}
    host("policy", "export", tmp_path / "export.yaml")
    exported = (tmp_path / "export.yaml").read_text()
    assert all(str(path) in exported for path in wanted)
    inodes = {entry["key"]["ino"] for entry in host.entries("deny_inode_map")}
    assert {path.stat().st_ino for path in wanted} <= inodes
    host.check()


def test_a_list_is_whole_while_commits_go_on(host: Host, files: dict[str, Path]) -> None:
    apply(host, files)
    process = host.start("network", "deny", "add", "--cidr", "10.0.0.0/8")
    seen = set()
    while process.poll() is None:
        seen.add(len(host.paths_listed()))
    process.communicate()
    assert seen == {2}


@pytest.mark.parametrize(("first", "command"), [(False, "add"), (True, "del")], ids=["add", "del"])
def test_a_kill_at_any_instant_leaves_the_old_or_the_new(
    host: Host, files: dict[str, Path], first: bool, command: str
) -> None:
    apply(host, files)
    other = ("block", "add", "9:9")
    for _ in range(20):
        if first:
            host("block", "add", files["c"])
        else:
            host("block", "del", files["c"], "--missing-ok")
        process = host.start("block", command, files["c"])
        time.sleep(random.uniform(0.03, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        host(*other)
        host("block", "del", "9:9")
        check_whole(host, files["c"])


def check_whole(host: Host, path: Path) -> None:
    """The rule is there with all its entries, or there is no trace of it."""
    host.check()
    listed = str(path) in host.paths_listed()
    key = path.stat().st_ino
    places = [
        any(e["key"]["ino"] == key for e in host.entries("deny_inode_map")),
        any(e["key"]["name"] == path.name for e in host.entries("deny_path_map")),
        any(e["key"]["path"] == str(path) for e in host.entries("audit_path_map")),
        any(e["value"]["text"] == f"path:{path}" for e in host.entries("manual_rules")),
    ]
    assert places == [listed] * 4


def die_at(call: int) -> None:
    """Let this process end at its n-th write to a map, as a kill would end it there."""
    count = 0

    def counted(plain: Callable[..., None]) -> Callable[..., None]:
        def change(*args: Any) -> None:
            nonlocal count
            count += 1
            if count == call:
                os._exit(9)
            plain(*args)

        return change

    syscall.update = counted(syscall.update)
    syscall.delete = counted(syscall.delete)


@pytest.mark.parametrize("command", ["add", "remove"])
def test_a_kill_before_every_single_write_is_healed(
    host: Host, files: dict[str, Path], command: str
) -> None:
    apply(host, files)
    rule = manual_rule(Kind.PATH, str(files["c"]), OPEN_OPS)
    for call in range(1, 20):
        if command == "remove":
            host("block", "add", files["c"])
        child = os.fork()
        if not child:
            with Live(Pins(host.paths.pins)) as live, Identifier(live.pins) as identifier:
                editor = Editor(
                    live, Names(live, host.paths), lambda: identifier, now_ns=time.time_ns(), by=0
                )
                die_at(call)
                editor.add([rule]) if command == "add" else editor.remove([uid_of(rule.id)])
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        host("block", "add", "9:9")
        host("block", "del", "9:9")
        check_whole(host, files["c"])
        if not ended:
            break
        host("block", "del", files["c"], "--missing-ok")
    else:
        pytest.fail("it never came to its end")


def test_what_is_live_is_shown_in_words(host: Host) -> None:
    lines = host.text("policy", "show")
    assert "# attached: yes" in lines
    assert not any(word in line for line in lines for word in ("None", "True", "False", "[]"))
