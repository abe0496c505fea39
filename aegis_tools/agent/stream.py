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

from aegis_tools.agent.decode import Decoder
from aegis_tools.control.live import boot_to_wall_ns
from aegis_tools.kernel.ringbuf import RingBuffer

BATCH = 512
_PIECE = 4096  # a pipe that is writable has room for this much (PIPE_BUF)
_TICK = 1.0
_GRACE = 0.5


class Stop:
    """Whether a signal has asked us to end; its descriptor becomes readable then."""

    def __init__(self) -> None:
        self.signal = 0
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __bool__(self) -> bool:
        return self.signal != 0

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._read

    def ask(self, number: int = signal.SIGTERM) -> None:
        """Ask to end, for the reason of a signal."""
        self.signal = self.signal or number
        with suppress(BlockingIOError):
            os.write(self._write, b"x")

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self._read)
        os.close(self._write)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Ask the yielded Stop to end on SIGTERM and SIGINT."""
    stop = Stop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, lambda number, _: stop.ask(number))
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()


class Writer:
    """Writes to a descriptor, giving up when asked to stop while the reader does not read."""

    def __init__(self, fd: int, stop: Stop) -> None:
        self.fd = fd
        self._stop = stop
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._poll.register(stop, select.POLLIN)

    def write(self, lines: list[bytes]) -> bool:
        """Write whole lines; False when it had to give up. Raises BrokenPipeError."""
        data = memoryview(b"".join(lines))
        while data:
            if not self._writable():
                return False
            data = data[os.write(self.fd, data[:_PIECE]) :]
        return True

    def _writable(self) -> bool:
        while not self._stop:
            ready = dict(self._poll.poll())
            if self.fd in ready:
                return True
        last = select.poll()
        last.register(self.fd, select.POLLOUT)
        return bool(last.poll(_GRACE * 1000))


class Stream:
    """The loop.

    Args:
        ring: Where events come from.
        decoder: Makes them readable; its clock offset is renewed here.
        writer: Where they go.
        stop: Ends it.
        tick: Called about once a second, and at the end.
    """

    def __init__(
        self,
        ring: RingBuffer,
        decoder: Decoder,
        writer: Writer,
        stop: Stop,
        tick: Callable[[], None],
    ) -> None:
        self._ring = ring
        self._decoder = decoder
        self._writer = writer
        self._stop = stop
        self._tick = tick
        self.count = 0
        """Events written."""

    def run(self) -> None:
        """Pass events on until asked to stop; what is in the ring by then is still passed on.

        Raises:
            BrokenPipeError: The reader has left.
        """
        poll = select.poll()
        poll.register(self._ring, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        poll.register(self._writer.fd, 0)  # errors only: the reader has left
        following = 0.0
        while not self._stop:
            ready = dict(poll.poll(_TICK * 1000))
            if ready.get(self._writer.fd, 0) & select.POLLERR:
                raise BrokenPipeError
            if not self._pass_on() and self._ring.pending:
                time.sleep(0.001)  # the kernel is still writing the next one
            if time.monotonic() >= following:
                self._tick()
                following = time.monotonic() + _TICK
        end = time.monotonic() + _GRACE
        while self._pass_on() and time.monotonic() < end:
            pass
        self._tick()

    def _pass_on(self) -> int:
        """Pass on one batch and return its size."""
        records = self._ring.read(BATCH)
        if records:
            self._decoder.offset_ns = boot_to_wall_ns()
            if not self._writer.write(self._decoder.lines(records)):
                return 0
            self.count += len(records)
        return len(records)
