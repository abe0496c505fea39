"""Storms of the same event become one line with a count; none is lost from the counts.

The first of a kind is told at once. What follows it within the interval is held back, and told at
its end as one line: the last of them, how many they were, and when the first was. Events are of a
kind when they agree in rule, policy, path or peer, operation, action, reason, user, cgroup, and
the names of the process and its parent: compared as the bytes that the kernel sent, undecoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from aegis_tools.kernel.layout import EVENT, EVENT_PATH, EVENT_SAME, FILE_EVENT_TAIL

INTERVAL = 10.0
ROOM = 1024

_EVENT = EVENT.size
_PATH = EVENT.size + FILE_EVENT_TAIL.size


class Told(NamedTuple):
    """Events that become one line.

    Attributes:
        record: The last of them, without what follows its path.
        events: How many they are.
        first_ns: When the first of them was, on the boot clock; 0 = there were no repetitions.
    """

    record: bytes
    events: int = 1
    first_ns: int = 0


class _Kind:
    """Events of a kind that are held back."""

    __slots__ = ("count", "due", "first", "last")

    def __init__(self, due: float) -> None:
        self.due = due
        self.count = 0
        self.first = self.last = b""

    def told(self) -> Told:
        return Told(self.last, self.count, int.from_bytes(self.first[:8], "little"))


class Fold:
    """Holds back repetitions.

    Args:
        clock: Seconds that only grow.
        interval: Seconds from one line of a kind to the next; 0 = every event has its own.
        room: Kinds watched at a time; the one watched longest makes room, and is told.
    """

    def __init__(
        self, clock: Callable[[], float], *, interval: float = INTERVAL, room: int = ROOM
    ) -> None:
        self._clock = clock
        self._interval = interval
        self._room = room
        self._kinds: dict[bytes, _Kind] = {}

    def take(self, records: Iterable[bytes]) -> list[Told]:
        """Return what is to be told of these records at once, in their order."""
        if not self._interval:
            return [Told(record) for record in records]
        kinds, told = self._kinds, []
        due = self._clock() + self._interval
        for record in records:
            end = _EVENT
            if len(record) > _PATH:
                end = _PATH + min(int.from_bytes(record[_EVENT : _EVENT + 4], "little"), EVENT_PATH)
            same = record[EVENT_SAME:end]
            kind = kinds.get(same)
            if kind is not None:
                kind.count += 1
                kind.last = record
                if kind.count == 1:
                    kind.first = record
                continue
            if len(kinds) >= self._room:
                oldest = kinds.pop(next(iter(kinds)))
                if oldest.count:
                    told.append(oldest.told())
            kinds[same] = _Kind(due)
            told.append(Told(record))
        return told

    def tick(self) -> list[Told]:
        """Return what has been held back for an interval. Kinds that were quiet are forgotten."""
        now, told = self._clock(), []
        for same, kind in list(self._kinds.items()):
            if kind.due > now:
                break  # they stand in the order in which they are due
            del self._kinds[same]
            if kind.count:
                told.append(kind.told())
                self._kinds[same] = _Kind(now + self._interval)
        return told

    def close(self) -> list[Told]:
        """Return all that is held back."""
        told = [kind.told() for kind in self._kinds.values() if kind.count]
        self._kinds.clear()
        return told

    @property
    def held(self) -> int:
        """Events that are held back."""
        return sum(kind.count for kind in self._kinds.values())
