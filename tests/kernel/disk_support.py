"""disk-io-monitor against a program that knows what it asked of a disk; here and in machines."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from disk_activity import FLUSH, GID, KIB, LAZY, MIB, PART, READ, SECTOR, TWINS, UID, WRITE
from monitor_facts import run_facts
from monitor_support import Attached, Head

from aegis_tools.monitors import layout
from aegis_tools.monitors.registry import MONITORS

DISK = MONITORS["disk-io-monitor"]
OBJECT = "disk-io-monitor.bpf.o"
COMM = "known-disk"
ISSUE, COMPLETE, QUEUE = 1, 2, 3
SIZE = 16 * MIB
PIECE = 32 * KIB
"""What a file system writes besides data is smaller."""
LARGE_RING = 1 << 24
"""For what all disks of a busy machine do meanwhile."""


class Event(NamedTuple):
    """The decoded struct disk_io_event."""

    head: Head
    sector: int
    bytes: int
    queued_ns: int
    latency_ns: int
    dev: int
    part: int
    operation: int
    error: int

    @classmethod
    def of(cls, record: bytes) -> Event:
        assert len(record) == layout.HEAD.size + layout.DISK_IO.size
        return cls(Head.of(record), *layout.DISK_IO.unpack_from(record, layout.HEAD.size))


def number_of(path: str) -> int:
    """Return a block device's number as the kernel has it."""
    device = Path(path).stat().st_rdev
    return os.major(device) << 20 | os.minor(device)


@contextmanager
def loop_disk(folder: Path, *, full: bool = False) -> Iterator[str]:
    """Make a disk of a file with nothing in it; ``full``: nor is there room behind it."""
    folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder))
    try:
        image = folder / "image"
        with image.open("wb") as file:
            file.truncate(SIZE)
        if full:
            fill(folder / "rest")
        subprocess.run(["modprobe", "--quiet", "loop"], check=False)  # built in, or a module
        device = run("losetup", "--find", "--show", str(image))
        try:
            queue = Path("/sys/block", Path(device).name, "queue")
            (queue / "nomerges").write_text("0")
            yield device
        finally:
            run("losetup", "--detach", device)
    finally:
        run("umount", "--lazy", str(folder))


