"""The event ring, read through shared memory (kernel/bpf/ringbuf.c, BPF_MAP_TYPE_RINGBUF).

::

    page 0    u64 consumer position: ours, read and written
    page 1    u64 producer position: the kernel's, read only
    page 2..  the records, mapped twice in a row, so that none is ever split

A record is u32 length | u32 page offset | bytes, padded to 8. Bit 31 of the length says that
the kernel is still writing it, bit 30 that it was thrown away.
"""

from __future__ import annotations

import mmap
import os

from aegis_tools.errors import KernelError
from aegis_tools.kernel.maps import Map

BUSY = 1 << 31
DISCARD = 1 << 30
HEADER = 8
_POSITION = 1 << 64


def taken(size: int) -> int:
    """Return the bytes of the ring that a record of ``size`` bytes takes."""
    return HEADER + ((size + 7) & ~7)


class RingBuffer:
    """The consuming end of a ring: one process at a time. A context manager.

    Args:
        events: The ring's map; it stays open until :meth:`close`.

    Raises:
        KernelError: The kernel does not let us map it.
    """

    def __init__(self, events: Map) -> None:
        self._map = events
        self.size = events.max_entries
        page = mmap.PAGESIZE
        try:
            self._mine = mmap.mmap(events.fd, page)
            self._theirs = mmap.mmap(
                events.fd, page + 2 * self.size, prot=mmap.PROT_READ, offset=page
            )
        except (OSError, ValueError) as error:
            raise KernelError(
                "the event ring cannot be read", hint="run it as root", detail=repr(error)
            ) from None
        # A cast view loads and stores 8 aligned bytes at once, which struct's "=Q" does not.
        self._consumer = memoryview(self._mine).cast("Q")
        self._producer = memoryview(self._theirs)[:8].cast("Q")
        self._data = memoryview(self._theirs)[page:]
        self._words = self._data.cast("I")

    def __enter__(self) -> RingBuffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the ring and close the map."""
        for view in (self._consumer, self._producer, self._words, self._data):
            view.release()
        self._mine.close()
        self._theirs.close()
        self._map.close()

    def fileno(self) -> int:
        """Return the descriptor that is readable when there are records."""
        return self._map.fd

    @property
    def consumed(self) -> int:
        """Bytes that were read since the ring was made."""
        return self._consumer[0]

    @property
    def produced(self) -> int:
        """Bytes that were written since the ring was made."""
        return self._producer[0]

    @property
    def pending(self) -> int:
        """Bytes that wait to be read."""
        return (self._producer[0] - self._consumer[0]) % _POSITION

    def discard(self) -> None:
        """Give the room of all records back, unread."""
        self._consumer[0] = self._producer[0]

    def read(self, limit: int) -> list[bytes]:
        """Return up to ``limit`` records, oldest first, and give their room back."""
        records: list[bytes] = []
        position, end, mask = self._consumer[0], self._producer[0], self.size - 1
        while position != end and len(records) < limit:
            offset = position & mask
            length = self._words[offset >> 2]
            if length & BUSY:
                break
            size = length & ~DISCARD
            if not length & DISCARD:
                start = offset + HEADER
                records.append(bytes(self._data[start : start + size]))
            position = (position + HEADER + ((size + 7) & ~7)) % _POSITION
            if (end - position) % _POSITION > self.size:
                raise KernelError(
                    "the event ring is not as the kernel makes it",
                    hint="run: aegisbpf reset && aegisbpf load",
                    detail=f"record of {size} bytes at {offset}",
                )
        self._consumer[0] = position
        return records


def open_ring(path: str | os.PathLike[str]) -> RingBuffer:
    """Open the ring pinned at ``path``. Raises OSError, KernelError."""
    return RingBuffer(Map.pinned(path))
