"""One command at a time: the lock that everything holds which changes state or kernel.

It is an ``flock`` on ``<run>/lock``: the kernel lets go of it when the holder dies, however it
dies. The file says who holds it, for the message only. The lock is not re-entrant.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from aegis_tools.control.files import IN_THE_WAY, ensure_folder, printable
from aegis_tools.errors import StateError
from aegis_tools.policy import strictjson

_POLL = 0.05
_MAX_HOLDER = 4096


@contextlib.contextmanager
def locked(
    path: Path,
    command: str,
    *,
    timeout: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Hold the lock for the time of the ``with`` block.

    Args:
        path: ``Paths.lock``; its folder is made where it is missing.
        command: What the holder does, for others who wait: ``policy apply``.
        timeout: Seconds to wait for another holder.
        clock: Seconds that only grow.
        sleep: Waits that many seconds.

    Raises:
        StateError: Somebody else held it all the time, or the file cannot be made.
    """
    ensure_folder(path.parent, mode=0o755)
    deadline = clock() + timeout
    fd = _acquire(path)
    while fd is None:
        if clock() >= deadline:
            raise _busy(path)
        sleep(_POLL)
        fd = _acquire(path)
    try:
        _sign(fd, command)
        yield
    finally:
        os.close(fd)


def _acquire(path: Path) -> int | None:
    """Return the descriptor that holds the lock, or ``None`` if another has it."""
    # Mode 0600: whoever can open the file can lock it, and so stop every command.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = _is_at(fd, path)
        except BlockingIOError:
            held = False
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise _cannot(error) from error
    if not held:
        os.close(fd)
    return fd if held else None


def is_held(path: Path) -> bool | None:
    """Return whether a process that lives holds a lock; None where that cannot be told.

    It is taken together with others who ask, for an instant; so whoever takes it for good must be
    ready to wait.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(fd)
    return False


def _cannot(error: OSError) -> StateError:
    if error.errno in (errno.EISDIR, errno.ELOOP):  # what root cannot open either
        kind = "a folder" if error.errno == errno.EISDIR else "a symbolic link"
        return StateError(f"cannot take the lock: it is {kind}", hint=IN_THE_WAY, detail=str(error))
    return StateError("cannot take the lock", hint="run the command as root", detail=str(error))


def _is_at(fd: int, path: Path) -> bool:
    """Tell whether the descriptor is still the file of that name; a cleaner may have removed it."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _sign(fd: int, command: str) -> None:
    text = json.dumps({"pid": os.getpid(), "command": command[:200]}).encode()
    with contextlib.suppress(OSError):  # a full /run must not stop what may free it
        os.ftruncate(fd, 0)
        os.pwrite(fd, text, 0)


def _busy(path: Path) -> StateError:
    try:
        with path.open("rb") as file:
            holder = strictjson.loads(file.read(_MAX_HOLDER))
        pid, command = int(holder["pid"]), printable(str(holder["command"]))
    except (OSError, ValueError, LookupError, TypeError):
        return StateError(
            "another aegisbpf command is running", hint="wait for it to end, then run this again"
        )
    return StateError(
        f"another command is running: {command} (process {pid})",
        hint=f"wait for it to end, or look at it with: ps -fp {pid}",
        data={"pid": pid, "command": command},
    )
