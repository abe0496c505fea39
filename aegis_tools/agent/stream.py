"""Events from the ring to a descriptor, as NDJSON, until told to stop.

Nothing is kept between the two: while the reader is slow the ring fills, and the kernel
drops and counts. So memory stays as it is, and what is lost is known.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from aegis_tools.agent.pipeline import Pipeline
from aegis_tools.kernel.ringbuf import RingBuffer

BATCH = 512
SMALL = 64
"""A batch of fewer events is followed by a pause, so that there are more of them in the next."""
PAUSE_MS, PAUSES = 10, 10
"""Milliseconds of a pause, and how many there are at most while the ring is not filling up."""
_TICK = 1.0


class Stop:
    """Whether a signal has asked us to end, or to begin anew; its descriptor is readable then."""

    def __init__(self) -> None:
        self.signal = 0
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __bool__(self) -> bool:
        return self.signal != 0

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._read

    def ask(self, number: int = signal.SIGTERM) -> None:
        """Ask to end, for the reason of a signal; an end counts more than a SIGHUP before it."""
        if not self.signal or self.reload:
            self.signal = number
        with suppress(BlockingIOError):
            os.write(self._write, b"x")

    @property
    def reload(self) -> bool:
        """Whether it is SIGHUP that asked."""
        return self.signal == signal.SIGHUP

    def clear(self) -> None:
        """Forget a SIGHUP; a signal that came meanwhile counts."""
        if self.reload:
            self.signal = 0
            with suppress(BlockingIOError):
                os.read(self._read, 4096)

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self._read)
        os.close(self._write)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Ask the yielded Stop on SIGTERM, SIGINT and SIGHUP."""
    stop = Stop()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, lambda number, _: stop.ask(number))
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()


class Stream:
    """The loop.

    Args:
        ring: Where events come from.
        pipeline: Where they go.
        reader: The descriptor whose reader, when it has left, ends this.
        stop: Ends it.
        tick: Called about once a second, and at the end.
    """

    def __init__(
        self,
        ring: RingBuffer,
        pipeline: Pipeline,
        reader: int,
        stop: Stop,
        tick: Callable[[], None],
    ) -> None:
        self._ring = ring
        self._pipeline = pipeline
        self._reader = reader
        self._stop = stop
        self._tick = tick
        self._asked = select.poll()
        self._asked.register(stop, select.POLLIN)

    def run(self) -> None:
        """Pass events on until asked to stop; what is in the ring by then is still passed on.

        Raises:
            BrokenPipeError: The reader has left.
        """
        following = 0.0
        while not self._stop:
            self._wait(max(0.0, min(_TICK, following - time.monotonic())))
            if self._pass_on() < SMALL:
                self._gather()
            if time.monotonic() >= following:
                self._pipeline.tick()
                self._tick()
                following = time.monotonic() + _TICK
        end = self._ring.consumed + self._ring.pending  # what comes meanwhile would have no end
        while self._ring.consumed < end and self._pass_on():
            pass
        self._tick()

    def _gather(self) -> None:
        """Leave single events a moment to become a batch: being woken costs more than an event."""
        pause, ring, enough = self._asked.poll, self._ring, self._ring.size // 4
        for _ in range(PAUSES):
            if pause(PAUSE_MS) or ring.pending > enough:
                return

    def _wait(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        poll.register(self._reader, 0)  # errors only: the reader has left
        if blocked := self._pipeline.blocked:
            for fd in blocked:
                poll.register(fd, select.POLLOUT)
        else:
            poll.register(self._ring, select.POLLIN)
        ready = dict(poll.poll(seconds * 1000))
        if ready.get(self._reader, 0) & select.POLLERR:
            raise BrokenPipeError

    def _pass_on(self) -> int:
        """Pass on one batch and return its size."""
        if not self._pipeline.flush():
            return 0
        records = self._ring.read(BATCH)
        self._pipeline.take(records)
        return len(records)
