"""``profile`` on the command line: what it says, refuses, stores, and leaves alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from repository import REPOSITORY

from aegis_tools.cli.main import run
from aegis_tools.paths import Paths


class Command:
    """Runs ``profile`` commands below a root."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.paths = Paths(root)
        self._capsys = capsys

    def text(self, line: str, code: int = 0) -> str:
        assert run(["--root", str(self.paths.root), "profile", *line.split()]) == code
        return "".join(self._capsys.readouterr())

    def json(self, line: str, code: int = 0) -> dict[str, Any]:
        assert run(["--json", "--root", str(self.paths.root), "profile", *line.split()]) == code
        found: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return found


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path / "root", capsys)


def test_a_profile_is_made_limited_shown_and_deleted(command: Command) -> None:
    command.json("create child --user 54321 --user 54321 --slice machine.slice")
    done = command.json("set-memory-limit child 512MiB --action alert")
    assert done["profile"]["limits"] == {"memory": {"threshold": 512 << 20, "action": "alert"}}
    assert done["held_by"] == "watcher"
    assert done["cgroups"][0] == {
        "path": "/user.slice/user-54321.slice", "of": "user 54321", "exists": False,
    }  # fmt: skip
    command.json("set-disk-latency-alert child 100ms")
    command.json("set-process-limit child 100 --action terminate")
    command.json("set-allocation-limit child 100MB")
    shown = command.json("show child")
    assert {name: one["action"] for name, one in shown["limits"].items()} == {
        "allocation": "alert", "disk-latency": "alert", "memory": "alert", "processes": "terminate",
    }  # fmt: skip
    assert shown["limits"]["disk-latency"]["threshold"] == 100_000_000
    assert command.json("list")["profiles"][0]["users"] == ["54321"]
    assert command.json("set-memory-limit child --none")["changed"]
    assert not command.json("set-memory-limit child --none")["changed"]
    command.json("delete child")
    assert command.json("list") == {"profiles": [], "damaged": []}


SEED_LIMITS = {
    "MemoryLimits.max_allocation_mb": ("set-allocation-limit child 100MB", 100 * 10**6),
    "MemoryLimits.max_process_memory_mb": ("set-memory-limit child 500MB", 500 * 10**6),
    "DiskIOLimits.max_bandwidth_mbps": ("set-disk-bandwidth-limit child 10MBps", 80 * 10**6),
    "DiskIOLimits.max_latency_ms": ("set-disk-latency-alert child 100ms", 100 * 10**6),
    "NetworkLimits.max_upload_mbps": ("set-bandwidth-limit child 10Mbps", 10 * 10**6),
    "NetworkLimits.max_download_mbps": ("set-bandwidth-limit child 10Mbps", 10 * 10**6),
}
"""What sets each of the limits of the seed's policy types, in bytes, nanoseconds, bits a second."""


@pytest.mark.seed("T3.4")
@pytest.mark.parametrize("name", SEED_LIMITS)
def test_t3_4_a_limit_of_the_seed_s_policy_types_is_a_command(command: Command, name: str) -> None:
    line, threshold = SEED_LIMITS[name]
    command.json("create child --user child")
    # To throttle takes controllers that a light host lacks: tests/vm/test_profile_limits.py.
    done = command.json(f"{line} --action alert")
    assert [one["threshold"] for one in done["profile"]["limits"].values()] == [threshold]
    assert command.json("show child")["limits"] == done["profile"]["limits"]


def test_a_slow_disk_cannot_be_throttled_and_the_hint_says_what_can(command: Command) -> None:
    error = command.json("set-disk-latency-alert child 100ms --action throttle", code=2)
    assert "set-disk-bandwidth-limit" in error["hint"]
    command.json("create child --user 54321")
    done = command.json("set-disk-bandwidth-limit child 10MBps --action terminate")
    assert done["profile"]["limits"] == {
        "disk-bandwidth": {"threshold": 80_000_000, "action": "terminate"}
    }
    assert done["held_by"] == "watcher"
    assert "disk-bandwidth 10MBps terminate, held by watcher" in command.text("show child")
    assert (
        command.json("set-disk-bandwidth-limit child 80Mbps --action terminate")["changed"] is False
    )


