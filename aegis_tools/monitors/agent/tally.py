"""What went by, counted: events and bytes by type, and how long disks took."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

BOUNDS = tuple(4**power for power in range(7, 18))
"""Nanoseconds: from 16 µs to 17 s, each four times the one before."""
_TIMED = "disk-io-monitor"
_DONE = "complete"


@dataclass
class Latency:
    """How long requests took.

    Attributes:
        sum_ns: All together.
        buckets: How many took at most each of the bounds, and more than the one before; last
            those above all bounds.
    """

    sum_ns: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    def add(self, took: int) -> None:
        """Count one."""
        self.sum_ns += took
        self.buckets[bisect_left(BOUNDS, took)] += 1

    def to_dict(self) -> dict[str, Any]:
        """Return it as the heartbeat has it: ``le_ns`` and how many took at most so long."""
        below, found = 0, list[list[int | None]]()
        for bound, count in zip((*BOUNDS, None), self.buckets, strict=True):
            below += count
            found.append([bound, below])
        return {"count": below, "sum_ns": self.sum_ns, "buckets": found}


@dataclass
class Counted:
    """Of one monitor."""

    events: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    latency: dict[str, Latency] = field(default_factory=dict)


class Tally:
    """Counts events of all monitors since it was made."""

    def __init__(self) -> None:
        self._monitors: dict[str, Counted] = {}

    def add(self, event: Mapping[str, Any]) -> None:
        """Count an event (event.schema.json)."""
        monitor, kind = event["monitor"], event["event"]
        counted = self._monitors.get(monitor)
        if counted is None:
            counted = self._monitors[monitor] = Counted()
        counted.events[kind] += 1
        if size := event.get("bytes"):
            counted.bytes[kind] += size
        if monitor == _TIMED and kind == _DONE and event["latency_ns"] is not None:
            counted.latency.setdefault(event["operation"], Latency()).add(event["latency_ns"])

    def to_dict(self, names: Iterable[str], damaged: Mapping[str, int]) -> dict[str, Any]:
        """Return it as the heartbeat has it.

        Args:
            names: Monitors that are in it though nothing came of them.
            damaged: Records that were none, by monitor.
        """
        found = {}
        for name in sorted({*names, *self._monitors, *damaged}):
            counted = self._monitors.get(name, Counted())
            found[name] = {
                "events": dict(counted.events),
                "bytes": dict(counted.bytes),
                "damaged": damaged.get(name, 0),
                "latency": {what: one.to_dict() for what, one in counted.latency.items()},
            }
        return found
