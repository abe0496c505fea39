"""Which processes use most: allocations, disks and the network, over an interval.

Disks and network are added up from events, allocations are read from the totals that the kernel
keeps, so that most of what happens costs no event.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from aegis_tools.kernel import syscall
from aegis_tools.kernel.maps import Map
from aegis_tools.monitors.decode import text
from aegis_tools.monitors.follow import Record
from aegis_tools.monitors.layout import DISK_IO, HEAD, MEMORY_KEY, MEMORY_TOTAL, NETWORK
from aegis_tools.monitors.status import PER_CPU

NEEDS = {
    "memory": "memory-monitor",
    "io": "disk-io-monitor",
    "latency": "disk-io-monitor",
    "bandwidth": "network-monitor",
}
"""What there is to sort by, and which monitor tells it."""
_SEND, _RECEIVE, _COMPLETE = 2, 3, 2
ALLOCATIONS = (1, 3)
"""Types of what takes memory."""
_WRITES = (1, 9)
_PID, _KIND, _COMM = slice(16, 20), slice(36, 38), slice(40, 56)


@dataclass
class Use:
    """What a process used since the last look. Bytes and nanoseconds.

    Attributes:
        pid: Of the process; 0 where no process is the cause.
        comm: Its name.
        read, written: From and to disks.
        requests: To disks that ended.
        latency_ns, latency_max_ns: Theirs, all together and the longest.
        sent, received: By the network.
        allocated, freed: Kernel memory and pages; what a kfree gives back is not known.
        resident: Memory that it has now; None where it has ended.
    """

    pid: int
    comm: str
    read: int = 0
    written: int = 0
    requests: int = 0
    latency_ns: int = 0
    latency_max_ns: int = 0
    sent: int = 0
    received: int = 0
    allocated: int = 0
    freed: int = 0
    resident: int | None = None

    def rank(self, by: str) -> int:
        """Return what it is sorted by."""
        return {
            "memory": self.allocated,
            "io": self.read + self.written,
            "latency": self.latency_max_ns,
            "bandwidth": self.sent + self.received,
        }[by]

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return asdict(self)


class Total(NamedTuple):
    """What a process has allocated, or freed, in a size class since the load."""

    size: int
    comm: bytes


class Usage:
    """What processes use, since the last look.

    Args:
        resident: Returns the bytes of memory a process has; None where it has ended.
    """

    def __init__(self, resident: Callable[[int], int | None]) -> None:
        self._resident = resident
        self._uses: dict[int, Use] = {}
        self._totals: dict[bytes, Total] | None = None

    def add(self, records: Iterable[Record]) -> None:
        """Add records of the disks and the network; what is too short for one is left out."""
        for record in records:
            data = record.data
            kind = int.from_bytes(data[_KIND], "little")
            pid = int.from_bytes(data[_PID], "little")
            room = len(data) - HEAD.size
            if record.monitor.name == "network-monitor":
                if kind in (_SEND, _RECEIVE) and room >= NETWORK.size:
                    self._moved(pid, kind, data)
            elif kind == _COMPLETE and room >= DISK_IO.size:
                self._request(pid, data)

    def _moved(self, pid: int, kind: int, data: bytes) -> None:
        moved = NETWORK.unpack_from(data, HEAD.size)[0]
        use = self._use(pid, data[_COMM])
        use.sent += moved * (kind == _SEND)
        use.received += moved * (kind == _RECEIVE)

    def _request(self, pid: int, data: bytes) -> None:
        _, size, _, latency, _, _, operation, _ = DISK_IO.unpack_from(data, HEAD.size)
        use = self._use(pid, data[_COMM])
        use.requests += 1
        use.latency_ns += latency
        use.latency_max_ns = max(use.latency_max_ns, latency)
        use.read += size * (operation == 0)
        use.written += size * (operation in _WRITES)

    def add_totals(self, totals: dict[bytes, Total]) -> None:
        """Add what was allocated since the totals before; the first are only remembered."""
        before, self._totals = self._totals, totals
        if before is None:
            return
        for key, grown in growth(before, totals):
            pid, kind, _ = MEMORY_KEY.unpack(key)
            use = self._use(pid, totals[key].comm)
            if kind in ALLOCATIONS:
                use.allocated += grown
            else:
                use.freed += grown

    def take(self, by: str, limit: int) -> list[Use]:
        """Return who used most, and begin anew."""
        uses, self._uses = self._uses, {}
        ranked = sorted(uses.values(), key=lambda use: (-use.rank(by), use.pid))[:limit]
        for use in ranked:
            use.resident = self._resident(use.pid)
        return ranked

    def _use(self, pid: int, comm: bytes) -> Use:
        use = self._uses.get(pid)
        if use is None:
            use = self._uses[pid] = Use(pid, text(comm.partition(b"\0")[0]))
        return use


def read_totals(opened: Map) -> dict[bytes, Total]:
    """Return the map ``MEMORY_TOTALS``, all processors together where it has a value of each."""
    if opened.type not in PER_CPU:
        return {key: _total([value]) for key, value in opened.items()}
    found = {}
    for key in list(syscall.keys(opened.fd, opened.key_size)):
        try:
            found[key] = _total(opened.get_per_cpu(key))
        except FileNotFoundError:  # gone meanwhile
            continue
    return found


def growth(before: dict[bytes, Total], totals: dict[bytes, Total]) -> Iterator[tuple[bytes, int]]:
    """Yield by how many bytes each total grew; one that began again, by all it has."""
    for key, total in totals.items():
        old = before.get(key)
        grown = total.size - old.size if old and old.size <= total.size else total.size
        if grown:
            yield key, grown


def forget_ended(opened: Map, totals: dict[bytes, Total], proc: Path = Path("/proc")) -> int:
    """Make room in ``MEMORY_TOTALS``: delete what processes that have ended left there.

    Nothing is deleted while less than half of it is taken, so that others may read it as well.

    Args:
        opened: The map.
        totals: What was read of it.
        proc: The proc file system.

    Returns:
        How many entries were deleted.
    """
    if len(totals) < opened.max_entries // 2:
        return 0
    pids = {MEMORY_KEY.unpack(key)[0] for key in totals}
    ended = {pid for pid in pids if pid and not (proc / str(pid)).exists()}
    return sum(opened.delete(key) for key in totals if MEMORY_KEY.unpack(key)[0] in ended)


def _total(values: list[bytes]) -> Total:
    parts = [MEMORY_TOTAL.unpack(value) for value in values]
    comm = next((part[2] for part in parts if part[2].strip(b"\0")), b"")
    return Total(sum(part[1] for part in parts), comm)


def resident(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Return the bytes of memory that a process has (proc_pid_statm(5))."""
    try:
        pages = int((proc / str(pid) / "statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
