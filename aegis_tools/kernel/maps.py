"""A kernel map as Python sees one: bytes to bytes, in bulk where the kernel can."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from types import TracebackType

from aegis_tools.errors import KernelError
from aegis_tools.kernel import syscall

_CHUNK = 8192
# ENOTSUPP is the kernel's own number, not errno.ENOTSUP.
_NO_BATCH = {errno.EINVAL, errno.EOPNOTSUPP, 524}


def possible_cpus() -> int:
    """Return how many values a per-CPU map has (not the same as the CPUs online)."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        return int(file.read().strip().rsplit("-", maxsplit=1)[-1].rsplit(",", maxsplit=1)[-1]) + 1


class Map:
    """An open map. Use as a context manager, or call :meth:`close`.

    Attributes:
        fd: The descriptor.
        key_size: Bytes.
        value_size: Bytes, of one CPU's value.
        max_entries: Capacity.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.type, self.id, self.key_size, self.value_size, self.max_entries, self.flags = (
            syscall.map_info(fd)
        )

    @classmethod
    def pinned(cls, path: str | os.PathLike[str]) -> Map:
        """Open the map pinned at ``path``. Raises OSError."""
        return cls(syscall.obj_get(os.fspath(path)))

    def __enter__(self) -> Map:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; the map lives on while it is pinned or in use."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def get(self, key: bytes) -> bytes | None:
        """Return the value at ``key``, or None."""
        try:
            return syscall.lookup(self.fd, key, self.value_size)
        except FileNotFoundError:
            return None

    def get_per_cpu(self, key: bytes) -> list[bytes]:
        """Return one value a possible CPU (the kernel pads each to 8 bytes)."""
        step = (self.value_size + 7) & ~7
        data = syscall.lookup(self.fd, key, step * possible_cpus())
        return [data[i : i + self.value_size] for i in range(0, len(data), step)]

    def set(self, key: bytes, value: bytes) -> None:
        """Set one entry.

        Raises:
            KernelError: The map is full.
        """
        try:
            syscall.update(self.fd, key, value)
        except OSError as error:
            raise _full_or(error, self.max_entries) from error

    def delete(self, key: bytes) -> bool:
        """Delete one entry; False where there was none."""
        try:
            syscall.delete(self.fd, key)
        except FileNotFoundError:
            return False
        return True

    def fill(self, entries: Mapping[bytes, bytes]) -> int:
        """Set all ``entries`` and return how many the kernel says it took.

        Raises:
            KernelError: The map is full.
        """
        keys, values = list(entries.keys()), list(entries.values())
        done = 0
        try:
            for start in range(0, len(keys), _CHUNK):
                part = keys[start : start + _CHUNK]
                packed = b"".join(values[start : start + _CHUNK])
                done += syscall.update_batch(self.fd, b"".join(part), packed, len(part))
            return done
        except OSError as error:
            if error.errno not in _NO_BATCH:
                raise _full_or(error, self.max_entries) from error
        for key, value in entries.items():
            self.set(key, value)
        return len(entries)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all entries. One that is added or deleted meanwhile may or may not show."""
        try:
            for keys, values, count in syscall.lookup_batch(
                self.fd, self.key_size, self.value_size, min(_CHUNK, self.max_entries + 64)
            ):
                for i in range(count):
                    yield (
                        keys[i * self.key_size : (i + 1) * self.key_size],
                        values[i * self.value_size : (i + 1) * self.value_size],
                    )
            return
        except OSError as error:
            if error.errno not in _NO_BATCH:
                raise
        for key in list(syscall.keys(self.fd, self.key_size)):
            value = self.get(key)
            if value is not None:
                yield key, value

    def count(self) -> int:
        """Return how many entries there are, by reading them all."""
        room = min(_CHUNK, self.max_entries + 64)
        try:
            batches = syscall.lookup_batch(self.fd, self.key_size, self.value_size, room)
            return sum(count for _, _, count in batches)
        except OSError as error:
            if error.errno not in _NO_BATCH:
                raise
            return sum(1 for _ in syscall.keys(self.fd, self.key_size))


def _full_or(error: OSError, capacity: int) -> KernelError:
    if error.errno in (errno.E2BIG, errno.ENOSPC):
        return KernelError(
            f"the map is full ({capacity} entries)",
            hint="run: aegisbpf block clear-stale, or load with larger --max-… options",
            data={"capacity": capacity},
        )
    if error.errno == errno.ENOMEM:
        return KernelError(
            "the kernel has no memory left for more entries",
            hint="free memory, or raise the memory limit of this service; see: aegisbpf footprint",
            detail=f"bpf(2): {error}",
        )
    return KernelError(
        "the kernel refused a map update",
        hint="run: aegisbpf health --verbose",
        detail=f"bpf(2): {error}",
    )
