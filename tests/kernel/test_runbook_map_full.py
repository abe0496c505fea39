"""Maps that are full have room again: stale rules go, with undo; larger maps come; killed, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from confirm_support import config, killed, put
from edit_support import Host

from aegis_tools.control import bootstate
from aegis_tools.control.live import Live
from aegis_tools.kernel.layout import Config
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths


def run(host: Host, *more: str | Path, code: int = 0) -> dict[str, Any]:
    return host("incident", "map-full", "--no-probe", *more, code=code)


def states(answer: dict[str, Any]) -> dict[str, str]:
    return {step["action"]: step["state"] for step in answer["steps"]}


def capacity(host: Host, name: str) -> int:
    with Live(Pins(host.paths.pins)) as live:
        return live.capacity(name)


def targets(host: Host) -> set[str]:
    return {row["target"] for row in host("block", "list")["rules"]}


def paths_of(folder: Path, count: int) -> list[Path]:
    """Make files."""
    folder.mkdir()
    for number in range(count):
        (folder / f"f{number}").write_text("x")
    return sorted(folder.iterdir())


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Return a policy of twelve files."""
    files = paths_of(tmp_path / "large", 12)
    policy = tmp_path / "large.yaml"
    rules = "".join(f"  - {{id: {path.name}, path: {path}}}\n" for path in files)
    policy.write_text(f"version: 1\nrules:\n{rules}")
    return policy


@pytest.fixture
def small(paths: Paths, pins: Pins, capsys: pytest.CaptureFixture[str]) -> Host:
    """Return a host whose maps hold eight entries, loaded by the command that a person uses."""
    del pins
    host = Host(paths, capsys)
    host("load", "--max-deny-inodes=8", "--max-deny-paths=8", "--max-rules=8")
    put(host, Config.MODE, 1)
    return host


def fill(host: Host, files: list[Path]) -> None:
    """Add rules until the map says that it is full."""
    done = host.any("block", "add", *files)
    assert done["error"] == "kernel", done
    assert "is full" in done["message"]


def test_where_there_is_room_nothing_changes(small: Host, tmp_path: Path) -> None:
    small("block", "add", *paths_of(tmp_path / "some", 3))
    before, history = targets(small), small("history")
    answer = run(small)
    assert (answer["result"], answer["changed"]) == ("nothing-to-do", False)
    assert (targets(small), small("history")) == (before, history)
    assert not list(small.paths.state.glob("undo/*"))


def test_a_map_that_is_full_says_who_fills_it_and_gets_room(small: Host, tmp_path: Path) -> None:
    fill(small, paths_of(tmp_path / "many", 9))
    before = targets(small)
    told = run(small, "--dry-run")
    assert (told["changed"], states(told)["enlarge"]) == (True, "would")
    assert capacity(small, "deny_inode_map") == 8
    answer = run(small)
    assert states(answer)["clear-stale"] == "not-needed"
    assert states(answer)["enlarge"] == "done"
    assert targets(small) == before
    assert config(small, Config.MODE) == 1
    assert capacity(small, "deny_inode_map") == 16
    assert bootstate.read_boot_state(small.paths).capacities["deny_inode_map"] == 16
    fillers = {one["name"]: one for one in answer["record"]["facts"]["fillers"]}
    assert fillers["deny_inode_map"]["by"] == {"by hand": 8}
    assert fillers["deny_inode_map"]["folders"][0] == {
        "folder": str(tmp_path / "many"), "entries": 8,
    }  # fmt: skip
    assert run(small)["result"] == "nothing-to-do"


def test_what_is_stale_goes_first_and_can_be_put_back(small: Host, tmp_path: Path) -> None:
    gone = paths_of(tmp_path / "gone", 4)
    fill(small, [*gone, *paths_of(tmp_path / "there", 5)])
    for path in gone:
        path.unlink()
    (tmp_path / "gone").rmdir()
    answer = run(small)
    assert states(answer)["clear-stale"] == "done"
    assert states(answer)["enlarge"] == "not-needed"
    assert capacity(small, "deny_inode_map") == 8
    assert not {str(path) for path in gone} & targets(small)
    undo = answer["record"]["facts"]["cleared"]["undo"]
    assert any(undo in line for line in answer["record"]["follow_ups"])
    assert small("block", "restore", undo)["restored"] == 4
    assert {str(path) for path in gone} <= targets(small)


def test_the_policy_that_did_not_fit_is_applied(small: Host, large: Path) -> None:
    assert small("policy", "apply", large, code=3)["error"] == "policy"
    told = run(small, "--policy", large, "--dry-run")
    assert (states(told)["enlarge"], states(told)["apply"]) == ("would", "would")
    answer = run(small, "--policy", large)
    assert (states(answer)["enlarge"], states(answer)["apply"]) == ("done", "done")
    assert "needs 12 entries" in answer["record"]["facts"]["policy_problem"]
    assert len(targets(small)) == 12
    assert small("policy", "verify-live")["tampered"] is False
    again = run(small, "--policy", large)
    assert (again["result"], again["changed"]) == ("nothing-to-do", False)


def test_the_policy_waits_for_its_confirmation(small: Host, large: Path) -> None:
    answer = run(small, "--policy", large, "--confirm-within", "10m")
    assert answer["pending"]["action"] == "policy apply"
    assert answer["next"] == ["aegisbpf policy confirm", f"aegisbpf incident close {answer['id']}"]
    again = run(small, "--policy", large, "--confirm-within", "10m")
    assert again["changed"] is False
    small("policy", "confirm")
    small("incident", "close", answer["id"])
    assert run(small, "--policy", large)["changed"] is False


def test_a_policy_that_locks_out_is_refused_with_the_room_made(
    small: Host, large: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(large.read_text() + "  - {id: sh, path: /bin/sh}\n")
    error = run(small, "--policy", bad, code=3)
    assert error["error"] == "lockout"
    assert targets(small) == set()


def test_a_size_that_is_wanted_is_what_comes(small: Host) -> None:
    answer = run(small, "--size", "deny_dir_map=77")
    assert states(answer)["enlarge"] == "done"
    assert capacity(small, "deny_dir_map") == 77
    assert run(small, "--size", "deny_dir_map=77")["changed"] is False
    run(small, "--size", "nosuch=1", code=2)


@pytest.mark.parametrize("instant", [30, 110, 260, 400])
def test_killed_at_any_instant_and_run_again_it_ends_the_same(
    small: Host, large: Path, tmp_path: Path, instant: int
) -> None:
    gone = paths_of(tmp_path / "gone", 2)
    fill(small, [*gone, *paths_of(tmp_path / "there", 7)])
    kept = targets(small) - {str(path) for path in gone}
    for path in gone:
        path.unlink()
    (tmp_path / "gone").rmdir()
    killed(small, instant, "incident", "map-full", "--no-probe", "--policy", large)
    answer = run(small, "--policy", large)
    assert answer["result"] in ("recovered", "nothing-to-do")
    assert kept <= targets(small)
    assert len(targets(small)) == len(kept) + 12
    assert small("policy", "verify-live")["tampered"] is False
    assert capacity(small, "rules") >= 18
    assert config(small, Config.MODE) == 1
