"""Events to the store, by a thread of its own: whoever reads them from the kernel never waits.

What comes waits in a queue of bounded size; what does not fit is dropped and counted, by monitor,
and the store is told as soon as it takes anything again.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from aegis_tools.errors import AegisError
from aegis_tools.monitors.store.database import StoreError
from aegis_tools.monitors.store.retention import CHUNK, Keep
from aegis_tools.monitors.store.rows import Event, monitor_of
from aegis_tools.monitors.store.schema import HOUR
from aegis_tools.monitors.store.store import Batch, Done, Store

_EVENT_COST = 1_000
"""Bytes of memory that an event's dict takes at least."""
_LEAST_CHUNK = 20


class Pace(NamedTuple):
    """When the store is written to.

    Attributes:
        events: Of a batch, at most.
        seconds: That an event waits for others, at most.
        queue: Bytes of memory, about, that wait at most.
        retry: Seconds until the first try after a failure; doubled each time.
        retry_most: Seconds between two tries, at most.
        prune: Seconds between two looks for what is too old.
        prune_least: Seconds between two, where the store has become too large meanwhile.
    """

    events: int = 5_000
    seconds: float = 1.0
    queue: int = 64 << 20
    retry: float = 0.2
    retry_most: float = 30.0
    prune: float = 60.0
    prune_least: float = 1.0


@dataclass
class Counts:
    """What became of events, by monitor, since the writer began."""

    stored: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    invalid: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    batches: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "stored": dict(self.stored),
            "dropped": dict(self.dropped),
            "invalid": dict(self.invalid),
            "removed": dict(self.removed),
            "failures": self.failures,
            "batches": self.batches,
        }


