"""What is looked at when an agent keeps dying: journals, systemd, cores, a load on trial."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from aegis_tools.control import health
from aegis_tools.control.bootstate import read_boot_state
from aegis_tools.control.health import Check
from aegis_tools.errors import AegisError, CommandError
from aegis_tools.incident import unit
from aegis_tools.incident.case import Case
from aegis_tools.kernel import loader
from aegis_tools.kernel.accounting import raise_memlock
from aegis_tools.kernel.features import Features, is_bpffs
from aegis_tools.kernel.pins import Pins
from aegis_tools.kernel.run import Runner
from aegis_tools.paths import Paths

SINCE = "-1h"
_LINES = 3000
_KERNEL_LINES = 300
_JOURNAL = ("journalctl", "--no-pager", "--quiet", "--output=short-iso")


class Part(NamedTuple):
    """One thing that is looked at.

    Attributes:
        name: A stable word; its evidence file is ``NAME.txt``.
        message: For a person.
        read: Reads it.
        source: Which source of ``classify`` it is; empty for none.
    """

    name: str
    message: str
    read: Callable[[], str]
    source: str = ""


def parts(runner: Runner) -> tuple[Part, ...]:
    """Return what programs can tell."""
    return (
        Part("journal", "read what the units logged", partial(_journal, runner), "journal"),
        Part("kernel-log", "read the kernel's log", partial(_kernel_log, runner), "kernel"),
        Part("systemd", "ask systemd how the agent ended", partial(_show, runner), "systemd"),
        Part("unit", "read the unit with its drop-ins",
             lambda: runner(["systemctl", "cat", unit.NAME])),
        Part("cores", "look for core dumps", partial(_cores, runner)),
    )  # fmt: skip


def texts(case: Case, *, systemd: bool, shown: str = "") -> dict[str, str]:
    """Collect everything into the record; return the texts by source of ``classify``.

    What cannot be read is said in the record, and is no reason to stop.

    Args:
        case: The run.
        systemd: Whether systemd runs the agent.
        shown: What systemd said of it before the loop was ended: a stop makes it forget.
    """
    found: dict[str, str] = {}
    there = parts(case.seams.run) if systemd else parts(case.seams.run)[1:2]
    for part in there:
        text = case.look(part.name, part.message, part.read).value or ""
        text = shown if shown and part.source == "systemd" else text
        if text:
            case.record.file(f"{part.name}.txt", text)
        if part.source:
            found[part.source] = text
    checks = case.look(
        "stored-state", "check what is stored", partial(state_checks, case.paths, _now(case))
    )
    found["state"] = "\n".join(check.message for check in checks.value or ())
    return found


def _now(case: Case) -> int:
    return int(case.seams.wall())


def _journal(runner: Runner) -> str:
    """Return what the units and systemd said of them; events are left out, for they may be many."""
    text = runner(
        [*_JOURNAL, f"--since={SINCE}", f"--lines={_LINES}", "-u", unit.NAME, "-u", unit.BOOT]
    )
    return "".join(f"{line}\n" for line in text.splitlines() if '{"time":"' not in line)


def _kernel_log(runner: Runner) -> str:
    try:
        return runner([*_JOURNAL, "--dmesg", f"--lines={_KERNEL_LINES}"])
    except CommandError:
        return "\n".join(runner(["dmesg"]).splitlines()[-_KERNEL_LINES:])


def _show(runner: Runner) -> str:
    return unit.read(runner).text


def _cores(runner: Runner) -> str:
    try:
        return runner(["coredumpctl", "--no-pager", "--quiet", f"--since={SINCE}", "list"])
    except CommandError:  # it also ends so where there is none
        return ""


def state_checks(paths: Paths, now: int) -> list[Check]:
    """Return the checks of stored files that fail."""
    found = [check for check in health.config_checks(paths, now=now) if check.ok is False]
    try:
        read_boot_state(paths)
    except AegisError as error:
        found.append(Check("boot-state", False, error.message, error.hint, error.exit_code))
    return found


def needs_trial(pins: Pins) -> bool:
    """Return whether the kernel has not taken this version's programs yet, as far as is known."""
    if not is_bpffs(pins.base.parent):
        return False
    try:
        return not pins.is_loaded() or pins.object() != loader.object_name(
            fallback=pins.is_fallback()
        )
    except AegisError:
        return True


def trial(pins: Pins, features: Features, runner: Runner, *, objects: Path = loader.OBJECTS) -> str:
    """Load this version's programs, attach none, and remove them; return what the kernel says.

    The caller holds the lock.

    Returns:
        The verifier's output, or why they cannot be loaded; empty where they can.
    """
    reason = "" if features.lsm_active else "BPF LSM is not active on this boot"
    try:
        raise_memlock()
        options = loader.LoadOptions()
        loader.build(pins, options, fallback=reason, objects=objects, runner=runner)
    except AegisError as error:
        return f"{error.detail}\n{error.message}".strip()
    finally:
        pins.staging.remove_all()
        if not pins.is_loaded():
            pins.remove_all()
    return ""
