"""Events as the monitors tell them, and a store to put them in."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from sqlalchemy.engine import URL

from aegis_tools.monitors.registry import MONITORS
from aegis_tools.monitors.store import place
from aegis_tools.monitors.store.database import Database
from aegis_tools.monitors.store.fields import to_time
from aegis_tools.monitors.store.place import Place
from aegis_tools.monitors.store.query import Wanted, search
from aegis_tools.monitors.store.store import Batch, Done, Store
from aegis_tools.paths import Paths

NOW = 1_795_255_200_000_000  # 2026-11-21T10:00:00Z
SECOND = 1_000_000
HOUR = 3600 * SECOND
BODIES: dict[str, dict[str, Any]] = {
    "exec": {
        "executable": "/usr/bin/dd", "arguments": ["dd", "if=/dev/zero"], "device": "8:1",
        "inode": 131,
    },
    "exit": {"age_seconds": 1.25, "exit_status": 0, "signal": None},
    "open": {
        "path": "/etc/passwd", "device": "8:1", "inode": 7, "bytes": 0, "result": 3, "flags": 32768,
    },
    "write": {
        "path": None, "device": "8:1", "inode": 7, "bytes": 512, "result": 512, "flags": None,
    },
    "send": {
        "family": "IPv6", "protocol": "tcp", "local": "::1", "local_port": 22, "remote": "::1",
        "remote_port": 50000, "bytes": 1448, "result": 1448,
    },
    "kmalloc": {"bytes": 256, "order": None},
    "complete": {
        "device": "254:0", "partition": "254:1", "operation": "write", "sector": 2048,
        "bytes": 4096, "queued_ns": None, "latency_ns": 5_000_000, "error": 0,
    },
}  # fmt: skip
"""What is particular to an event; of each monitor at least one."""
_EDGES = [(1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 63), -(1 << 63) - 1]
_ANY_TEXT = st.text(st.characters(), max_size=20)
_ANY = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.sampled_from(_EDGES),
    st.floats(allow_nan=False),
    _ANY_TEXT, st.lists(_ANY_TEXT, max_size=3), st.sampled_from(["8:1", "0:0", "08:1", "read"]),
)  # fmt: skip
_OF = {event: name for name, one in MONITORS.items() for event in one.types.values()}


def event(kind: str = "complete", at: int = NOW, **more: Any) -> dict[str, Any]:
    """Return an event."""
    return {
        "time": to_time(at), "monitor": _OF[kind], "event": kind, "pid": 4000, "tid": 4001,
        "ppid": 1, "uid": 1000, "gid": 1000, "comm": "dd", "cgroup": 77, "cut": False,
        "cause_known": True, **BODIES[kind], **more,
    }  # fmt: skip


@st.composite
def changed_events(draw: st.DrawFn) -> dict[str, Any]:
    """Return events of which some values are anything."""
    found = event(
        draw(st.sampled_from(sorted(BODIES))), draw(st.integers(0, 4_102_444_800_000_000))
    )
    keys = sorted(found.keys() - {"time", "monitor", "event", "pid", "comm"})
    found.update(draw(st.dictionaries(st.sampled_from([*keys, "future"]), _ANY, max_size=6)))
    found["pid"] = draw(st.integers(0, (1 << 32) - 1))
    found["comm"] = draw(_ANY_TEXT)
    return found


def without_null(events: list[dict[str, Any]]) -> list[str]:
    """Return events to be compared, in any order: what is null may as well be absent."""
    return sorted(
        repr({key: value for key, value in sorted(one.items()) if value is not None})
        for one in events
    )


def sqlite_at(path: Path) -> Place:
    """Return the place of a file."""
    return Place(URL.create("sqlite", database=str(path)), path)


def sqlite_in(folder: Path) -> Place:
    """Return the place where a host has it, below a folder."""
    return place.find(Paths(folder), "", {})


def write(store: Store, *events: dict[str, Any], number: int = 0, writer: str = "test") -> Done:
    """Store events as one batch."""
    return store.write(Batch(writer, number, events, {}, NOW))


def stored(where: Place, limit: int = 100_000, **wanted: Any) -> list[dict[str, Any]]:
    """Return what a reader finds."""
    database = Database(where, read_only=True)
    try:
        return search(database, Wanted(**wanted), limit).events
    finally:
        database.close()


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something is so, and fail where it never is."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)
