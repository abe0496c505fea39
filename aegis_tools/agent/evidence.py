"""What events show of each rule: how often it matched, when, and who it was. In bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from aegis_tools.agent.search import Event

PLACES = 64
SAMPLES = 5
_DAY = slice(0, 10)


@dataclass
class Seen:
    """Events that have something in common.

    Attributes:
        events: How many.
        first: When the first was, as events have it.
        last: When the last was.
        days: The days on which there were any.
        comms: Some of the processes.
        uids: Some of the users.
        paths: Some of the paths or addresses.
    """

    events: int = 0
    first: str = ""
    last: str = ""
    days: set[str] = field(default_factory=set)
    comms: set[str] = field(default_factory=set)
    uids: set[int] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)

    def add(self, event: Event) -> None:
        """Count an event."""
        first, last = event.get("first") or event["time"], event["time"]
        self.events += event["count"]
        self.first = min(self.first or first, first)
        self.last = max(self.last, last)
        if len(self.days) < 400:
            self.days |= {first[_DAY], last[_DAY]}
        for sample, value in (
            (self.comms, event["comm"]),
            (self.paths, event.get("path") or event.get("address", "")),
        ):
            if len(sample) < SAMPLES:
                sample.add(value)
        if len(self.uids) < SAMPLES:
            self.uids.add(event["uid"])


@dataclass
class OfRule:
    """What is known of a rule's matches.

    Attributes:
        all: Of all of them.
        places: Of those that refused nothing, by (unit, cgroup, whether a container).
        crowded: There were more places than are kept apart.
    """

    all: Seen = field(default_factory=Seen)
    places: dict[tuple[str, str, bool], Seen] = field(default_factory=dict)
    crowded: bool = False


class Evidence:
    """Events by rule.

    Args:
        rules: The most rules that are kept apart; what others matched is counted only.

    Attributes:
        rules: By id.
        lines: Lines read.
        events: Events read.
        oldest: When the first of them was; empty for none.
    """

    def __init__(self, rules: int = 20000) -> None:
        self._room = rules
        self.rules: dict[str, OfRule] = {}
        self.lines = self.events = 0
        self.oldest = ""

    def add(self, event: Event) -> None:
        """Count an event."""
        self.lines += 1
        self.events += event["count"]
        first = event.get("first") or event["time"]
        self.oldest = min(self.oldest or first, first)
        found = self.rules.get(event["rule"])
        if found is None:
            if len(self.rules) >= self._room:
                return
            found = self.rules[event["rule"]] = OfRule()
        found.all.add(event)
        if event["action"] != "AUDIT":
            return
        unit = event["unit"]
        key = unit, _down_to(event["cgroup"], unit), bool(event.get("container"))
        if key not in found.places and len(found.places) >= PLACES:
            found.crowded = True
            return
        found.places.setdefault(key, Seen()).add(event)


def _down_to(cgroup: str, unit: str) -> str:
    """Return the cgroup of the unit that a process is in, or below."""
    parts = cgroup.split("/")
    return "/".join(parts[: parts.index(unit) + 1]) if unit in parts else cgroup
