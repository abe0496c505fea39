"""What a running process uses: processor time, and memory with the ring's pages told apart."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

RING = "anon_inode:bpf-map"
_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)")
_CPUCLOCK_SCHED = 2  # include/linux/posix-timers.h: nanoseconds that the scheduler counted


class Resident(NamedTuple):
    """Resident memory in KiB.

    Attributes:
        own: All but the ring.
        ring: The event ring. Its pages are the kernel's whether somebody maps them or not, and
            they are mapped twice in a row, so each counts twice.
    """

    own: int
    ring: int


def parse_smaps(lines: Iterable[str]) -> Resident:
    """Add up the ``Rss`` of ``/proc/PID/smaps``, see proc_pid_smaps(5)."""
    own = ring = 0
    name = ""
    for line in lines:
        if mapping := _MAPPING.match(line):
            name = mapping[1].rstrip("\n")
        elif line.startswith("Rss:"):
            size = int(line.split()[1])
            own, ring = (own, ring + size) if name == RING else (own + size, ring)
    return Resident(own, ring)


def resident(pid: int) -> Resident:
    """Return what a process has in memory. Raises OSError when it is gone."""
    with Path(f"/proc/{pid}/smaps").open(encoding="utf-8", errors="replace") as lines:
        return parse_smaps(lines)


def cpu_seconds(pid: int) -> float:
    """Return the processor seconds of a process until now, as clock_getcpuclockid(3) finds them."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
