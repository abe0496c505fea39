"""What has changed on the host since the last turn, and how long the soak has lasted. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from aegis_tools.soak.columns import Sample
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.state import State

JUMP_SECONDS = 5.0
"""By so much the wall clock may differ from the boot clock without that being told."""
GAP_INTERVALS = 3
OFF_SECONDS = 3600.0
"""Of the time between two boots so much counts at most: the wall clock may be wrong by then."""


class Now(NamedTuple):
    """When a turn is made, and what the host is like.

    Attributes:
        wall: Unix seconds.
        boot: The first 8 hex digits of the boot's id.
        boot_s: Seconds since that boot.
        mode: One of ``columns.MODES``.
        policy: The live policy's digest, 64 hex digits; empty for none.
    """

    wall: float
    boot: str
    boot_s: float
    mode: str
    policy: str


def rebooted(before: State, now: Now) -> bool:
    """Return whether the host was started again since; a boot clock that went back says so, too."""
    return before.boot != now.boot or now.boot_s < before.boot_s


def elapsed(before: State, now: Now) -> float:
    """Return how many seconds the soak has lasted by now.

    A wall clock that jumps ends no soak early: within a boot it is not asked.
    """
    if not rebooted(before, now):
        return before.elapsed_s + now.boot_s - before.boot_s
    return before.elapsed_s + min(max(now.wall - before.wall, 0.0), OFF_SECONDS)


def up_to(before: State, newest: Sample | None, now: Now) -> State:
    """Return what the last turn remembered, with the time of the newest row where that is later.

    A turn that made its row and could not be remembered, as where the disk is full, was made.
    """
    if newest is None or newest.boot != now.boot or newest.boot_s is None:
        return before
    if newest.boot_s > now.boot_s or (before.boot == now.boot and newest.boot_s <= before.boot_s):
        return before
    return replace(before, wall=newest.timestamp, boot=now.boot, boot_s=newest.boot_s)


def told(before: State, now: Now, interval_s: int, *, fresh: bool = False) -> list[Happened]:
    """Return what has changed, in the order in which it is to be understood.

    Args:
        before: What the last turn remembered.
        now: What this one sees.
        interval_s: Seconds between turns.
        fresh: Of the host nothing is remembered; of the time, unless it is the first turn.
    """
    found = list(_times(before, now, interval_s)) if before.turn else []
    return found if fresh else [*found, *_what(before, now)]


def _times(before: State, now: Now, interval_s: int) -> Iterator[Happened]:
    if rebooted(before, now):
        off = now.wall - before.wall
        yield Happened(
            now.wall,
            "reboot",
            f"the host was started again; the last turn was {off:.0f} s ago",
            boot_s=now.boot_s,
            value=round(off, 3),
        )
        return
    passed = now.boot_s - before.boot_s
    jump = now.wall - before.wall - passed
    if abs(jump) > JUMP_SECONDS:
        text = f"the wall clock was set by {jump:+.0f} s"
        yield Happened(now.wall, "clock", text, boot_s=now.boot_s, value=round(jump, 3))
    if passed > GAP_INTERVALS * interval_s:
        text = f"no turn was made for {passed:.0f} s"
        yield Happened(now.wall, "gap", text, boot_s=now.boot_s, value=round(passed, 3))


def _what(before: State, now: Now) -> Iterator[Happened]:
    if before.mode != now.mode:
        text = f"the mode was {before.mode} and is {now.mode}"
        yield Happened(now.wall, "mode", text, boot_s=now.boot_s)
    if before.policy != now.policy:
        was, new = (digest[:12] or "none" for digest in (before.policy, now.policy))
        text = f"the live policy was {was} and is {new}"
        yield Happened(now.wall, "policy", text, boot_s=now.boot_s)