def fill(path: Path) -> None:
    """Take all the room that the file system has."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(MIB)):
            pass


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def scsi_disk() -> Iterator[tuple[str, Path]]:
    """Make a disk that can be told to fail; yield it and where it is told so."""
    run("modprobe", "sd_mod")
    run("modprobe", "scsi_debug", "dev_size_mb=16")
    driver = Path("/sys/bus/pseudo/drivers/scsi_debug")
    try:
        deadline = time.monotonic() + 20
        while not (found := list(driver.glob("adapter*/host*/target*/*/block/*"))):
            assert time.monotonic() < deadline, "there is no disk"
            time.sleep(0.1)
        device = f"/dev/{found[0].name}"
        node_of(device)
        yield device, driver
    finally:
        run("modprobe", "--remove", "scsi_debug")


@contextmanager
def faults(driver: Path, options: int, *, each: int) -> Iterator[None]:
    """Make each so many commands go wrong (drivers/scsi/scsi_debug.c, SDEBUG_OPT_)."""
    (driver / "opts").write_text(f"{options:#x}")
    (driver / "every_nth").write_text(str(each))
    try:
        yield
    finally:
        (driver / "every_nth").write_text("0")
        (driver / "opts").write_text("0")


@contextmanager
def partition(device: str) -> Iterator[tuple[str, int]]:
    """Make one of a disk's middle; yield it and where it begins, in bytes."""
    run("addpart", device, "1", str(MIB // SECTOR), str(12 * MIB // SECTOR))
    try:
        name = device + ("p1" if device[-1].isdigit() else "1")
        node_of(name)
        yield name, MIB
    finally:
        run("delpart", device, "1")


def node_of(path: str) -> None:
    """Make the device's node where nobody else does."""
    if not Path(path).exists():
        text = Path("/sys/class/block", Path(path).name, "dev").read_text(encoding="ascii")
        major, minor = map(int, text.split(":"))
        os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(major, minor))


class Counters(NamedTuple):
    """What the kernel counted of a disk (Documentation/block/stat.rst)."""

    reads: int
    read_sectors: int
    writes: int
    write_sectors: int
    discards: int
    discard_sectors: int

    @classmethod
    def of(cls, device: str) -> Counters:
        path = Path("/sys/class/block", Path(device).name, "stat")
        numbers = [int(word) for word in path.read_text(encoding="ascii").split()]
        return cls(*(numbers[i] for i in (0, 2, 4, 6, 11, 13)))

    def since(self, before: Counters) -> Counters:
        return Counters(*(now - then for now, then in zip(self, before, strict=True)))


def events_of(attached: Attached) -> list[Event]:
    return [Event.of(record) for record in attached.records()]


def tiles(events: list[Event], fact: dict[str, Any]) -> bool:
    """Return whether they make up the whole of it, and nothing twice."""
    at = fact["sector"]
    for event in sorted(events, key=lambda event: event.sector):
        if event.sector != at:
            return False
        at += event.bytes // SECTOR
    return bool(at == fact["sector"] + fact["bytes"] // SECTOR)


def within(events: list[Event], fact: dict[str, Any], kind: int) -> list[Event]:
    return [
        event
        for event in events
        if fact["began"] < event.head.time_ns < fact["ended"] and event.head.type == kind
    ]


def check_fact(events: list[Event], fact: dict[str, Any]) -> None:
    """One call: what was queued, issued and completed is what was asked for."""
    queued, issued, completed = (within(events, fact, kind) for kind in (QUEUE, ISSUE, COMPLETE))
    assert tiles(queued, fact), (fact, queued)
    assert tiles(issued, fact), (fact, issued)
    assert {event.operation for event in queued + issued + completed} == {fact["operation"]}
    assert {event.error for event in queued + issued} == {0}
    assert fact["error"] == 0
    took = fact["ended"] - fact["began"]
    starts = {event.sector: event for event in issued}
    assert [(e.sector, e.bytes, e.error) for e in sorted(completed, key=by_sector)] == [
        (event.sector, event.bytes, 0) for event in sorted(issued, key=by_sector)
    ]
    for event in completed:
        start = starts[event.sector]
        assert event.latency_ns == event.head.time_ns - start.head.time_ns
        assert event.queued_ns == start.queued_ns
        assert 0 < event.latency_ns < took
        assert 0 < event.queued_ns < took
    if "parts" in fact:
        assert len(queued) == fact["parts"]
        assert len(issued) < fact["parts"], "nothing was merged"
    elif fact["bytes"] <= 64 * KIB:
        assert len(queued) == len(issued) == 1


def by_sector(event: Event) -> int:
    return event.sector


def check_heads(events: list[Event], facts: dict[str, Any]) -> None:
    for event in events:
        head = event.head
        assert (head.pid, head.tid, head.ppid) == (facts["pid"], facts["pid"], facts["ppid"])
        assert (head.uid, head.gid, head.comm, head.flags) == (UID, GID, COMM, 0)
        assert head.cgroup == facts["cgroup"]


def check_counters(events: list[Event], counted: Counters) -> None:
    """What was completed is what the kernel counted."""
    done = [event for event in events if event.head.type == COMPLETE and not event.error]
    for operation, requests, sectors in (
        (READ, counted.reads, counted.read_sectors),
        (WRITE, counted.writes, counted.write_sectors),
    ):
        mine = [event for event in done if event.operation == operation]
        assert (len(mine), sum(e.bytes for e in mine) // SECTOR) == (requests, sectors)


def nothing_is_left(attached: Attached, pid: int, seconds: float = 5) -> bool:
    """Wait for the last of a program's requests to end."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with attached.map("PENDING_IO") as pending, attached.map("QUEUED_IO") as queued:
            left = [value for _, value in (*pending.items(), *queued.items())]
        if all(Head.of(value).pid != pid for value in left):
            return True
        time.sleep(0.05)
    return False


def check_everything(
    folder: Path, device: str, *, disk: str | None = None, offset: int = 0
) -> None:
    """Each request is told of when it is queued, issued and completed, with who asked for it.

    Args:
        folder: For pins.
        device: What the program is given: a disk or a partition.
        disk: The disk, where that is a partition.
        offset: Of the partition, in bytes.
    """
    with Attached(DISK, OBJECT, folder) as attached:
        attached.let_through(comms=[COMM])
        before = Counters.of(device)
        facts = run_facts("disk_activity", COMM, device, offset)
        assert nothing_is_left(attached, facts["pid"])
        counted = Counters.of(device).since(before)
        events = events_of(attached)
        with attached.map("PENDING_IO") as pending:
            assert pending.count() == 0
    for fact in facts["facts"]:
        check_fact(events, fact)
    assert {event.dev for event in events} == {number_of(disk or device)}
    check_partition(events, number_of(device), number_of(disk or device))
    check_heads(events, facts)
    check_counters(events, counted)
    stats = attached.stats()
    assert (stats["SENT"], stats["DROPPED"]) == (len(events), 0)


def check_partition(events: list[Event], part: int, disk: int) -> None:
    """Linux 5.10 has forgotten a bio's partition when it is queued, and finds it again later."""
    forgotten = os.uname().release.startswith("5.10.")
    for event in events:
        assert event.part == (disk if forgotten and event.head.type == QUEUE else part)


def check_twins(folder: Path, one: str, other: str) -> None:
    """The same sector of two disks at once is two requests, each with its own latency."""
    with Attached(DISK, OBJECT, folder) as attached:
        attached.let_through(comms=[COMM])
        facts = run_facts("disk_activity", COMM, one, other, call="twins")
        assert nothing_is_left(attached, facts["pid"])
        events = events_of(attached)
        with attached.map("PENDING_IO") as pending:
            assert pending.count() == 0
    assert {(event.sector, event.bytes) for event in events} == {(MIB // SECTOR, PART)}
    times = {}
    for device in map(number_of, (one, other)):
        issued, completed = (
            [e for e in events if (e.dev, e.head.type) == (device, kind)]
            for kind in (ISSUE, COMPLETE)
        )
        assert len(issued) == len(completed) == TWINS
        for start, end in zip(issued, completed, strict=True):
            assert end.latency_ns == end.head.time_ns - start.head.time_ns > 0
        times[device] = [(s.head.time_ns, e.head.time_ns)
                         for s, e in zip(issued, completed, strict=True)]  # fmt: skip
    both = zip(*times.values(), strict=True)
    assert any(max(a, c) < min(b, d) for (a, b), (c, d) in both), "they were never at once"
    check_heads(events, facts)


def check_discards(folder: Path, device: str) -> None:
    """What takes no data has its size all the same."""
    with Attached(DISK, OBJECT, folder) as attached:
        attached.let_through(comms=[COMM])
        facts = run_facts("disk_activity", COMM, device, call="discards")
        events = events_of(attached)
        assert nothing_is_left(attached, facts["pid"])
    for fact in facts["facts"]:
        assert fact["error"] == 0
        check_fact(events, fact)
    check_heads(events, facts)


def check_failure(folder: Path, device: str, operation: str, at: int, errors: set[int]) -> None:
    """An error is told of as the program has it, and moved nothing."""
    with Attached(DISK, OBJECT, folder) as attached:
        attached.let_through(comms=[COMM])
        facts = run_facts("disk_activity", COMM, device, at, 64 * KIB, operation, call="failing")
        events = events_of(attached)
        assert nothing_is_left(attached, facts["pid"])
    [fact] = facts["facts"]
    error = -fact["error"]
    assert error in errors
    queued, issued, completed = (within(events, fact, kind) for kind in (QUEUE, ISSUE, COMPLETE))
    assert tiles(queued, fact)
    assert tiles(issued, fact)
    assert {(event.bytes, event.error) for event in completed if event.error} == {(0, -error)}
    assert sum(event.bytes for event in completed) < fact["bytes"]
    assert all(0 < event.latency_ns < fact["ended"] - fact["began"] for event in completed)
    check_heads(events, facts)


def check_again(folder: Path, device: str) -> None:
    """What the disk does not take, or does by halves, is issued again, and completes once."""
    with Attached(DISK, OBJECT, folder) as attached:
        attached.let_through(comms=[COMM])
        facts = run_facts("disk_activity", COMM, device)
        assert nothing_is_left(attached, facts["pid"])
        events = events_of(attached)
        with attached.map("PENDING_IO") as pending:
            assert pending.count() == 0
    for fact in facts["facts"]:
        assert fact["error"] == 0
        assert tiles(within(events, fact, QUEUE), fact)
        assert tiles(within(events, fact, COMPLETE), fact)
    issued, completed = (
        sum(event.bytes for event in events if event.head.type == kind)
        for kind in (ISSUE, COMPLETE)
    )
    assert issued > completed, "nothing was issued again"
    check_heads(events, facts)


@contextmanager
def file_on(device: str, folder: Path) -> Iterator[Path]:
    """Give a file on that disk; what is written besides its data is written in small pieces."""
    subprocess.run(["modprobe", "--quiet", "ext4"], check=False)  # built in, or a module
    run("mkfs.ext4", "-q", "-b", "4096", "-O", "^has_journal", device)
    folder.mkdir()
    run("mount", "-o", "noatime", device, str(folder))
    try:
        yield folder / "file"
    finally:
        run("umount", str(folder))


def check_others(folder: Path, device: str, place: Path) -> None:
    """Who writes for another is the cause; of a flush of the disk it is not known."""
    with file_on(device, place) as file, Attached(DISK, OBJECT, folder, LARGE_RING) as attached:
        attached.let_through()
        facts = run_facts("disk_activity", COMM, file, call="lazy")
        events = [event for event in events_of(attached) if event.dev == number_of(device)]
    began, synced, ended = facts["times"]
    early, late = (
        [event for event in events if start < event.head.time_ns < end]
        for start, end in ((began, synced), (synced, ended))
    )
    for kind in (QUEUE, ISSUE, COMPLETE):
        first, second = writers(early, kind), writers(late, kind)
        assert (first, second) == ({"kworker": LAZY}, {COMM: LAZY}), (kind, first, second)
    flushes = [event for event in late if event.operation == FLUSH]
    # Who syncs all disks of this machine flushes this one too.
    asked = [event.head.pid for event in flushes if event.head.type == QUEUE]
    assert asked.count(facts["pid"]) == 1
    told = [event for event in flushes if event.head.type != QUEUE]
    assert {event.head.type for event in told} == {ISSUE, COMPLETE}
    assert {(e.bytes, e.sector, e.head.flags) for e in told} == {(0, 0, layout.NOT_CAUSE)}


def writers(events: list[Event], kind: int) -> dict[str, int]:
    """Return how much of the data was written by whom; of kernel workers there are many."""
    found: dict[str, int] = {}
    for event in events:
        if event.head.type == kind and event.operation == WRITE and event.bytes >= PIECE:
            assert event.head.flags == 0
            comm = event.head.comm.split("/")[0]
            found[comm] = found.get(comm, 0) + event.bytes
    return found


def check_drops(folder: Path, device: str) -> None:
    """What the ring has no room for is counted, and nothing is left behind by it."""
    with Attached(DISK, OBJECT, folder, 4096) as attached:
        attached.let_through(comms=[COMM])
        facts = run_facts("disk_activity", COMM, device)
        assert nothing_is_left(attached, facts["pid"])
        told = attached.records()
    stats = attached.stats()
    assert stats["SENT"] == len(told) > 0
    assert stats["DROPPED"] > 0
    assert stats["SEEN"] == sum(
        stats[name] for name in ("SENT", "DROPPED", "FILTERED", "SAMPLED_OUT")
    )
