"""What a match leads to right now: the mode that was set, and what stands above it."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from aegis_tools.control.live import Live
from aegis_tools.kernel.layout import Config
from aegis_tools.paths import Paths

MODES = ("audit", "enforce")
"""By number, enum aegis_mode."""

STATES = {
    "enforcing": "matches of enforcing rules are refused",
    "auditing": "nothing is refused: the mode is audit",
    "audit-fallback": "AUDIT FALLBACK: the audit fallback is loaded, nothing can be refused",
    "deadline-passed": "nothing is refused: the change was not confirmed in time",
    "disabled": "nothing is refused or watched: disabled is on",
    "detached": "nothing is refused or watched: hooks are detached",
}


class Posture(NamedTuple):
    """The mode and its effect.

    Attributes:
        mode: As set: ``audit`` or ``enforce``.
        state: A key of STATES.
        deadline: Seconds until enforce counts as audit; negative when passed, None without one.
            There is one exactly while a change is not confirmed.
        held: Why the host is held in audit (control.fallback); empty where it is not.
    """

    mode: str
    state: str
    deadline: float | None
    held: str = ""

    @property
    def enforcing(self) -> bool:
        """Whether anything can be refused."""
        return self.state == "enforcing"

    @property
    def meaning(self) -> str:
        """The state in one line, for a person."""
        text = STATES[self.state]
        if self.held:
            text += f"; HELD IN AUDIT, {self.held}: aegisbpf resume"
        return text + unconfirmed(self.deadline)

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        deadline = None if self.deadline is None else round(self.deadline, 3)
        return {
            "mode": self.mode,
            "state": self.state,
            "enforcing": self.enforcing,
            "deadline_seconds": deadline,
            "unconfirmed": self.deadline is not None,
            "held": self.held,
            "meaning": self.meaning,
        }


def unconfirmed(deadline: float | None) -> str:
    """Return what to add where a change is not confirmed; empty without a deadline.

    Args:
        deadline: Seconds left; negative when passed.
    """
    if deadline is None:
        return ""
    if deadline < 0:
        return "; UNCONFIRMED, and the time is over: aegisbpf policy revert"
    return f"; UNCONFIRMED, reverts in {deadline:.0f} s: aegisbpf policy confirm"


def judge(
    mode: int, deadline: float | None, *, disabled: bool, attached: bool, fallback: bool
) -> Posture:
    """Return the posture that these facts make; see decide() in bpf/decide.h."""
    name = MODES[mode] if mode < len(MODES) else "audit"
    if not attached:
        state = "detached"
    elif disabled:
        state = "disabled"
    elif fallback:
        state = "audit-fallback"
    elif name == "audit":
        state = "auditing"
    elif deadline is not None and deadline < 0:
        state = "deadline-passed"
    else:
        state = "enforcing"
    return Posture(name, state, deadline)


def read_posture(live: Live, paths: Paths | None = None) -> Posture:
    """Return the posture of what is loaded; with ``paths`` also whether it is held in audit."""
    held = ""
    if paths is not None:
        from aegis_tools.control.fallback import why_held

        held = why_held(paths)
    at = live.config(Config.DEADLINE)
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    posture = judge(
        live.config(Config.MODE),
        (at - now) / 1e9 if at else None,
        disabled=bool(live.config(Config.DISABLED)),
        attached=live.pins.is_attached(),
        fallback=live.pins.is_fallback(),
    )
    return posture._replace(held=held)
