"""What profiles use, read from cgroups, the bandwidth programs and what monitors tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from aegis_tools.monitors.profiles.bandwidth import Count
from aegis_tools.monitors.profiles.decide import Measure, Process
from aegis_tools.monitors.profiles.diskuse import DiskUse
from aegis_tools.monitors.profiles.hierarchy import Hierarchy, Target, read
from aegis_tools.monitors.profiles.model import (
    ALLOCATION,
    BANDWIDTH,
    DISK_BANDWIDTH,
    DISK_LATENCY,
    MEMORY,
    PROCESSES,
    Action,
    Limit,
    Profile,
)
from aegis_tools.monitors.profiles.processes import look_at, spared

_HELD = {Action.ALERT: (), Action.THROTTLE: ("high",), Action.TERMINATE: ("max", "oom_kill")}
"""What memory.events counts of the limit that is ours; the rest may be somebody else's."""
_REACHED = 0.95
"""Of a rate that the kernel holds and does not count how often: from here on it is held."""
_MOVED = {"receive": "in", "send": "out"}
"""Events of network-monitor, and the direction that the bandwidth programs call so."""


@dataclass
class Told:
    """What the monitors told of a profile since it was last taken.

    Attributes:
        latency_ns: The longest of a block request.
        waited: Whose that was.
        device: The disk it was asked of.
        allocated: Bytes by process.
        names: Of these processes.
        moved: Bytes by process that went over the network, by direction.
    """

    latency_ns: int = 0
    waited: Process | None = None
    device: str | None = None
    allocated: dict[int, int] = field(default_factory=dict)
    names: dict[int, Process] = field(default_factory=dict)
    moved: dict[str, Counter[int]] = field(default_factory=dict)


class Feed:
    """Takes what monitors tell, for limits of disk latency, of allocations and of bandwidth.

    Whoever reads events calls ``event`` (and, for what the kernel adds up, ``allocated``); the
    watcher takes what came together, from the same thread.
    """

    def __init__(self) -> None:
        self._users: dict[int, set[str]] = {}
        self._cgroups: dict[int, set[str]] = {}
        self._told: dict[str, Told] = {}

    def set_members(self, users: Mapping[int, set[str]], cgroups: Mapping[int, set[str]]) -> None:
        """Say which profiles a user's number and a cgroup's id belong to."""
        self._users, self._cgroups = dict(users), dict(cgroups)

    def event(self, event: Mapping[str, Any]) -> None:
        """Take an event as ``monitor events --json`` prints it; others than needed are ignored."""
        kind = event.get("event")
        if kind != "complete" and kind not in _MOVED:
            return
        for name in self.profiles(event.get("uid"), event.get("cgroup")):
            told = self._told.setdefault(name, Told())
            if kind != "complete":
                if not _is_loopback(event["remote"]):
                    told.moved.setdefault(_MOVED[kind], Counter())[event["pid"]] += event["bytes"]
            elif (event["latency_ns"] or 0) > told.latency_ns:
                told.latency_ns = event["latency_ns"]
                told.waited = Process(event["pid"], event["comm"], event["uid"])
                told.device = event["device"]

    def allocated(self, process: Process, cgroup: int, size: int) -> None:
        """Take what a process had the kernel allocate since the last call, in bytes."""
        for name in self.profiles(process.uid, cgroup):
            told = self._told.setdefault(name, Told())
            told.allocated[process.pid] = told.allocated.get(process.pid, 0) + size
            told.names[process.pid] = process

    def take(self, profile: str) -> Told:
        """Return what was told of a profile, and forget it."""
        return self._told.pop(profile, Told())

    def profiles(self, uid: Any, cgroup: Any) -> set[str]:
        """Return which profiles a user's number or a cgroup's id belongs to; from any thread."""
        return self._users.get(uid, set()) | self._cgroups.get(cgroup, set())


class Counts(Protocol):
    """Reads what went through (``bandwidth.Bandwidth``)."""

    def counts(self, profile: str) -> dict[str, Count]:
        """Return it by direction; empty where nothing counts."""


