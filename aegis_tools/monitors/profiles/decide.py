"""From measures to what is to be done: pure, with hysteresis.

A limit is exceeded once what is measured is above it, or once the kernel had to hold it. It counts
as kept again when the measure has been below nine tenths of it for a while, and the kernel quiet.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from aegis_tools.monitors.profiles.model import Action, Limit

RELEASE = 0.9
CALM = 5.0
"""Seconds below RELEASE of the threshold after which a limit is kept again."""
REMIND = 60.0
"""Seconds after which a limit that stays exceeded is told of again."""


@dataclass(frozen=True)
class Process:
    """Who is to blame, as far as it is known."""

    pid: int
    comm: str
    uid: int | None = None


@dataclass(frozen=True)
class Measure:
    """What was measured since the last time.

    Attributes:
        value: In the unit of the limit.
        process: The one that has the most of it.
        held: How often the kernel held the limit: throttled, refused, dropped a packet.
        killed: How many processes the kernel killed for it.
        device: The disk it was measured at: ``8:16``; None of other limits.
    """

    value: int
    process: Process | None = None
    held: int = 0
    killed: int = 0
    device: str | None = None


class Change(Enum):
    """What an event is about."""

    EXCEEDED = "exceeded"
    CONTINUES = "continues"
    ENDED = "ended"


@dataclass(frozen=True)
class State:
    """What is remembered of a limit between two measures; times are seconds of one clock.

    Attributes:
        active: It is exceeded.
        calm_since: Since when it is below; None while it is above.
        told: When an event said so last.
    """

    active: bool = False
    calm_since: float | None = None
    told: float = 0.0


@dataclass(frozen=True)
class Decision:
    """What follows from a measure.

    Attributes:
        change: What to tell; None for nothing.
        terminate: A process is to be ended now.
    """

    change: Change | None = None
    terminate: bool = False


def decide(
    limit: Limit, measure: Measure, state: State, now: float, *, by_kernel: bool
) -> tuple[State, Decision]:
    """Return the state after a measure, and what follows from it.

    Args:
        limit: What may not be exceeded.
        measure: What was measured.
        state: What was remembered.
        now: Seconds of the state's clock.
        by_kernel: The kernel itself ends processes, so that nobody else has to.
    """
    if measure.value > limit.threshold or measure.held or measure.killed:
        kill = limit.action is Action.TERMINATE and not by_kernel
        return _exceeded(measure, state, now, kill=kill and measure.value > limit.threshold)
    if not state.active:
        return State(), Decision()
    if measure.value > limit.threshold * RELEASE:
        return State(True, None, state.told), Decision()
    since = now if state.calm_since is None else state.calm_since
    if now - since >= CALM:
        return State(), Decision(Change.ENDED)
    return State(True, since, state.told), Decision()


def _exceeded(measure: Measure, state: State, now: float, *, kill: bool) -> tuple[State, Decision]:
    if not state.active:
        return State(True, None, now), Decision(Change.EXCEEDED, kill)
    if kill or measure.killed or now - state.told >= REMIND:
        return State(True, None, now), Decision(Change.CONTINUES, kill)
    return State(True, None, state.told), Decision()
