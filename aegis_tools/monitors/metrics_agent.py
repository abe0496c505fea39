"""What the monitors' agent tells of itself, as metrics need it: bounded, and believed in nothing.

The file (``Paths.monitor_heartbeat``) is read as a stranger's: a part that is not as it should be
is left out, and of an agent that is dead or hangs only that is told.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aegis_tools.agent.samples import label
from aegis_tools.control import files
from aegis_tools.control.heartbeat import STALE_SECONDS
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.paths import Paths
from aegis_tools.policy import strictjson

OPERATIONS = BUCKETS = 32
DESTINATIONS = 8
PROFILES = 100
"""So many of them have samples at most; those over a limit come first."""
RESULTS = ("sent", "failed", "dropped")
LIMITS = ("memory", "disk-latency", "bandwidth", "processes", "allocation")
UNITS = {
    "bytes": ("bytes", 1.0),
    "ns": ("seconds", 1e-9),
    "bits/s": ("bits/s", 1.0),
    "count": ("count", 1.0),
}
"""As ``limit.schema.json`` has them: what they are called here, and how many of those one is."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MAX_FILE = 1 << 20
_MAX_PID = 1 << 22
_WHAT = "sign of life of the monitors' agent"

ByMonitor = dict[tuple[str, ...], float]
"""By monitor, or by monitor and type of event."""


class Latency(NamedTuple):
    """How long requests of one operation took.

    Attributes:
        buckets: Upper bound in seconds, and requests that took at most so long; the last is inf.
        total: Seconds of all of them together.
    """

    buckets: tuple[tuple[float, float], ...]
    total: float


class Limit(NamedTuple):
    """A limit of a profile; ``unit`` is that of ``threshold`` and ``value``."""

    profile: str
    kind: str
    unit: str
    threshold: float
    value: float
    over: bool
    actions: float


class Store(NamedTuple):
    """What became of events on their way into the store, by monitor."""

    failing: bool
    waiting: float
    stored: ByMonitor
    dropped: ByMonitor
    invalid: ByMonitor


@dataclass(frozen=True)
class Told:
    """What the agent tells; of one that is not up, ``age`` alone.

    Attributes:
        up: It lives, and does not hang.
        age: Seconds since its last sign of life, on the boot clock; None where it cannot be told.
        version: Its.
        started: Unix seconds; 0 where it did not say.
        events: By monitor and type.
        bytes: By monitor and type.
        damaged: By monitor.
        latency: By operation.
        store: None where nothing is stored.
        notifications: By destination and result.
        suppressed: Notifications held back.
        limits: Of PROFILES profiles at most.
        watched: Limits that there are.
    """

    up: bool
    age: float | None = None
    version: str = ""
    started: float = 0.0
    events: ByMonitor = field(default_factory=dict)
    bytes: ByMonitor = field(default_factory=dict)
    damaged: ByMonitor = field(default_factory=dict)
    latency: dict[str, Latency] = field(default_factory=dict)
    store: Store | None = None
    notifications: ByMonitor = field(default_factory=dict)
    suppressed: float = 0.0
    limits: tuple[Limit, ...] = ()
    watched: int = 0


def alive(pid: int, proc: Path = Path("/proc")) -> bool:
    """Return whether there is such a process that has not ended; a zombie has."""
    try:
        stat = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[:1] not in ([], ["Z"], ["X"])


def read(paths: Paths, boot_ns: int, lives: Callable[[int], bool] = alive) -> Told | None:
    """Return what the agent tells; None where there is no sign of it.

    Args:
        paths: Where it is.
        boot_ns: The boot clock.
        lives: Whether there is a process of that number.

    Raises:
        StateError: The file is not one of ours, or larger than any of ours.
        ValueError: It says nothing that can be understood.
    """
    owners = {0, os.geteuid()}
    data = files.read_if_present(paths.monitor_heartbeat, _MAX_FILE, what=_WHAT, owners=owners)
    return None if data is None else parse(data, boot_ns, lives)