class Writer:
    """Takes events and stores them, whatever the store does.

    Args:
        store: Where to; used by the writer's thread only.
        keep: How much is kept.
        pace: When.
        tell: Called with a line for a person when the store begins to fail, and when it works
            again; in the writer's thread.
        clock: Unix time in seconds.

    Attributes:
        counts: What became of events.
        failing: Why nothing is stored at the moment.
        keep: May be exchanged at any time.
    """

    def __init__(
        self,
        store: Store,
        *,
        keep: Keep | None = None,
        pace: Pace | None = None,
        tell: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.counts = Counts()
        self.failing: AegisError | None = None
        self._store = store
        self.keep = keep or Keep()
        self._pace = pace or Pace()
        self._tell = tell
        self._clock = clock
        self._name = uuid.uuid4().hex
        self._batch: Batch | None = None
        self._number = 0
        self._size = self._pace.events
        self._queue: deque[tuple[Event, int]] = deque()
        self._cost = 0
        self._since = 0.0
        self._lost: Counter[tuple[int, str]] = Counter()
        self._changed = threading.Condition()
        self._until: float | None = None
        self._retry_at = 0.0
        self._delay = self._pace.retry
        self._prune_at = 0.0
        self._chunk = CHUNK
        self._thread = threading.Thread(target=self._run, name="monitor-store", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def offer(self, event: Event) -> bool:
        """Take an event, or drop it where too many wait; returns at once."""
        cost = _cost(event)
        with self._changed:
            if self._until is not None or self._cost + cost > self._pace.queue:
                self._lose([event])
                return False
            if not self._queue:
                self._since = time.monotonic()
            self._queue.append((event, cost))
            self._cost += cost
            if len(self._queue) in (1, self._pace.events):
                self._changed.notify()
        return True

    @property
    def waiting(self) -> int:
        """How many events are not stored yet."""
        return len(self._queue)

    def close(self, timeout: float = 10.0) -> Counts:
        """Store what waits, for so many seconds at most; the rest is dropped and counted."""
        with self._changed:
            self._until = time.monotonic() + timeout
            self._retry_at = 0.0
            self._changed.notify()
        self._thread.join(timeout + 1.0)
        with self._changed:
            # A server that does not answer may still hold the thread, which ends with the process.
            self._lose([event for event, _ in self._queue])
            self._queue.clear()
            self._cost = 0
        return self.counts

    def _lose(self, events: list[Event]) -> None:
        hour = int(self._clock() * 1_000_000) // HOUR * HOUR
        for event in events:
            monitor = monitor_of(event)
            self.counts.dropped[monitor] += 1
            self._lost[hour, monitor] += 1

    def _run(self) -> None:
        while not self._ended():
            self._wait()
            with self._changed:
                if self._batch is None and (self._queue or self._lost):
                    self._batch = self._take()
            if self._batch is not None:
                self._try(self._batch)
            if self._until is None and self._prune_due():
                self._prune()
        self._store.database.close()

    def _ended(self) -> bool:
        with self._changed:
            if self._until is None:
                return False
            return not (self._queue or self._lost) or time.monotonic() >= self._until

    def _wait(self) -> None:
        """Wait until there is something to do."""
        with self._changed:
            while (left := self._due() - time.monotonic()) > 0:
                self._changed.wait(left)

    def _due(self) -> float:
        if self.failing is not None:
            return min(self._retry_at, self._until or self._retry_at)
        if self._until is not None or len(self._queue) >= self._pace.events:
            return 0.0
        return self._since + self._pace.seconds if self._queue else self._prune_at

    def _take(self) -> Batch:
        """Return the batch to store next: it stays the same until that is done."""
        events = [event for event, _ in islice(self._queue, self._size)]
        return Batch(self._name, self._number, events, dict(self._lost), self._now())

    def _try(self, batch: Batch) -> None:
        try:
            done = self._store.write(batch)
        except AegisError as error:
            if isinstance(error, StoreError) and error.fault == "refused" and batch.events:
                self._give_up_part(batch)
            else:
                self._failed(error)
        else:
            self._stored(batch, done)

    def _stored(self, batch: Batch, done: Done) -> None:
        with self._changed:
            self._settle(len(batch.events))
            self._lost.subtract(batch.lost)
            self._lost = +self._lost
            self.counts.batches += 1
            self.counts.stored.update(done.stored)
            self.counts.invalid.update(done.invalid)
        self._size = min(self._size * 2, self._pace.events)
        if done.remade:
            self._tell(f"tables were missing and are made anew: {', '.join(done.remade)}")
        self._recovered()

    def _settle(self, count: int) -> None:
        """Take events out of the queue."""
        for _ in range(min(count, len(self._queue))):
            self._cost -= self._queue.popleft()[1]
        self._since = time.monotonic()
        self._batch = None
        self._number += 1

    def _give_up_part(self, batch: Batch) -> None:
        """Find the event that the database refuses, by smaller batches, and leave it out."""
        with self._changed:
            if len(batch.events) == 1:
                self.counts.invalid[monitor_of(batch.events[0])] += 1
                self._settle(1)
            else:
                self._batch = None
                self._size = max(1, len(batch.events) // 2)

    def _failed(self, error: AegisError) -> None:
        with self._changed:
            first, self.failing = self.failing is None, error
            self.counts.failures += 1
            self._retry_at = time.monotonic() + self._delay
            self._delay = min(self._delay * 2, self._pace.retry_most)
        if first:
            self._tell(f"{error.message}; events wait, and are dropped when too many do")

    def _recovered(self) -> None:
        with self._changed:
            before, self.failing = self.failing, None
            self._delay = self._pace.retry
        if before is not None:
            self._tell("the monitors' store works again")

    def _prune_due(self) -> bool:
        """Tell whether it is time; a full disk may be our own doing, so then at each try."""
        now = time.monotonic()
        if self._batch is not None:
            return isinstance(self.failing, StoreError) and self.failing.fault == "full"
        return now >= self._prune_at or (
            now >= self._prune_at - self._pace.prune + self._pace.prune_least
            and self._store.database.file_size() > self._store.database.room(self.keep.size)
        )

    def _prune(self) -> None:
        try:
            removed = self._store.prune(self.keep, self._now(), self._chunk)
        except AegisError as error:
            self._chunk = max(self._chunk // 4, _LEAST_CHUNK)
            if self._batch is None:
                self._failed(error)
                self._prune_at = self._retry_at
        else:
            self._chunk = CHUNK
            self._prune_at = time.monotonic() + self._pace.prune
            self.counts.removed.update(removed.rows)
            if self._batch is None:
                self._recovered()

    def _now(self) -> int:
        return int(self._clock() * 1_000_000)


def _cost(event: Event) -> int:
    """Return about how much memory an event takes."""
    cost = _EVENT_COST
    for value in event.values():
        if isinstance(value, str):
            cost += len(value)
        elif isinstance(value, list):
            cost += sum(60 + len(str(one)) for one in value)
    return cost
