"""Bandwidth: programs on the cgroups of a profile that count its traffic, and drop what exceeds.

One load of ``bandwidth.bpf.o`` a profile, pinned in a folder of its name: ``progs``, ``maps`` and
``links``, of which each is called ``in-N`` or ``out-N`` after the cgroup's id. Only the pins hold
them; a cgroup that goes takes its links' effect with it. The layout is that of
bpf/monitors/bandwidth.h, native byte order.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from aegis_tools.errors import CommandError, KernelError
from aegis_tools.kernel import syscall
from aegis_tools.kernel.accounting import raise_memlock
from aegis_tools.kernel.features import is_bpffs, mount_if_missing
from aegis_tools.kernel.loader import OBJECTS, refused, verify_object
from aegis_tools.kernel.maps import Map
from aegis_tools.kernel.run import Runner, run
from aegis_tools.monitors.profiles.hierarchy import Hierarchy
from aegis_tools.paths import Paths

OBJECT = "bandwidth.bpf.o"
LIMIT = struct.Struct("QQQ")
"""rate (bytes a second), burst, idle_burst."""
BUCKET = struct.Struct("IIQQQQqQ")
"""lock, pad, passed_bytes, dropped_bytes, passed_packets, dropped_packets, tokens, last_ns."""
DIRECTIONS = ("in", "out")
_ATTACH_TYPES = {"in": 0, "out": 1}  # BPF_CGROUP_INET_INGRESS, _EGRESS
_PROGRAMS = {"in": "bandwidth_in", "out": "bandwidth_out"}
_BURST_MS = 300
"""Longer than the 200 ms that TCP waits before it sends again what was lost: what a connection
may not send meanwhile it can send afterwards, and the mean rate is the limit."""
_IDLE_BURST_MS = 50
_LEAST_BURST = 65536
_HALF_MADE = "-"
"""Begins the name of a folder that is not whole; no profile's does, and bpffs takes no dots."""


@dataclass(frozen=True)
class Wanted:
    """What the kernel is to do for a profile.

    Attributes:
        bits: A second, in each direction; 0 for counting alone.
        cgroups: Their ids, by path.
    """

    bits: int
    cgroups: Mapping[str, int]


@dataclass(frozen=True)
class Count:
    """What went through in one direction, in bytes of IP packets without loopback."""

    passed_bytes: int
    dropped_bytes: int
    passed_packets: int
    dropped_packets: int


