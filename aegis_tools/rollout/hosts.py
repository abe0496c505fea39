"""What became of each host of a rollout, from the events it sent. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aegis_tools.rollout.events import ACTIONS, Event

OUTCOMES = {
    "unreachable": "could not be reached: what it was not told to keep it undoes by itself",
    "unconfirmed": "changed, and not confirmed: undoes it by itself when the time is over",
    "failed": "failed before it was changed",
    "rolled-back": "changed, and back as it was",
    "straggler": "not ready for it yet: left as it is",
    "stopped": "in a wave that was stopped before it was changed",
    "untouched": "not touched",
    "would-change": "would be changed",
    "changed": "changed and confirmed",
    "unchanged": "was as it should be",
}
"""How a host may end, what needs a person first."""
BEHIND = (
    "unreachable",
    "unconfirmed",
    "failed",
    "rolled-back",
    "straggler",
    "stopped",
    "untouched",
)
"""Those that are not where the rollout was to take them."""
UNDO = ("reverted", "undone")


@dataclass
class Host:
    """One host, while its events are read in order.

    Attributes:
        name: The inventory's.
        wave: Counted from 1; None where its wave never began.
        failure: Why this very host failed; empty where it did not, or another one of its wave did.
        failed_at: When it first did.
        note: What else was said of it.
    """

    name: str
    wave: int | None = None
    started: float | None = None
    ended: float | None = None
    before: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None
    file: str = ""
    mode: dict[str, str] | None = None
    looks: dict[float, dict[str, Any]] = field(default_factory=dict)
    failure: str = ""
    failed_at: float | None = None
    note: str = ""
    unreachable: bool = False
    straggler: bool = False
    same: bool = False
    applied: bool = False
    confirmed: bool = False
    reverted: bool = False

    def take(self, event: Event) -> None:
        """Learn from the next event."""
        if event.action in ACTIONS and event.outcome != "unreachable":
            self.started = event.time if self.started is None else self.started
            # Who answers after all is there; a gate is the controller's.
            self.unreachable = self.unreachable and event.action == "aegisbpf_gate"
        self.ended = event.time
        for look in event.facts.get("looks", ()):
            self.looks[look["time"]] = look
        if event.outcome == "unreachable":
            self.unreachable = True
            self._because(event)
        elif event.outcome == "failed":
            self._failed(event)
        elif "straggler" in event.facts:
            self.straggler, self.note = True, event.facts["straggler"]
        elif event.action == "aegisbpf_info":
            self.before = self.before or event.facts.get("host")
        elif event.action == "aegisbpf_undo" or event.state in UNDO:
            self.reverted = self.reverted or (event.facts["changed"] and self.applied)
        elif event.action == "aegisbpf_policy":
            self._policy(event)
        elif event.action == "aegisbpf_mode":
            self._mode(event)

    def _failed(self, event: Event) -> None:
        message = event.facts["msg"]
        # A rescue ends with a word to every host of the wave, whoever of them failed; and what is
        # refused before a host was asked, or after it was done, is the rollout's, not its own.
        word = event.action == "fail" or (event.action == "assert" and self.confirmed)
        if word or self.started is None:
            self.note = self.note or message
        else:
            self._because(event)

    def _because(self, event: Event) -> None:
        if not self.failure:
            self.failure, self.failed_at = event.facts["msg"], event.time

    def _policy(self, event: Event) -> None:
        changed, plan = event.facts["changed"], event.facts.get("plan")
        if event.state == "confirmed":
            self.confirmed = self.confirmed or changed
        elif plan and event.state == "planned":
            self.plan, self.file = plan, event.facts["file"]
            self.same = not (plan["changes"] or plan["refreshed"] or plan["mode"]) and (
                plan["before"] == plan["after"]
            )
        elif plan and self.applied and self.plan and plan["after"] == self.plan["before"]:
            self.reverted = self.reverted or changed
        elif plan:
            self.plan, self.file = plan, event.facts["file"]
            self._changed(changed, pending=event.facts["pending"])

    def _mode(self, event: Event) -> None:
        if event.facts["changed"]:
            self.mode = {"before": event.facts["was"], "after": event.facts["mode"]}
        self._changed(event.facts["changed"], pending=event.facts["pending"])

    def _changed(self, changed: bool, *, pending: bool) -> None:
        self.same = not changed and not self.applied
        if changed:
            self.applied, self.confirmed, self.reverted = True, not pending, False

    def outcome(self, *, check: bool, well: bool) -> str:
        """Return which of OUTCOMES it is.

        Args:
            check: Nothing was to be changed.
            well: The playbook came to its end: who was not changed had not to be.
        """
        if self.unreachable:
            return "unreachable"
        if self.applied and not check:
            kept = "changed" if self.confirmed else "unconfirmed"
            return "rolled-back" if self.reverted else kept
        if self.failure or self.straggler:
            return "failed" if self.failure else "straggler"
        if check and not self.same and (self.applied or self.plan):
            return "would-change"
        if self.same or (well and self.started is not None):
            return "unchanged"
        return "untouched" if self.started is None else "stopped"


def follow(
    names: Iterable[str], waves: Iterable[Iterable[str]], told: Iterable[Event]
) -> dict[str, Host]:
    """Return every host by name.

    Args:
        names: All hosts of the play, in its order.
        waves: The hosts of each wave that began.
        told: Events, in the order in which they came.
    """
    hosts = {name: Host(name) for name in names}
    for number, wave in enumerate(waves, 1):
        for name in wave:
            host = hosts.setdefault(name, Host(name))
            host.wave = host.wave or number
    for event in told:
        hosts.setdefault(event.host, Host(event.host)).take(event)
    return hosts
