"""A monitor's object as the tests load it: attached for as long as the test holds it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from aegis_tools.kernel import syscall
from aegis_tools.kernel.accounting import raise_memlock
from aegis_tools.kernel.loader import OBJECTS
from aegis_tools.kernel.maps import Map
from aegis_tools.kernel.ringbuf import RingBuffer
from aegis_tools.monitors import layout
from aegis_tools.monitors.registry import Monitor

ZERO = bytes(4)


class Head(NamedTuple):
    """The decoded struct monitor_head."""

    time_ns: int
    cgroup: int
    pid: int
    tid: int
    ppid: int
    uid: int
    gid: int
    type: int
    flags: int
    comm: str

    @classmethod
    def of(cls, record: bytes) -> Head:
        *numbers, comm = layout.HEAD.unpack_from(record)
        return cls(*numbers, comm.split(b"\0")[0].decode())


def names_in(data: bytes) -> str:
    """Return a path from names, the file's first, each ended by 0."""
    return "/".join(name.decode() for name in reversed(data.split(b"\0")[:-1]))


class Attached:
    """One object, loaded; attached from when its filter is set, so that nothing else is told of.

    Args:
        monitor: Which.
        object_: File name of the variant.
        folder: An empty folder on a BPF file system.
        ring_bytes: 0 for what the object has.
    """

    def __init__(self, monitor: Monitor, object_: str, folder: Path, ring_bytes: int = 0) -> None:
        self._monitor, self._folder, self._stack = monitor, folder, ExitStack()
        self._programs: list[int] = []
        self._links: list[int] = []
        raise_memlock()
        folder.mkdir(exist_ok=True)
        reuse: list[str] = []
        if ring_bytes:
            ring = str(folder / "ring")
            self._bpftool("map", "create", ring, "type", "ringbuf", "key", "0", "value", "0",
                          "entries", str(ring_bytes), "name", monitor.events)  # fmt: skip
            reuse = ["map", "name", monitor.events, "pinned", ring]
        progs, maps = folder / "progs", folder / "maps"
        self._bpftool("prog", "loadall", str(OBJECTS / object_), str(progs),
                      *reuse, "pinmaps", str(maps))  # fmt: skip
        for program in sorted(progs.iterdir()):
            self._programs.append(syscall.obj_get(str(program)))
            self._stack.callback(os.close, self._programs[-1])

    def _attach(self) -> None:
        """Attach the programs, the last first: what ends a call before what begins it."""
        while len(self._links) < len(self._programs):
            self._links.append(syscall.attach(self._programs[-1 - len(self._links)]))
            self._stack.callback(os.close, self._links[-1])

    @staticmethod
    def _bpftool(*words: str) -> None:
        subprocess.run(["bpftool", *words], check=True, capture_output=True, timeout=300)

    def __enter__(self) -> Attached:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def map(self, name: str) -> Map:
        """Open one of its maps."""
        return Map.pinned(self._folder / "maps" / name)

    def let_through(
        self,
        *,
        comms: Iterable[str] = (),
        min_bytes: int = 0,
        sample: int = layout.SAMPLE_ALL,
        off: bool = False,
    ) -> None:
        """Set the filter, then attach; this process itself is never told of."""
        with self.map("filter_comms") as filter_comms:
            for comm in comms:
                filter_comms.set(comm.encode().ljust(layout.COMM, b"\0"), b"\1")
        packed = layout.FILTER.pack(min_bytes, sample, os.getpid(), 0, 0, bool(comms), off, 0)
        with self.map("filter") as filter_:
            filter_.set(ZERO, packed)
        self._attach()

    def records(self) -> list[bytes]:
        """Read what is in the ring."""
        with RingBuffer(self.map(self._monitor.events)) as ring:
            return ring.read(1 << 20)

    def misses(self) -> int:
        """Return how often the kernel did not run a program that it ran on that CPU already."""
        return sum(syscall.program_info(fd)["recursion_misses"] for fd in self._programs)

    def stats(self) -> dict[str, int]:
        """Return the counters, over all CPUs, by name."""
        with self.map("stats") as stats:
            return {
                stat.name: sum(
                    int.from_bytes(value, "little")
                    for value in stats.get_per_cpu(stat.to_bytes(4, "little"))
                )
                for stat in layout.Stat
            }
