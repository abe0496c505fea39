"""Reading and writing files that matter: whole or not at all, and only what is really ours.

The checks are made on the opened descriptor, so nothing can be exchanged between a check and its
use.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from aegis_tools.errors import AegisError, PolicyError, StateError, UsageError

MAX_POLICY = 64 << 20
OTHERS_WRITE = 0o022
OTHERS_ANY = 0o077
WORLD_WRITE = 0o002
_TMP = ".tmp"
IN_THE_WAY = "move it away (--verbose shows its name), then run the command again"
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFDIR: "a folder",
    stat.S_IFSOCK: "a socket",
}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_HINTS = {
    errno.ENOSPC: "the disk is full: free some space, then run the command again",
    errno.EDQUOT: "the disk quota is used up: free some space, then run the command again",
    errno.EFBIG: "raise the file size limit (ulimit -f), then run the command again",
    errno.EROFS: "the file system is read-only: look for disk errors with: dmesg; then remount it",
    errno.EIO: "the disk reports errors: look at: dmesg",
    errno.EACCES: "run the command as root",
    errno.EPERM: "run the command as root",
    errno.ENOENT: "check the name",
    errno.ELOOP: "put a regular file in the place of the symbolic link",
    errno.ENOTDIR: "check the name",
    errno.EISDIR: IN_THE_WAY,
    errno.ENOTEMPTY: IN_THE_WAY,
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
_NO_FOLDER = "its folder does not exist"


@dataclass(frozen=True)
class Calls:
    """The system calls that write, as a seam: a test makes any of them fail."""

    open: Callable[..., int] = os.open
    write: Callable[[int, Any], int] = os.write
    fsync: Callable[[int], None] = os.fsync
    replace: Callable[..., None] = os.replace


SYSTEM = Calls()


def write_atomic(
    path: Path, data: bytes, *, what: str, mode: int = 0o600, calls: Calls = SYSTEM
) -> None:
    """Replace a file by ``data``, so that a crash at any instant leaves the old content or the new.

    A new file of an unpredictable name in the same folder is written, synced and renamed; then the
    folder is synced. The caller holds the lock.

    Args:
        path: The file; its folder exists.
        data: The whole content.
        what: What the file is, for the error message; with its name where a person gave it.
        mode: Permission bits, whatever the umask.
        calls: The system calls.

    Raises:
        StateError: The disk is full, read-only and so on. The old content is still there (unless
            only the last step failed: then the new content is there, but a power loss could still
            undo it).
    """
    with _as_error(StateError, f"cannot write the {what}", path, absent=_NO_FOLDER):
        folder = calls.open(path.parent, _FOLDER)
        try:
            temporary = f".{path.name}.{os.urandom(8).hex()}{_TMP}"
            _write_new(folder, temporary, data, mode, calls)
            try:
                calls.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                _unlink_quietly(temporary, folder)
                raise
            calls.fsync(folder)
        finally:
            os.close(folder)


def write_new(path: Path, data: bytes, *, what: str, mode: int, calls: Calls = SYSTEM) -> None:
    """Write a file that must not exist yet; on failure nothing is left behind.

    Raises:
        StateError: It exists, or cannot be written.
    """
    with _as_error(StateError, f"cannot write the {what}", path, absent=_NO_FOLDER):
        folder = calls.open(path.parent, _FOLDER)
        try:
            _write_new(folder, path.name, data, mode, calls)
            calls.fsync(folder)
        finally:
            os.close(folder)


def check_output(path: Path, *, what: str, source: Path | None = None) -> None:
    """Refuse a name that a person gave for an output where ``write_atomic`` would do harm or fail.

    Raises:
        UsageError: What has the name is no regular file (a rename replaces a device, too) or is
            ``source``, from which the output is made; or the folder cannot be written.
    """
    reason = ""
    try:
        if kind := kind_of(path.lstat()):
            reason = f"it is {kind}"
        elif source and path.samefile(source):
            reason = "it would replace the file that is read"
    except FileNotFoundError:
        reason = "" if path.parent.is_dir() else _NO_FOLDER
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
    if not reason and not os.access(path.parent, os.W_OK | os.X_OK):
        reason = "its folder cannot be written"
    if reason:
        hint = "name a new file, or a regular one that may be replaced, in a folder that exists"
        raise UsageError(f"cannot write the {what} to {named(path)}: {reason}", hint=hint)


def read_limited(
    path: Path | str,
    limit: int,
    *,
    what: str,
    owners: Collection[int] | None = None,
    forbid: int = 0,
    follow: bool = False,
    dir_fd: int | None = None,
    error: type[AegisError] = StateError,
) -> bytes:
    """Read a regular file that is at most ``limit`` bytes long.

    Args:
        path: The file.
        limit: The most that is ever read, in bytes.
        what: What the file is, for the error message.
        owners: The user ids that may own it; ``None`` for any.
        forbid: Permission bits that it must not have.
        follow: Whether ``path`` may be a symbolic link.
        dir_fd: The open folder that ``path`` is relative to.
        error: The class to raise.

    Raises:
        AegisError: ``error``: missing, not a regular file, too large, wrong owner or mode,
            unreadable.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    with _as_error(error, f"cannot read the {what}", path):
        fd = os.open(path, flags, dir_fd=dir_fd)
        try:
            fault = _fault(os.fstat(fd), limit, owners, forbid, path)
            if fault:
                raise error(f"the {what} {fault[0]}", hint=fault[1], detail=str(path))
            data = _read_all(fd, limit + 1)
        finally:
            os.close(fd)
    if len(data) > limit:
        raise error(
            f"the {what} grew while it was read", hint="run the command again", detail=str(path)
        )
    return data


