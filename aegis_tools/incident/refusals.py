"""Which rule is it: what the kernel counted, what events show and what the probe met, judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

PROCESSES = 10
_ROOM = 4096
REFUSED = ("BLOCK", "TERM", "KILL", "INT")
"""Actions of events that tell of a refusal."""


@dataclass
class Seen:
    """What events show of one rule's refusals.

    Attributes:
        count: How many.
        first: When the first was, as events have it; empty for none.
        last: When the last was.
        processes: How many by (process, unit, operation, path or address).
        pids: Of some of them, by process.
    """

    count: int = 0
    first: str = ""
    last: str = ""
    processes: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    pids: dict[str, int] = field(default_factory=dict)

    def add(self, event: Mapping[str, Any]) -> None:
        """Count an event."""
        first, last = event.get("first") or event["time"], event["time"]
        self.count += event["count"]
        self.first = min(self.first or first, first)
        self.last = max(self.last, last)
        what = event.get("path") or event.get("address", "")
        key = (event["comm"], event["unit"], event["operation"], what)
        if key in self.processes or len(self.processes) < _ROOM:
            self.processes[key] += event["count"]
        if event["comm"] in self.pids or len(self.pids) < PROCESSES:
            self.pids[event["comm"]] = event["pid"]

    def to_dict(self) -> dict[str, Any]:
        """Return it as the record has it."""
        return {
            "refused": self.count,
            "first": self.first,
            "last": self.last,
            "processes": [
                {
                    "process": comm,
                    "pid": self.pids.get(comm, 0),
                    "unit": unit,
                    "operation": operation,
                    "what": what,
                    "count": count,
                }
                for (comm, unit, operation, what), count in self.processes.most_common(PROCESSES)
            ],
        }


class Suspect(NamedTuple):
    """An enforcing rule that has refused something.

    Attributes:
        rule: Its id; ``unknown:`` and its number where it has no name.
        uid: By which the kernel knows it.
        target: What it denies.
        source: ``policy``, ``manual`` or ``unknown``.
        refused: How often since it was loaded, by the kernel's count.
        last: When it last matched, Unix seconds.
        seen: What events show since the time that is looked at.
    """

    rule: str
    uid: int
    target: str
    source: str
    refused: int
    last: float
    seen: Seen

    def weight(self) -> tuple[int, int]:
        """Return what suspects are ordered by: refusals lately, then all of them."""
        return self.seen.count, self.refused


class Choice(NamedTuple):
    """The rule that is to go, or why none was chosen.

    Attributes:
        suspect: The rule; None where a person has to name one.
        why: In one line.
    """

    suspect: Suspect | None
    why: str


def rank(suspects: Iterable[Suspect]) -> list[Suspect]:
    """Return suspects, the heaviest first."""
    return sorted(suspects, key=lambda one: (*(-n for n in one.weight()), one.rule))


def choose(suspects: Collection[Suspect], met: Collection[int], *, named: str = "") -> Choice:
    """Choose the rule that keeps legitimate work from going on.

    Args:
        suspects: The rules that have refused something lately.
        met: Numbers of the rules that matched while the probe was made: it needs what they deny.
        named: The rule that a person named; empty for none.
    """
    ranked = rank(suspects)
    if named:
        found = next((one for one in ranked if one.rule == named), None)
        return Choice(found, "named by a person" if found else f"{named} refuses nothing")
    if not ranked:
        return Choice(None, "no enforcing rule has refused anything in this time")
    return _heaviest(ranked, [one for one in ranked if one.uid in met])


def _heaviest(ranked: list[Suspect], needed: list[Suspect]) -> Choice:
    """Choose the first of all, unless what the probe needs speaks against it."""
    most, others = ranked[0], ", ".join(one.rule for one in needed)
    if needed and most not in needed:
        return Choice(None, f"{most.rule} refused most, but what the probe needs is {others}")
    if len(needed) > 1:
        return Choice(None, f"the probe needs what {len(needed)} rules deny: {others}")
    if needed:
        return Choice(most, "it refused most, and the probe needs what it denies")
    if len(ranked) > 1 and ranked[1].weight() == most.weight():
        return Choice(None, f"{most.rule} and {ranked[1].rule} refused as often")
    count = most.seen.count or most.refused
    return Choice(most, f"it refused most: {count} times")
