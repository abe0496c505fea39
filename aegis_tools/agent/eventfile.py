"""Events in a file that rotates: ``events.jsonl``, ``events.jsonl.1`` (newer) … ``events.jsonl.5``.

A full disk must not end the agent or hold it up: lines that find no room are counted, said once,
and the next write tries again. What is in the file are whole lines always.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from aegis_tools.control.files import OTHERS_WRITE, SYSTEM, Calls, named
from aegis_tools.errors import StateError

SIZE = 64 << 20
KEEP = 5
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_COUNT = re.compile(rb',"count":(\d+)(?:,"first":"[^"]*","last":"[^"]*")?}\n')


class EventFile:
    """A sink.

    Args:
        path: The file; its folder exists.
        note: Tells a person of trouble.
        size: Bytes after which a new file is begun.
        keep: Older files that are kept.
        calls: The system calls that write.

    Raises:
        StateError: It cannot be opened, is no regular file, or others can change it.
    """

    name = "file"

    def __init__(
        self,
        path: Path,
        note: Callable[[str], None],
        *,
        size: int = SIZE,
        keep: int = KEEP,
        calls: Calls = SYSTEM,
    ) -> None:
        self._path = path
        self._note = note
        self._limit = size
        self._keep = keep
        self._calls = calls
        self._fd = -1
        self._size = 0
        self._failing = False
        self._lost_lines = self._lost_events = self._rotations = 0
        try:
            self._open()
        except OSError as error:
            raise StateError(
                f"the file for events {named(path)} cannot be opened",
                hint=_HINTS.get(error.errno or 0, "run it as root, and see --verbose"),
                detail=f"{path}: {error}",
            ) from error

    def fileno(self) -> int:
        """Return the descriptor; a regular file never makes anybody wait in poll."""
        return self._fd

    def flush(self) -> bool:
        """Nothing is ever left."""
        return True

    def write(self, data: bytes) -> None:
        """Append whole lines; what finds no room is counted."""
        if not data:
            return
        at = self._size
        try:
            if self._fd < 0:
                self._open()
            if self._size and self._size + len(data) > self._limit:
                self._rotate()
            at = self._size
            left = memoryview(data)
            while left:
                written = self._calls.write(self._fd, left)
                self._size += written
                left = left[written:]
        except OSError as error:
            self._give_up(data, at, error)
            return
        if self._failing:
            self._failing = False
            self._note(
                f"aegisbpf: the file for events is written again; {self._lost_events} events "
                "since the start are not in it"
            )

    def tick(self) -> None:
        """See that the file is still the one at the path: others rotate files as well."""
        with suppress(OSError):
            found, ours = os.lstat(self._path), os.fstat(self._fd)
            if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
                return
        self._close()

    def status(self) -> dict[str, Any]:
        """Return what is to be known of it."""
        return {
            "bytes": self._size,
            "rotations": self._rotations,
            "lost_lines": self._lost_lines,
            "lost_events": self._lost_events,
            "failing": self._failing,
        }

    def close(self) -> None:
        """Close the file."""
        self._close()

    def _open(self) -> None:
        fd = self._calls.open(self._path, _FLAGS | os.O_CREAT, 0o640)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise OSError(errno.ENXIO, "not a regular file")
            if found.st_uid != os.geteuid() or found.st_mode & OTHERS_WRITE:
                raise OSError(errno.EPERM, "others can change it")
            self._size = found.st_size
            if self._size and os.pread(fd, 1, self._size - 1) != b"\n":
                self._size += self._calls.write(fd, b"\n")  # a writer was killed half-way
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def _rotate(self) -> None:
        names = [self._path, *(Path(f"{self._path}.{n}") for n in range(1, self._keep + 1))]
        for newer, older in reversed(list(pairwise(names))):
            with suppress(FileNotFoundError):
                self._calls.replace(newer, older)
        if not self._keep:
            self._path.unlink()
        self._rotations += 1
        self._close()
        self._open()

    def _give_up(self, data: bytes, at: int, error: OSError) -> None:
        """Keep the whole lines that were written; count the others."""
        kept = data.rfind(b"\n", 0, max(0, self._size - at)) + 1
        with suppress(OSError):
            os.ftruncate(self._fd, at + kept)
            self._size = at + kept
        lost = data[kept:]
        self._lost_lines += lost.count(b"\n")
        self._lost_events += sum(int(found[1]) for found in _COUNT.finditer(lost))
        if not self._failing:
            self._failing = True
            self._note(
                "warning: the file for events cannot be written, so events are missing in it "
                f"({error.strerror}); they are counted, and what is denied stays denied"
            )

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_HINTS = {
    errno.ELOOP: "put a regular file, or none, in the place of the symbolic link",
    errno.ENOENT: "make the folder first",
    errno.ENOTDIR: "check the name",
    errno.EISDIR: "name a file, not a folder",
    errno.ENXIO: "name a regular file, or one that is not there yet",
    errno.EPERM: "make it yours alone: chown root, chmod 0640",
    errno.EACCES: "run it as root",
    errno.EROFS: "name a file on a disk that can be written",
    errno.ENOSPC: "free some space first",
}
