"""What a host looks like whose agent may keep dying, or whose stored policy may be damaged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aegis_tools.control import fallback, starts
from aegis_tools.control.heartbeat import life, read_heartbeat
from aegis_tools.control.live import Live
from aegis_tools.control.service import has_systemd
from aegis_tools.control.store import Store
from aegis_tools.errors import AegisError, NotLoadedError, StateError
from aegis_tools.incident import known_good, unit
from aegis_tools.incident.case import Case
from aegis_tools.incident.content import Content
from aegis_tools.incident.shelf import Shelf
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Mode

END_LOOP, STOP_AGAIN = "end-loop", "stop-again"
"""Actions after which the agent is stopped."""
_AGAIN = 5.0
"""Seconds between two looks at an agent that was started again at some time: RestartSec is 2."""


@dataclass(frozen=True)
class Seen:
    """What the host looks like.

    Attributes:
        unit: What systemd says of the agent; None where systemd does not run it.
        held: Why the host is held in audit; None where it is not.
        starts: Unclean starts within the window.
        restarted: systemd started it again while we looked.
        alive: It gives signs of life, or holds its lock.
        damaged: Why the stored policy cannot be used; empty where it can.
        interrupted: An earlier run stopped the agent and did not start it.
        known: A run has looked into this hold already.
        lost: A policy is stored, and none is live.
        boot_failed: What loads and applies at boot has failed.
    """

    unit: unit.State | None
    held: fallback.Fallback | None
    starts: int
    restarted: bool
    alive: bool
    damaged: str
    interrupted: bool
    known: bool
    lost: bool
    boot_failed: bool = False

    @property
    def looping(self) -> bool:
        """Whether the agent dies again and again."""
        if self.unit is not None and (self.unit.loops or self.restarted):
            return True
        return starts.is_loop(self.starts) and not self.alive

    @property
    def held_for_it(self) -> bool:
        """Whether the guard of the agent holds the host, and nobody has looked why."""
        return self.held is not None and self.held.reason == "crash-loop" and not self.known

    @property
    def agent_trouble(self) -> bool:
        """Whether it is about the agent, and not only about what is stored."""
        return self.looping or self.held_for_it or self.interrupted

    @property
    def found(self) -> bool:
        """Whether there is anything to recover from."""
        return self.agent_trouble or self.boot_failed or bool(self.damaged)

    def signs(self) -> list[str]:
        """Return what shows it, for a person."""
        found = []
        if self.looping and self.unit is not None:
            state = f"{self.unit.active}/{self.unit.sub}"
            found.append(f"{unit.NAME} is {state}, started again {self.unit.restarts} times")
        if self.starts > 1:
            found.append(f"{self.starts} unclean starts within {starts.WINDOW_SECONDS} s")
        if self.held is not None:
            found.append(f"held in audit: {self.held.meaning}")
        if self.interrupted:
            found.append("an earlier run of this stopped the agent, and it does not run yet")
        if self.boot_failed:
            found.append(f"{unit.BOOT} has failed")
        if self.damaged:
            found.append(self.damaged)
        return found


Systemd = Callable[[Paths], bool]
"""Whether systemd runs, and is that of the files."""


def look(case: Case, systemd: Systemd = has_systemd) -> Seen:
    """Look at the host; changes nothing."""
    paths, runner = case.paths, case.seams.run
    state = unit.read(runner) if unit.is_there(paths, runner, systemd) else None
    restarted = False
    if state is not None and state.restarts and not state.loops:
        case.sleep(_AGAIN)
        now = unit.read(runner)
        restarted, state = now.restarts > state.restarts or now.loops, now
    held = held_by(case)
    beat = read_heartbeat(paths)
    wrong = known_good.damage(paths, now=int(case.seams.wall()))
    stopped = state is not None and state.active in ("inactive", "failed")
    return Seen(
        unit=state,
        held=held,
        starts=len(starts.recent(starts.read_starts(paths), case.seams.boot_ns())),
        restarted=restarted,
        alive=beat is not None and life(paths, beat, case.seams.boot_ns()).runs,
        damaged=wrong.message if wrong else "",
        interrupted=stopped and _stopped_by_us(case),
        known=held is not None and _looked_into(case, held),
        lost=is_lost(case),
        boot_failed=state is not None and unit.read(runner, unit.BOOT).active == "failed",
    )


def held_by(case: Case) -> fallback.Fallback | None:
    """Return why the host is held in audit, also by a record that cannot be read."""
    try:
        return fallback.read(case.paths)
    except StateError as error:
        return fallback.Fallback(0, "damaged", error.message, Mode.AUDIT)


def _records(case: Case) -> Iterator[Content]:
    """Yield the earlier runs, newest first."""
    with contextlib.suppress(StateError):
        for one in Shelf(case.paths).all():
            if one.content is not None and one.content.scenario == case.record.scenario:
                yield one.content


def _looked_into(case: Case, held: fallback.Fallback) -> bool:
    ended = (one.ended for one in _records(case) if one.result == "recovered")
    return (next(ended, None) or 0) >= held.since


def _stopped_by_us(case: Case) -> bool:
    """Return whether the newest run stopped the agent, and did not bring it up."""
    for one in _records(case):
        did = {action["action"] for action in one.actions if action["ok"] is not False}
        return one.result in ("", "not-recovered") and bool(did & {END_LOOP, STOP_AGAIN})
    return False


def is_lost(case: Case) -> bool:
    """Return whether a policy is stored, and none is live."""
    try:
        if Store(case.paths).records()[0] is None:
            return False
        with Live(Pins(case.paths.pins)) as live:
            return not any(live.info().bundle)
    except NotLoadedError:
        return True
    except AegisError:
        return False
