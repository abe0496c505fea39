"""The monitors' agent's sign of life: ``<run>/monitors.json``, renewed once a second.

All counts are since the agent's start. Times: Unix seconds, and nanoseconds of the boot clock. ::

    {"pid": 812, "version": "0.1.0", "started": 1700000000.0, "updated": 1700000042.0,
     "updated_boot_ns": 42000000000,
     "monitors": {NAME: {"events": {TYPE: n}, "bytes": {TYPE: n}, "damaged": n,
                         "latency": {OPERATION: {"count": n, "sum_ns": n,
                                                 "buckets": [[le_ns, cumulative], …]}}}},
     "store": null | {"place": "…", "stored": {NAME: n}, "dropped": {NAME: n},
                      "invalid": {NAME: n}, "waiting": n, "failing": null | "…"},
     "notifications": {DESTINATION: {…}}, "troubles": {WHAT: MESSAGE},
     "limits": {PROFILE: {LIMIT: {"threshold": n, "value": n, "unit": "…", "over": bool,
                                  "actions": n}}}}

The last bucket's bound is null: all are below it. As with the other agent, it is gone when the
agent ended well; one that is there while nobody holds the lock is of one that died.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aegis_tools.control.heartbeat import Life, life_by, read_sign, renew
from aegis_tools.paths import Paths


@dataclass(frozen=True)
class Self:
    """What this process is.

    Attributes:
        pid: Its number.
        version: Of the program.
        started: Unix seconds.
    """

    pid: int
    version: str
    started: float


def write(paths: Paths, who: Self, facts: Mapping[str, Any]) -> None:
    """Renew it. Raises OSError."""
    now = {"updated": time.time(), "updated_boot_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME)}
    head = {"pid": who.pid, "version": who.version, "started": who.started}
    renew(paths.monitor_heartbeat, {**head, **now, **facts})


def read(paths: Paths) -> dict[str, Any] | None:
    """Return it as it was written; None where there is none."""
    return read_sign(paths.monitor_heartbeat)


def remove(paths: Paths) -> None:
    """Take it away: the agent ended as it should."""
    paths.monitor_heartbeat.unlink(missing_ok=True)


def life(paths: Paths, found: Mapping[str, Any]) -> Life:
    """Return whether the agent of a heartbeat lives."""
    return life_by(paths.monitor_agent_lock, found, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
