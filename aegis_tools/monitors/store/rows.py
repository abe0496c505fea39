"""Events as rows, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from aegis_tools.monitors.registry import MONITORS
from aegis_tools.monitors.store.fields import (
    FIELDS,
    HEAD,
    INTEGER,
    clean,
    to_json,
    to_microseconds,
    to_time,
)
from aegis_tools.monitors.store.schema import BUCKETS, HOUR

Event = Mapping[str, Any]
_NUMBERS = {
    name: {text: number for number, text in one.types.items()} for name, one in MONITORS.items()
}
_ALWAYS = frozenset(("time", "monitor", "event", "pid", "comm", "profile", "host"))
_FIELDS = {name: (*FIELDS[name], *HEAD) for name in MONITORS}
_KEYS = {name: _ALWAYS.union(field.key for field in _FIELDS[name]) for name in MONITORS}


class NotAnEventError(Exception):
    """It has no time, monitor, event, pid or comm that could be stored."""


class Key(NamedTuple):
    """What an hourly statistic is of."""

    hour: int
    host: str
    comm: str
    profile_id: int
    event_type: int


def monitor_of(event: Event) -> str:
    """Return the monitor's name; ``unknown`` for what is none."""
    found = event.get("monitor")
    return found if isinstance(found, str) and found in MONITORS else "unknown"


def to_row(event: Event, host: str, profile_id: int | None) -> dict[str, Any]:
    """Return a row of the monitor's table; every column is there.

    Raises:
        NotAnEventError: It cannot be stored.
    """
    monitor = monitor_of(event)
    timestamp = to_microseconds(event.get("time"))
    number = _NUMBERS.get(monitor, {}).get(event.get("event", ""))
    pid, comm = event.get("pid"), event.get("comm")
    if (
        timestamp is None
        or number is None
        or not isinstance(comm, str)
        or not INTEGER.pack(pid).whole
    ):
        raise NotAnEventError
    more = {key: event[key] for key in event.keys() - _KEYS[monitor]}
    row = {
        "pid": pid, "comm": clean(comm), "event_type": number, "timestamp": timestamp,
        "profile_id": profile_id, "host": clean(host),
    }  # fmt: skip
    if row["comm"] != comm:
        more["comm"] = comm
    for field in _FIELDS[monitor]:
        value = event.get(field.key)
        if value is None:
            values, whole = field.absent, True
        else:
            values, whole = field.pack(value)
        for name, one in zip(field.names, values, strict=True):
            row[name] = one
        if not whole:
            more[field.key] = value
    row["more"] = to_json(more) if more else None
    return row


def from_row(monitor: str, row: Mapping[str, Any], profile: str | None) -> dict[str, Any]:
    """Return the event that a row holds; what was null or absent is null."""
    number = row["event_type"]
    event: dict[str, Any] = {
        "time": to_time(row["timestamp"]),
        "monitor": monitor,
        "event": MONITORS[monitor].types.get(number, f"unknown:{number}"),
        "pid": row["pid"],
        **dict.fromkeys(("tid", "ppid", "uid", "gid")),
        "comm": row["comm"],
    }
    for field in (*HEAD, *FIELDS[monitor]):
        value = field.unpack(tuple(row[name] for name in field.names))
        if value is not None or field.event in ("", event["event"]):
            event[field.key] = value
    if profile is not None:
        event["profile"] = profile
    if row["host"]:
        event["host"] = row["host"]
    if row["more"]:
        event.update(json.loads(row["more"]))
    return event


class Hourly:
    """Statistics of a batch: numbers that are added to what the database has."""

    def __init__(self) -> None:
        self.found: dict[str, dict[Key, dict[str, int]]] = {}

    def add(self, monitor: str, row: Mapping[str, Any]) -> None:
        """Count a row of ``to_row``."""
        at = row["timestamp"]
        key = Key(
            at - at % HOUR, row["host"], row["comm"][:64], row["profile_id"] or 0, row["event_type"]
        )
        sums = self.found.setdefault(monitor, {}).setdefault(key, {"count": 0})
        size, took = _bytes(monitor, row), _took(monitor, row)
        sums["count"] += 1
        if size is not None:
            sums["bytes"] = _bounded(sums.get("bytes", 0) + size)
        if took is not None:
            sums["latency_count"] = sums.get("latency_count", 0) + 1
            sums["latency_sum_ns"] = _bounded(sums.get("latency_sum_ns", 0) + took)
            sums["latency_max_ns"] = max(sums.get("latency_max_ns", 0), took)
        what, bounds = BUCKETS[monitor]
        measured = size if what == "bytes" else took
        if measured is not None:
            number = sum(measured > bound for bound in bounds)
            sums[f"bucket_{number}"] = sums.get(f"bucket_{number}", 0) + 1


def _bounded(number: int) -> int:
    """Return what fits: such numbers are nonsense, but must not stop the others."""
    return min(number, 1 << 53)


def _bytes(monitor: str, row: Mapping[str, Any]) -> int | None:
    """Return bytes moved or allocated; None where it is not known, or there are none."""
    if monitor == "process-monitor":
        return None
    found = row["size" if monitor == "memory-monitor" else "bytes"]
    return _bounded(found) if found is not None and found > 0 else None


def _took(monitor: str, row: Mapping[str, Any]) -> int | None:
    """Return the latency of a request, or the lifetime of a process, in nanoseconds."""
    if monitor == "disk-io-monitor":
        return _bounded(row["latency_ns"]) if row["latency_ns"] > 0 else None
    if monitor == "process-monitor" and row["age_seconds"] is not None:
        return _bounded(int(max(0.0, min(row["age_seconds"], 1e9)) * 1e9))
    return None
