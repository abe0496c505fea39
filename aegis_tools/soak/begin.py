"""The beginning of a soak: what has to hold, and what is made.

Order of the effects, and what a death after each leaves:
  running        a name without settings: whoever comes next undoes it
  folder, canary, units, workload
                 as above
  settings       the soak runs; at the latest after a boot its timer is started
  timer          nothing
"""

from __future__ import annotations

import contextlib
import shutil

from aegis_tools.control import files, service
from aegis_tools.control.bootclock import SYSTEM, Seams
from aegis_tools.control.lock import locked
from aegis_tools.control.remember import try_to_remember
from aegis_tools.errors import AegisError, StateError
from aegis_tools.paths import Paths
from aegis_tools.soak import placing, reading, state, telling, turn, unit, workload
from aegis_tools.soak.folder import Folder, folder
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.plan import Plan, check_free
from aegis_tools.soak.settings import Settings
from aegis_tools.soak.state import State
from aegis_tools.soak.turn import Made


def begin(paths: Paths, made: Plan, *, seams: Seams = SYSTEM) -> Made:
    """Begin a soak, its first turn included; what fails on the way is undone.

    Raises:
        AegisError: It cannot begin; nothing is left of it.
    """
    with locked(paths.soak_lock, command="soak start"):
        check_free(paths)
        dead = reading.running(paths)
        if dead:
            undo(paths, dead, seams=seams)
        return _begin(paths, made, seams)


def _begin(paths: Paths, made: Plan, seams: Seams) -> Made:
    settings, at = made.settings, folder(paths, made.settings.id)
    background = not made.wanted.foreground
    units = unit.plan(paths, service.program(), settings.interval_s) if background else []
    files.ensure_folder(paths.state)
    files.ensure_folder(paths.soaks)
    if files.exists(at.path):
        raise StateError("a soak began this very second", hint="run the command again")
    files.write_atomic(
        paths.soak_running, f"{settings.id}\n".encode(), what="name of the running soak"
    )
    try:
        first = _make(paths, at, settings, made.shadow, seams)
        if background:
            unit.install(units, seams.run)
            if settings.workload != "none":
                workload.start(paths, settings.workload, settings.duration_s, seams.run)
        files.write_atomic(at.settings, settings.to_bytes(), what="settings of the soak")
    except BaseException:
        undo(paths, settings.id, seams=seams)
        raise
    with locked(paths.lock, command="soak start"):
        override = f", override: {settings.override}" if settings.override else ""
        try_to_remember(paths, "soak start", f"{settings.id}{override}")
    if background:
        unit.start(seams.run)
    return first


def _make(paths: Paths, at: Folder, settings: Settings, shadow: str, seams: Seams) -> Made:
    """Make the folder, place the canary, make the first turn.

    Raises:
        AegisError: The canary does not work, or something cannot be written.
    """
    files.ensure_folder(at.path)
    files.remove(telling.untold(paths), what=telling.WHAT)
    events = [Happened(settings.started, "begun", _begun(settings, shadow), settings.boot_s)]
    if settings.override:
        text = telling.cut(f"begun without a passed soak in shadow: {settings.override}")
        events.append(Happened(settings.started, "override", text, settings.boot_s))
    state.write(at.state, telling.tell(paths, settings.id, State(), events))
    first = turn.make(paths, at, settings, seams=seams)
    if first.sample.canary != "ok":
        why = next((one.text for one in first.happened), "the host changed meanwhile")
        raise StateError(
            f"the soak cannot begin: {why}",
            hint="see whether the hooks work: aegisbpf health",
        )
    return first


def _begun(settings: Settings, shadow: str) -> str:
    text = f"a soak of {settings.duration_s} s in {settings.scenario}, mode {settings.mode}"
    return f"{text}; {shadow} has passed in shadow" if shadow else text


def undo(paths: Paths, identifier: str, *, seams: Seams = SYSTEM) -> None:
    """Take away all of a soak that has not begun, or whose beginning was killed.

    The caller holds the soak's lock.

    Raises:
        StateError: It cannot be written down that none runs.
    """
    at = folder(paths, identifier)
    if unit.has_systemd(paths):
        with contextlib.suppress(AegisError):
            unit.end(paths, seams.run)
    with contextlib.suppress(AegisError, OSError), locked(paths.lock, command="soak start"):
        placing.remove(paths, at.path)
    shutil.rmtree(at.path, ignore_errors=True)
    files.remove(paths.soak_running, what="name of the running soak")
