"""The agent's small parts: what it tells systemd and people, its sign of life, its guards."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.agent.denyrate import DenyRate, busiest
from aegis_tools.agent.notify import Notifier
from aegis_tools.agent.tell import DEBUG, WARNING, is_journal, teller
from aegis_tools.cli.main import run
from aegis_tools.control import starts
from aegis_tools.control.health import agent_check
from aegis_tools.control.heartbeat import read_heartbeat, remove_heartbeat, write_heartbeat
from aegis_tools.control.lock import is_held, locked
from aegis_tools.control.service import carry_out, plan_install, plan_remove, units
from aegis_tools.paths import Paths

SECOND = 10**9


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path)
    found.run.mkdir(parents=True, mode=0o700)
    return found


def received(sock: socket.socket) -> list[str]:
    sock.setblocking(False)
    found = []
    try:
        while True:
            found.append(sock.recv(4096).decode())
    except BlockingIOError:
        return found


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_what_it_waits_for(tmp_path: Path, *, abstract: bool) -> None:
    address = f"@aegis-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if abstract else address)
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000"})
        notifier.status("mode audit,\n nothing is refused")
        notifier.status("mode audit, nothing is refused")
        notifier.ready()
        notifier.alive()
        notifier.reloading()
        notifier.stopping()
        told = received(manager)
    assert told[:3] == ["STATUS=mode audit, nothing is refused", "READY=1", "WATCHDOG=1"]
    assert told[3].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert told[4:] == ["STOPPING=1"]


def test_without_a_watchdog_it_is_not_fed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).alive()
        assert received(manager) == []


def test_a_service_manager_that_left_is_no_error(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    Notifier({}).ready()


def test_the_journal_is_told_priorities_and_a_terminal_is_not() -> None:
    lines: list[str] = []
    teller(lines.append, journal=True)(WARNING, "one\ntwo")
    teller(lines.append, journal=True)(DEBUG, "internals")
    teller(lines.append, journal=False)(WARNING, "three")
    teller(lines.append, journal=False)(DEBUG, "internals")
    teller(lines.append, journal=False, verbose=True)(DEBUG, "asked for")
    assert lines == ["<4>one", "<4>two", "<7>internals", "three", "asked for"]


def test_the_journal_is_known_by_the_number_of_its_stream(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        name = f"{found.st_dev}:{found.st_ino}"
        assert is_journal({"JOURNAL_STREAM": name}, stream)
        assert not is_journal({"JOURNAL_STREAM": "1:2"}, stream)
        assert not is_journal({}, stream)
    assert not is_journal({"JOURNAL_STREAM": "1:2"}, io.StringIO())


def test_a_heartbeat_is_read_as_it_was_written(paths: Paths) -> None:
    facts = {"pid": 7, "updated_boot_ns": 5 * SECOND, "deny_rate": 0.5, "ready": True}
    write_heartbeat(paths, facts)
    write_heartbeat(paths, {**facts, "pid": 8})
    assert read_heartbeat(paths) == {"format": 1, **facts, "pid": 8}
    assert [path.name for path in paths.run.iterdir()] == ["agent.json"]
    remove_heartbeat(paths)
    remove_heartbeat(paths)
    assert read_heartbeat(paths) is None


@given(data=st.one_of(st.binary(max_size=200), st.from_regex(rb'\{"format": ?1.{0,50}\}')))
def test_a_damaged_heartbeat_is_none(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    paths = Paths(tmp_path_factory.mktemp("root"))
    paths.run.mkdir(parents=True)
    paths.agent_status.write_bytes(data)
    found = read_heartbeat(paths)
    assert found is None or found["updated_boot_ns"] >= 0


def test_health_tells_an_agent_that_lives_from_one_that_died(paths: Paths) -> None:
    assert agent_check(paths, 0).ok is None
    write_heartbeat(paths, {"pid": 7, "updated_boot_ns": 100 * SECOND, "starts_in_window": 1})
    assert agent_check(paths, 101 * SECOND).ok is True
    dead = agent_check(paths, 130 * SECOND)
    assert dead.ok is False
    assert "30 s old" in dead.message, "its lock cannot be looked at: the age decides"
    write_heartbeat(paths, {"pid": 7, "updated_boot_ns": 100 * SECOND, "starts_in_window": 3})
    assert "started 3 times" in agent_check(paths, 101 * SECOND).message


def test_a_killed_agent_does_not_run_however_fresh_its_last_sign_of_life_is(paths: Paths) -> None:
    write_heartbeat(paths, {"pid": 7, "updated_boot_ns": 100 * SECOND})
    with locked(paths.events_lock, "run"):
        assert agent_check(paths, 101 * SECOND).ok is True
        assert "hangs" in agent_check(paths, 130 * SECOND).message
        assert is_held(paths.events_lock), "also for the second who asks"
    dead = agent_check(paths, 101 * SECOND)
    assert dead.ok is False
    assert "(process 7) died: its last sign of life is 1 s old" in dead.message


def test_four_restarts_in_five_minutes_are_a_crash_loop_and_three_are_not(paths: Paths) -> None:
    counts = [len(starts.began(paths, at * SECOND)) for at in (1000, 1010, 1020, 1030, 1040)]
    assert counts == [1, 2, 3, 4, 5]
    assert [starts.is_loop(count) for count in counts] == [False, False, False, False, True]


def test_starts_long_ago_and_those_that_ended_well_do_not_count(paths: Paths) -> None:
    for at in (1000, 1010, 1020, 1030):
        starts.began(paths, at * SECOND)
    starts.ended(paths, 1030 * SECOND)
    assert len(starts.began(paths, 1040 * SECOND)) == 4
    assert len(starts.began(paths, 1350 * SECOND)) == 1


def test_a_person_who_resumes_begins_the_count_anew(paths: Paths) -> None:
    starts.began(paths, 1000 * SECOND)
    starts.forget(paths)
    starts.forget(paths)
    assert len(starts.began(paths, 1001 * SECOND)) == 1


@given(
    data=st.one_of(st.binary(max_size=100), st.lists(st.integers()).map(json.dumps).map(str.encode))
)
def test_a_damaged_record_of_starts_is_no_crash_loop_and_no_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    paths = Paths(tmp_path_factory.mktemp("root"))
    paths.run.mkdir(parents=True, mode=0o700)
    paths.starts.write_bytes(data)
    now = 10**15
    assert now in starts.began(paths, now)
    assert starts.read_starts(paths)[-1] == now


def test_the_list_of_starts_is_bounded(paths: Paths) -> None:
    paths.starts.write_text(json.dumps(list(range(10**9, 10**9 + 5000))))
    assert len(starts.began(paths, 2 * 10**9)) == 100


def test_the_guard_acts_when_the_rate_was_too_high_for_the_whole_window() -> None:
    guard = DenyRate(100, 5)
    assert [guard.look(float(t), t * 150) for t in range(7)] == [False] * 5 + [True] * 2


def test_a_burst_shorter_than_the_window_is_no_reason() -> None:
    guard = DenyRate(100, 5)
    counts = [0, 450, 450, 450, 450, 450, 450, 450]
    assert not any(guard.look(float(t), count) for t, count in enumerate(counts))


def test_no_threshold_means_never_and_the_rate_is_still_known() -> None:
    guard = DenyRate(0, 5)
    assert not any(guard.look(float(t), t * 10**6) for t in range(20))
    assert guard.rate == pytest.approx(10**6)


def test_counters_that_begin_anew_are_no_flood_and_no_negative_rate() -> None:
    guard = DenyRate(10, 2)
    for t in range(3):
        guard.look(float(t), 10**6)
    assert not guard.look(3.0, 0)
    assert guard.rate == 0


def test_the_rules_that_refused_most_are_named() -> None:
    before, after = {1: 10, 2: 5}, {1: 12, 2: 1005, 3: 7, 4: 0, 9: 1}
    assert busiest(before, after, {1: "a", 2: "b", 3: "c"}) == "b 1000, c 7, a 2"
    assert busiest({}, {5: 1}, {}) == "unknown:0000000000000005 1"


def test_units_are_installed_once_and_removed_again(tmp_path: Path) -> None:
    paths, program = Paths(tmp_path), Path("/opt/venv/bin/aegisbpf")
    first = plan_install(paths, program)
    assert {change.verb for change in first} == {"create"}
    carry_out(first)
    assert {change.verb for change in plan_install(paths, program)} == {"keep"}
    (paths.units / "aegisbpf.service").write_text("edited\n")
    assert [c.path.name for c in plan_install(paths, program) if c.verb == "replace"] == [
        "aegisbpf.service"
    ]
    carry_out(plan_remove(paths, program))
    assert list(paths.units.iterdir()) == []
    assert not any(path.is_symlink() for path in paths.programs)


def test_a_program_that_is_not_ours_keeps_its_name(tmp_path: Path) -> None:
    paths, program = Paths(tmp_path), Path("/opt/venv/bin/aegisbpf")
    theirs = paths.programs[1]
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    carry_out(plan_install(paths, program))
    carry_out(plan_remove(paths, program))
    assert theirs.read_text() == "theirs"


def test_a_host_can_be_told_not_to_start_any_of_it() -> None:
    for name, data in units(Path("/usr/local/bin/aegisbpf")).items():
        assert b"\nConditionKernelCommandLine=!aegisbpf.disable=1\n" in data, name


@pytest.mark.parametrize(
    "line",
    [
        "ConditionPathExists=!/etc/aegisbpf.disable",
        "ConditionPathExists=!/run/aegisbpf.disable",
        "ConditionKernelCommandLine=!single",
        "ConditionKernelCommandLine=!recovery",
    ],
)
def test_a_broken_glass_and_a_recovery_entry_keep_what_loads_from_starting(line: str) -> None:
    for name, data in units(Path("/usr/local/bin/aegisbpf")).items():
        reads_only = name == "aegisbpf-metrics.service"
        assert (f"\n{line}\n".encode() in data) is not reads_only, name


def test_the_runbooks_edits_find_the_line_they_change() -> None:
    text = units(Path("/usr/bin/aegisbpf"))["aegisbpf.service"].decode()
    assert "\nExecStart=/usr/bin/aegisbpf run\n" in text
    assert "--audit" in text.partition("[Unit]")[0]


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for name, data in units(Path("/bin/true")).items():
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *sorted(map(str, tmp_path.iterdir()))],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.stderr, done.returncode) == ("", 0)


def test_removing_what_is_not_there_does_not_say_that_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--root", str(tmp_path), "service", "remove", "--dry-run"]) == 0
    assert capsys.readouterr().out == "nothing to do: no file of ours is there\n"
