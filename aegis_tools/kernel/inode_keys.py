"""Ask the kernel what it calls a file: device, inode number and generation.

stat(2) does not know: on overlayfs and btrfs its st_dev is not the kernel's s_dev, and a
key made from it never matches. We open the files with O_PATH, which needs no permission
on them, has no side effect even on devices and pipes, and passes no LSM hook, and let the
``inode_keys`` iterator report the inodes behind our own descriptors.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterable
from typing import NamedTuple

from aegis_tools.errors import KernelError
from aegis_tools.kernel import syscall
from aegis_tools.kernel.layout import INODE_ID, INODE_KEY
from aegis_tools.kernel.pins import Pins

_READ = 1 << 20
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class InodeId(NamedTuple):
    """How the kernel identifies a file.

    Attributes:
        ino: Inode number.
        dev: s_dev, (major << 20) | minor.
        generation: 0 where the file system has none.
        mode: File type and permission bits.
    """

    ino: int
    dev: int
    generation: int
    mode: int

    @property
    def key(self) -> bytes:
        """The struct inode_key."""
        return INODE_KEY.pack(self.ino, self.dev, 0)

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


def read_open_files(program_fd: int) -> dict[int, InodeId]:
    """Return what this process has open, by descriptor."""
    iterator = syscall.open_task_iterator(program_fd, os.getpid())
    try:
        data = b"".join(iter(lambda: os.read(iterator, _READ), b""))
    finally:
        os.close(iterator)
    new = tuple.__new__  # InodeId(...) is a Python function: twice the time, 65,536 times
    return {
        fd: new(InodeId, (ino, dev, generation, mode))
        for ino, fd, dev, generation, mode in INODE_ID.iter_unpack(data)
    }


class Identifier:
    """Identifies files in bulk through the pinned iterator program.

    Args:
        pins: Where ``inode_keys`` is pinned.
    """

    def __init__(self, pins: Pins) -> None:
        self._program = pins.open_program("inode_keys")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._chunk = max(64, min(4096, hard - 256))
        self._limits = (soft, hard)

    def __enter__(self) -> Identifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the program's descriptor and restore the limit on open files."""
        os.close(self._program)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)

    def identify(self, paths: Iterable[str]) -> dict[str, InodeId | None]:
        """Identify ``paths``, following symbolic links; None where nothing is there."""
        return self._bulk([(path, None) for path in paths], follow=True)

    def identify_in(self, directory: str, names: Iterable[str]) -> dict[str, InodeId | None]:
        """Identify ``names`` in one directory, not following symbolic links.

        Returns:
            By name; None where there is no such file (or no such directory).
        """
        try:
            base = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return dict.fromkeys(names)
        try:
            return self._bulk([(name, base) for name in names], follow=False)
        finally:
            os.close(base)

    def _bulk(
        self, wanted: list[tuple[str, int | None]], *, follow: bool
    ) -> dict[str, InodeId | None]:
        found: dict[str, InodeId | None] = {}
        for start in range(0, len(wanted), self._chunk):
            part = wanted[start : start + self._chunk]
            opened = _open_all(part, follow=follow)
            try:
                ids = read_open_files(self._program)
                found.update((name, ids[fd] if fd >= 0 else None) for name, fd in opened.items())
            except KeyError:
                raise KernelError(
                    "the kernel did not say what it calls a file", hint="run the command again"
                ) from None
            finally:
                _close_all([fd for fd in opened.values() if fd >= 0])
        return found


def _open_all(wanted: list[tuple[str, int | None]], *, follow: bool) -> dict[str, int]:
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    opened = {}
    open_, nothing = os.open, -1
    try:
        for name, base in wanted:
            try:
                opened[name] = open_(name, flags, dir_fd=base)
            except OSError as error:
                if error.errno in _EXHAUSTED:  # not the file's fault: it must not seem missing
                    raise KernelError(
                        "no more files can be opened",
                        hint="raise the limit: ulimit -n 65536; then run the command again",
                        detail=str(error),
                    ) from None
                opened[name] = nothing
            except ValueError:
                opened[name] = nothing
    except BaseException:
        _close_all([fd for fd in opened.values() if fd >= 0])
        raise
    return opened


def _close_all(fds: list[int]) -> None:
    """Close descriptors, each run of consecutive ones by a single system call."""
    fds.sort()
    start = 0
    for i in range(1, len(fds) + 1):
        if i == len(fds) or fds[i] != fds[i - 1] + 1:
            os.closerange(fds[start], fds[i - 1] + 1)
            start = i
