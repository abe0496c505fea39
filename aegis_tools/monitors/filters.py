"""What a monitor lets through: written to its maps, and read back from them.

A process is of interest when it has one of the users, is in or below one of the cgroups, or has
one of the command names; where none of these is given, all are. Of theirs, what has fewer bytes
than the minimum is left out, and of the rest a share is taken by chance.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aegis_tools.errors import UsageError
from aegis_tools.kernel.cgroups import cgroup_path
from aegis_tools.kernel.maps import Map
from aegis_tools.monitors.layout import COMM, FILTER, SAMPLE_ALL
from aegis_tools.monitors.pins import MonitorPins

MAX_NAMED = 1024
"""Entries of each of the sets in the kernel."""
_ZERO = bytes(4)
_SETS = {"filter_uids": 4, "filter_cgroups": 8, "filter_comms": COMM}


@dataclass(frozen=True)
class Filter:
    """What is let through.

    Attributes:
        uids: Users.
        cgroups: Ids of cgroups.
        commands: Names of processes; the kernel keeps 15 bytes of one.
        min_bytes: Nothing smaller. Of memory-monitor 0 means totals alone, and no event.
        sample: Share of the rest, above 0 and up to 1.
    """

    uids: frozenset[int] = field(default_factory=frozenset)
    cgroups: frozenset[int] = field(default_factory=frozenset)
    commands: frozenset[str] = field(default_factory=frozenset)
    min_bytes: int = 0
    sample: float = 1.0

    def __post_init__(self) -> None:
        """Make of it what the kernel keeps, so that what is read back is the same."""
        if not 0 < self.sample <= 1:
            raise UsageError(
                f"{self.sample} is no share", hint="write --sample 0.01 for one of a hundred"
            )
        kept = frozenset(_comm(comm_key(name)) for name in self.commands)
        object.__setattr__(self, "commands", kept)
        object.__setattr__(self, "sample", _share(self.below))
        if max(len(self.uids), len(self.cgroups), len(self.commands)) > MAX_NAMED:
            raise UsageError(
                f"a filter has at most {MAX_NAMED} of a kind",
                hint="name a cgroup above them instead",
            )

    def __bool__(self) -> bool:
        return self != Filter()

    @property
    def below(self) -> int:
        """The kernel lets through where a random u32 is below; SAMPLE_ALL: always."""
        return max(1, min(SAMPLE_ALL, round(self.sample * (1 << 32))))

    def to_dict(self, path: Callable[[int], str | None] = cgroup_path) -> dict[str, Any]:
        """Return it as ``--json`` prints it. ``path`` names a cgroup by its id."""
        return {
            "uids": sorted(self.uids),
            "cgroups": sorted(path(number) or f"cgid:{number}" for number in self.cgroups),
            "commands": sorted(self.commands),
            "min_bytes": self.min_bytes,
            "sample": round(self.sample, 9),
        }

    def line(self) -> str:
        """Return it for a person; ``all`` where nothing is left out."""
        shown = self.to_dict()
        parts = [
            f"{kind} {' '.join(map(str, shown[kind]))}"
            for kind in ("uids", "cgroups", "commands")
            if shown[kind]
        ]
        parts = [" or ".join(parts)] if parts else []
        if self.min_bytes:
            parts.append(f"at least {self.min_bytes} bytes")
        if self.sample < 1:
            parts.append(f"a share of {self.sample:.6g}")
        return "; ".join(parts) or "all"


def write(pins: MonitorPins, wanted: Filter) -> None:
    """Let through what is wanted from now on.

    New members of a set come before it counts, and old ones leave after: nothing that both the
    filter before and this one let through is missed.

    Raises:
        KernelError: The kernel refuses.
    """
    sets = {
        "filter_uids": {uid.to_bytes(4, "little") for uid in wanted.uids},
        "filter_cgroups": {number.to_bytes(8, "little") for number in wanted.cgroups},
        "filter_comms": {comm_key(name) for name in wanted.commands},
    }
    old: list[tuple[str, bytes]] = []
    for name, keys in sets.items():
        with pins.open_map(name) as opened:
            before = {key for key, _ in opened.items()}
            for key in keys - before:
                opened.set(key, b"\1")
            old += [(name, key) for key in before - keys]
    with pins.open_map("filter") as opened:
        _, _, not_pid, _, _, _, off, _ = FILTER.unpack(opened.get(_ZERO) or bytes(FILTER.size))
        by = [bool(sets[name]) for name in _SETS]
        opened.set(_ZERO, FILTER.pack(wanted.min_bytes, wanted.below, not_pid, *by, off, 0))
    for name, key in old:
        with pins.open_map(name) as opened:
            opened.delete(key)


def read(pins: MonitorPins) -> Filter:
    """Return what is let through now. Raises KernelError."""
    with pins.open_map("filter") as opened:
        value = opened.get(_ZERO) or bytes(FILTER.size)
    min_bytes, sample, _, by_uid, by_cgroup, by_comm, _, _ = FILTER.unpack(value)
    keys = {}
    for name, used in zip(_SETS, (by_uid, by_cgroup, by_comm), strict=True):
        with pins.open_map(name) as opened:
            keys[name] = [key for key, _ in opened.items()] if used else []
    return Filter(
        frozenset(int.from_bytes(key, "little") for key in keys["filter_uids"]),
        frozenset(int.from_bytes(key, "little") for key in keys["filter_cgroups"]),
        frozenset(_comm(key) for key in keys["filter_comms"]),
        min_bytes,
        _share(max(sample, 1)),
    )


def leave_out(opened: Map, pid: int) -> None:
    """Tell a monitor to say nothing of one process, its reader; 0 for none.

    Args:
        opened: The map ``filter``.
        pid: Of the process.
    """
    fields = list(FILTER.unpack(opened.get(_ZERO) or bytes(FILTER.size)))
    fields[2] = pid
    opened.set(_ZERO, FILTER.pack(*fields))


def comm_key(name: str) -> bytes:
    """Return a command's name as the kernel keeps it."""
    return os.fsencode(name)[: COMM - 1].ljust(COMM, b"\0")


def _comm(key: bytes) -> str:
    return os.fsdecode(key.split(b"\0")[0])


def _share(below: int) -> float:
    return 1.0 if below == SAMPLE_ALL else below / (1 << 32)
