"""The systemd units of a soak: a timer that makes its turns, and the unit its workload runs in.

The timer is shipped; how often it fires is in a drop-in that each soak writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from aegis_tools.control import service
from aegis_tools.control.service import Change
from aegis_tools.errors import CommandError
from aegis_tools.kernel.run import Runner, run
from aegis_tools.paths import Paths
from aegis_tools.soak.kernellog import WORKLOAD

SERVICE = "aegis-soak.service"
TIMER = "aegis-soak.timer"
FIRST_SECONDS = 60
"""After a boot the first turn comes so late at most: it is to tell of the boot."""
_PATIENCE = 120.0
"""Seconds for systemd, on a host that may be very busy."""


def drop_in(paths: Paths) -> Path:
    """Return where the interval of the timer is."""
    return paths.units / f"{TIMER}.d" / "interval.conf"


def interval_text(interval_s: int) -> str:
    """Return the drop-in: when the timer fires.

    Each firing may come late by its accuracy, which adds up over turns: so it is small.
    """
    accuracy = max(1, min(1000, 10 * interval_s))
    return (
        "# Written by: aegisbpf soak start\n"
        "[Timer]\n"
        "OnActiveSec=\n"
        f"OnActiveSec={min(interval_s, FIRST_SECONDS)}s\n"
        f"OnUnitActiveSec={interval_s}s\n"
        f"AccuracySec={accuracy}ms\n"
    )


def plan(paths: Paths, executable: Path, interval_s: int) -> list[Change]:
    """Return which files have to be written; those that are as they should be are kept.

    Raises:
        StateError: A file of that name is not ours.
    """
    mine = [one for one in service.plan_install(paths, executable)
            if one.path.name in (SERVICE, TIMER)]  # fmt: skip
    return [*mine, Change(drop_in(paths), "replace", interval_text(interval_s).encode())]


def install(changes: Sequence[Change], runner: Runner = run) -> None:
    """Write the files, and have the timer started at boot. The caller holds the lock.

    Raises:
        AegisError: A file cannot be written, or systemd refused.
    """
    service.carry_out(list(changes))
    runner(["systemctl", "daemon-reload"], timeout=_PATIENCE)
    runner(["systemctl", "enable", TIMER], timeout=_PATIENCE)


def start(runner: Runner = run) -> None:
    """Start the timer.

    Raises:
        CommandError: systemd refused.
    """
    runner(["systemctl", "start", TIMER], timeout=_PATIENCE)


def end(paths: Paths, runner: Runner = run) -> None:
    """Stop the timer and the workload, and have neither started again; nothing is no error.

    It is called by the service that the timer starts, too: so nobody waits for the stop.

    Raises:
        CommandError: systemd refused; the next turn tries again.
    """
    stop_workload(runner)
    if (paths.units / TIMER).exists():
        runner(["systemctl", "--no-block", "disable", "--now", TIMER], timeout=_PATIENCE)


def is_active(unit: str, runner: Runner = run) -> bool:
    """Return whether systemd runs a unit."""
    try:
        return runner(["systemctl", "is-active", unit], timeout=_PATIENCE).strip() == "active"
    except CommandError:  # it also ends so where it does not
        return False


def start_workload(command: Sequence[str], limits: Sequence[str], runner: Runner = run) -> None:
    """Run the workload in a unit of its own, in the place of one that is there.

    Args:
        command: What it runs.
        limits: Properties of the unit: ``CPUQuota=50%``.
        runner: Starts systemd-run.

    Raises:
        CommandError: systemd refused.
    """
    stop_workload(runner)
    words = [
        "systemd-run",
        "--quiet",
        "--collect",
        f"--unit={WORKLOAD}",
        "--description=Workload of a soak",
        *(f"--property={limit}" for limit in limits),
        *command,
    ]
    runner(words, timeout=_PATIENCE)


def stop_workload(runner: Runner = run) -> None:
    """Stop it; nothing is no error."""
    with contextlib.suppress(CommandError):  # of a unit that is not there
        runner(["systemctl", "stop", f"{WORKLOAD}.service"], timeout=_PATIENCE)


def has_systemd(paths: Paths) -> bool:
    """Return whether systemd runs this host, and these files are the host's."""
    return service.has_systemd(paths)
