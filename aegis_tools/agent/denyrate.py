"""The deny-rate guard: more refusals a second than the threshold, and the host goes to audit.

It watches the kernel's counters, not events: those may be sampled away or dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

TOP = 3


class DenyRate:
    """Measures refusals a second over a window.

    Args:
        threshold: Refusals a second that are too many; 0 = never.
        seconds: Of the window; the rate must have been too high for all of it.
    """

    def __init__(self, threshold: float, seconds: float) -> None:
        self._threshold = threshold
        self._seconds = seconds
        self._seen: deque[tuple[float, int]] = deque()

    def look(self, now: float, blocks: int) -> bool:
        """Take a reading; return whether the rate over the whole window is too high.

        Args:
            now: Seconds of a monotonic clock.
            blocks: Refusals counted since the hooks were loaded.
        """
        if self._seen and blocks < self._seen[-1][1]:
            self._seen.clear()  # loaded anew
        self._seen.append((now, blocks))
        while len(self._seen) > 2 and now - self._seen[1][0] >= self._seconds:
            self._seen.popleft()
        whole = now - self._seen[0][0] >= self._seconds
        return bool(self._threshold) and whole and self.rate > self._threshold

    @property
    def rate(self) -> float:
        """Refusals a second over what was seen of the window."""
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - first) if last > first else 0.0


def busiest(before: Mapping[int, int], after: Mapping[int, int], names: Mapping[int, str]) -> str:
    """Return which rules refused most in between: ``r1 5000, r2 12``.

    Args:
        before: Refusals by rule uid, then.
        after: The same now.
        names: Rule ids by uid.
    """
    grown = {uid: count - before.get(uid, 0) for uid, count in after.items()}
    top = sorted((uid for uid in grown if grown[uid] > 0), key=lambda uid: -grown[uid])[:TOP]
    return ", ".join(f"{names.get(uid, f'unknown:{uid:016x}')} {grown[uid]}" for uid in top)
