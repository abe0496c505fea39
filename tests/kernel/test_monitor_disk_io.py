"""disk-io-monitor tells of what a program asked of a disk, and how long the disk took."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from disk_activity import KIB
from disk_support import (
    COMM,
    DISK,
    OBJECT,
    check_discards,
    check_drops,
    check_everything,
    check_failure,
    check_others,
    check_twins,
    events_of,
    loop_disk,
    nothing_is_left,
    partition,
)
from monitor_facts import run_facts
from monitor_support import Attached

from aegis_tools.paths import Paths


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    with loop_disk(tmp_path / "disk") as device:
        yield device


@pytest.fixture
def folder(paths: Paths) -> Path:
    return paths.bpffs / "monitor"


def test_a_request_is_told_of_when_it_is_queued_issued_and_completed(
    folder: Path, disk: str
) -> None:
    check_everything(folder, disk)


def test_a_partition_s_requests_are_the_disk_s_and_the_partition_s(folder: Path, disk: str) -> None:
    with partition(disk) as (part, offset):
        check_everything(folder, part, disk=disk, offset=offset)


def test_one_sector_of_two_disks_at_once_is_two_requests(
    folder: Path, disk: str, tmp_path: Path
) -> None:
    with loop_disk(tmp_path / "other") as other:
        check_twins(folder, disk, other)


def test_what_takes_no_data_has_its_size_all_the_same(folder: Path, disk: str) -> None:
    check_discards(folder, disk)


def test_an_error_is_told_of_and_moved_nothing(folder: Path, tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk", full=True) as full:
        check_failure(folder, full, "write", 64 * KIB, {errno.ENOSPC, errno.EIO})


def test_who_writes_for_another_is_the_cause_and_of_a_flush_it_is_unknown(
    folder: Path, disk: str, tmp_path: Path
) -> None:
    check_others(folder, disk, tmp_path / "place")


def test_what_the_ring_has_no_room_for_is_counted(folder: Path, disk: str) -> None:
    check_drops(folder, disk)


def test_a_smallest_size_is_that_of_the_request(folder: Path, disk: str) -> None:
    with Attached(DISK, OBJECT, folder) as attached:
        attached.let_through(comms=[COMM], min_bytes=60 * KIB)
        facts = run_facts("disk_activity", COMM, disk)
        events = events_of(attached)
        assert nothing_is_left(attached, facts["pid"])
    assert min(event.bytes for event in events) == 60 * KIB


def test_what_is_not_sampled_is_counted_and_nothing_of_it_is_left(folder: Path, disk: str) -> None:
    with Attached(DISK, OBJECT, folder) as attached:
        attached.let_through(comms=[COMM], sample=0)
        before = attached.stats()["SAMPLED_OUT"]
        facts = run_facts("disk_activity", COMM, disk)
        assert events_of(attached) == []
        assert nothing_is_left(attached, facts["pid"])
        assert attached.stats()["SAMPLED_OUT"] > before
