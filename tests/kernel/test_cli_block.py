"""The lines of the emergency runbook, as a person types them."""

from __future__ import annotations

from pathlib import Path

import pytest
from edit_support import Host

from aegis_tools.paths import Paths


@pytest.fixture
def many(host: Host, tmp_path: Path) -> list[Path]:
    """Return six denied files, some with blanks in their names, the first two of them hit."""
    folder = tmp_path / "some files"
    folder.mkdir()
    found = [folder / f"file  {n}" for n in range(5)] + [folder / "*"]
    for path in found:
        path.write_text("secret")
    host("block", "add", *found)
    for path in found[:2]:
        path.read_text()
    return found


def test_the_least_used_are_removed_by_the_runbooks_own_pipeline(
    host: Host, many: list[Path], tmp_path: Path
) -> None:
    done = host.shell(
        "aegisbpf block list --sort-by=access-time | tail -4 | \\\n"
        '    while read path; do aegisbpf block del "$path"; done',
        tmp_path / "bin",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert host.paths_listed() == [str(path) for path in sorted(many[:2])]


def test_lines_can_be_piped_into_one_del(host: Host, many: list[Path], tmp_path: Path) -> None:
    done = host.shell("aegisbpf block list | grep 'file  ' | aegisbpf block del -", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    assert host.paths_listed() == [str(many[5])]


def test_the_runbooks_other_lines_run_as_written(
    host: Host, many: list[Path], tmp_path: Path
) -> None:
    policy = tmp_path / "policy.conf"
    policy.write_text(f"version=1\n[deny_path]\n{many[0]}\n[deny_inode]\n1234:5678\n")
    host("policy", "apply", policy)
    for line, lines in (
        ("aegisbpf block list | wc -l", "7"),
        ("aegisbpf block list > rules.txt", ""),
        ("aegisbpf block list | grep 'file  3'", str(many[3])),
        ("aegisbpf block list --last-accessed | grep -c never", "5"),
        (f"aegisbpf block del '{many[3]}'", f"removed: {many[3]} (manual:path:{many[3]})"),
        ("aegisbpf block del --inode 1234:5678 | head -1",
         "removed: 1234:5678 (inode:1234:5678)"),
        ("aegisbpf block list | grep -c -e 1234:5678 -e 'file  3'", "0"),
        ("aegisbpf block clear-stale --older-than 7d | head -1",
         f"duplicate: {many[0]} (the rule manual:path:{many[0]})"),
        ("aegisbpf block clear-stale", "nothing is stale"),
        ("aegisbpf allow cgroup add /", "allowed: /"),
        ("aegisbpf allow add /", "already allowed: /"),
        ("aegisbpf allow list", "/"),
        ("aegisbpf allow del /", "removed: /"),
        ("aegisbpf block clear | head -1",
         "removed 5 file rules; network rules and cgroups stay"),
        ("aegisbpf block list | wc -l", "0"),
    ):  # fmt: skip
        done = host.shell(f"cd {tmp_path}; {line}", tmp_path / "bin")
        assert done.stdout.strip() == lines, line + done.stderr
        assert done.stderr == "", line
    assert (tmp_path / "rules.txt").read_text().count("\n") == 7


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("block", "add"), "name a path"),
        (("block", "add", "relative"), "must be absolute"),
        (("block", "add", "/a/../b"), "'..'"),
        (("block", "add", "/x" * 3000), "longer than"),
        (("block", "add", "/tmp", "--operations", "read,fly"), "read, write, exec"),
        (("block", "add", "/tmp", "--operations", "egress"), "read, write, exec"),
        (("block", "add", "/tmp", "--depth", "2"), "--depth"),
        (("block", "add", "/tmp/", "--depth", "33"), "--depth"),
        (("block", "add", "--inode", "/tmp"), "dev:ino"),
        (("block", "add", "--inode", "1:x"), "dev:ino"),
        (("block", "list", "--sort-by", "size"), "--sort-by"),
        (("network", "deny", "add"), "--cidr"),
        (("network", "deny", "add", "--ip", "10.0.0.0/8"), "CIDR"),
        (("network", "deny", "add", "--port", "22:tcp", "--protocol", "udp"), "protocol"),
        (("network", "deny", "add", "--ip-port", "[::1]:1:tcp", "--protocol", "udp"), "protocol"),
        (("allow", "cgroup", "add", "/a/../b"), "'..'"),
    ],
)
def test_a_wrong_line_is_answered_in_a_line(host: Host, argv: tuple[str, ...], words: str) -> None:
    assert words in host(*argv, code=2)["message"]


def test_a_cgroup_that_does_not_exist_is_an_error(host: Host) -> None:
    assert "/no/such" in host("allow", "cgroup", "add", "/no/such", code=3)["message"]
    assert "/" in host("allow", "cgroup", "del", "/", code=3)["message"]
    assert host("allow", "cgroup", "del", "/", "--missing-ok")["changed"] is False
    host("allow", "cgroup", "add", "cgid:77")
    assert host("allow", "list")["cgroups"][0]["id"] == 77


def test_network_rules_are_what_the_options_say(host: Host) -> None:
    host("network", "deny", "add", "--port", "23", "--protocol", "tcp", "--direction", "bind")
    host("network", "deny", "add", "--ip", "::ffff:10.0.0.1", "--ip-port", "[2001:db8::1]:443")
    rows = {r["target"]: r["operations"] for r in host("network", "deny", "list")["rules"]}
    assert rows == {
        "23:tcp": ["bind"],
        "10.0.0.1": ["egress"],
        "[2001:db8::1]:443:any": ["egress"],
    }
    assert host("network", "deny", "del", "--ip", "10.0.0.2", code=3)["message"]
    host("network", "deny", "del", "--ip", "10.0.0.1", "--port", "23:tcp")
    assert len(host("network", "deny", "list")["rules"]) == 1
    host.check()


def test_every_change_is_in_the_history(host: Host, tmp_path: Path) -> None:
    host("block", "add", tmp_path / "x")
    host("block", "del", tmp_path / "x")
    host("network", "deny", "add", "--ip", "10.0.0.1")
    host("block", "clear")
    text = host.paths.history.read_text()
    actions = ["block add", "block del", "network deny add", "block clear"]
    assert [line.split('"action":"')[1].split('"')[0] for line in text.splitlines()] == actions
    assert f"manual:path:{tmp_path / 'x'}" in text


def test_nothing_loaded_is_said(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    host = Host(paths, capsys)
    for argv in (("block", "list"), ("block", "add", "/x"), ("map", "list"), ("allow", "list")):
        assert "aegisbpf load" in host(*argv, code=6)["hint"]
    assert host("pin", "list")["pins"] == []


def test_of_several_paths_none_is_denied_where_one_cannot_be(host: Host, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("secret")
    before = host.paths_listed()
    host("block", "add", file, "/no such folder/file", code=3)
    assert host.paths_listed() == before
