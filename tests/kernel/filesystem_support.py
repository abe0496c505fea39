"""filesystem-monitor against a program that knows what it did; here and in machines."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import filesystem_activity
from filesystem_activity import GID, READ, UID, WRITE, Done, comm_of
from monitor_support import Attached, Head, names_in

from aegis_tools.monitors import layout

KEPT_LEVELS = 40
COMM = comm_of(os.getpid())


class Event(NamedTuple):
    """The decoded struct filesystem_event."""

    head: Head
    bytes: int
    ino: int
    dev: int
    result: int
    open_flags: int
    names: str

    @classmethod
    def of(cls, record: bytes) -> Event:
        *numbers, length = layout.FILESYSTEM.unpack_from(record, layout.HEAD.size)
        names = record[layout.HEAD.size + layout.FILESYSTEM.size :]
        assert len(names) == length
        return cls(Head.of(record), *numbers, names_in(names))

    @property
    def done(self) -> Done:
        """What a program did, that it would be told of like this."""
        named = self.head.type == filesystem_activity.OPEN and self.result >= 0
        return Done(
            self.head.type,
            self.head.tid,
            self.dev,
            self.ino,
            self.bytes,
            self.result,
            self.open_flags,
            (self.names or "/") if named else None,
        )


class Run(NamedTuple):
    """The program's own account."""

    pid: int
    done: list[Done]
    began_ns: int
    ended_ns: int


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@contextlib.contextmanager
def mounted(kind: str, folder: Path) -> Iterator[Path]:
    """Mount a file system of that kind, with nothing in it that somebody else made."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", kind, "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def block_device(folder: Path) -> Iterator[str]:
    """Make one."""
    image = folder / "disk"
    with image.open("wb") as file:
        file.truncate(1 << 20)
    subprocess.run(["modprobe", "--quiet", "loop"], check=False)  # built in, or a module
    argv = ["losetup", "--find", "--show", str(image)]
    device = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def run_activity(tmp_path: Path, what: str = "everything") -> Run:
    """Run the program to its end."""
    with mounted("tmpfs", tmp_path / "files") as folder, block_device(tmp_path) as device:
        began = boot_ns()
        process = subprocess.Popen(
            [sys.executable, filesystem_activity.__file__, str(folder), device, what],
            stdout=subprocess.PIPE,
        )
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
    return Run(process.pid, [Done(**one) for one in json.loads(out)], began, boot_ns())


def as_kept(one: Done) -> Done:
    """Return what is left of a path with too many names."""
    names = (one.names or "").split("/")
    if len(names) <= KEPT_LEVELS:
        return one
    return Done(**{**vars(one), "names": "/".join(names[-KEPT_LEVELS:])})


def expected(run: Run, *, functions: bool, min_bytes: int = 0) -> list[Done]:
    """Return what is to be told of."""
    return [
        Done(**{**vars(as_kept(one)), "functions": False})
        for one in run.done
        if (functions or not one.functions)
        and (one.type not in (READ, WRITE) or one.bytes >= min_bytes)
    ]


def cgroup_of(folder: Path) -> int:
    """Return the id of this process's cgroup, from where the hierarchy is mounted."""
    lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    path = next(line[3:] for line in lines if line.startswith("0::"))
    return (folder / path.lstrip("/")).stat().st_ino


def check_heads(run: Run, events: list[Event], cgroup: int) -> None:
    """Who, when and where, of each."""
    times = [event.head.time_ns for event in events]
    assert times == sorted(times)
    assert run.began_ns < times[0]
    assert times[-1] < run.ended_ns
    for event in events:
        head = event.head
        assert (head.pid, head.ppid) == (run.pid, os.getpid())
        assert (head.uid, head.gid, head.comm, head.cgroup) == (UID, GID, COMM, cgroup)
        cut = event.names.count("/") == KEPT_LEVELS - 1
        assert head.flags == (layout.CUT if cut else 0)


def check_everything(attached: Attached, tmp_path: Path, *, functions: bool) -> None:
    """Everything the program did is told of, once, in order, and nothing else."""
    with mounted("cgroup2", tmp_path / "cgroup2") as folder:
        cgroup = cgroup_of(folder)
    attached.let_through(comms=[COMM])
    run = run_activity(tmp_path)
    attached.let_through(off=True)
    events = [Event.of(record) for record in attached.records()]
    assert [event.done for event in events] == expected(run, functions=functions)
    check_heads(run, events, cgroup)
    assert sum(event.head.flags for event in events) == layout.CUT
    stats = attached.stats()
    assert stats["SENT"] == len(events)
    assert stats["SEEN"] == stats["SENT"] + stats["FILTERED"] + stats["SAMPLED_OUT"]
    assert (stats["DROPPED"], stats["BUSY"], stats["UNTRACKED"]) == (0, 0, 0)


def check_compat(attached: Attached, tmp_path: Path, *, functions: bool) -> None:
    """A 32-bit program's calls are told of, or counted."""
    attached.let_through(comms=[COMM])
    before = attached.stats()["UNTRACKED"]
    run = run_activity(tmp_path, "compat")
    told = [Event.of(record).done for record in attached.records()]
    assert told == (expected(run, functions=True) if functions else [])
    assert len(run.done) == 3
    assert attached.stats()["UNTRACKED"] - before == (0 if functions else len(run.done))


def check_flood(attached: Attached, tmp_path: Path, *, functions: bool) -> None:
    """Whatever is not told of was counted, and nothing is told of twice."""
    del functions
    attached.let_through(comms=[COMM])
    run = run_activity(tmp_path, "flood")
    told = Counter((head.pid, head.type) for head in map(Head.of, attached.records()))
    done = Counter((one.tid, one.type) for one in run.done)
    stats = attached.stats()
    assert told <= done
    assert stats["SENT"] == told.total()
    lost = done.total() - told.total()
    counted = stats["DROPPED"] + stats["BUSY"] + stats["UNTRACKED"]
    # The kernel counts a program's runs that it left out, whoever they were for.
    assert counted <= lost <= counted + attached.misses()