def read_if_present(path: Path, limit: int, *, what: str, owners: Collection[int]) -> bytes | None:
    """Read a file of ours: no link, not writable by others. ``None`` if there is none.

    Raises:
        StateError: As ``read_limited``.
    """
    if not exists(path):
        return None
    return read_limited(path, limit, what=what, owners=owners, forbid=OTHERS_WRITE)


def exists(path: Path) -> bool:
    """Tell whether there is anything of that name, a dangling link included.

    ``os.path.lexists`` also says no when the disk fails or a folder may not be entered; what
    decides about trust must not take that for a new host.

    Raises:
        StateError: It cannot be told.
    """
    with _as_error(StateError, "cannot look up a file of ours", path):
        try:
            path.lstat()
        except FileNotFoundError:
            return False
        return True


def read_policy_file(path: Path) -> bytes:
    """Read a policy file that a person named: regular, at most 64 MiB, not writable by everybody.

    Raises:
        PolicyError: It is not such a file.
    """
    return read_limited(
        path,
        MAX_POLICY,
        what=f"policy file {named(path)}",
        forbid=WORLD_WRITE,
        follow=True,
        error=PolicyError,
    )


def ensure_folder(path: Path, *, mode: int = 0o700) -> None:
    """Create a folder of ours where it is missing, and refuse one that others could change.

    Raises:
        StateError: A link or file is in its place, it is owned or writable by others, or cannot be
            made.
    """
    with _as_error(StateError, "cannot make a folder of ours", path):
        if not path.is_dir():
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            _make_folder(path, mode)
            _sync_folder(path.parent)
        fd = os.open(path, _FOLDER | os.O_NOFOLLOW)
        try:
            _check_folder(os.fstat(fd), os.geteuid(), path)
        finally:
            os.close(fd)


@contextlib.contextmanager
def trusted_folder(root: Path, path: Path, *, owner: int) -> Iterator[int]:
    """Open a folder after checking it and every folder above it, up to ``root``.

    Each is opened in the one before, without following links, and must be owned by ``owner`` (or
    root) and not writable by group or others: who can rename a parent chooses what the folder
    holds.

    Yields:
        The descriptor of the folder.

    Raises:
        StateError: A check failed.
    """
    with _as_error(StateError, "cannot open a folder of ours", root):
        fd = os.open(root, _FOLDER)
    try:
        at = root
        _check_folder(os.fstat(fd), owner, at)
        for part in path.relative_to(root).parts:
            at = at / part
            with _as_error(StateError, "cannot open a folder of ours", at):
                below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = below
            _check_folder(os.fstat(fd), owner, at)
        yield fd
    finally:
        os.close(fd)


def remove(path: Path, *, what: str) -> None:
    """Remove a file of ours for good, so that no power loss brings it back; nothing is no error.

    Raises:
        StateError: It cannot be removed.
    """
    with _as_error(StateError, f"cannot remove the {what}", path):
        try:
            path.unlink()
        except FileNotFoundError:
            return
        _sync_folder(path.parent)


def remove_leftovers(folder: Path, name: str = "") -> int:
    """Remove what killed writers left, and return how many; the caller holds the lock.

    Args:
        folder: Where they wrote.
        name: What they wrote, ``*`` for any part of it; in a folder that is not ours alone.
    """
    pattern = f".{name}.{'[0-9a-f]' * 16}{_TMP}" if name else f".*{_TMP}"
    found = [p for p in folder.glob(pattern) if not p.is_dir()]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def kind_of(found: os.stat_result) -> str:
    """Return what something is that is no regular file, for a message; empty for a regular one."""
    if stat.S_ISREG(found.st_mode):
        return ""
    return _KINDS.get(stat.S_IFMT(found.st_mode), "not a regular file")


