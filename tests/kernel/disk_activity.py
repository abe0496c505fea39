"""A program whose requests to a disk are known: past the page cache, one call after the other."""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

UID, GID = 12345, 23456
PR_SET_NAME = 15
SECTOR = 512
KIB, MIB = 1 << 10, 1 << 20
READ, WRITE, FLUSH, DISCARD = 0, 1, 2, 3
BLKDISCARD = 0x1277
IO_SETUP, IO_DESTROY, IO_GETEVENTS, IO_SUBMIT = 206, 207, 208, 209
PWRITE = 1
SIZES = [512 * 8, 8 * KIB, 60 * KIB]
LARGE = 4 * MIB
LAZY = 256 * KIB
PARTS, PART = 8, 4 * KIB
"""Requests made in one call, side by side: they can be merged."""
TWINS = 40

_libc = ctypes.CDLL(None, use_errno=True)


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Disk:
    """The device; what was done is in ``facts``."""

    def __init__(self, path: str, offset: int = 0) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.offset = offset
        self.buffer = mmap.mmap(-1, LARGE)
        self.facts: list[dict[str, Any]] = []

    def note(
        self, operation: int, at: int, size: int, call: Callable[[], object], **more: int
    ) -> None:
        began, error = boot_ns(), 0
        try:
            call()
        except OSError as caught:
            error = -(caught.errno or 0)
        sector = (self.offset + at) // SECTOR
        self.facts.append({"operation": operation, "sector": sector, "bytes": size, "error": error,
                           "began": began, "ended": boot_ns(), **more})  # fmt: skip

    def read(self, at: int, size: int) -> None:
        view = memoryview(self.buffer)[:size]
        self.note(READ, at, size, lambda: os.preadv(self.fd, [view], at))

    def write(self, at: int, size: int) -> None:
        view = memoryview(self.buffer)[:size]
        self.note(WRITE, at, size, lambda: os.pwritev(self.fd, [view], at))

    def discard(self, at: int, size: int) -> None:
        pair = struct.pack("QQ", at, size)
        self.note(DISCARD, at, size, lambda: fcntl.ioctl(self.fd, BLKDISCARD, pair))

    def write_parts(self, at: int) -> None:
        places = [(self, at + n * PART) for n in range(PARTS)]
        self.note(WRITE, at, PARTS * PART, lambda: submit(places), parts=PARTS)


def submit(places: list[tuple[Disk, int]]) -> None:
    """Write a part to each of these places, all in one call; return when all are written."""
    context = ctypes.c_ulong(0)
    blocks = []
    for n, (disk, at) in enumerate(places):
        address = ctypes.addressof(ctypes.c_char.from_buffer(disk.buffer)) + n * PART
        packed = struct.pack(
            "QIiHhIQQqQII", 0, 0, 0, PWRITE, 0, disk.fd, address, PART, at, 0, 0, 0
        )
        blocks.append(ctypes.create_string_buffer(packed))
    count = len(places)
    array = (ctypes.c_void_p * count)(*map(ctypes.addressof, blocks))
    events = ctypes.create_string_buffer(32 * count)
    number = ctypes.c_long(count)
    assert _libc.syscall(IO_SETUP, count, ctypes.byref(context)) == 0
    assert _libc.syscall(IO_SUBMIT, context, number, array) == count
    assert _libc.syscall(IO_GETEVENTS, context, number, number, events, None) == count
    assert _libc.syscall(IO_DESTROY, context) == 0
    written = [struct.unpack_from("q", events, 32 * n + 16)[0] for n in range(count)]
    assert written == [PART] * count


def become(comm: str) -> None:
    os.setresgid(GID, GID, GID)
    os.setresuid(UID, UID, UID)
    _libc.prctl(PR_SET_NAME, comm.encode())


def say(facts: list[dict[str, Any]], **more: object) -> None:
    cgroup = Path("/proc/self/cgroup").read_text(encoding="ascii")
    print(json.dumps({"pid": os.getpid(), "ppid": os.getppid(), "cgroup": cgroup,
                      "facts": facts, **more}))  # fmt: skip


def main(comm: str, path: str, offset: str = "0") -> None:
    """Read, write, ask for much at once, and for many at once."""
    disk = Disk(path, int(offset))
    become(comm)
    for number, size in enumerate(SIZES):
        disk.write(number * MIB, size)
        disk.read(number * MIB, size)
    disk.write(0, LARGE)
    disk.read(0, LARGE)
    disk.write_parts(5 * MIB)
    say(disk.facts)


def twins(comm: str, one: str, other: str) -> None:
    """Write to the same place of two disks at once, again and again."""
    disks = [Disk(one), Disk(other)]
    become(comm)
    for _ in range(TWINS):
        submit([(disk, MIB) for disk in disks])
    say([])


def discards(comm: str, path: str) -> None:
    """Give room back."""
    disk = Disk(path)
    become(comm)
    disk.discard(MIB, MIB)
    say(disk.facts)


def failing(comm: str, path: str, at: str, size: str, operation: str) -> None:
    """Ask for what the disk cannot do there: to ``read`` or to ``write``."""
    disk = Disk(path)
    become(comm)
    getattr(disk, operation)(int(at), int(size))
    say(disk.facts)


def lazy(comm: str, path: str) -> None:
    """Write to a file that the kernel is to write to the disk; then write, and wait for it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    become(comm)
    began = boot_ns()
    os.pwrite(file, bytes(LAZY), 0)
    os.sync()
    synced = boot_ns()
    os.pwrite(file, bytes(LAZY), 0)
    os.fsync(file)
    say([], times=[began, synced, boot_ns()])
