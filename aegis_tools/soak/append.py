"""Adding lines to a file of a soak: whole or not at all, and on the disk before it returns."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from aegis_tools.control.files import SYSTEM, Calls, write_all
from aegis_tools.errors import StateError

_REASONS = {
    errno.ENOENT: "its folder does not exist",
    errno.ENOTDIR: "a part of its path is no folder",
    errno.EISDIR: "it is a folder",
    errno.ELOOP: "it is a symbolic link",
}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def append(path: Path, lines: str, *, what: str, header: str = "", calls: Calls = SYSTEM) -> int:
    """Add lines, each with its newline, and wait until the disk has them.

    What a killed writer left of a line gets a newline first: it stays apart, and is no line.
    On failure the file is as it was. The caller holds the lock.

    Args:
        path: The file; its folder exists.
        lines: What to add.
        what: What the file is, for the error message; with its name where a person gave it.
        header: What a new file begins with.
        calls: The system calls.

    Returns:
        How many bytes the file has now.

    Raises:
        StateError: It cannot be written, or is no regular file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = calls.open(path, flags, 0o600)
        try:
            return _append(fd, lines, header, calls)
        finally:
            os.close(fd)
    except OSError as error:
        raise _explained(error, what, path) from error


def _explained(error: OSError, what: str, path: Path) -> StateError:
    reason = _REASONS.get(error.errno or 0, (error.strerror or str(error)).lower())
    full = error.errno in _NO_ROOM
    hint = "is the disk full or read-only? see: df" if full else "see what is there: ls -ld"
    return StateError(f"cannot write the {what}: {reason}", hint=hint, detail=f"{path}: {error}")


def _append(fd: int, lines: str, header: str, calls: Calls) -> int:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no regular file")
    size = found.st_size
    torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
    before = "\n" if torn else "" if size else header
    data = (before + lines).encode("utf-8", "backslashreplace")
    try:
        write_all(fd, data, calls)
        calls.fsync(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, size)
        raise
    return size + len(data)
