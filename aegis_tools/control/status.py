"""One host in one document: what it runs, enforces and trusts, and whether it is well.

What ``health``, ``mode``, ``policy show``, ``keys list`` and ``stats`` say, read at one
moment, for a person's first look and for a fleet that asks a thousand hosts.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

from aegis_tools.control import health, keystore, manual
from aegis_tools.control.heartbeat import life, read_heartbeat
from aegis_tools.control.live import Live
from aegis_tools.control.pending import Pending, known_records, read_pending
from aegis_tools.control.posture import Posture, read_posture
from aegis_tools.control.source import why_signed_only
from aegis_tools.control.stats import MapUse, Snapshot, read_snapshot
from aegis_tools.control.store import Store
from aegis_tools.errors import AegisError, NotLoadedError
from aegis_tools.kernel.features import read_host_features
from aegis_tools.kernel.layout import Stat
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class PolicyStatus(NamedTuple):
    """The live policy.

    Attributes:
        digest: Of its bundle, hex; empty without one.
        serial: Of the bundle; 0 where it is not signed.
        name: The file it came from.
        signers: Key ids.
        manual: How many rules were made by hand.
        promoted: How many of the policy's rules were let refuse by hand.
        demoted: How many were let only audit.
    """

    digest: str
    serial: int
    name: str
    signers: tuple[str, ...]
    manual: int
    promoted: int
    demoted: int


class Status(NamedTuple):
    """One host at one moment. What could not be read is None; ``problems`` says why."""

    host: str
    kernel: str
    boot_id: str
    health: health.Report
    posture: Posture | None
    policy: PolicyStatus | None
    pending: Pending | None
    snapshot: Snapshot | None
    agent: dict[str, Any]
    trust: dict[str, Any] | None
    problems: tuple[str, ...]

    @property
    def loaded(self) -> bool:
        """Whether there is anything of ours in the kernel."""
        return self.snapshot is not None

    @property
    def fullest(self) -> MapUse | None:
        """The policy map that is fullest."""
        return max(self.snapshot.maps, key=lambda use: use.share) if self.snapshot else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        waiting = self.pending
        failed = self.health.failed
        return {
            "host": self.host,
            "kernel": self.kernel,
            "boot_id": self.boot_id,
            "boot_seconds": round(now / 1e9, 3),
            "healthy": not failed,
            "exit_code": self.health.exit_code,
            "checks": {check.name: check.ok for check in self.health.checks},
            "failed": [{"name": c.name, "message": c.message, "hint": c.hint} for c in failed],
            "loaded": self.loaded,
            "mode": self.posture.to_dict() if self.posture else None,
            "policy": self.policy._asdict() if self.policy else None,
            "pending": {"action": waiting.action, "seconds_left": round(waiting.left(now), 3)}
            if waiting else None,
            "counters": {s.name.lower(): n for s, n in self.snapshot.counters.items()}
            if self.snapshot else None,
            "fullest_map": {**self.fullest._asdict(), "utilization": round(self.fullest.share, 6)}
            if self.fullest else None,
            "agent": self.agent,
            "trust": self.trust,
            "problems": list(self.problems),
        }  # fmt: skip


def read_status(paths: Paths) -> Status:
    """Read everything once; what cannot be read is a problem in the answer, not the end."""
    problems: list[str] = []
    features = read_host_features(paths.root)
    posture = policy = snapshot = pending = None
    try:
        with Live(Pins(paths.pins)) as live:
            posture, snapshot = read_posture(live, paths), read_snapshot(live)
            policy = _policy(live, paths)
    except NotLoadedError:
        pass  # health says so
    except AegisError as error:
        problems.append(error.message)
    try:
        pending = read_pending(paths)
    except AegisError as error:
        problems.append(error.message)
    return Status(
        host=socket.gethostname(),
        kernel=features.release,
        boot_id=_boot_id(),
        health=health.read_report(paths, features, now=int(time.time())),
        posture=posture,
        policy=policy,
        pending=pending,
        snapshot=snapshot,
        agent=_agent(paths),
        trust=_trust(paths, problems),
        problems=tuple(problems),
    )


def _policy(live: Live, paths: Paths) -> PolicyStatus:
    info = live.info()
    digest = info.bundle.hex() if any(info.bundle) else ""
    record = next((r for r in known_records(Store(paths)) if r.digest == digest), None)
    by_hand = manual.sort_out(live.manual_rules().values())
    return PolicyStatus(
        digest=digest,
        serial=info.serial,
        name=record.name if record else "",
        signers=tuple(record.signers) if record else (),
        manual=len(by_hand.made),
        promoted=len(by_hand.promoted),
        demoted=len(by_hand.demoted),
    )


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _agent(paths: Paths) -> dict[str, Any]:
    found = read_heartbeat(paths)
    if found is None:
        return {"running": False}
    alive = life(paths, found, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    names = ("version", "ready", "deny_rate", "starts_in_window", "lag_seconds")
    return {
        "running": alive.runs,
        "age_seconds": round(alive.age, 3),
        **{name: found[name] for name in names if name in found},
    }


def _trust(paths: Paths, problems: list[str]) -> dict[str, Any] | None:
    store = keystore.KeyStore(paths)
    try:
        config = store.config()
        keyids = sorted({entry.key.keyid for entry in store.entries()})
        reason = why_signed_only(store, Store(paths))
    except AegisError as error:
        if os.geteuid() == 0:
            problems.append(error.message)
        return None
    return {
        "threshold": config.threshold,
        "group": config.group,
        "keyids": keyids,
        "signed_only": reason,
    }


def drops(status: Status) -> int:
    """Return how many events the kernel could not hand over since it was loaded."""
    return status.snapshot.counters[Stat.RINGBUF_DROPS] if status.snapshot else 0
