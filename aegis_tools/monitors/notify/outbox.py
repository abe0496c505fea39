"""One destination's queue and thread: whoever puts something in is never kept waiting."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Event = Mapping[str, Any]
CAPACITY = 256


@dataclass
class Counts:
    """What became of events. Once the outbox is closed, they add up."""

    accepted: int = 0
    sent: int = 0
    failed: int = 0
    dropped: int = 0


class Outbox:
    """Sends events, one after the other, in a thread of its own.

    Args:
        name: Of the destination.
        send: Sends one event, as long as it takes; raises OSError where it could not.
        capacity: Events that wait at most; further ones are dropped, and counted.
    """

    def __init__(self, name: str, send: Callable[[Event], None], capacity: int = CAPACITY) -> None:
        self.name = name
        self._send = send
        self._queue: queue.Queue[Event | None] = queue.Queue(capacity)
        self._lock = threading.Lock()
        self._counts = Counts()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"notify-{name}", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> bool:
        """Take an event to be sent; return False where it is dropped. Never blocks."""
        try:
            if self._closing.is_set():
                raise queue.Full
            self._queue.put_nowait(event)
        except queue.Full:
            self._count("dropped")
            return False
        self._count("accepted")
        return True

    def counts(self) -> dict[str, int]:
        """Return ``accepted``, ``sent``, ``failed``, ``dropped``."""
        with self._lock:
            return asdict(self._counts)

    def close(self, timeout: float = 5.0) -> bool:
        """Send what waits, for at most so many seconds; return whether all of it was tried."""
        self._closing.set()
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return False
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (event := self._queue.get()) is not None:
            try:
                self._send(event)
            except OSError:
                self._count("failed")
            except Exception:  # a thread that ends would end the telling for good
                self._count("failed")
            else:
                self._count("sent")

    def _count(self, name: str) -> None:
        with self._lock:
            setattr(self._counts, name, getattr(self._counts, name) + 1)
