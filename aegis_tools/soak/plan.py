"""Whether a soak may begin, and what it would be; changes nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from aegis_tools.control import files
from aegis_tools.control.bootclock import SYSTEM, Seams, boot_id
from aegis_tools.errors import NotLoadedError, StateError, UsageError
from aegis_tools.paths import Paths
from aegis_tools.soak import agent, gate, loaded, reading, unit, workload
from aegis_tools.soak.folder import folder
from aegis_tools.soak.hostfacts import read_host, read_policy
from aegis_tools.soak.settings import (
    DURATION,
    INTERVAL,
    LONGEST,
    MAX_TURNS,
    MOST_RULES,
    Settings,
    new_id,
)
from aegis_tools.soak.state import Agent

DEFAULT_INTERVAL = 60
SELDOM = 300
"""Seconds between turns, of which fewer are advised where the disk has no room."""
BYTES_A_TURN = 1200
"""A row of 250 bytes, and those of some ten rules that matched."""
BYTES_BESIDE = 24 << 20
"""The report, evidence, what happened."""


@dataclass(frozen=True)
class Wanted:
    """What was asked for.

    Attributes:
        scenario: One of ``settings.SCENARIOS``.
        duration_s: Seconds.
        interval_s: Seconds between two turns.
        workload: One of ``settings.WORKLOADS``.
        expected: Ids of rules whose denials are expected.
        override: Why it may begin without a passed soak in shadow.
        note: Anything else.
        foreground: Its turns are made by the process that begins it.
    """

    scenario: str
    duration_s: int
    interval_s: int = DEFAULT_INTERVAL
    workload: str = "none"
    expected: tuple[str, ...] = ()
    override: str = ""
    note: str = ""
    foreground: bool = False


@dataclass(frozen=True)
class Plan:
    """A soak that may begin.

    Attributes:
        settings: What it will be.
        wanted: What was asked for.
        shadow: The soak in shadow that lets it begin; empty where none is needed, or it was
            begun without.
        bytes: Of disk it may need.
        warnings: What it will not be able to tell.
    """

    settings: Settings
    wanted: Wanted
    shadow: str
    bytes: int
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        one = self.settings
        return {
            "id": one.id,
            "scenario": one.scenario,
            "mode": one.mode,
            "duration_seconds": one.duration_s,
            "interval_seconds": one.interval_s,
            "turns": one.turns,
            "workload": one.workload,
            "policy": one.policy.digest if one.policy else "",
            "override": one.override,
            "shadow": self.shadow,
            "disk_bytes": self.bytes,
            "foreground": self.wanted.foreground,
            "warnings": list(self.warnings),
        }


def plan(paths: Paths, wanted: Wanted, *, seams: Seams = SYSTEM) -> Plan:
    """Return what would begin; changes nothing.

    Raises:
        UsageError: What was asked for is out of bounds, or needs ``--foreground``.
        NotLoadedError: Nothing is loaded.
        StateError: One runs already; the mode does not fit; there is no passed soak in shadow; the
            disk has no room.
    """
    _check_bounds(wanted)
    _check_texts(wanted)
    if not wanted.foreground and not unit.has_systemd(paths):
        raise UsageError(
            "systemd does not run here, so nothing would make the turns of a soak",
            hint="add: --foreground",
        )
    check_free(paths)
    found = loaded.look(paths)
    if not found.there:
        raise NotLoadedError
    _check_mode(wanted.scenario, found.mode)
    shadow = ""
    if wanted.scenario == "enforce":
        gate.check_expected(paths, wanted.expected)
        shadow = gate.check(paths, found.policy, wanted.override)
    workload.check(paths, wanted.workload)
    needed = bytes_of(wanted.duration_s, wanted.interval_s)
    check_room(wanted, needed, _free(paths))
    now = seams.wall()
    settings = Settings(
        id=new_id(wanted.scenario, now),
        scenario=wanted.scenario,
        started=round(now, 3),
        boot=boot_id(paths)[:8],
        boot_s=seams.boot_ns() / 1e9,
        duration_s=wanted.duration_s,
        interval_s=wanted.interval_s,
        mode=found.mode,
        workload=wanted.workload,
        policy=read_policy(paths, found.policy),
        host=read_host(seams.run),
        override="" if shadow else wanted.override,
        expected=wanted.expected,
        note=wanted.note,
    )
    return Plan(settings, wanted, shadow, needed, tuple(_warnings(paths, found, seams)))


def _check_bounds(wanted: Wanted) -> None:
    low, high = DURATION
    if not low <= wanted.duration_s <= high:
        raise UsageError(
            f"a soak lasts from {low} s to {high // 86400} days",
            hint="the seed asks for 7d to 14d: --duration 14d",
        )
    low, high = INTERVAL
    if not low <= wanted.interval_s <= high:
        raise UsageError(
            f"turns are made every {low} s to {high} s",
            hint="leave --interval out, or write: --interval 60s",
        )
    if wanted.interval_s > wanted.duration_s:
        default = ", the default" if wanted.interval_s == DEFAULT_INTERVAL else ""
        raise UsageError(
            f"a soak of {wanted.duration_s} s is shorter than the interval from turn to turn, "
            f"{wanted.interval_s} s{default}",
            hint="let it last longer, or write, for example: --interval "
            f"{max(wanted.duration_s // 10, 1)}s",
        )
    if wanted.duration_s // wanted.interval_s > MAX_TURNS:
        raise UsageError(
            f"a soak has {MAX_TURNS} turns at most", hint="make them less often: --interval 5m"
        )
    if wanted.override and wanted.scenario != "enforce":
        raise UsageError(
            "there is nothing to override: only a soak that enforces needs one before it",
            hint="leave --override out",
        )
    if wanted.expected and wanted.scenario != "enforce":
        raise UsageError(
            "no denials are expected: only a soak that enforces asks whose they are",
            hint="leave --expect out",
        )


def _check_texts(wanted: Wanted) -> None:
    given = [("--note", wanted.note), ("--override", wanted.override)]
    given += [("--expect", rule) for rule in wanted.expected]
    for option, text in given:
        if len(text) > LONGEST:
            raise UsageError(
                f"{option} has {len(text)} characters, and {LONGEST} is the most",
                hint="write less",
            )
        if not text.isprintable() and any("\ud800" <= one <= "\udfff" for one in text):
            raise UsageError(
                f"{option} is no UTF-8: {files.printable(text)}", hint="write it in UTF-8"
            )
    if len(wanted.expected) > MOST_RULES:
        raise UsageError(
            f"--expect is given {len(wanted.expected)} times, and {MOST_RULES} is the most",
            hint="name fewer rules",
        )


def check_free(paths: Paths) -> None:
    """Raise StateError where a soak runs already; one that never began is none."""
    name = reading.running(paths)
    if not name or not files.exists(folder(paths, name).settings):
        return
    if files.exists(folder(paths, name).result):
        raise StateError(
            f"the soak {name} has ended and is not put away yet", hint="run: aegisbpf soak sample"
        )
    raise StateError(
        f"the soak {name} is running",
        hint="look at it with: aegisbpf soak status   (end it: aegisbpf soak stop)",
        data={"running": name},
    )


def _check_mode(scenario: str, mode: str) -> None:
    wanted = "enforce" if scenario == "enforce" else "audit"
    if mode == wanted:
        return
    if mode == "held":
        hint = "find out why, then: aegisbpf resume"
    elif mode == "none":
        hint = "let the hooks work again: aegisbpf health"
    else:
        hint = f"run: aegisbpf mode {wanted}   (or choose another --scenario)"
    shown = {"held": "it is held in audit", "none": "its hooks do not work"}.get(mode)
    raise StateError(
        f"a soak in {scenario} needs a host whose mode is {wanted}: {shown or f'it is {mode}'}",
        hint=hint,
    )


def bytes_of(duration_s: int, interval_s: int) -> int:
    """Return how many bytes of disk a soak may need."""
    return (duration_s // interval_s) * BYTES_A_TURN + BYTES_BESIDE


def check_room(wanted: Wanted, needed: int, free: int) -> None:
    """Refuse to begin what would fill the disk: twice as much as it may need has to be free.

    Raises:
        StateError: It is not.
    """
    if free >= 2 * needed:
        return
    hint = "free some space"
    if wanted.interval_s < SELDOM and free >= 2 * bytes_of(wanted.duration_s, SELDOM):
        hint += f", or make turns less often: --interval {SELDOM // 60}m"
    raise StateError(
        f"the soak may need {needed >> 20} MiB of disk, and {free >> 20} MiB are free; "
        "twice as much has to be",
        hint=hint,
        data={"needed_bytes": needed, "free_bytes": free},
    )


def _free(paths: Paths) -> int:
    """Return how many bytes are free where soaks are, or will be."""
    place = next(path for path in (paths.state, *paths.state.parents) if path.is_dir())
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def _warnings(paths: Paths, found: loaded.Loaded, seams: Seams) -> list[str]:
    warnings = []
    if not agent.look(paths, Agent(), seams=seams).running:
        warnings.append("no agent runs: of its memory and processor time nothing will be known")
    if not found.policy:
        warnings.append("no policy is live: only rules made by hand are watched")
    if not found.every_event:
        warnings.append("not every match sends an event: a missing one will not be noticed")
    return warnings
