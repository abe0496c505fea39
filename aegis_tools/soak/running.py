"""The soak that runs: its next turn, its end, and the loop of one in the foreground."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aegis_tools.control import files
from aegis_tools.control.bootclock import SYSTEM, Seams
from aegis_tools.control.lock import locked
from aegis_tools.errors import AegisError, StateError
from aegis_tools.paths import Paths
from aegis_tools.soak import reading, state, turn
from aegis_tools.soak.folder import folder
from aegis_tools.soak.settings import MAX_JSON, Settings, parse_settings
from aegis_tools.soak.turn import Made

if TYPE_CHECKING:
    from aegis_tools.soak.finish import Ended

LOCK_SECONDS = 30.0
"""For another turn, or an end: it may read all rows of a long soak."""


@dataclass(frozen=True)
class Step:
    """What was done.

    Attributes:
        identifier: The soak; empty where none runs.
        made: The turn; None where none was due.
        ended: How the soak ended with it; None while it runs.
    """

    identifier: str = ""
    made: Made | None = None
    ended: Ended | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        verdict = self.ended.verdict if self.ended else None
        return {
            "soak": self.identifier,
            "running": bool(self.identifier) and self.ended is None,
            **(self.made.to_dict() if self.made else {}),
            "verdict": verdict.text if verdict else None,
            "problems": list(self.ended.problems) if self.ended else [],
        }


def step(
    paths: Paths,
    *,
    seams: Seams = SYSTEM,
    sleep: Callable[[float], None] = time.sleep,
    only: str = "",
) -> Step:
    """Make the next turn of the soak that runs, and end it when its time is over.

    Where none runs, the timer that asked for a turn is stopped.

    Args:
        paths: The host.
        seams: Clock and programs.
        sleep: Waits.
        only: Make one only of this soak; empty for whichever runs.

    Raises:
        StateError: The turn could not be written down; the next one is made all the same.
    """
    with locked(paths.soak_lock, command="soak sample", timeout=LOCK_SECONDS):
        name = _current(paths, seams)
        if not name or (only and name != only):
            _nothing(paths, name, seams)
            return Step()
        at = folder(paths, name)
        if files.exists(at.result):
            return _clean_up(paths, name, seams)
        settings = read_settings(paths, name)
        before = state.read(at.state)
        made = turn.make(paths, at, settings, seams=seams, sleep=sleep)
        if made.state.elapsed_s >= settings.duration_s:
            from aegis_tools.soak import finish

            return Step(name, made, finish.finish(paths, name, finish.DONE, seams=seams))
        rebooted = before is not None and before.boot != made.state.boot
        _afterwards(paths, settings, made, seams, again=rebooted)
        return Step(name, made)


def _current(paths: Paths, seams: Seams) -> str:
    """Return the soak that runs; one whose beginning was killed is undone first."""
    name = reading.running(paths)
    if not name or files.exists(folder(paths, name).settings):
        return name
    from aegis_tools.soak import begin

    begin.undo(paths, name, seams=seams)
    return ""


def _nothing(paths: Paths, name: str, seams: Seams) -> None:
    """Stop the timer, where no soak runs that it would be for."""
    from aegis_tools.soak import unit

    if not name and unit.has_systemd(paths):
        unit.end(paths, seams.run)


def _clean_up(paths: Paths, name: str, seams: Seams) -> Step:
    from aegis_tools.soak import finish

    return Step(name, None, finish.clean_up(paths, name, seams=seams))


def _afterwards(paths: Paths, settings: Settings, made: Made, seams: Seams, *, again: bool) -> None:
    """Collect the evidence of the first failure; after a reboot start the workload again."""
    at = folder(paths, settings.id)
    if made.failed and not made.state.evidence:
        from aegis_tools.soak import evidence

        evidence.collect(paths, at, evidence.FIRST, runner=seams.run)
        state.write(at.state, replace(made.state, evidence=True))
    if again and settings.workload != "none":
        from aegis_tools.soak import unit, workload

        if not unit.has_systemd(paths):
            return
        left = settings.duration_s - made.state.elapsed_s
        workload.start(paths, settings.workload, left, seams.run)


def stop(paths: Paths, *, seams: Seams = SYSTEM, only: str = "") -> Ended:
    """End the soak that runs, before its time.

    Args:
        paths: The host.
        seams: Clock and programs.
        only: End only this soak; empty for whichever runs.

    Raises:
        StateError: None runs, or its end could not be written down.
    """
    from aegis_tools.soak import finish

    with locked(paths.soak_lock, command="soak stop", timeout=LOCK_SECONDS):
        name = _current(paths, seams)
        if not name or (only and name != only):
            raise StateError("no soak is running", hint="see: aegisbpf soak list")
        return finish.finish(paths, name, finish.STOPPED, seams=seams)


def read_settings(paths: Paths, identifier: str) -> Settings:
    """Read what a soak is, and nothing else of it.

    Raises:
        StateError: It is damaged.
    """
    at = folder(paths, identifier).settings
    data = files.read_limited(at, MAX_JSON, what="settings of the soak")
    try:
        return parse_settings(data)
    except ValueError as error:
        raise StateError(
            "the settings of the running soak are damaged",
            hint="end it: aegisbpf soak stop",
            detail=f"{at}: {error}",
        ) from error


def follow(
    paths: Paths,
    settings: Settings,
    wait: Callable[[float], bool],
    *,
    tell: Callable[[Step], None],
    warn: Callable[[AegisError], None],
    at_once: bool = False,
    seams: Seams = SYSTEM,
) -> Ended | None:
    """Make the turns of a soak in this process until it ends; return how it did.

    Args:
        paths: The host.
        settings: Of the soak; its first turn was made.
        wait: Waits for so many seconds; says whether to stop, in order.
        tell: Is told of every turn.
        warn: Is told of a turn that could not be written down: the next one may be.
        at_once: Make the first one now.
        seams: Clock and programs.

    Returns:
        None where somebody else has ended it.
    """
    due = seams.boot_ns() / 1e9
    while True:
        now = seams.boot_ns() / 1e9
        # In a fixed rhythm; what a host that was asleep has missed is not made up for.
        if not at_once:
            due += settings.interval_s * (int((now - due) // settings.interval_s) + 1)
        at_once = False
        if wait(max(due - now, 0.0)):
            return stop(paths, seams=seams, only=settings.id)
        try:
            done = step(paths, seams=seams, only=settings.id)
        except AegisError as error:
            warn(error)
            continue
        if not done.identifier:
            return None
        tell(done)
        if done.ended is not None:
            return done.ended