def packed_limit(bits: int) -> bytes:
    """Return the value of the map ``LIMIT``."""
    rate = bits // 8
    if not rate:
        return LIMIT.pack(0, 0, 0)
    burst = max(rate * _BURST_MS // 1000, _LEAST_BURST)
    return LIMIT.pack(rate, burst, max(rate * _IDLE_BURST_MS // 1000, _LEAST_BURST // 4))


class Bandwidth:
    """The programs of all profiles. Who changes them holds the lock.

    Args:
        paths: Where they are pinned.
        hierarchy: Where cgroups are.
        runner: Runs bpftool.
        objects: Where the object file is.
    """

    def __init__(
        self,
        paths: Paths,
        hierarchy: Hierarchy,
        *,
        runner: Runner = run,
        objects: Path = OBJECTS,
    ) -> None:
        self._base = paths.limit_pins
        self._hierarchy = hierarchy
        self._run = runner
        self._objects = objects

    def profiles(self) -> list[str]:
        """Return the profiles that have programs."""
        try:
            names = [path.name for path in self._base.iterdir()]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if not name.startswith(_HALF_MADE))

    def reconcile(self, wanted: Mapping[str, Wanted]) -> list[str]:
        """Make what runs be what is wanted; return the profiles that something changed for.

        Harmless where it was done before, and after a run that was killed.

        Raises:
            KernelError: The kernel refuses.
        """
        changed = []
        if self._base.is_dir():
            for folder in sorted(self._base.iterdir()):
                if folder.name not in wanted:
                    _remove(folder)
                    changed.append(folder.name.removeprefix(_HALF_MADE))
            if not wanted:
                self._base.rmdir()
        for name, one in wanted.items():
            if self._ensure(name, one):
                changed.append(name)
        return sorted(set(changed))

    def counts(self, profile: str) -> dict[str, Count]:
        """Return what went through, by direction; empty where nothing is loaded for it."""
        try:
            with Map.pinned(self._base / profile / "maps" / "BUCKETS") as buckets:
                values = [buckets.get(struct.pack("I", i)) for i in range(len(DIRECTIONS))]
        except FileNotFoundError:
            return {}
        return {
            direction: Count(*BUCKET.unpack(value)[2:6])
            for direction, value in zip(DIRECTIONS, values, strict=True)
            if value is not None
        }

    def _ensure(self, name: str, wanted: Wanted) -> bool:
        folder = self._base / name
        fresh = not folder.is_dir()
        if fresh:
            self._load(folder, wanted)
        changed = self._set(folder, wanted)
        numbers = {str(number) for number in wanted.cgroups.values()}
        for link in sorted((folder / "links").iterdir()):
            if link.name.partition("-")[2] not in numbers:
                link.unlink()
                changed = True
        for cgroup, number in wanted.cgroups.items():
            changed |= self._attach(folder, cgroup, number)
        return changed or fresh

    def _load(self, folder: Path, wanted: Wanted) -> None:
        if not is_bpffs(self._base.parent):
            mount_if_missing("bpf", self._base.parent)
        raise_memlock()
        made = folder.with_name(_HALF_MADE + folder.name)
        _remove(made)
        made.mkdir(mode=0o700, parents=True)
        self._base.chmod(0o700)
        (made / "links").mkdir(mode=0o700)
        path = verify_object(OBJECT, self._objects)
        try:
            self._run(["bpftool", "prog", "loadall", str(path), str(made / "progs"),
                       "pinmaps", str(made / "maps")])  # fmt: skip
        except CommandError as error:
            raise refused(error) from None
        self._set(made, wanted)
        made.rename(folder)

    def _set(self, folder: Path, wanted: Wanted) -> bool:
        key, value = struct.pack("I", 0), packed_limit(wanted.bits)
        with Map.pinned(folder / "maps" / "LIMIT") as limit:
            if limit.get(key) == value:
                return False
            limit.set(key, value)
        return True

    def _attach(self, folder: Path, cgroup: str, number: int) -> bool:
        changed = False
        for direction, kind in _ATTACH_TYPES.items():
            pin = folder / "links" / f"{direction}-{number}"
            if not pin.exists():
                program = folder / "progs" / _PROGRAMS[direction]
                with suppress(FileNotFoundError):  # the cgroup goes at this moment
                    _attach(program, self._hierarchy.path(cgroup), kind, pin)
                    changed = True
        return changed


def _attach(program: Path, cgroup: Path, kind: int, pin: Path) -> None:
    folder = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    opened = [folder]
    try:
        opened.append(syscall.obj_get(str(program)))
        opened.append(syscall.link_cgroup(opened[1], folder, kind))
        syscall.obj_pin(str(pin), opened[2])
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KernelError(
            "the kernel refused to limit the bandwidth of a cgroup",
            hint="it takes Linux 5.7 with cgroup BPF; run it again with --verbose",
            detail=str(error),
        ) from None
    finally:
        for fd in opened:
            os.close(fd)


def _remove(folder: Path) -> None:
    """Remove pins, links first; killed half-way, what is left is not taken for whole."""
    doomed = folder
    if not folder.name.startswith(_HALF_MADE):
        doomed = folder.with_name(_HALF_MADE + folder.name)
        _remove(doomed)
        folder.rename(doomed)
    for part in ("links", "progs", "maps"):
        with suppress(FileNotFoundError):
            shutil.rmtree(doomed / part)
    with suppress(FileNotFoundError):
        doomed.rmdir()
