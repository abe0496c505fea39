"""A sign of life of the monitors' agent as it writes it, and a reading that has a sample of all."""

from __future__ import annotations

import json
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from aegis_tools.monitors.metrics import Reading, families
from aegis_tools.monitors.metrics_agent import Told, parse
from aegis_tools.monitors.metrics_kernel import Inside, Loaded, Program

BOOT_NS = 42_000_000_000
PID = 812
KIB4 = 4096


def heartbeat(**parts: Any) -> dict[str, Any]:
    """Return what an agent writes that follows two monitors, stores, and watches two limits."""
    return {
        "pid": PID,
        "version": "0.1.0",
        "started": 1_700_000_000.25,
        "updated": 1_700_000_042.5,
        "updated_boot_ns": BOOT_NS - 500_000_000,
        "monitors": {
            "process-monitor": {"events": {"exec": 7}, "bytes": {}, "damaged": 0},
            "disk-io-monitor": {
                "events": {"issue": 12, "complete": 10},
                "bytes": {"issue": 12 * KIB4, "complete": 10 * KIB4},
                "damaged": 1,
                "latency": {
                    "read": histogram(4, 9, 10, sum_ns=25_000_000),
                    "flush": histogram(0, 0, 0, sum_ns=0),
                },
            },
        },
        "store": {
            "place": "postgresql://aegis:SECRET@db.example/monitors",
            "stored": {"disk-io-monitor": 20},
            "dropped": {"disk-io-monitor": 2},
            "invalid": {},
            "waiting": 3,
            "failing": "could not connect to postgresql://aegis:SECRET@db.example/monitors",
        },
        "notifications": {
            "journal": {"accepted": 3, "sent": 2, "failed": 0, "dropped": 1, "suppressed": 4}
        },
        "limits": {
            "web": {
                "memory": {
                    "threshold": 500_000_000, "value": 600_000_000, "unit": "bytes", "over": True,
                    "actions": 2,
                },
                "disk-latency": {
                    "threshold": 100_000_000, "value": 5_000_000, "unit": "ns", "over": False,
                    "actions": 0,
                },
            }
        },
        **parts,
    }  # fmt: skip


def histogram(*counts: int, sum_ns: int) -> dict[str, Any]:
    """Return a histogram with powers of four from 16 µs as bounds; the last count is of all."""
    bounds = [4 ** (7 + i) for i in range(len(counts) - 1)]
    return {
        "count": counts[-1],
        "sum_ns": sum_ns,
        "buckets": [list(pair) for pair in zip([*bounds, None], counts, strict=True)],
    }


def told(**parts: Any) -> Told:
    """Return what is read of it, for an agent that lives."""
    return parse(json.dumps(heartbeat(**parts)).encode(), BOOT_NS, lambda pid: pid == PID)


COUNTERS = {
    "seen": 100, "sent": 70, "dropped": 10, "filtered": 12, "sampled_out": 3, "busy": 5,
    "untracked": 1,
}  # fmt: skip
LOADED = {
    "process-monitor": Loaded(attached=False, variant="portable", inside=None),
    "disk-io-monitor": Loaded(
        True,
        "portable",
        Inside(
            COUNTERS,
            524288,
            131072,
            {"PENDING_IO": (2, 10240)},
            4_433_911,
            (Program("block_rq_issue", 3, 0.5, 1),),
        ),
    ),
}


def reading(
    *,
    loaded: dict[str, Loaded] | None = None,
    asked: frozenset[str] = frozenset({"disk-io-monitor"}),
    told_: Told | None = None,
) -> Reading:
    """Return a reading in which every metric has a sample."""
    found = LOADED if loaded is None else loaded
    return Reading(found, asked, told() if told_ is None else told_, frozenset({"kernel"}), 0.25)


NOTHING = Reading({}, frozenset(), None, frozenset(), 0.25)


class _Fixed:
    def __init__(self, found: Reading) -> None:
        self._found = found

    def collect(self) -> Any:
        return families(self._found)


def exposed(found: Reading | None = None) -> str:
    """Return the text that is exposed of a reading."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed(found or reading()))
    return generate_latest(registry).decode()
