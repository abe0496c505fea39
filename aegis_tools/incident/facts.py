"""What can be seen of a host that is in trouble: one look, and a second one a moment later.

Nothing is changed. Every part may fail by itself; then it is among the ``problems``, and what it
would have said stays empty.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from aegis_tools.control import bootstate, capacity, fallback, health, starts
from aegis_tools.control.bootclock import SYSTEM, Seams
from aegis_tools.control.history import Entry, History
from aegis_tools.control.live import Live
from aegis_tools.control.pending import read_pending
from aegis_tools.control.status import Status, read_status
from aegis_tools.control.store import Store
from aegis_tools.errors import AegisError, NotLoadedError
from aegis_tools.incident import readers
from aegis_tools.incident.readers import Hook, Refused, RuleUse, Unit
from aegis_tools.incident.shelf import Shelf
from aegis_tools.kernel.features import Features, read_host_features
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Mode

RECENT_SECONDS = 300
"""What happened in these last seconds happens now."""
_HOLDS = {"crash-loop": "crash-loop", "deny-rate": "blocking"}
"""Whose procedure looks into a hold."""


@dataclass(frozen=True)
class Facts:
    """One host at one moment.

    Attributes:
        time: Unix seconds.
        seconds: Between the two looks.
        root: Whether we could look at everything.
        host: Its name.
        kernel: Its release.
        set_up: A policy was applied or a mode set here once: the host is meant to be guarded.
        wanted: The mode that is set for the next boot.
        loaded: Whether anything of ours is in the kernel; None where that cannot be told.
        missing: Pins that are gone.
        mode: ``audit`` or ``enforce``; empty where nothing is loaded.
        state: A key of ``posture.STATES``; empty likewise.
        meaning: It in one line.
        deadline: Seconds until enforce counts as audit; None without one.
        held: Why the host is held in audit, a key of ``fallback.REASONS``.
        held_meaning: It in one line.
        held_known: A procedure has looked into it since.
        pending: The change that waits for its confirmation.
        pending_left: Seconds left for it; None without one.
        pending_failed: Why it could not be taken back.
        agent: Its sign of life, as ``status --json`` has it; ``died``: it ended without a word.
        starts: Starts of the agent within the window that did not end well.
        units: Our systemd units; empty where there is no systemd.
        maps: How full the maps are: name, entries, capacity.
        counters: By name, since the load.
        rates: The same, a second.
        rules: Those that matched most between the looks, then lately.
        refused: Who was refused what, from the events of the last minutes.
        hooks: What the programs cost between the looks.
        cpus: How many there are.
        sample_rate: Share of matches that send an event.
        ring_bytes: Of the event ring.
        lsm_active: Whether this boot has BPF LSM; None where that cannot be told.
        lsm_pending: Whether the next one has.
        lsm_text: The next boot in one line.
        disabled: Nothing of ours may be loaded.
        btf: The kernel describes its types.
        config: What cannot be used of policy, keys and settings: name, message, hint.
        checks: What ``health`` finds wrong besides: name, message, hint.
        last_refused: The last change, where it was refused: action, result, note, seconds ago.
        disk_free: Of the state folder's file system: bytes; None where that cannot be told.
        open_incidents: Ids of incidents that have not ended.
        problems: What could not be looked at, and why, by part.
    """

    time: float = 0.0
    seconds: float = 0.0
    root: bool = True
    host: str = ""
    kernel: str = ""
    set_up: bool = False
    wanted: str = "audit"
    loaded: bool | None = False
    missing: tuple[str, ...] = ()
    mode: str = ""
    state: str = ""
    meaning: str = ""
    deadline: float | None = None
    held: str = ""
    held_meaning: str = ""
    held_known: bool = False
    pending: str = ""
    pending_left: float | None = None
    pending_failed: str = ""
    agent: Mapping[str, Any] = field(default_factory=dict)
    starts: int = 0
    units: tuple[Unit, ...] = ()
    maps: tuple[tuple[str, int, int], ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    rules: tuple[RuleUse, ...] = ()
    refused: tuple[Refused, ...] = ()
    hooks: tuple[Hook, ...] = ()
    cpus: int = 1
    sample_rate: float = 1.0
    ring_bytes: int = 0
    lsm_active: bool | None = None
    lsm_pending: bool | None = None
    lsm_text: str = ""
    disabled: bool = False
    btf: bool = True
    config: tuple[tuple[str, str, str], ...] = ()
    checks: tuple[tuple[str, str, str], ...] = ()
    last_refused: tuple[str, str, str, float] | None = None
    disk_free: int | None = None
    open_incidents: tuple[str, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


class _Looker:
    """Collects facts; what fails becomes a problem."""

    def __init__(self, paths: Paths, seams: Seams) -> None:
        self.paths = paths
        self.seams = seams
        self.found: dict[str, Any] = {}
        self.problems: list[tuple[str, str]] = []

    def part(self, name: str, read: Callable[[], Mapping[str, Any]]) -> None:
        """Read one part."""
        try:
            self.found.update(read())
        except NotLoadedError:
            self.found.setdefault("loaded", False)
        except (AegisError, OSError, ValueError, LookupError) as error:
            message = error.message if isinstance(error, AegisError) else str(error)
            self.problems.append((name, message))


def read_facts(
    paths: Paths,
    *,
    seconds: float = 1.0,
    seams: Seams = SYSTEM,
    sleep: Callable[[float], None] = time.sleep,
    systemd: bool | None = None,
) -> Facts:
    """Look at the host, wait, and look again. It never raises, and changes nothing.

    Args:
        paths: The host.
        seconds: Between the looks; 0 for one look, without rates.
        seams: Time and other programs.
        sleep: Waits.
        systemd: Whether units and journal are asked; None to find out.
    """
    look = _Looker(paths, seams)
    if systemd is None:
        systemd = paths.root == paths.root.parent and readers.has_systemd()
    features = read_host_features(paths.root)
    look.part("kernel maps", lambda: _kernel(look, seconds, sleep))
    look.part("status", lambda: _status(look))
    look.part("boot configuration", lambda: _boot(paths, features))
    look.part("hold", lambda: _held(paths))
    look.part("pending change", lambda: _pending(paths, seams))
    look.part("policy and keys", lambda: _config(paths, int(seams.wall())))
    look.part("what was set up", lambda: _set_up(paths))
    look.part("history", lambda: _history(paths, seams.wall()))
    look.part("state folder", lambda: _disk(paths))
    look.part("incident records", lambda: _incidents(paths))
    look.part("starts", lambda: {"starts": _starts(paths, seams)})
    if systemd:
        look.part("systemd", lambda: {"units": readers.read_units(seams.run)})
        since = seams.wall() - RECENT_SECONDS
        look.part("events", lambda: {"refused": readers.read_refused(since, seams.boot_ns)})
    root = os.geteuid() == 0
    known = {name: value for name, value in look.found.items() if name in Facts.__annotations__}
    known["problems"] = tuple(look.problems)
    return Facts(**{
        **known, "time": seams.wall(), "root": root, "kernel": features.release,
        "cpus": os.cpu_count() or 1,
    })  # fmt: skip


def _kernel(look: _Looker, seconds: float, sleep: Callable[[float], None]) -> dict[str, Any]:
    pins = Pins(look.paths.pins)
    try:
        loaded = pins.is_loaded()
    except OSError as error:
        look.found["loaded"] = None
        raise OSError(f"{error.strerror}: run it as root") from error
    look.found.update(loaded=loaded, missing=tuple(pins.missing()) if loaded else ())
    if not loaded:
        return {}
    with Live(pins) as live:
        first = readers.first_look(live, look.seams)
        look.part("programs", lambda: {"hooks": first.hooks_after(seconds, sleep)})
        maps = tuple((use.name, use.entries, use.capacity) for use in capacity.read_use(live))
        return {"maps": maps, **first.second_look(live, look.paths, RECENT_SECONDS)}


def _status(look: _Looker) -> dict[str, Any]:
    status: Status = read_status(look.paths)
    found: dict[str, Any] = {
        "host": status.host,
        "agent": {**status.agent, "died": status.agent.get("running") is False
                  and "age_seconds" in status.agent},
        "checks": tuple((c.name, c.message, c.hint) for c in status.health.failed),
    }  # fmt: skip
    look.problems += [("status", problem) for problem in status.problems]
    if status.posture:
        posture = status.posture
        found.update(
            mode=posture.mode, state=posture.state, meaning=posture.meaning,
            deadline=posture.deadline,
        )  # fmt: skip
    if status.snapshot:
        found.update(sample_rate=status.snapshot.sample_rate, ring_bytes=status.snapshot.ring_bytes)
    return found


def _boot(paths: Paths, features: Features) -> dict[str, Any]:
    found: dict[str, Any] = {
        "lsm_active": features.lsm_active if features.lsms else None,
        "disabled": features.disabled,
        "btf": features.btf,
    }
    facts = health.next_boot(paths, features.lsms)
    found["lsm_text"] = health.pending_text(facts)
    if facts is not None and facts.loader is not None:
        found["lsm_pending"] = facts.pending
    return found


def _held(paths: Paths) -> dict[str, Any]:
    found = fallback.read(paths)
    if found is None:
        return {}
    scenario = _HOLDS.get(found.reason, "")
    known = any(
        one.content.result == "recovered" and (one.content.ended or 0) >= found.since
        for one in Shelf(paths).all()
        if one.content is not None and one.content.scenario == scenario
    )
    return {"held": found.reason, "held_meaning": found.meaning, "held_known": known}


def _pending(paths: Paths, seams: Seams) -> dict[str, Any]:
    found = read_pending(paths)
    if found is None:
        return {}
    return {
        "pending": found.action,
        "pending_left": found.left(seams.boot_ns()),
        "pending_failed": found.failed,
    }


def _config(paths: Paths, now: int) -> dict[str, Any]:
    failed = [check for check in health.config_checks(paths, now=now) if check.ok is False]
    return {"config": tuple((check.name, check.message, check.hint) for check in failed)}


def _set_up(paths: Paths) -> dict[str, Any]:
    wanted = Mode.AUDIT
    with contextlib.suppress(AegisError):
        wanted = bootstate.read_boot_state(paths).mode
    stored = True
    with contextlib.suppress(AegisError):  # damaged: there was one
        stored = Store(paths).records()[0] is not None
    return {"set_up": stored or paths.boot.exists(), "wanted": wanted.value}


def _history(paths: Paths, now: float) -> dict[str, Any]:
    changes = ("policy apply", "policy rollback", "block add", "boot", "network deny")
    entries = History(paths.history).read(20).entries
    last: Entry | None = next((one for one in entries if one.action in changes), None)
    if last is None or last.result == "ok":
        return {}
    return {"last_refused": (last.action, last.result, last.note, max(0.0, now - last.time))}


def _disk(paths: Paths) -> dict[str, Any]:
    folder = paths.state if paths.state.is_dir() else paths.root
    return {"disk_free": shutil.disk_usage(folder).free}


def _incidents(paths: Paths) -> dict[str, Any]:
    found = (one for one in Shelf(paths).all() if one.content is not None and one.content.open)
    return {"open_incidents": tuple(one.id for one in found)}


def _starts(paths: Paths, seams: Seams) -> int:
    return len(starts.recent(starts.read_starts(paths), seams.boot_ns()))
