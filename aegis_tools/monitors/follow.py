"""Several rings read as one: what the monitors tell, in the order it happened.

Nothing is kept between the kernel and whoever reads but one batch: while the reader is slow, the
rings fill, and the kernel drops and counts.
"""

from __future__ import annotations

import select
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from aegis_tools.errors import KernelError, UsageError
from aegis_tools.monitors import filters
from aegis_tools.monitors.decode import Decoder
from aegis_tools.monitors.layout import HEAD
from aegis_tools.monitors.registry import MONITORS, Monitor

BATCH = 512
"""Records taken from a ring at once."""
PAUSE = 0.02
"""Seconds; what floods a ring in that time is not waited for in the first place."""
_TIME = slice(0, 8)
_NEVER = 1 << 64


class Ring(Protocol):
    """The reading end of a ring; ``kernel.ringbuf.RingBuffer``."""

    def fileno(self) -> int:
        """Return what to poll."""

    def read(self, limit: int) -> list[bytes]:
        """Return up to ``limit`` records, oldest first."""


class Record(NamedTuple):
    """One record, and whose it is. Records sort by time.

    Attributes:
        time_ns: On the boot clock.
        monitor: Whose ring it is from.
        data: As the kernel wrote it.
    """

    time_ns: int
    monitor: Monitor
    data: bytes


@dataclass
class Follower:
    """Reads rings together.

    Args:
        rings: By monitor.
        stop: Something to poll as well, that ends a wait.
    """

    rings: Sequence[tuple[Monitor, Ring]]
    stop: Any = None
    _held: list[Record] = field(default_factory=list, repr=False)

    def batch(self, seconds: float) -> list[Record]:
        """Return what has come, in order; waits up to so many seconds where nothing has.

        A ring of which all was not taken may have older records than what others gave: what is
        newer than its newest waits for the next batch. So at most one batch of each is kept.
        """
        found = self._take()
        if not found and not self._held:
            self._wait(seconds)
            found = self._take()
        full = [part[-1].time_ns for part in found if len(part) == BATCH]
        every = self._held + [record for part in found for record in part]
        every.sort(key=lambda record: record.time_ns)
        until = min(full, default=_NEVER)
        if len(self._held) > BATCH * len(self.rings):  # times that are none
            until = _NEVER
        ready = [record for record in every if record.time_ns <= until]
        self._held = every[len(ready) :]
        return ready

    def rest(self) -> list[Record]:
        """Return what was taken from the rings and waits for the next batch, if none will be."""
        ready, self._held = self._held, []
        return ready

    def _take(self) -> list[list[Record]]:
        parts = []
        for monitor, ring in self.rings:
            part = [
                Record(int.from_bytes(data[_TIME], "little"), monitor, data)
                for data in ring.read(BATCH)
            ]
            if part:
                parts.append(part)
        return parts

    def _wait(self, seconds: float) -> None:
        poll = select.poll()
        for _, ring in self.rings:
            poll.register(ring, select.POLLIN)
        if self.stop is not None:
            poll.register(self.stop, select.POLLIN)
        if poll.poll(max(0.0, seconds) * 1000) and seconds > PAUSE:
            self._pause()

    def _pause(self) -> None:
        """Leave a single record a moment to become a batch: being woken costs more than one."""
        poll = select.poll()
        if self.stop is not None:
            poll.register(self.stop, select.POLLIN)
        poll.poll(PAUSE * 1000)


@dataclass
class Told:
    """What following has come to.

    Attributes:
        events: That were given.
        damaged: Records that were none of this version's.
        last: Why the last of these was not.
        whose: Those that were none, by monitor.
    """

    events: int = 0
    damaged: int = 0
    last: KernelError | None = None
    whose: Counter[str] = field(default_factory=Counter)


def events(
    records: Sequence[Record], decoder: Decoder, told: Told, clock: Callable[[], int]
) -> Iterator[dict[str, Any]]:
    """Yield records as events; one that is none is counted.

    Args:
        records: One batch.
        decoder: Whose offset is set to what ``clock`` says.
        told: Is counted in.
        clock: Unix time minus the boot clock, nanoseconds.
    """
    decoder.offset_ns = clock()
    for record in records:
        try:
            event = decoder.decode(record.monitor, record.data)
        except KernelError as error:
            told.damaged += 1
            told.whose[record.monitor.name] += 1
            told.last = error
            continue
        told.events += 1
        yield event


@dataclass(frozen=True)
class Query:
    """Which records are wanted; what is not given is not asked for.

    Attributes:
        events: Their names.
        pid: Of the process.
        comm: Its name.
        since_ns: Nothing older, on the boot clock.
    """

    events: frozenset[str] = frozenset()
    pid: int | None = None
    comm: str | None = None
    since_ns: int = 0

    def __post_init__(self) -> None:
        """Say no to events that no monitor has."""
        known = {name for monitor in MONITORS.values() for name in monitor.types.values()}
        if self.events - known:
            raise UsageError(
                f"there is no event {min(self.events - known)!r}",
                hint=f"one of: {', '.join(sorted(known))}",
            )

    def matches(self, record: Record) -> bool:
        """Return whether a record is wanted; one that is no record is, to be counted as such."""
        if record.time_ns < self.since_ns:
            return False
        if len(record.data) < HEAD.size or (
            not self.events and self.pid is None and self.comm is None
        ):
            return True
        _, _, pid, _, _, _, _, kind, _, comm = HEAD.unpack_from(record.data)
        return (
            (not self.events or record.monitor.types.get(kind) in self.events)
            and (self.pid is None or pid == self.pid)
            and (self.comm is None or comm == filters.comm_key(self.comm))
        )


def boot_offset() -> int:
    """Return what makes Unix time of the boot clock, nanoseconds."""
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
