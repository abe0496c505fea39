"""The way out of a crash loop, with a systemd that only pretends."""

from __future__ import annotations

from pathlib import Path

import pytest
from systemd_support import Killed, Systemd, procedure, states

from aegis_tools.control import service
from aegis_tools.incident import crash_loop, unit
from aegis_tools.incident.record import Record
from aegis_tools.paths import Paths


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a program that is installed."""
    path = tmp_path / "venv/bin/aegisbpf"
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.setattr("sys.prefix", str(tmp_path / "venv"))
    return path


@pytest.fixture
def paths(tmp_path: Path, program: Path) -> Paths:
    del program
    return Paths(tmp_path / "root")


def test_a_healthy_host_is_left_alone_and_no_record_is_kept(paths: Paths) -> None:
    systemd = Systemd(paths, looping=False, runs=True, restarts=0)
    outcome, answer = procedure(systemd)
    assert (outcome.result, outcome.found, answer["changed"], answer["id"]) == (
        "nothing-to-do", False, False, "",
    )  # fmt: skip
    assert set(systemd.said) == {"show"}
    assert not paths.incidents.exists()


def test_an_agent_that_was_started_again_long_ago_is_looked_at_twice(paths: Paths) -> None:
    outcome, _ = procedure(Systemd(paths, looping=False, runs=True, restarts=3))
    assert not outcome.found
    outcome, _ = procedure(Systemd(paths, looping=False, runs=True, restarts=3, dies_after=3))
    assert outcome.found


def test_a_loop_is_ended_named_and_the_agent_started_safely(paths: Paths) -> None:
    systemd = Systemd(paths)
    outcome, answer = procedure(systemd)
    assert outcome.result == "recovered", answer
    assert systemd.runs
    assert states(answer)["end-loop"] == states(answer)["safe-start"] == "done"
    assert answer["cause"]["cause"] == "configuration"
    assert any("unrecognized arguments" in line for line in answer["cause"]["lines"])
    assert crash_loop.NORMAL in outcome.next
    assert answer["held"] is False, "an option of the agent is no reason to stop enforcing"
    again, answer = procedure(systemd)
    assert (again.result, answer["changed"]) == ("nothing-to-do", False)
    assert crash_loop.NORMAL in again.next


def test_a_dry_run_touches_nothing(paths: Paths) -> None:
    systemd = Systemd(paths)
    outcome, answer = procedure(systemd, dry_run=True)
    assert outcome.found
    assert answer["changed"]
    assert states(answer)["end-loop"] == states(answer)["safe-start"] == "would"
    assert set(systemd.said) <= {"show", "cat"}
    assert not paths.root.exists()


@pytest.mark.parametrize(
    "command", ["systemctl stop", "reset-failed", "journalctl", "daemon-reload", "systemctl start"]
)
def test_killed_anywhere_the_next_run_brings_the_agent_up(paths: Paths, command: str) -> None:
    systemd = Systemd(paths, kill_before=command)
    with pytest.raises(Killed):
        procedure(systemd)
    outcome, answer = procedure(systemd)
    assert outcome.result == "recovered", answer
    assert systemd.runs


def test_an_agent_that_is_left_stopped_is_said_to_be(paths: Paths) -> None:
    with pytest.raises(Killed):
        procedure(Systemd(paths, kill_before="coredumpctl"))
    with Record.begin(paths, "crash-loop") as record:
        assert any("agent is stopped" in text for text in record.to_dict()["follow_ups"])


def test_an_agent_that_dies_in_a_safe_start_is_stopped_and_the_next_run_tries_again(
    paths: Paths,
) -> None:
    systemd = Systemd(paths, safe_works=False)
    for _ in range(2):
        outcome, answer = procedure(systemd)
        assert (outcome.result, answer["agent"]) == ("not-recovered", "stopped")
        assert outcome.error is not None
        assert "stopped" in outcome.error.message
        assert not systemd.looping
    systemd.safe_works = True
    assert procedure(systemd)[0].result == "recovered"


def test_one_that_dies_a_little_later_is_no_stable_one(paths: Paths) -> None:
    outcome, answer = procedure(Systemd(paths, dies_after=4))
    assert (outcome.result, answer["agent"]) == ("not-recovered", "stopped")


def test_the_normal_start_comes_back_when_the_cause_is_gone_and_not_before(paths: Paths) -> None:
    systemd = Systemd(paths)
    procedure(systemd)
    outcome, _ = procedure(systemd, crash_loop.normal_start)
    assert outcome.result == "not-recovered"
    assert unit.is_safe(paths)
    assert systemd.runs
    systemd.normal_works = True
    assert procedure(systemd, crash_loop.normal_start)[0].result == "recovered"
    assert not unit.is_safe(paths)
    assert procedure(systemd, crash_loop.normal_start)[0].result == "nothing-to-do"


def test_a_boot_that_failed_is_done_again_and_the_agent_left_alone(paths: Paths) -> None:
    systemd = Systemd(paths, looping=False, runs=True, restarts=0, boot_failed=True)
    outcome, answer = procedure(systemd)
    assert outcome.result == "recovered", answer
    assert states(answer)["boot-unit"] == "done"
    assert not {"stop", "start"} & set(systemd.said)
    assert procedure(systemd)[0].result == "nothing-to-do"


def test_a_safe_start_takes_back_whatever_a_drop_in_can_set(program: Path) -> None:
    text = unit.safe_text(program)
    lines = text.splitlines()
    assert f"ExecStart={program} run" in lines
    for name in ("ExecStart", "ExecStartPre", "Environment", "EnvironmentFile", "SystemCallFilter"):
        assert f"{name}=" in lines, name
    assert lines.index("ExecStart=") < lines.index(f"ExecStart={program} run")
    shipped = service.units(program)[unit.NAME].decode().partition("[Service]\n")[2]
    shipped = shipped.partition("\n[Install]")[0]
    for line in shipped.splitlines():
        assert not line or line.startswith("#") or line in lines, line
    assert "[Unit]" not in lines
