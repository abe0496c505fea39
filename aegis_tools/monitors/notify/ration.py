"""So many notifications of one profile and limit, and no more; the rest is counted and told of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Event = dict[str, Any]
MOST_KEYS = 4096


@dataclass
class _Bucket:
    tokens: float
    at: float
    held_back: Event | None = None
    suppressed: int = 0


class Ration:
    """A token bucket for each profile and limit.

    The last event that was held back is passed on as soon as there is room, with the number of
    those before it that never will be: so the end of a trouble is told of, however fast it was.

    Args:
        burst: Events that may come at once.
        every: Seconds in which one more is earned.
    """

    def __init__(self, burst: int, every: float) -> None:
        self._burst = burst
        self._every = every
        self._buckets: dict[tuple[Any, Any, Any], _Bucket] = {}
        self.suppressed = 0

    def pass_on(self, event: Event, now: float) -> Event | None:
        """Return the event as it is to be sent, or None where it is held back.

        Args:
            event: As of limit.schema.json.
            now: Seconds of a clock that only grows.
        """
        key = event.get("profile"), event.get("limit"), event.get("event")
        if key not in self._buckets and len(self._buckets) >= MOST_KEYS:
            self._forget(now)
        bucket = self._buckets.setdefault(key, _Bucket(self._burst, now))
        self._earn(bucket, now)
        if bucket.held_back is not None:
            bucket.suppressed += 1
            self.suppressed += 1
            bucket.held_back = None
        if bucket.tokens < 1:
            bucket.held_back = event
            return None
        return self._spend(bucket, event)

    def due(self, now: float) -> Iterator[Event]:
        """Yield what was held back and may go now."""
        for bucket in self._buckets.values():
            self._earn(bucket, now)
            if bucket.held_back is not None and bucket.tokens >= 1:
                event, bucket.held_back = bucket.held_back, None
                yield self._spend(bucket, event)

    def _spend(self, bucket: _Bucket, event: Event) -> Event:
        bucket.tokens -= 1
        count, bucket.suppressed = bucket.suppressed, 0
        return {**event, "suppressed": count} if count else event

    def _earn(self, bucket: _Bucket, now: float) -> None:
        earned = max(now - bucket.at, 0.0) / self._every
        bucket.tokens = min(bucket.tokens + earned, float(self._burst))
        bucket.at = now

    def _forget(self, now: float) -> None:
        """Forget what is full again: such a bucket is like a new one."""
        for key, bucket in list(self._buckets.items()):
            self._earn(bucket, now)
            if bucket.tokens >= self._burst and bucket.held_back is None:
                del self._buckets[key]
