"""What was changed, when, by whom: ``history.jsonl``, one JSON object a line, oldest first.

Lines are only ever appended, each synced before the command reports success. At 8 MiB the file
becomes ``history.jsonl.1`` and so on; four files are kept. A log that others could have changed is
not written any further, and read only with a warning.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from aegis_tools.control.files import OTHERS_WRITE, SYSTEM, Calls, kind_of, printable, write_all
from aegis_tools.errors import StateError
from aegis_tools.policy import strictjson

MAX_FILE = 8 << 20
KEPT_FILES = 4
_MAX_LINE = 65536
_MAX_TEXT = 512
_BLOCK = 65536


@dataclass(frozen=True)
class Entry:
    """One change, or one that was refused.

    Args:
        time: Unix seconds.
        action: The command: ``policy apply``.
        result: ``ok``, or the error's code.
        uid: The user id that ran it.
        sudo_user: Who ran it through sudo, as sudo says; may be empty.
        digest: The policy's digest, if there is one.
        serial: The bundle's serial; 0 if unsigned.
        signers: Key ids that signed it.
        counts: Rules or map entries, by kind.
        note: Anything else, one line: a reason, the rule's text.
    """

    time: int
    action: str
    result: str = "ok"
    uid: int = 0
    sudo_user: str = ""
    digest: str = ""
    serial: int = 0
    signers: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Listing:
    """What a reader found.

    Attributes:
        entries: Newest first.
        damaged: How many lines were no entries.
        note: Why the entries need not be true; empty where only we can write them.
    """

    entries: tuple[Entry, ...]
    damaged: int
    note: str = ""


class History:
    """The log at ``path``; ``append`` is called with the lock held, ``read`` at any time."""

    def __init__(self, path: Path, *, max_file: int = MAX_FILE, calls: Calls = SYSTEM) -> None:
        self._path = path
        self._max_file = max_file
        self._calls = calls

    def append(self, entry: Entry) -> None:
        """Add a line and wait until the disk has it. On failure the file is as it was.

        Raises:
            StateError: The log cannot be written, is no regular file, or others can change it.
        """
        line = _to_line(entry)
        self.check()
        try:
            self._rotate(len(line))
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
            fd = self._calls.open(self._path, flags | os.O_CLOEXEC, 0o600)
            try:
                self._append(fd, line)
            finally:
                os.close(fd)
        except OSError as error:
            raise StateError(
                "cannot write the history log",
                hint="is the disk full or read-only? see: df; then run the command again",
                detail=f"{self._path}: {error}",
            ) from error

    def check(self) -> None:
        """See that the log, if there is one, is ours alone: before a change that it must show.

        Raises:
            StateError: It is no regular file, or others can change it.
        """
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise StateError(
                "cannot look at the history log", hint="run the command as root", detail=str(error)
            ) from error
        _check_type(found, self._path)
        if fault := _others(found):
            raise StateError(fault[0], hint=fault[1], detail=str(self._path))

    def read(self, limit: int = 50) -> Listing:
        """Return the newest entries, at most ``limit``.

        At most the last 8 MiB of each file are read. A line that was cut off by a crash, or is not
        an entry, is counted and passed over.

        Raises:
            StateError: The log cannot be read, or is no regular file.
        """
        entries: list[Entry] = []
        damaged = 0
        note = self._note()
        try:
            for line in self._lines():
                if len(entries) >= limit:
                    break
                entry = _from_line(line)
                if entry is None:
                    damaged += 1
                else:
                    entries.append(entry)
        except OSError as error:
            raise StateError(
                "cannot read the history log", hint="run the command as root", detail=str(error)
            ) from error
        return Listing(tuple(entries), damaged, note)

    def _append(self, fd: int, line: bytes) -> None:
        size = _regular(fd)
        if size and os.pread(fd, 1, size - 1) != b"\n":
            line = b"\n" + line  # the last writer was killed half-way; keep its piece apart
        try:
            write_all(fd, line, self._calls)
            self._calls.fsync(fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, size)
            raise

    def _rotate(self, more: int) -> None:
        try:
            size = self._path.lstat().st_size
        except FileNotFoundError:
            return
        if size + more <= self._max_file:
            return
        names = self._names()
        for older, newer in zip(reversed(names), list(reversed(names))[1:], strict=False):
            with contextlib.suppress(FileNotFoundError):
                self._calls.replace(newer, older)

    def _note(self) -> str:
        for name in self._names():
            with contextlib.suppress(OSError):
                found = name.lstat()
                _check_type(found, name)
                if fault := _others(found):
                    return f"{fault[0]}: entries may be false; {fault[1]}"
        return ""

    def _names(self) -> list[Path]:
        later = [self._path.with_name(f"{self._path.name}.{i}") for i in range(1, KEPT_FILES)]
        return [self._path, *later]

    def _lines(self) -> Iterator[bytes]:
        for name in self._names():
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    yield from _backwards(fd, self._max_file + _MAX_LINE)
                finally:
                    os.close(fd)


def _backwards(fd: int, limit: int) -> Iterator[bytes]:
    """Yield the lines of a file from the last to the first, reading at most ``limit`` bytes."""
    at = _regular(fd)
    stop = max(0, at - limit)
    rest = b""
    skipping = False  # inside a line longer than any of ours: it is yielded cut, and once
    while at > stop:
        start = max(stop, at - _BLOCK)
        rest, *lines = (os.pread(fd, at - start, start) + rest).split(b"\n")
        at = start
        if lines and skipping:
            lines[-1], skipping = b"", False
        yield from (line for line in reversed(lines) if line)
        if len(rest) > _MAX_LINE and not skipping:
            skipping = True
            yield rest[:_MAX_LINE]
        if skipping:
            rest = b""
    if rest and stop == 0:
        yield rest


def _check_type(found: os.stat_result, path: Path) -> None:
    if kind := kind_of(found):
        raise StateError(
            f"the history log is {kind}",
            hint="move it away; the next change begins a new log (see --verbose for its name)",
            detail=str(path),
        )


def _others(found: os.stat_result) -> tuple[str, str] | None:
    if found.st_uid not in (0, os.geteuid()):
        return (
            "the history log belongs to another user",
            "check what it says, then make its owner right with: chown",
        )
    if found.st_mode & OTHERS_WRITE:
        safe = stat.S_IMODE(found.st_mode) & ~OTHERS_WRITE
        return (
            "others can change the history log",
            f"check what it says, then make it safe with: chmod {safe:04o}",
        )
    return None


def _regular(fd: int) -> int:
    """Return the file's size; only a regular file has one that means anything."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise OSError("the history log is not a regular file")
    return found.st_size


