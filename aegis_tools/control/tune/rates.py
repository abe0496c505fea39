"""Events a second, from looks at the counters: over all of the time, and where most came."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from aegis_tools.control.sizes import FILE_RECORD, NET_RECORD

_POSITION = 1 << 64
_NEARLY = 0.98
"""Of a stretch: a look comes some milliseconds sooner or later than it should."""
_SOME = 0.01
"""Of the files: the counters and the bytes are not read in the same instant."""


class Look(NamedTuple):
    """The counters at one moment.

    Attributes:
        at: Seconds on a clock that only grows.
        sent: Events that went into the ring.
        dropped: Events that found no room in it.
        sampled_out: Matches that were to send none.
        produced: Bytes that were written to the ring, modulo 2^64.
    """

    at: float
    sent: int
    dropped: int
    sampled_out: int
    produced: int


class Rates(NamedTuple):
    """What lies between two looks, by second.

    Attributes:
        seconds: Between them.
        sent: Events that went into the ring.
        dropped: Events that found no room in it.
        sampled_out: Matches that were to send none.
        bytes: Of the ring, that what was sent took.
    """

    seconds: float
    sent: float
    dropped: float
    sampled_out: float
    bytes: float

    @property
    def matched(self) -> float:
        """What would be sent at a sample rate of 1 into a ring with room."""
        return self.sent + self.dropped + self.sampled_out

    @property
    def files(self) -> float:
        """Share of what was sent that is of files, not of the network; 1 where nothing was."""
        if not self.sent:
            return 1.0
        share = (self.bytes / self.sent - NET_RECORD) / (FILE_RECORD - NET_RECORD)
        return min(max(share, 0.0), 1.0)

    @property
    def record(self) -> int:
        """Bytes of the ring that an event takes on average.

        Where events were dropped, what the larger kind takes: it is what finds no room first.
        """
        files = float(self.files > _SOME) if self.dropped else self.files
        return round(NET_RECORD + files * (FILE_RECORD - NET_RECORD))


def between(first: Look, second: Look) -> Rates:
    """Return what lies between two looks; counters that went back have not grown."""
    seconds = max(second.at - first.at, 1e-9)
    sent, dropped, sampled_out = (
        max(0, b - a) / seconds for a, b in zip(first[1:4], second[1:4], strict=True)
    )
    written = (second.produced - first.produced) % _POSITION / seconds
    return Rates(seconds, sent, dropped, sampled_out, written if sent else 0.0)


def busiest(looks: Sequence[Look], seconds: float) -> Rates:
    """Return the stretch of so many seconds in which most matched; all where it is shorter.

    Args:
        looks: At least two, the oldest first.
        seconds: A stretch ends with the first look that is so much later than its beginning.
    """
    found, end = between(looks[0], looks[-1]), 0
    if looks[-1].at - looks[0].at <= seconds:
        return found
    for first in looks:
        while end < len(looks) and looks[end].at - first.at < _NEARLY * seconds:
            end += 1
        if end == len(looks):
            break
        found = max(found, between(first, looks[end]), key=lambda rates: rates.matched)
    return found


def peak(looks: Sequence[Look]) -> float:
    """Return what matched a second between the two neighbours between which most did."""
    return max(between(*pair).matched for pair in pairwise(looks))
