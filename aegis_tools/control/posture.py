"""What a match leads to right now: the mode that was set, and what stands above it."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from aegis_tools.control.live import Live
from aegis_tools.kernel.layout import Config

MODES = ("audit", "enforce")
"""By number, enum aegis_mode."""

STATES = {
    "enforcing": "matches of enforcing rules are refused",
    "auditing": "nothing is refused: the mode is audit",
    "audit-fallback": "AUDIT FALLBACK: the audit fallback is loaded, nothing can be refused",
    "deadline-passed": "nothing is refused: the policy was not confirmed in time",
    "disabled": "nothing is refused or watched: disabled is on",
    "detached": "nothing is refused or watched: hooks are detached",
}


class Posture(NamedTuple):
    """The mode and its effect.

    Attributes:
        mode: As set: ``audit`` or ``enforce``.
        state: A key of STATES.
        deadline: Seconds until enforce counts as audit; negative when passed, None without one.
    """

    mode: str
    state: str
    deadline: float | None

    @property
    def enforcing(self) -> bool:
        """Whether anything can be refused."""
        return self.state == "enforcing"

    @property
    def meaning(self) -> str:
        """The state in one line, for a person."""
        text = STATES[self.state]
        if self.enforcing and self.deadline is not None:
            text += f", for {self.deadline:.0f} s more unless it is confirmed"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        deadline = None if self.deadline is None else round(self.deadline, 3)
        return {
            "mode": self.mode,
            "state": self.state,
            "enforcing": self.enforcing,
            "deadline_seconds": deadline,
            "meaning": self.meaning,
        }


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


def read_posture(live: Live) -> Posture:
    """Return the posture of what is loaded."""
    at = live.config(Config.DEADLINE)
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return judge(
        live.config(Config.MODE),
        (at - now) / 1e9 if at else None,
        disabled=bool(live.config(Config.DISABLED)),
        attached=live.pins.is_attached(),
        fallback=live.pins.is_fallback(),
    )
