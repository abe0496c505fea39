"""Turns: what they tell, what they remember, and what a death or a full disk leaves."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from soak_host import SECOND, WALL, Host, killed_turn

from aegis_tools.control import files
from aegis_tools.errors import StateError
from aegis_tools.soak import changes, recover, state, telling
from aegis_tools.soak.append import append
from aegis_tools.soak.changes import Now
from aegis_tools.soak.columns import Sample
from aegis_tools.soak.happened import MAX_LINES, Happened
from aegis_tools.soak.state import Agent, State
from aegis_tools.soak.turn import Made

OOPS = "BUG: kernel NULL pointer dereference, address: 0000000000000008"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_each_turn_adds_a_row_and_remembers_when_it_was(host: Host) -> None:
    host.turns(3)
    rows = host.rows()
    assert [one.timestamp for one in rows] == [WALL, WALL + 60, WALL + 120]
    assert [one.boot_s for one in rows] == [5000, 5060, 5120]
    assert {(one.agent, one.mode, one.canary, one.boot) for one in rows} == {
        ("none", "none", "none", "0badcafe")
    }
    assert (host.state().turn, host.state().elapsed_s) == (3, 120)
    assert host.events() == []


def test_a_wall_clock_that_jumps_is_told_and_changes_nothing_of_how_long_it_lasts(
    host: Host,
) -> None:
    host.turns(2)
    host.later(0, set_by=86400)
    host.turns(2)
    host.later(0, set_by=-90000)
    host.turns(2)
    assert host.state().elapsed_s == 5 * 60
    assert host.told() == [
        "the wall clock was set by +86400 s",
        "the wall clock was set by -90000 s",
    ]
    assert [one.value for one in host.events()] == [86400, -90000]


def test_a_reboot_is_told_and_the_time_in_between_counts_within_bounds(host: Host) -> None:
    host.turns(2)
    host.wall += 240
    host.boot(SECOND, at=30)
    host.turns(2)
    assert host.state().elapsed_s == 60 + 300 + 60
    assert [one.kind for one in host.events()] == ["reboot"]
    # A clock that is years off ends no soak.
    host.wall += 10 * 365 * 86400
    host.boot(SECOND.replace("feed", "dead"), at=30)
    host.turn()
    assert host.state().elapsed_s == 420 + changes.OFF_SECONDS
    host.wall = 1000.0
    host.boot(SECOND.replace("feed", "beef"), at=30)
    host.turn()
    assert host.state().elapsed_s == 420 + changes.OFF_SECONDS


def test_turns_that_were_not_made_are_a_gap_and_one_that_is_late_is_none(host: Host) -> None:
    host.turns(2)
    host.later(100)
    host.turn()
    assert host.events() == []
    host.later(181)
    host.turn()
    assert [(one.kind, one.value) for one in host.events()] == [("gap", 181)]


def test_what_the_kernel_says_is_told_once_and_what_it_said_before_the_soak_is_not(
    host: Host,
) -> None:
    host.says(OOPS)
    host.turns(2)
    assert host.events() == []
    host.says("bpf: something is wrong")
    host.turns(2)
    assert host.told("kernel") == ["bpf: something is wrong"]
    # The numbers begin again.
    host.boot(SECOND, at=30)
    host.says(OOPS)
    host.turns(2)
    assert host.told("kernel") == ["bpf: something is wrong", OOPS]


def test_a_crash_of_the_kernel_is_seen_by_what_it_left(host: Host) -> None:
    left = host.paths.root / "sys/fs/pstore"
    left.mkdir(parents=True)
    (left / "dmesg-efi-1").write_text("of before the soak")
    host.turns(2)
    assert host.events() == []
    (left / "dmesg-efi-2").write_text("x")
    host.turns(2)
    assert [one.class_ for one in host.events()] == ["panic"]
    assert "dmesg-efi-2" in host.told()[0]


def test_a_log_that_cannot_be_read_is_told_once_and_again_when_it_fails_again(host: Host) -> None:
    host.turn()
    text = host.kmsg.read_text()
    host.kmsg.unlink()
    host.kmsg.mkdir()
    host.turns(3)
    assert len(host.told("reading-failed")) == 1
    host.kmsg.rmdir()
    host.kmsg.write_text(text)
    host.turn()
    host.kmsg.unlink()
    host.kmsg.mkdir()
    host.turns(2)
    assert len(host.told("reading-failed")) == 2


def test_wherever_a_turn_is_killed_the_next_one_tells_all_of_it_once(tmp_path: Path) -> None:
    for at in range(1, 100):
        host = Host(tmp_path / str(at))
        host.turns(2)
        host.says(OOPS)
        killed = killed_turn(host, at)
        host.later(60)
        host.turn()
        assert host.told("kernel") == [OOPS], at
        rows = host.rows()
        assert {one.timestamp for one in rows} >= {WALL, WALL + 60, WALL + 180}, at
        assert host.state().turn in (3, 4)
        assert host.state().elapsed_s == 180
        assert not list(telling.untold(host.paths).parent.glob("*untold*"))
        if not killed:
            assert at > 6  # it opens, writes, syncs: what happened, row, memory
            return
    raise AssertionError("a turn makes fewer calls than that")


def test_a_torn_row_is_no_row_and_the_next_one_is_whole(host: Host) -> None:
    host.turns(2)
    with host.at.samples.open("a") as file:
        file.write("1768471320,0.5,8.1,0,0")
    host.turns(1)
    rows, problems = host.rows(), host.at.samples.read_text().splitlines()
    assert [one.timestamp for one in rows] == [WALL, WALL + 60, WALL + 120]
    assert problems[3] == "1768471320,0.5,8.1,0,0"


def half_of_it(fd: int, data: bytes) -> int:
    """Write as much as there is room for."""
    os.write(fd, bytes(data)[: len(data) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_ends_no_soak_and_loses_nothing_a_verdict_rests_on(host: Host) -> None:
    host.turns(2)
    host.says(OOPS)
    for _ in range(3):
        with pytest.raises(StateError, match="cannot write"):
            host.turn(files.Calls(write=half_of_it))
        host.later(60)
    assert host.at.samples.read_text().count("\n") == 3
    assert host.at.samples.read_text().endswith("\n")
    assert host.told() == []
    assert [one.timestamp for one in host.rows()] == [WALL, WALL + 60]
    host.turns(1)
    assert host.told("kernel") == [OOPS]
    assert host.state().elapsed_s == 300


def no_new_file(path: object, flags: int, *rest: int, **named: int) -> int:
    """Open what is there; there is no room for another file."""
    if flags & os.O_EXCL:
        raise OSError(errno.ENOSPC, "No space left on device")
    return os.open(path, flags, *rest, **named)  # type: ignore[arg-type]


def test_turns_that_could_not_be_remembered_but_have_their_rows_are_no_gap(host: Host) -> None:
    host.turns(2)
    for _ in range(6):
        with pytest.raises(StateError, match="cannot write"):
            host.turn(files.Calls(open=no_new_file))
        host.later(60)
    assert len(host.rows()) == 8
    host.turns(1)
    assert host.told() == []
    assert host.state().elapsed_s == 8 * 60
    # What has no row is one all the same, and a boot is told once.
    host.later(240)
    with pytest.raises(StateError, match="cannot write"):
        host.turn(files.Calls(open=no_new_file))
    assert host.told() == ["no turn was made for 300 s"]
    host.wall += 240
    host.boot(SECOND, at=30)
    for _ in range(3):
        with pytest.raises(StateError, match="cannot write"):
            host.turn(files.Calls(open=no_new_file))
        host.later(60)
    assert [one.kind for one in host.events()] == ["gap", "reboot"]


def test_a_gap_and_a_boot_are_told_once_although_no_row_can_be_written(host: Host) -> None:
    host.turns(2)
    host.at.samples.rename(host.at.path / "kept")
    host.at.samples.mkdir()
    for _ in range(6):
        with pytest.raises(StateError, match="cannot write the samples"):
            host.turn()
        host.later(60)
    assert host.told() == ["no turn was made for 240 s"]
    host.wall += 240
    host.boot(SECOND, at=30)
    for _ in range(3):
        with pytest.raises(StateError, match="cannot write the samples"):
            host.turn()
        host.later(60)
    assert [one.kind for one in host.events()] == ["gap", "reboot"]


def test_a_row_of_another_boot_or_an_older_one_says_nothing_of_the_last_turn() -> None:
    before = State(turn=9, boot="0badcafe", boot_s=500.0, wall=WALL)
    now = Now(WALL + 500, "0badcafe", 1000.0, "", "")
    others = (("0badcafe", 499.0), ("feedbeef", 900.0), (None, None), ("0badcafe", 1001.0))
    for boot, boot_s in others:
        row = Sample(int(WALL), boot=boot, boot_s=boot_s)
        assert changes.up_to(before, row, now) == before
    assert changes.up_to(before, None, now) == before
    row = Sample(int(WALL) + 400, boot="0badcafe", boot_s=900.0)
    assert changes.up_to(before, row, now).boot_s == 900.0


def test_lines_that_there_is_no_room_for_leave_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    append(path, "one\n", what="rows", header="head\n")
    with pytest.raises(StateError, match="cannot write the rows"):
        append(path, "two, and much more\n", what="rows", calls=files.Calls(write=half_of_it))
    assert path.read_text() == "head\none\n"


def test_what_a_full_disk_had_no_room_for_waits_and_is_written_down_once(
    host: Host,
) -> None:
    miss = Happened(WALL, "canary-miss", "the canary was missed: it was opened")
    host.at.happened.mkdir()
    for _ in range(2):
        with pytest.raises(StateError):
            telling.tell(host.paths, host.settings.id, State(turn=1), [miss])
    host.at.happened.rmdir()
    after = telling.tell(host.paths, host.settings.id, State(turn=1), [])
    assert host.told() == [miss.text]
    assert (after.lines, after.told) == (1, host.at.happened.stat().st_size)
    assert telling.tell(host.paths, host.settings.id, after, []) == after


def test_a_memory_that_is_damaged_is_made_of_the_rows(host: Host) -> None:
    host.turns(3)
    host.says(OOPS)
    for damage in (b"", b"{}", b'{"format":1}', b"\xff"):
        host.at.state.write_bytes(damage)
        host.turns(1)
    assert (host.state().turn, host.state().elapsed_s) == (7, 360)
    assert len(host.told("reading-failed")) == 4
    # What was said meanwhile may be lost, and that is told; nothing is told as new that was not.
    assert host.told("kernel") == []
    host.at.state.unlink()
    host.turns(1)
    assert host.state().elapsed_s == 420


def test_rows_say_how_long_it_lasted_over_boots_and_jumps(host: Host) -> None:
    host.turns(2)
    host.later(0, set_by=5000)
    host.turns(2)
    host.wall += 100
    host.boot(SECOND, at=20)
    host.turns(2)
    lasted = host.state().elapsed_s
    assert recover.of_rows(host.rows(), host.settings).elapsed_s == pytest.approx(lasted, abs=2)


def test_warnings_do_not_use_up_the_room_of_what_a_verdict_rests_on() -> None:
    warning = Happened(WALL, "kernel", "WARNING: x", class_="warning")
    told, after = telling.bounded(State(), [warning] * 5000)
    assert (len(told), after.warnings) == (telling.MAX_WARNINGS, 5000)
    gap = Happened(WALL, "gap", "no turn")
    crash = Happened(WALL, "crash", "the agent died")
    told, _ = telling.bounded(State(lines=MAX_LINES - telling.RESERVED - 1), [gap, gap, gap, crash])
    assert [one.kind for one in told] == ["gap", "reading-failed", "crash"]
    told, _ = telling.bounded(State(lines=MAX_LINES), [crash])
    assert told == []


@given(st.integers(0, 1 << 40), st.text(max_size=20), st.booleans(), st.integers(-1, 1 << 62))
def test_a_memory_comes_back_as_it_was(turn: int, name: str, flag: bool, kmsg: int) -> None:
    name = name.encode("utf-8", "replace").decode()
    one = State(turn=turn, names={"00ff": name}, placed=flag, kmsg=kmsg,
                agent=Agent(5, 1.5, 2.5, 3.5, None, flag), failing=("x",))  # fmt: skip
    assert state.from_bytes(state.to_bytes(one)) == one


@given(st.binary(max_size=200))
def test_a_memory_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 # json's own says what
        state.from_bytes(data)


@pytest.mark.parametrize(
    ("name", "value"),
    [("turn", -2), ("turn", 1.5), ("elapsed_s", -1), ("boot", 5), ("names", {"x": 1}),
     ("placed", 1), ("failing", "x"), ("agent", {"pid": "x"}), ("more", 1)],
)  # fmt: skip
def test_a_memory_with_a_field_that_cannot_be_is_refused(name: str, value: object) -> None:
    good = json.loads(state.to_bytes(State(agent=Agent(5, 1.5))))
    state.from_bytes(json.dumps(good).encode())
    with pytest.raises(ValueError, match=r"field|texts"):
        state.from_bytes(json.dumps({**good, name: value}).encode())


def test_an_agent_in_a_memory_has_times(tmp_path: Path) -> None:
    good = json.loads(state.to_bytes(State()))
    for field in ("start_s", "cpu_s", "seen_s"):
        (tmp_path / "state").write_text(
            json.dumps({**good, "agent": {**good["agent"], field: -1.0}})
        )
        assert state.read(tmp_path / "state") is None


def test_a_file_that_is_no_file_is_not_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("pipe", "link"):
        with pytest.raises(StateError, match="cannot write the rows"):
            append(tmp_path / name, "x\n", what="rows")
    assert not (tmp_path / "target").exists()


def test_a_turn_is_no_failure_unless_something_failed(host: Host) -> None:
    assert not host.turn().failed
    host.later(600)
    host.says(OOPS)
    made: Made = host.turn()
    assert made.failed
    assert [one.kind for one in made.happened] == ["gap", "kernel"]


def test_a_boot_clock_that_went_back_is_another_boot() -> None:
    before = State(turn=1, boot="0badcafe", boot_s=500.0, wall=WALL)
    assert changes.rebooted(before, Now(WALL, "0badcafe", 499.0, "", ""))
    assert not changes.rebooted(before, Now(WALL, "0badcafe", 500.0, "", ""))