def printable(text: str, limit: int = 200) -> str:
    """Return ``text`` fit for a terminal: what is invisible escaped, length limited."""
    cut = text[:limit]
    safe = cut if cut.isprintable() else "".join(map(escaped, cut))
    return safe if len(text) <= limit else safe + "…"


def escaped(character: str) -> str:
    """Return a character as a terminal may have it: ``\\n``, and ``\\xff`` for a byte that is no
    UTF-8; a space of any kind as it is.
    """
    from unicodedata import category

    if character.isprintable() or category(character) == "Zs":
        return character  # a no-break space drives no terminal, and is part of the name
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) & 0xFF:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode()


def named(path: Path) -> str:
    """Return a path that a person gave, for a message: its name tells them apart."""
    return printable(str(path))


def _write_new(folder: int, name: str, data: bytes, mode: int, calls: Calls) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = calls.open(name, flags, 0o600, dir_fd=folder)
    try:
        write_all(fd, data, calls)
        os.fchmod(fd, mode)
        calls.fsync(fd)
    except BaseException:
        _unlink_quietly(name, folder)
        raise
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes, calls: Calls = SYSTEM) -> None:
    """Write all of ``data``; the kernel may take it in pieces."""
    rest = memoryview(data)
    while rest:
        rest = rest[calls.write(fd, rest) :]


def _read_all(fd: int, limit: int) -> bytes:
    parts = []
    while limit > 0 and (part := os.read(fd, min(limit, 1 << 20))):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


def _fault(
    found: os.stat_result, limit: int, owners: Collection[int] | None, forbid: int, path: Path | str
) -> tuple[str, str] | None:
    if kind := kind_of(found):
        return f"is {kind}", "give the name of a file" if owners is None else IN_THE_WAY
    name = quote(str(path))
    if owners is not None and found.st_uid not in owners:
        owner = "root" if 0 in owners else min(owners)
        return "belongs to another user", f"make its owner right with: chown {owner} {name}"
    if found.st_mode & forbid:
        who = "can be used by others" if forbid == OTHERS_ANY else "can be changed by others"
        mode = f"{stat.S_IMODE(found.st_mode) & ~forbid:04o}"
        return who, f"make it safe with: chmod {mode} {name}"
    if found.st_size > limit:
        ours = IN_THE_WAY if owners is not None else "check that this is the file you mean"
        return f"is larger than {limit} bytes", ours
    return None


def _check_folder(found: os.stat_result, owner: int, path: Path) -> None:
    if found.st_uid not in (0, owner):
        raise StateError(
            "a folder of ours, or one above it, belongs to another user",
            hint="make its owner right with: chown (its name is shown with --verbose)",
            detail=str(path),
        )
    if found.st_mode & OTHERS_WRITE:
        raise StateError(
            "a folder of ours, or one above it, can be changed by others",
            hint="make it safe with: chmod go-w (its name is shown with --verbose)",
            detail=str(path),
        )


def _make_folder(path: Path, mode: int) -> None:
    try:
        path.mkdir(mode=mode, exist_ok=True)
    except FileExistsError:
        raise StateError(
            "something that is no folder is in the place of one of ours",
            hint=IN_THE_WAY,
            detail=str(path),
        ) from None


def _sync_folder(path: Path) -> None:
    fd = os.open(path, _FOLDER)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unlink_quietly(name: str, folder: int) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=folder)


@contextlib.contextmanager
def _as_error(
    error: type[AegisError], message: str, path: Path | str, *, absent: str = "it does not exist"
) -> Iterator[None]:
    try:
        yield
    except OSError as found:
        raise _explain(error, message, found, path, absent) from found


def _explain(
    error: type[AegisError], message: str, found: OSError, path: Path | str, absent: str
) -> AegisError:
    reason = {
        errno.ENOENT: absent,
        errno.EEXIST: "it exists already",
        errno.ELOOP: "it is a symbolic link",
        errno.EISDIR: "it is a folder",
        errno.ENOTEMPTY: "it is a folder",
        errno.ENOTDIR: "a part of its path is no folder",
    }.get(found.errno or 0, (found.strerror or "unknown reason").lower())
    hint = _HINTS.get(found.errno or 0, "run the command again with --verbose")
    if found.errno == errno.ENOENT and absent is _NO_FOLDER:
        hint = "make the folder first, or name a file in another one"
    if found.errno == errno.EEXIST:
        hint = "choose another name; nothing is ever overwritten"
    return error(f"{message}: {reason}", hint=hint, detail=f"{path}: {found}")
