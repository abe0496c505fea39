"""Which mount shows a file: /proc/self/mountinfo has the kernel's own device numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of mountinfo.

    Attributes:
        dev: s_dev as BPF programs see it, (major << 20) | minor.
        root: The directory of the file system that is mounted.
        point: Where.
    """

    dev: int
    root: str
    point: str


def parse(lines: Iterable[str]) -> dict[int, list[Mount]]:
    """Return the mounts by device, each with the widest root first.

    Lines that are not understood are passed over (proc_pid_mountinfo(5) allows new fields).
    """
    mounts: dict[int, list[Mount]] = {}
    for line in lines:
        words = line.split(" ")
        major, _, minor = (words[2] if len(words) > 4 else "").partition(":")
        if major.isdecimal() and minor.isdecimal():
            dev = int(major) << 20 | int(minor)
            mounts.setdefault(dev, []).append(Mount(dev, _plain(words[3]), _plain(words[4])))
    for found in mounts.values():
        found.sort(key=lambda mount: len(mount.root))
    return mounts


def _plain(text: str) -> str:
    """Undo the escapes of blanks, tabs, newlines and backslashes."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def locate(mounts: Iterable[Mount], path: str) -> str | None:
    """Return the path from ``/`` of a path from its file system's root; None if not mounted."""
    for mount in mounts:
        root = mount.root.rstrip("/")
        if path == root or path.startswith(root + "/"):
            return mount.point.rstrip("/") + path[len(root) :] or "/"
    return None


class Mounts:
    """The mounts of this process's namespace, read again when an unknown device shows up.

    Args:
        read: Returns mountinfo's lines.
        clock: Seconds that only grow; it is read at most once a second.
    """

    def __init__(self, read: Callable[[], list[str]], clock: Callable[[], float]) -> None:
        self._read = read
        self._clock = clock
        self._next = 0.0
        self._mounts: dict[int, list[Mount]] = {}
        self._known: dict[int, Mount] = {}

    def locate(self, dev: int, path: str) -> str:
        """Return the path from ``/``; of a device that is not mounted here, ``dev:N:/path``."""
        found = locate(self._mounts.get(dev, ()), path)
        if found is None and self._clock() >= self._next:
            self._next = self._clock() + 1
            self._mounts = parse(self._read())
            found = locate(self._mounts.get(dev, ()), path)
        return found if found is not None else f"dev:{dev}:{path}"


def read_mountinfo() -> list[str]:
    """Return the lines of /proc/self/mountinfo."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="backslashreplace") as file:
        return file.read().splitlines()