def test_people_are_told_what_is_limited_and_what_it_waits_for(command: Command) -> None:
    command.text("create child --user 54321")
    said = command.text("set-memory-limit child 500MB --action alert")
    assert "set for child: memory 500MB alert" in said
    assert "waits for its cgroup: /user.slice/user-54321.slice (user 54321)" in said
    assert "memory 500MB alert, held by watcher" in command.text("show child")
    assert command.text("list").splitlines()[1].split(maxsplit=1) == [
        "child", "user 54321  memory 500MB alert",
    ]  # fmt: skip
    assert "there is no user no-such-user" in command.text("create other --user no-such-user")


@pytest.mark.parametrize(
    "line",
    [
        "create child",
        "create ../child --user 1",
        "create -x --user 1",
        "create a.b --user 1",
        "create child --cgroup /",
        "create child --cgroup /a/../..",
        "create child --slice -.slice",
        "create child --user a/b",
        "set-memory-limit child",
        "set-memory-limit child 500",
        "set-memory-limit child 500MB --none",
        "set-memory-limit child --none --action alert",
        "set-memory-limit child 500MB --action explode",
        "set-disk-latency-alert child 100ms --action throttle",
        "set-bandwidth-limit child 10MB",
        "set-disk-bandwidth-limit child 10MB",
        "set-disk-bandwidth-limit child 100ms",
        "set-bandwidth-limit child 1Tbps",
        "set-process-limit child 10ms",
    ],
)
def test_a_line_that_means_nothing_changes_nothing(command: Command, line: str) -> None:
    error = command.json(line, code=2)
    assert error["error"] == "usage"
    assert error["hint"]
    assert not command.paths.profiles.exists()


def test_a_profile_that_is_not_there_is_an_error_with_a_way_out(command: Command) -> None:
    for line in ("show x", "delete x", "set-memory-limit x 5MB --action alert"):
        assert command.json(line, code=3)["message"] == "there is no profile x"


def test_a_dry_run_changes_nothing(command: Command) -> None:
    assert command.json("create child --user 1 --dry-run")["dry_run"]
    assert not command.paths.profiles.exists()
    command.json("create child --user 1")
    before = (command.paths.profiles / "child.json").read_bytes()
    assert command.json("set-memory-limit child 5MB --action alert --dry-run")["changed"]
    assert command.json("delete child --dry-run")["dry_run"]
    assert (command.paths.profiles / "child.json").read_bytes() == before
    assert "already" in command.json("create child --user 1 --dry-run", code=2)["message"]


def test_a_damaged_profile_is_listed_stops_changes_and_can_be_deleted(command: Command) -> None:
    command.json("create child --user 1")
    command.json("create other --user 2")
    (command.paths.profiles / "other.json").write_text('{"version": 1}')
    listed = command.json("list", code=8)
    assert [one["name"] for one in listed["damaged"]] == ["other"]
    assert [one["name"] for one in listed["profiles"]] == ["child"]
    error = command.json("set-memory-limit child 5MB --action alert", code=8)
    assert error["message"] == "the profile other is damaged"
    command.json("delete other")
    command.json("set-memory-limit child 5MB --action alert")


def test_changes_are_in_the_history(command: Command) -> None:
    command.json("create child --user 1")
    command.json("set-memory-limit child 5MB --action alert")
    lines = command.paths.history.read_text().splitlines()
    assert [(json.loads(one)["action"], json.loads(one)["note"]) for one in lines] == [
        ("profile create", "child"), ("profile set-memory-limit", "child: memory 5MB alert"),
    ]  # fmt: skip


def test_help_tells_decimal_from_binary(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["profile", "set-memory-limit", "--help"])
    out = capsys.readouterr().out
    assert "powers of 1000" in out
    assert "of 1024" in out


def test_dots_family_ctl_is_the_same_program(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv[0] = 'dots-family-ctl'; from aegis_tools.__main__ import main; main()"
    )
    line = ["--root", str(tmp_path), "profile", "create", "child", "--user", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *line], cwd=REPOSITORY, capture_output=True, check=True
    )
    assert json.loads(done.stdout)["profile"]["name"] == "child"
    scripts = (REPOSITORY / "pyproject.toml").read_text().partition("[project.scripts]")[2]
    assert 'dots-family-ctl = "aegis_tools.__main__:main"' in scripts
