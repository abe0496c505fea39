"""Where events are read from again: rotating files, or the journal. Streamed, in flat memory."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from aegis_tools.agent.search import MAX_LINE
from aegis_tools.control.files import named
from aegis_tools.errors import StateError
from aegis_tools.kernel import run

_CHUNK = 1 << 20
_LATE = 120
"""Seconds that the journal may have taken a line after its event: it was folded, or read late."""

Batches = Iterator[list[bytes]]


def split(read: Callable[[], bytes]) -> Batches:
    """Yield the whole lines of each piece that is read; of one that is too long, nothing but b"?".

    A piece of a line that the end cuts off comes last, so that it is counted.
    """
    rest, skipping = b"", False
    while piece := read():
        *lines, rest = (rest + piece).split(b"\n")
        if skipping and lines:
            lines[0], skipping = b"?", False
        if len(rest) > MAX_LINE:
            rest, skipping = b"", True
        yield lines
    if rest or skipping:
        yield [b"?" if skipping else rest]


class Files:
    """``path`` and what it was rotated to: ``path.1``, ``path.2`` …

    Args:
        path: The newest.
        since: Unix seconds: a file that was not written since then is not read.
    """

    def __init__(self, path: Path, *, since: float = 0) -> None:
        self._path = path
        self._since = since

    def batches(self) -> Batches:
        """Yield the lines, oldest first.

        Raises:
            StateError: There is no such file, or it cannot be read.
        """
        found = self._open()
        if not found:
            raise StateError(
                f"there is no file of events {named(self._path)}",
                hint="see the --events-file of aegisbpf run, or leave --file out",
                detail=str(self._path),
            )
        try:
            for fd in found:
                if os.fstat(fd).st_mtime >= self._since:
                    yield from split(partial(os.read, fd, _CHUNK))
        finally:
            _close(found)

    def follow(self, wait: Callable[[float], None] = time.sleep) -> Batches:
        """Yield what is added from now on, for ever; empty batches meanwhile.

        Raises:
            StateError: It cannot be read.
        """
        waiting = self._open()
        try:
            if waiting:
                _close(waiting[:-1])
                del waiting[:-1]
                os.lseek(waiting[0], 0, os.SEEK_END)
            rest = b""
            while True:
                piece = os.read(waiting[0], _CHUNK) if waiting else b""
                *lines, rest = (rest + piece).split(b"\n")
                rest = rest if len(rest) <= MAX_LINE else b"?"
                yield lines
                if piece:
                    continue
                if len(waiting) > 1:  # the older one was rotated before its end was read
                    os.close(waiting.pop(0))
                    rest = b""
                    continue
                wait(0.2)
                waiting += self._open(after=waiting[0] if waiting else -1)
        finally:
            _close(waiting)

    def _open(self, after: int = -1) -> list[int]:
        """Open the files, oldest first; only those that are newer than ``after``.

        From the newest on: what is rotated meanwhile is met twice then, and never missed.
        """
        keys = {_key(after)} if after >= 0 else set()
        found: list[int] = []
        for path in self._names():
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError as error:
                _close(found)
                raise StateError(
                    f"the file of events {named(path)} cannot be read",
                    hint="run it as root",
                    detail=f"{path}: {error}",
                ) from error
            key = _key(fd)
            if after >= 0 and key == _key(after):
                os.close(fd)
                break
            if key in keys or not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                continue
            keys.add(key)
            found.append(fd)
        return found[::-1]

    def _names(self) -> list[Path]:
        numbered: list[tuple[int, Path]] = [(0, self._path)]
        pattern = re.compile(re.escape(self._path.name) + r"\.(\d{1,6})")
        with suppress(OSError):
            for name in os.listdir(self._path.parent):  # noqa: PTH208 # names only
                if match := pattern.fullmatch(name):
                    numbered.append((int(match[1]), self._path.with_name(name)))
        return [path for _, path in sorted(numbered)]


def _key(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


class Journal(NamedTuple):
    """What the agent wrote to the journal: the entries that journald itself says are its unit's.

    Attributes:
        unit: The unit it runs as.
        folder: Journal files of another host; empty for this host's journal.
        since: Unix seconds; 0 = from the beginning.
        until: Unix seconds; 0 = to the end.
    """

    unit: str
    folder: str = ""
    since: float = 0
    until: float = 0

    def batches(self) -> Batches:
        """Yield the lines, oldest first. Raises CommandError."""
        return self._lines([])

    def follow(self) -> Batches:
        """Yield what is added from now on, for ever. Raises CommandError."""
        return self._lines(["--follow", "--lines=0"])

    def _lines(self, more: list[str]) -> Batches:
        # A match of our own, not --unit: that one adds what others wrote about the unit.
        argv = ["journalctl", "--quiet", "--no-pager", "--output=cat", *more]
        argv += [f"--directory={self.folder}"] if self.folder else []
        if not more:
            argv += [f"--since=@{self.since:.6f}"] if self.since else []
            argv += [f"--until=@{self.until + _LATE:.6f}"] if self.until else []
        with run.stream([*argv, f"_SYSTEMD_UNIT={self.unit}"]) as fd:
            yield from split(lambda: os.read(fd, _CHUNK))
