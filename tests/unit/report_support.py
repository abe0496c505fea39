"""Rollouts as the callback plugin would tell them, result by result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aegis_tools.rollout.events import Event, Outcome, events
from aegis_tools.rollout.report import Run, build

OLD, NEW = "a1" * 32, "b2" * 32
START = 1_795_234_267.0


def plan(before: str = OLD, after: str = NEW, mode: str = "") -> dict[str, Any]:
    """Return a plan as the host prints it."""
    changes = [
        {"sign": "+", "rule": "ssh-keys", "what": ""},
        {"sign": "-", "rule": "old-vpn", "what": ""},
        {"sign": "~", "rule": "secrets", "what": "audit → enforce"},
    ]
    return {
        "digest": "c3" * 32,
        "changed": before != after,
        "before": before,
        "after": after,
        "mode": mode,
        "refreshed": 0,
        "changes": changes if before != after else [],
        "entries": {"deny_path": {"live": 1, "new": 2}},
    }


class Story:
    """A rollout that is told step by step.

    Args:
        names: All hosts of the play.
    """

    def __init__(self, *names: str, check: bool = False) -> None:
        self.now = START
        self.run = Run("playbooks/rollout.yml", START, "ann", "control", "2.19", names=names)
        self.run.check = check
        self.told: list[Event] = []

    def wave(self, *names: str) -> None:
        """Begin a wave."""
        self.now += 1
        self.run.waves.append((self.now, list(names)))

    def tell(
        self,
        host: str,
        action: str,
        result: Mapping[str, Any],
        *,
        outcome: Outcome = "ok",
        **arguments: Any,
    ) -> None:
        """Tell one result."""
        self.now += 0.5
        self.told += events(
            self.now, host, action, arguments=arguments, outcome=outcome, result=result
        )

    def planned(self, host: str, found: Mapping[str, Any] | None = None) -> None:
        """Ask the host and plan."""
        status = {"loaded": True, "policy": {"digest": OLD}, "mode": {"mode": "audit"}}
        self.tell(host, "aegisbpf_info", {"status": status, "installed": True})
        told = {"changed": False, "plan": found or plan()}
        self.tell(host, "aegisbpf_policy", told, state="planned", src="dist/web.bundle")

    def applied(self, host: str) -> None:
        """Apply what was planned."""
        told = {"changed": True, "plan": plan(), "digest": NEW, "pending": {"action": "policy"}}
        self.tell(host, "aegisbpf_policy", told, src="dist/web.bundle", confirm_within="2m")

    def looked(self, host: str, *reasons: str, matches: int = 0) -> None:
        """Look once, as a task of its own."""
        counters = {"blocks": matches, "audits": 0, "ringbuf_drops": 0}
        line = {"time": self.now, "reasons": list(reasons), "counters": counters}
        told = {"timeline": [line], "msg": "gate: " + "; ".join(reasons)}
        self.tell(host, "aegisbpf_gate", told, outcome="failed" if reasons else "ok")

    def settled(self, host: str, state: str, *, changed: bool = True) -> None:
        """Confirm or revert."""
        self.tell(host, "aegisbpf_policy", {"changed": changed}, state=state)

    def went_well(self, *names: str) -> None:
        """Let a whole wave pass."""
        self.wave(*names)
        for name in names:
            self.planned(name)
            self.applied(name)
        for number in range(3):
            for name in names:
                self.looked(name, matches=number)
        for name in names:
            self.settled(name, "confirmed")

    def stopped(self, *names: str) -> None:
        """Revert every host of a wave and say that it is over."""
        for name in names:
            self.settled(name, "reverted")
            told = {"msg": f"Undone on {name}: another host of this wave failed"}
            self.tell(name, "ansible.builtin.fail", told, outcome="failed")

    def report(self, result: str = "ok") -> dict[str, Any]:
        """Return the report."""
        self.run.result, self.run.ended = result, self.now + 1
        return build(self.run, self.told)


def a_failure(names: Sequence[str] = ("h1", "h2", "h3", "h4", "h5")) -> dict[str, Any]:
    """Return the report of a rollout whose second wave failed on its second host."""
    story = Story(*names)
    story.went_well(names[0])
    story.wave(*names[1:3])
    for name in names[1:3]:
        story.planned(name)
        story.applied(name)
    story.looked(names[1])
    story.looked(names[2], "7.5 refusals a second, 0.2 before; at most 1.6", matches=30)
    story.stopped(*names[1:3])
    return story.report("failed")
