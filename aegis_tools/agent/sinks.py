"""Where events go: lines of NDJSON to a descriptor.

No sink ever waits in ``write``: what does not go out at once stays in the sink, and whoever feeds
it takes nothing more from the ring until it is gone. The ring then fills, and the kernel drops
and counts. So memory stays as it is, and what is lost is known.
"""

from __future__ import annotations

import os
import select
from typing import Any, Protocol

PIECE = 4096
"""A pipe that is writable has room for this much (PIPE_BUF), so such a write does not wait."""


class Sink(Protocol):
    """Takes lines."""

    name: str

    def write(self, data: bytes) -> None:
        """Take whole lines; never waits. Raises BrokenPipeError when the reader has left."""

    def flush(self) -> bool:
        """Write what is left as far as it goes without waiting; True when nothing is left."""

    def fileno(self) -> int:
        """Return the descriptor that is writable when ``flush`` can go on."""

    def tick(self) -> None:
        """Do what is to be done about once a second."""

    def status(self) -> dict[str, Any]:
        """Return what is to be known of it, for run/agent.json."""

    def close(self) -> None:
        """Let go of what it holds; what is left unwritten is lost."""


class Output:
    """A descriptor that somebody reads: a pipe, the journal's socket, a terminal.

    The descriptor stays in blocking mode, because others may share it.
    """

    name = "stdout"

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._left = memoryview(b"")
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._bytes = 0

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def write(self, data: bytes) -> None:
        """See :class:`Sink`."""
        self._left = memoryview(bytes(self._left) + data if self._left else data)
        self.flush()

    def flush(self) -> bool:
        """See :class:`Sink`."""
        while self._left and self._poll.poll(0):
            written = os.write(self._fd, self._left[:PIECE])
            self._bytes += written
            self._left = self._left[written:]
        return not self._left

    def tick(self) -> None:
        """Nothing is to be done."""

    def status(self) -> dict[str, Any]:
        """See :class:`Sink`."""
        return {"bytes": self._bytes, "waiting": len(self._left)}

    def close(self) -> None:
        """Leave the descriptor open: it is not ours."""
