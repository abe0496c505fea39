"""disk-io-monitor on each kernel: a disk that is a file, and one that fails when it is told to."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from disk_activity import KIB, SECTOR
from disk_support import (
    DISK,
    OBJECT,
    check_again,
    check_discards,
    check_drops,
    check_everything,
    check_failure,
    check_others,
    check_twins,
    faults,
    loop_disk,
    partition,
    scsi_disk,
)
from monitor_facts import fitting

# All ways to look are on the oldest and the newest kernel; on those in between, test_monitor_load.
pytestmark = [pytest.mark.once("5.10", "7.2"), pytest.mark.seed("T2.5")]

MEDIUM_ERROR, SHORT_TRANSFER, HOST_BUSY = 0x2, 0x100, 0x8000
BAD_SECTOR = 0x1234
"""Ten from here cannot be read with MEDIUM_ERROR."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    with loop_disk(tmp_path / "disk") as device:
        yield device


@pytest.fixture(scope="module")
def scsi() -> Iterator[tuple[str, Path]]:
    with scsi_disk() as found:
        yield found


def test_the_kernel_has_what_the_monitor_needs() -> None:
    assert [variant.object for variant in fitting(DISK)] == [OBJECT]


def test_a_request_is_told_of_when_it_is_queued_issued_and_completed(
    folder: Path, disk: str
) -> None:
    check_everything(folder, disk)


def test_a_request_that_an_interrupt_completes_is_its_submitter_s(
    folder: Path, scsi: tuple[str, Path]
) -> None:
    check_everything(folder, scsi[0])


def test_a_partition_s_requests_are_the_disk_s_and_the_partition_s(
    folder: Path, scsi: tuple[str, Path]
) -> None:
    with partition(scsi[0]) as (part, offset):
        check_everything(folder, part, disk=scsi[0], offset=offset)


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


def test_what_was_read_before_the_error_counts(folder: Path, scsi: tuple[str, Path]) -> None:
    device, driver = scsi
    with faults(driver, MEDIUM_ERROR, each=1):
        check_failure(folder, device, "read", BAD_SECTOR // 8 * 8 * SECTOR, {errno.ENODATA})


def test_what_is_completed_by_halves_is_told_of_by_halves(
    folder: Path, scsi: tuple[str, Path]
) -> None:
    device, driver = scsi
    with faults(driver, SHORT_TRANSFER, each=2):
        check_again(folder, device)


def test_what_the_disk_does_not_take_is_issued_again(folder: Path, scsi: tuple[str, Path]) -> None:
    device, driver = scsi
    with faults(driver, HOST_BUSY, each=2):
        check_again(folder, device)


def test_who_writes_for_another_is_the_cause_and_of_a_flush_it_is_unknown(
    folder: Path, disk: str, tmp_path: Path
) -> None:
    check_others(folder, disk, tmp_path / "place")


def test_what_the_ring_has_no_room_for_is_counted(folder: Path, disk: str) -> None:
    check_drops(folder, disk)
