"""What cgroups and their processes move from and to disks, over the last second or so.

One request can be a megabyte: over less than a second a rate would be that of single requests.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aegis_tools.monitors.profiles import disks
from aegis_tools.monitors.profiles.hierarchy import Hierarchy, read
from aegis_tools.monitors.profiles.processes import disk_bytes

WINDOW = 0.9
"""Seconds that a rate is of at least."""
Key = tuple[str, str, str]
"""A cgroup, a disk or a process in it, a direction."""


@dataclass(frozen=True)
class Used:
    """What was moved.

    Attributes:
        rate: Bits a second of the busiest disk in its busier direction, by one cgroup: what
            ``io.max`` holds.
        disk: Which; None where only the processes tell of it.
        processes: Bytes by process, both directions.
    """

    rate: int = 0
    disk: str | None = None
    processes: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Seen:
    at: float
    controlled: frozenset[str]
    cgroups: frozenset[str]
    disks: Mapping[Key, int]
    processes: Mapping[Key, int]


class DiskUse:
    """Remembers counters, by profile; the first look at a cgroup finds nothing.

    Args:
        hierarchy: Where cgroups are.
        proc: Where processes are.
    """

    def __init__(self, hierarchy: Hierarchy, proc: Path = Path("/proc")) -> None:
        self._hierarchy = hierarchy
        self._proc = proc
        self._looks: dict[str, deque[_Seen]] = {}

    def look(self, profile: str, cgroups: list[str], elapsed: float) -> Used:
        """Return what the cgroups of a profile have moved.

        Args:
            profile: Its name.
            cgroups: Its cgroups that are there.
            elapsed: Seconds since the last look.
        """
        looks = self._looks.setdefault(profile, deque())
        now = self._now(cgroups, looks[-1].at + elapsed if looks else 0.0)
        while len(looks) > 1 and now.at - looks[1].at >= WINDOW:
            looks.popleft()
        looks.append(now)
        if now.at - looks[0].at < WINDOW:
            return Used()
        return _between(looks[0], now)

    def _now(self, cgroups: list[str], at: float) -> _Seen:
        controlled, of_disks, of_processes = set[str](), dict[Key, int](), dict[Key, int]()
        for cgroup in cgroups:
            file = self._hierarchy.path(cgroup) / "io.stat"
            if file.exists():  # the controller is on
                controlled.add(cgroup)
                for disk, way, count in disks.bytes_moved(read(file)):
                    of_disks[cgroup, disk, way] = count
            for pid in self._hierarchy.tasks(cgroup):
                for way, count in disk_bytes(pid, self._proc).items():
                    of_processes[cgroup, str(pid), way] = count
        return _Seen(at, frozenset(controlled), frozenset(cgroups), of_disks, of_processes)


def _between(before: _Seen, now: _Seen) -> Used:
    processes: Counter[int] = Counter()
    moved: Counter[Key] = Counter()
    for (cgroup, pid, way), grown in _grown(before.processes, now.processes, before.cgroups):
        processes[int(pid)] += grown
        if cgroup not in now.controlled:
            moved[cgroup, "", way] += grown
    moved.update(dict(_grown(before.disks, now.disks, before.controlled)))
    [((_, disk, _), most)] = moved.most_common(1) or [(("", "", ""), 0)]
    return Used(int(most * 8 / (now.at - before.at)), disk or None, processes)


def _grown(
    before: Mapping[Key, int], now: Mapping[Key, int], known: frozenset[str]
) -> Iterator[tuple[Key, int]]:
    """Yield by how much counters of known cgroups grew; one that is new began at 0."""
    for key, count in now.items():
        grown = count - before.get(key, 0)
        if key[0] in known and grown > 0:
            yield key, grown
