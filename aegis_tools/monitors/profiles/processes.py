"""The processes of cgroups, by /proc: who is largest, who came last, and the end of one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from aegis_tools.monitors.profiles.decide import Process

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Seen:
    """A process as it was seen.

    Attributes:
        process: Who.
        resident: Bytes in memory.
        started: Clock ticks from boot to its start (proc_pid_stat(5)).
    """

    process: Process
    resident: int
    started: int


def look(pid: int, proc: Path = Path("/proc")) -> Seen | None:
    """Return what a process is; None where it has ended."""
    folder = proc / str(pid)
    try:
        text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        uid = folder.stat().st_uid
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")  # a name can hold both
    fields = rest.split()
    if len(fields) < 22:
        return None
    return Seen(Process(pid, name, uid), int(fields[21]) * _PAGE, int(fields[19]))


def look_at(pids: Iterable[int], proc: Path = Path("/proc")) -> list[Seen]:
    """Return what processes are, those that are still there."""
    return [seen for pid in pids if (seen := look(pid, proc)) is not None]


def disk_bytes(pid: int, proc: Path = Path("/proc")) -> dict[str, int]:
    """Return what a process has moved from and to disks (proc_pid_io(5)); empty where it ended."""
    try:
        lines = (proc / str(pid) / "io").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    found = dict(line.split(": ") for line in lines)
    return {name: int(found[f"{name}_bytes"]) for name in ("read", "write")}


def spared(proc: Path = Path("/proc")) -> frozenset[int]:
    """Return the processes that are never ended: this one, those that started it, and init."""
    found = {1}
    pid = os.getpid()
    while pid > 1 and pid not in found:
        found.add(pid)
        try:
            text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
            pid = int(text.rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
    return frozenset(found)


def end(process: Process, belongs: Callable[[int], bool], *, proc: Path = Path("/proc")) -> bool:
    """End a process at once; return whether it was.

    Its number is held by a descriptor before it is asked whether it belongs to the profile, so that
    no stranger who got the number in between can be meant.

    Args:
        process: Who.
        belongs: Whether this process is one of the profile, now.
        proc: Where processes are.
    """
    if process.pid in spared(proc):
        return False
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if not belongs(process.pid):
            return False
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