class Reader:
    """Measures the limits of a profile. It remembers counters, so each measure is of the time since
    the one before; the first is of none.

    Args:
        hierarchy: Where cgroups are.
        counts: Of bandwidth.
        feed: What the monitors tell.
        proc: Where processes are.
    """

    def __init__(
        self, hierarchy: Hierarchy, counts: Counts, feed: Feed, proc: Path = Path("/proc")
    ) -> None:
        self._hierarchy = hierarchy
        self._counts = counts
        self._feed = feed
        self._proc = proc
        self._disk_use = DiskUse(hierarchy, proc)
        self._last: dict[tuple[str, ...], int] = {}

    def measure(
        self, profile: Profile, targets: list[Target], elapsed: float
    ) -> Iterator[tuple[Limit, Measure]]:
        """Yield what was measured for each limit of a profile.

        Args:
            profile: Whose.
            targets: Its cgroups.
            elapsed: Seconds since the last time; 0 for the first.
        """
        here = [target.cgroup for target in targets if target.number]
        told = self._feed.take(profile.name)
        for limit in profile.limits.values():
            if limit.kind is MEMORY:
                yield limit, self._memory(limit, profile.name, here)
            elif limit.kind is PROCESSES:
                yield limit, self._processes(limit, profile.name, here)
            elif limit.kind is BANDWIDTH:
                yield limit, self._bandwidth(limit, profile.name, here, (elapsed, told))
            elif limit.kind is DISK_BANDWIDTH:
                yield limit, self._disk_bandwidth(limit, profile.name, here, elapsed)
            elif limit.kind is DISK_LATENCY:
                yield limit, Measure(told.latency_ns, told.waited, device=told.device)
            elif limit.kind is ALLOCATION:
                yield limit, _allocation(told, elapsed)

    def pids(self, targets: list[Target]) -> list[int]:
        """Return the processes of a profile's cgroups."""
        return self._pids([target.cgroup for target in targets if target.number])

    def _memory(self, limit: Limit, profile: str, cgroups: list[str]) -> Measure:
        used, held, killed = 0, 0, 0
        seen = look_at(self._pids(cgroups), self._proc)
        for cgroup in cgroups:
            folder = self._hierarchy.path(cgroup)
            text = read(folder / "memory.current")
            if text.isdecimal():
                used += int(text)
                events = _flat(read(folder / "memory.events"))
                for name in _HELD[limit.action]:
                    grown = self._since((profile, cgroup, name), events.get(name, 0))
                    if name == "oom_kill":
                        killed += grown
                    else:
                        held += grown
            else:  # no controller: what the processes have, shared memory counted for each
                mine = set(self._hierarchy.tasks(cgroup))
                used += sum(one.resident for one in seen if one.process.pid in mine)
        able = [one for one in seen if one.process.pid not in spared(self._proc)]
        largest = max(able, key=lambda one: one.resident, default=None)
        return Measure(used, largest.process if largest else None, held, killed)

    def _processes(self, limit: Limit, profile: str, cgroups: list[str]) -> Measure:
        count, refused = 0, 0
        for cgroup in cgroups:
            folder = self._hierarchy.path(cgroup)
            text = read(folder / "pids.current")
            count += (
                int(text)
                if text.isdecimal()
                else len(self._hierarchy.tasks(cgroup, "cgroup.threads"))
            )
            if limit.action is Action.THROTTLE:
                events = _flat(read(folder / "pids.events"))
                refused += self._since((profile, cgroup, "pids"), events.get("max", 0))
        return Measure(count, self._latest(cgroups), refused)

    def _bandwidth(
        self, limit: Limit, profile: str, cgroups: list[str], since: tuple[float, Told]
    ) -> Measure:
        """Return bits a second of the busier direction."""
        elapsed, told = since
        most, dropped, busier = 0, 0, ""
        for direction, count in self._counts.counts(profile).items():
            passed = self._since((profile, direction, "passed"), count.passed_bytes)
            dropped += self._since((profile, direction, "dropped"), count.dropped_packets)
            rate = int(passed * 8 / elapsed) if elapsed else 0
            if rate > most:
                most, busier = rate, direction
        moved = told.moved.get(busier)
        process = self._who(moved, cgroups) if moved else None
        # Who moved it may have been ended before this look; the latest is a guess without a word.
        if not moved and limit.action is Action.TERMINATE and most > limit.threshold:
            process = self._latest(cgroups)
        # Saved tokens let a throttled rate exceed the limit for an instant.
        value = min(most, limit.threshold) if limit.action is Action.THROTTLE else most
        return Measure(value, process, dropped)

    def _disk_bandwidth(
        self, limit: Limit, profile: str, cgroups: list[str], elapsed: float
    ) -> Measure:
        """Return bits a second of the busiest disk, cgroup and direction: that is what is held."""
        used = self._disk_use.look(profile, cgroups, elapsed)
        process = self._who(used.processes, cgroups)
        if limit.action is not Action.THROTTLE:
            return Measure(used.rate, process, device=used.disk)
        # The kernel does not count how often it held a request back.
        held = used.rate >= limit.threshold * _REACHED
        return Measure(min(used.rate, limit.threshold), process, int(held), device=used.disk)

    def _who(self, moved: Mapping[int, int], cgroups: list[str]) -> Process | None:
        """Return who has moved most, of those that are still there and may be ended."""
        able = set(moved) & set(self._pids(cgroups)) - spared(self._proc)
        for pid in sorted(able, key=lambda one: moved[one], reverse=True):
            for seen in look_at([pid], self._proc):
                return seen.process
        return None

    def _latest(self, cgroups: list[str]) -> Process | None:
        seen = look_at(self._pids(cgroups), self._proc)
        able = [one for one in seen if one.process.pid not in spared(self._proc)]
        latest = max(able, key=lambda one: (one.started, one.process.pid), default=None)
        return latest.process if latest else None

    def _pids(self, cgroups: list[str]) -> list[int]:
        return [pid for cgroup in cgroups for pid in self._hierarchy.tasks(cgroup)]

    def _since(self, key: tuple[str, ...], now: int) -> int:
        """Return by how much a counter grew; one that is new, or began again, has not."""
        before = self._last.get(key, now)
        self._last[key] = now
        return max(now - before, 0)


def _is_loopback(address: str) -> bool:
    """Return whether an address is this host itself, which bandwidth leaves out."""
    return address.startswith(("127.", "::ffff:127.")) or address == "::1"


def _allocation(told: Told, elapsed: float) -> Measure:
    """Return bytes a second of the process that allocates most."""
    if not told.allocated or elapsed <= 0:
        return Measure(0)
    pid = max(told.allocated, key=lambda one: told.allocated[one])
    return Measure(int(told.allocated[pid] / elapsed), told.names[pid])


def _flat(text: str) -> dict[str, int]:
    """Return a flat keyed file of a cgroup: a name and a number a line."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