def _to_line(entry: Entry) -> bytes:
    values = asdict(entry)
    for name, value in values.items():
        if isinstance(value, str):
            values[name] = printable(value, _MAX_TEXT)
    values["signers"] = [printable(s, 64) for s in entry.signers[:32]]
    values["counts"] = {printable(k, 64): n for k, n in list(entry.counts.items())[:32]}
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def _from_line(line: bytes) -> Entry | None:
    """Return the entry, or ``None`` if it is not one; fields of later versions are ignored."""
    try:
        values = strictjson.loads(line)
        known = {f.name: values[f.name] for f in fields(Entry)}
    except (ValueError, LookupError, TypeError):
        return None
    return Entry(**_cleaned(known)) if _is_entry(known) else None


def _is_entry(values: dict[str, Any]) -> bool:
    numbers = ("time", "uid", "serial")
    texts = ("action", "result", "sudo_user", "digest", "note")
    counts, signers = values["counts"], values["signers"]
    return (
        all(strictjson.is_integer(values[n], 0, 2**64 - 1) for n in numbers)
        and all(isinstance(values[t], str) for t in texts)
        and isinstance(signers, list)
        and all(isinstance(s, str) for s in signers)
        and isinstance(counts, dict)
        and all(strictjson.is_integer(c, 0, 2**64 - 1) for c in counts.values())
    )


def _cleaned(values: dict[str, Any]) -> dict[str, Any]:
    """Escape what a terminal would obey: the file may have been edited."""
    cleaned = {k: printable(v, _MAX_TEXT) if isinstance(v, str) else v for k, v in values.items()}
    cleaned["signers"] = tuple(printable(s) for s in values["signers"])
    cleaned["counts"] = {printable(k): v for k, v in values["counts"].items()}
    return cleaned