def parse(data: bytes, boot_ns: int, lives: Callable[[int], bool]) -> Told:
    """Read the agent's file; what of it is not as it should be is left out.

    Raises:
        ValueError: It is no JSON object, or says not whose it is and when it was written.
    """
    top = _object(strictjson.loads(data, fractions=True))
    pid, updated = top.get("pid"), top.get("updated_boot_ns")
    if not isinstance(pid, int) or not strictjson.is_integer(pid, 1, _MAX_PID):
        raise ValueError("no process")
    if not isinstance(updated, int) or not strictjson.is_integer(updated, 0, 2**63 - 1):
        raise ValueError("no time")
    age = max((boot_ns - updated) / 1e9, 0.0)
    if age > STALE_SECONDS or not lives(pid):
        return Told(up=False, age=age)
    monitors = {name: _object(found) for name, found in _known(top, "monitors", MONITORS)}
    limits = list(_limits(_object(top.get("limits"))))
    version = top.get("version")
    sent = list(_object(top.get("notifications")).items())[:DESTINATIONS]
    return Told(
        up=True,
        age=age,
        version=label(version) if isinstance(version, str) else "",
        started=_number(top.get("started")) or 0.0,
        events={**_none_yet(monitors), **_by_type(monitors, "events")},
        bytes=_by_type(monitors, "bytes"),
        damaged=_numbers({(name,): found.get("damaged", 0) for name, found in monitors.items()}),
        latency=dict(_latencies(_object(monitors.get("disk-io-monitor", {}).get("latency")))),
        store=_store(top.get("store"), monitors),
        notifications=_numbers(
            {(label(way), r): _object(told).get(r) for way, told in sent for r in RESULTS}
        ),
        suppressed=max((_number(_object(told).get("suppressed")) or 0.0 for _, told in sent),
                       default=0.0),
        limits=tuple(_foremost(limits)),
        watched=len(limits),
    )  # fmt: skip


def _by_type(monitors: dict[str, dict[str, Any]], part: str) -> ByMonitor:
    return _numbers(
        {
            (name, kind): count
            for name, found in monitors.items()
            for kind, count in _known(found, part, MONITORS[name].types.values())
        }
    )


def _none_yet(monitors: Iterable[str]) -> ByMonitor:
    """Return 0 of each: a counter that begins with the first event does not show that as a rise."""
    return {(name, kind): 0.0 for name in monitors for kind in MONITORS[name].types.values()}


def _latencies(found: dict[str, Any]) -> Iterable[tuple[str, Latency]]:
    for operation, told in list(found.items())[:OPERATIONS]:
        one = _latency(_object(told))
        if one is not None:
            yield label(operation), one


def _latency(told: dict[str, Any]) -> Latency | None:
    """Return a histogram; None where it is none: counts that shrink, bounds out of order."""
    pairs, count = told.get("buckets"), _number(told.get("count"))
    total = _number(told.get("sum_ns"))
    if not isinstance(pairs, list) or len(pairs) > BUCKETS or count is None or total is None:
        return None
    buckets = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            return None
        bound = math.inf if pair[0] is None else _number(pair[0])
        number = _number(pair[1])
        if bound is None or number is None:
            return None
        buckets.append((bound / 1e9, number))
    if not buckets or buckets[-1][0] != math.inf:
        buckets.append((math.inf, count))
    rising = all(a[0] < b[0] and a[1] <= b[1] for a, b in itertools.pairwise(buckets))
    return Latency(tuple(buckets), total / 1e9) if rising and buckets[-1][1] == count else None


def _store(found: object, monitors: Iterable[str]) -> Store | None:
    if not isinstance(found, dict):
        return None
    begun = {(name,): 0.0 for name in monitors}
    by = {
        part: {**begun, **_numbers({(name,): n for name, n in _known(found, part, MONITORS)})}
        for part in ("stored", "dropped", "invalid")
    }
    return Store(bool(found.get("failing")), _number(found.get("waiting")) or 0.0, **by)


def _limits(found: dict[str, Any]) -> Iterable[Limit]:
    for profile in sorted(name for name in found if _NAME.fullmatch(name)):
        for kind, told in _known(found, profile, LIMITS):
            one = _limit(profile, kind, _object(told))
            if one is not None:
                yield one


def _limit(profile: str, kind: str, told: dict[str, Any]) -> Limit | None:
    unit, threshold, value = told.get("unit"), told.get("threshold"), told.get("value")
    found, times = UNITS.get(unit, ("", 0.0)) if isinstance(unit, str) else ("", 0.0)
    most, now = _number(threshold), _number(value)
    if not found or most is None or now is None:
        return None
    actions = _number(told.get("actions")) or 0.0
    return Limit(profile, kind, found, most * times, now * times, told.get("over") is True, actions)


def _foremost(limits: list[Limit]) -> Iterable[Limit]:
    """Return the limits of the first PROFILES profiles, those over a limit before the others."""
    over = {one.profile for one in limits if one.over}
    ranked = sorted({one.profile for one in limits}, key=lambda name: (name not in over, name))
    shown = set(ranked[:PROFILES])
    return (one for one in limits if one.profile in shown)


def _known(found: dict[str, Any], part: str, names: Iterable[str]) -> list[tuple[str, Any]]:
    """Return the items of an object within an object that have a name of ours, in our order."""
    inner = _object(found.get(part))
    return [(name, inner[name]) for name in names if name in inner]


def _numbers(found: dict[tuple[str, ...], Any]) -> ByMonitor:
    told = {key: _number(value) for key, value in found.items()}
    return {key: number for key, number in told.items() if number is not None}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value < 2**64 else None


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
