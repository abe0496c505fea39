"""filesystem-monitor tells of what a program did with files: everything, and as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from filesystem_activity import OPEN
from filesystem_support import (
    COMM,
    Event,
    check_compat,
    check_everything,
    check_flood,
    expected,
    run_activity,
)
from monitor_support import ZERO, Attached

from aegis_tools.kernel import syscall
from aegis_tools.kernel.maps import possible_cpus
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.paths import Paths

FILESYSTEM = MONITORS["filesystem-monitor"]
OBJECT = "filesystem-monitor.bpf.o"
SMALL = 4096


@pytest.fixture
def attached(paths: Paths) -> Iterator[Attached]:
    with Attached(FILESYSTEM, OBJECT, paths.bpffs / "monitor") as attached:
        yield attached


def test_everything_that_was_done_is_told_of_once_and_as_it_was(
    attached: Attached, tmp_path: Path
) -> None:
    check_everything(attached, tmp_path, functions=False)


def test_calls_of_a_32_bit_program_are_counted(attached: Attached, tmp_path: Path) -> None:
    check_compat(attached, tmp_path, functions=False)


@pytest.mark.parametrize("ring_bytes", [SMALL, 1 << 20])
def test_in_a_flood_all_is_told_of_or_counted(
    paths: Paths, tmp_path: Path, ring_bytes: int
) -> None:
    with Attached(FILESYSTEM, OBJECT, paths.bpffs / "monitor", ring_bytes) as attached:
        check_flood(attached, tmp_path, functions=False)
        dropped = attached.stats()["DROPPED"]
    assert dropped if ring_bytes == SMALL else not dropped


def test_the_smallest_size_is_about_reads_and_writes(attached: Attached, tmp_path: Path) -> None:
    attached.let_through(comms=[COMM], min_bytes=100)
    run = run_activity(tmp_path)
    told = [Event.of(record).done for record in attached.records()]
    assert told == expected(run, functions=False, min_bytes=100)
    assert len(told) < len(expected(run, functions=False))


def test_what_is_not_sampled_is_counted(attached: Attached, tmp_path: Path) -> None:
    attached.let_through(comms=[COMM], sample=0)
    before = attached.stats()["SAMPLED_OUT"]
    run = run_activity(tmp_path)
    assert attached.records() == []
    assert attached.stats()["SAMPLED_OUT"] - before == len(expected(run, functions=False))


def test_what_the_ring_has_no_room_for_is_counted(paths: Paths, tmp_path: Path) -> None:
    with Attached(FILESYSTEM, OBJECT, paths.bpffs / "monitor", SMALL) as attached:
        attached.let_through(comms=[COMM])
        run = run_activity(tmp_path)
        told = [Event.of(record).done for record in attached.records()]
        stats = attached.stats()
    assert stats["SENT"] == len(told) > 0
    assert stats["DROPPED"] == len(expected(run, functions=False)) - len(told) > 0


def test_an_open_while_the_buffer_is_in_use_is_counted(attached: Attached, tmp_path: Path) -> None:
    in_use = (1).to_bytes(8, "little")
    with attached.map("FILENAME_BUF") as buffer:
        step = (buffer.value_size + 7) & ~7
        syscall.update(buffer.fd, ZERO, in_use.ljust(step, b"\0") * possible_cpus())
    attached.let_through(comms=[COMM])
    run = run_activity(tmp_path)
    told = [Event.of(record).done for record in attached.records()]
    all_of_it = expected(run, functions=False)
    assert told == [one for one in all_of_it if one.type != OPEN]
    assert attached.stats()["BUSY"] == len(all_of_it) - len(told)
    with attached.map("FILENAME_BUF") as buffer:
        assert {value[:8] for value in buffer.get_per_cpu(ZERO)} == {in_use}


def test_no_close_is_left_behind(attached: Attached, tmp_path: Path) -> None:
    attached.let_through(comms=[COMM])
    run_activity(tmp_path)
    with attached.map("CLOSING") as closing:
        found = {key for key, _ in closing.items()}
        ended = {key for key in found if not Path("/proc", str(process_of(key))).exists()}
        assert not ended & {key for key, _ in closing.items()}


def process_of(thread: bytes) -> int:
    return int.from_bytes(thread, "little") >> 32
