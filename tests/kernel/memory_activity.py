"""A program whose allocations in the kernel are known: messages of sizes of their own, and pages.

Marks (messages of MARK bytes and more, taken back at once) part what it does into windows.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import resource
import socket
from contextlib import closing
from pathlib import Path

UID, GID = 12345, 23456
PR_SET_NAME = 15
HEADER = 48
"""sizeof(struct msg_msg): a message of n bytes is one allocation of n more, up to a page."""
SEGMENT = 8
PAGE = mmap.PAGESIZE
SIZES = [200 + number for number in range(30)]
LONG = 6000
MARK = 3001
PAGES = 400
PIPED = 64
IPC_NOWAIT, RMID, PRIVATE, ALL = 0o4000, 0, 0, 0o600
PINGS, PING_BYTES = 20, 1400

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Queue:
    """A System V message queue. Its calls use only memory that is there already."""

    def __init__(self) -> None:
        self.ident = _check(_libc.msgget(PRIVATE, ALL))
        self.buffer = ctypes.create_string_buffer(8 + 8192)
        self.buffer[0] = 1

    def send(self, size: int) -> None:
        _check(_libc.msgsnd(self.ident, self.buffer, ctypes.c_size_t(size), IPC_NOWAIT))

    def take(self) -> None:
        size, none = ctypes.c_size_t(8192), ctypes.c_long(0)
        _check(_libc.msgrcv(self.ident, self.buffer, size, none, IPC_NOWAIT))

    def close(self) -> None:
        _check(_libc.msgctl(self.ident, RMID, None))


class Marks:
    """Numbered from 0."""

    def __init__(self) -> None:
        self.queue = Queue()
        self.count = 0

    def close(self) -> None:
        self.queue.close()

    def set(self) -> None:
        self.queue.send(MARK + self.count)
        self.queue.take()
        self.count += 1


def messages(marks: Marks, queue: Queue) -> None:
    """Windows 0 (sent), 1 (taken) and 2 (one long message sent)."""
    marks.set()
    for size in SIZES:
        queue.send(size)
    marks.set()
    for _ in SIZES:
        queue.take()
    marks.set()
    queue.send(LONG)
    marks.set()


def touched(marks: Marks) -> int:
    """Window 4, after one to get ready: new pages of a mapping; return how many faults it took."""
    with mmap.mmap(-1, PAGES * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        view = (ctypes.c_char * len(memory)).from_buffer(memory)
        ctypes.memset(view, 1, len(memory))
        memory.madvise(mmap.MADV_DONTNEED)  # leaves the page tables
        marks.set()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        ctypes.memset(view, 1, len(memory))
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        marks.set()
        del view
    return faults


def piped(marks: Marks) -> None:
    """Windows 6 (filled) and 7 (emptied): a pipe, whose pages are given back at once."""
    out, into = os.pipe()
    data = bytes(PIPED * PAGE)
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, len(data))
    marks.set()
    assert os.write(into, data) == len(data)
    marks.set()
    os.close(into)
    os.close(out)
    marks.set()


def say(**more: int) -> None:
    cgroup = Path("/proc/self/cgroup").read_text(encoding="ascii")
    print(json.dumps({"pid": os.getpid(), "ppid": os.getppid(), "cgroup": cgroup, **more}))


def main(comm: str) -> None:
    """Do it all on one CPU, as another user, under that name."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.setresgid(GID, GID, GID)
    os.setresuid(UID, UID, UID)
    with closing(Marks()) as marks, closing(Queue()) as queue:
        messages(marks, queue)  # once before, so that what is made once is made
        queue.take()
        marks.count = 0
        _libc.prctl(PR_SET_NAME, comm.encode())
        messages(marks, queue)
        faults = touched(marks)
        piped(marks)
        _libc.prctl(PR_SET_NAME, b"over")
    say(faults=faults)


def pings() -> None:
    """Send echo requests to this host: the answers are made by an interrupt."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        body = bytes([8, 0, 0, 0, 0, 1, 0, 1]) + bytes(PING_BYTES)
        total = sum(int.from_bytes(body[i : i + 2], "big") for i in range(0, len(body), 2))
        checksum = ~((total >> 16) + (total & 0xFFFF)) & 0xFFFF
        packet = body[:2] + checksum.to_bytes(2, "big") + body[4:]
        for _ in range(PINGS):
            sock.sendto(packet, ("127.0.0.1", 0))
            answer = sock.recv(4096)
            while answer[20] != 0:
                answer = sock.recv(4096)
    say()
