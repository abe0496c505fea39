"""What a scrape tells from files: the agent, a hold, a change that waits, the policy, the history.

A file that did not change is not read again. None of them failing fails a scrape: what could not
be read is named in ``HostFacts.unreadable``.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from aegis_tools.control import files
from aegis_tools.control.history import Entry, History
from aegis_tools.control.store import Record, Store
from aegis_tools.errors import AegisError
from aegis_tools.paths import Paths

PARTS = ("agent", "hold", "change", "policy", "history")
"""What is read here, by the name that ``unreadable`` has."""

APPLIES = ("policy apply", "policy rollback", "policy revert", "boot")
HOLDS = ("crash-loop", "deny-rate", "lockout", "break-glass", "damaged")
_LOOK_BACK = 500
_MAX_FILE = 1 << 20
_FLOW = ("events", "written", "folded", "undecodable")
_GAUGES = ("lag_seconds", "deny_rate", "starts_in_window", "held")
_SINK_NUMBERS = ("lost_events", "lost_lines", "failing")


class Agent(NamedTuple):
    """The agent's last sign of life.

    Attributes:
        age: Seconds since it, on the boot clock: a clock that was set changes nothing.
        updated: The same as Unix seconds; 0 where it did not say.
        ready: It says that it works.
        started: Unix seconds; 0 where it did not say.
        version: Its.
        numbers: Of _FLOW and _GAUGES, those that it told.
        sinks: By sink, those of _SINK_NUMBERS that it told.
    """

    age: float
    updated: float
    ready: bool
    started: float
    version: str
    numbers: dict[str, float]
    sinks: dict[str, dict[str, float]]


class Hold(NamedTuple):
    """The host is held in audit: why (one of HOLDS), and since when, Unix seconds."""

    reason: str
    since: float


class HostFacts(NamedTuple):
    """All of it.

    Attributes:
        agent: None where it never ran since the boot.
        hold: None where the host is not held.
        pending: A change waits for its confirmation.
        record: How the live policy was accepted; None for none, or one not confirmed yet.
        expires: When the live policy expires, Unix seconds; None for never.
        last_apply: The newest attempt, whatever its result.
        unreadable: Of PARTS.
    """

    agent: Agent | None = None
    hold: Hold | None = None
    pending: bool = False
    record: Record | None = None
    expires: int | None = None
    last_apply: Entry | None = None
    unreadable: frozenset[str] = frozenset()


class Files:
    """Reads them, and keeps what it read.

    Args:
        paths: Where they are.
        boot_ns: The boot clock.
    """

    def __init__(
        self,
        paths: Paths,
        boot_ns: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    ) -> None:
        self._paths = paths
        self._store = Store(paths)
        self._boot_ns = boot_ns
        self._kept: dict[str, tuple[object, Any]] = {}

    def read(self, bundle: bytes) -> HostFacts:
        """Return what they say now.

        Args:
            bundle: Digest of the live policy, 32 bytes; zeros for none.
        """
        digest = bundle.hex() if any(bundle) else ""
        state = self._paths.state
        steps: dict[str, Callable[[], dict[str, Any]]] = {
            "agent": lambda: {"agent": self._agent(self._paths.run / "agent.json")},
            "hold": lambda: {"hold": self._hold(state / "fallback.json")},
            "change": lambda: {"pending": files.exists(state / "pending.json")},
            "policy": lambda: self._policy(digest),
            "history": lambda: {"last_apply": self._last_apply()},
        }
        found: dict[str, Any] = {}
        failed = set()
        for part, step in steps.items():
            try:
                found.update(step())
            except (AegisError, OSError, ValueError):
                failed.add(part)
        return HostFacts(**found, unreadable=frozenset(failed))

    def _agent(self, path: Path) -> Agent | None:
        data = _own(path)
        return None if data is None else parse_agent(data, self._boot_ns())

    def _hold(self, path: Path) -> Hold | None:
        data = _own(path)
        return None if data is None else parse_hold(data)

    def _policy(self, digest: str) -> dict[str, Any]:
        if not digest:
            return {}
        records = self._unchanged("records", _stamp(self._paths.current), self._store.records)
        record = next((r for r in records if r and r.digest == digest), None)
        expires = self._unchanged("expires", digest, lambda: self._expires(digest))
        return {"record": record, "expires": expires}

    def _expires(self, digest: str) -> int | None:
        from aegis_tools.policy import dsse
        from aegis_tools.policy.bundle import read_bundle

        stored = self._store.load(digest)
        if not stored.signed:
            return None
        return read_bundle(dsse.Envelope.from_bytes(stored.data)).expires

    def _last_apply(self) -> Entry | None:
        stamp = _stamp(self._paths.history)
        found: Entry | None = self._unchanged("history", stamp, self._search)
        return found

    def _search(self) -> Entry | None:
        newest = History(self._paths.history).read(_LOOK_BACK).entries
        return next((entry for entry in newest if entry.action in APPLIES), None)

    def _unchanged(self, name: str, stamp: object, read: Callable[[], Any]) -> Any:
        if name not in self._kept or self._kept[name][0] != stamp:
            self._kept.pop(name, None)
            self._kept[name] = (stamp, read())
        return self._kept[name][1]


def parse_agent(data: bytes, boot_ns: int) -> Agent:
    """Read run/agent.json; numbers that are none are left out.

    Raises:
        ValueError: It is no JSON object, or says not when it was written.
    """
    top = _object(data)
    updated = _number(top.get("updated_boot_ns"))
    if updated is None:
        raise ValueError("no time")
    told = {name: _number(top.get(name)) for name in (*_FLOW, *_GAUGES)}
    sinks = top.get("sinks")
    return Agent(
        age=max((boot_ns - updated) / 1e9, 0.0),
        updated=_number(top.get("updated")) or 0.0,
        ready=top.get("ready") is True,
        started=_number(top.get("started")) or 0.0,
        version=str(top.get("version", "")),
        numbers={name: number for name, number in told.items() if number is not None},
        sinks={name: _sink(value) for name, value in sinks.items()}
        if isinstance(sinks, dict)
        else {},
    )


def parse_hold(data: bytes) -> Hold:
    """Read state/fallback.json. A damaged one still holds the host, and is said to be damaged."""
    try:
        top = _object(data)
    except ValueError:
        return Hold("damaged", 0.0)
    reason = top.get("reason")
    return Hold(reason if reason in HOLDS else "damaged", _number(top.get("since")) or 0.0)


def _sink(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        return {}
    told = {name: _number(value.get(name)) for name in _SINK_NUMBERS}
    if isinstance(value.get("failing"), bool):
        told["failing"] = float(value["failing"])
    return {name: number for name, number in told.items() if number is not None}


def _object(data: bytes) -> dict[str, Any]:
    try:
        top = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(top, dict):
        raise ValueError("no object")
    return top


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < 2**64 and math.isfinite(value) else None


def _own(path: Path) -> bytes | None:
    return files.read_if_present(path, _MAX_FILE, what="state", owners={0, os.geteuid()})


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when the file does."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
