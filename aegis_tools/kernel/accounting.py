"""What the kernel says its BPF objects take, and how much it would give.

``memlock`` in a map's fdinfo is real use since Linux 6.4 (commit 90a5527d7686, "bpf: add new
map ops ->map_mem_usage"). Before, it is what the map would take when full: counted against
RLIMIT_MEMLOCK up to 5.10, and from key and value sizes alone from 5.11 to 6.3.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from aegis_tools.kernel import syscall
from aegis_tools.kernel.maps import possible_cpus

REAL_USE = (6, 4)
BY_CGROUP = (5, 11)


class Kernel(NamedTuple):
    """What the memory of a map depends on.

    Attributes:
        version: Major and minor.
        cpus: Possible CPUs: a per-CPU map has a value of each.
        charged: Memory is charged to a cgroup, by a pointer beside every object.
    """

    version: tuple[int, int]
    cpus: int
    charged: bool = False

    @property
    def tells_use(self) -> bool:
        """Whether memlock is what a map takes, not what it would take when full."""
        return self.version >= REAL_USE


def parse_release(release: str) -> tuple[int, int]:
    """Return major and minor of a kernel release; (0, 0) where it names none."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def read_kernel(proc: Path = Path("/proc")) -> Kernel:
    """Return the facts of the running kernel and of this process."""
    version = parse_release(os.uname().release)
    return Kernel(version, possible_cpus(), version >= BY_CGROUP and _cgroup(proc) not in ("", "/"))


def memlock(fd: int) -> int:
    """Return the bytes that the kernel counts for a map or a program; 0 where it does not say."""
    text = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii")
    found = re.search(r"^memlock:\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


class Code(NamedTuple):
    """What a program takes besides its maps.

    Attributes:
        name: Of the program.
        instructions: Bytes of its verified form, with what belongs to it.
        machine: Bytes of machine code.
        types: Bytes of its BTF, which programs of one object share.
        types_id: Tells whether two programs share it.
    """

    name: str
    instructions: int
    machine: int
    types: int
    types_id: int


def code_of(name: str, fd: int) -> Code:
    """Return what a program takes."""
    found = syscall.program_sizes(fd)
    types = syscall.btf_size(found["btf_id"]) if found["btf_id"] else 0
    return Code(name, memlock(fd), found["jited_len"], types, found["btf_id"])


class Room(NamedTuple):
    """Memory there is for maps.

    Attributes:
        bytes: So much.
        limit: Which limit is the closest: ``memory``, ``cgroup`` or ``memlock``.
    """

    bytes: int
    limit: str


def raise_memlock() -> None:
    """Lift RLIMIT_MEMLOCK of this process: up to 5.10 maps count against it."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)


def read_room(proc: Path = Path("/proc"), cgroups: Path | None = None) -> Room:
    """Return the memory that the kernel would give this process for maps.

    Args:
        proc: The proc file system.
        cgroups: Mount point of cgroup v2; None where there is none.
    """
    rooms = list(_cgroup_rooms(proc, cgroups)) if cgroups else []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        text = (proc / "meminfo").read_text(encoding="ascii")
        found = re.search(r"^MemAvailable:\s*(\d+) kB", text, re.MULTILINE)
        rooms.append(Room(int(found[1]) << 10, "memory"))  # type: ignore[index]
    return min(rooms, default=Room(1 << 62, "memory"))


def memlock_room(version: tuple[int, int]) -> int | None:
    """Return what RLIMIT_MEMLOCK allows for maps; None where it does not count."""
    soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return soft if version < BY_CGROUP and soft != resource.RLIM_INFINITY else None


def _cgroup(proc: Path) -> str:
    try:
        lines = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line[3:] for line in lines if line.startswith("0::")), "")


def _cgroup_rooms(proc: Path, cgroups: Path) -> Iterator[Room]:
    parts = [part for part in _cgroup(proc).split("/") if part]
    for depth in range(len(parts), 0, -1):
        folder = cgroups.joinpath(*parts[:depth])
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            limit = int((folder / "memory.max").read_text(encoding="ascii"))
            used = int((folder / "memory.current").read_text(encoding="ascii"))
            kept = _reclaimable((folder / "memory.stat").read_text(encoding="ascii"))
            yield Room(max(limit - used + kept, 0), "cgroup")


def _reclaimable(stat: str) -> int:
    """Return the bytes of a cgroup that make room where it is needed."""
    names = ("inactive_file", "active_file", "slab_reclaimable")
    pairs = (line.split() for line in stat.splitlines())
    return sum(int(value) for name, value in pairs if name in names)
