"""From a path in a file system to the path that shows it here, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aegis_tools.kernel.mounts import Mount


def locate(mounts: Iterable[Mount], path: str) -> str | None:
    """Return the path from ``/`` of a path from its file system's root.

    Args:
        mounts: Of that file system.
        path: Begins with ``/``.

    Returns:
        By the mount with the widest root; None where none shows it.
    """
    for mount in sorted(mounts, key=lambda m: len(m.root)):
        root = mount.root.rstrip("/")
        if path == root or path.startswith(root + "/"):
            return mount.point.rstrip("/") + path[len(root) :] or "/"
    return None


def inside(mounts: Iterable[Mount], path: str) -> tuple[Mount, str] | None:
    """Return the mount that shows ``path`` (absolute, no links) and the path in its file system.

    Args:
        mounts: In mount order: a later one covers an earlier one at the same point.
        path: What is asked for.
    """
    best: Mount | None = None
    for mount in mounts:
        point = mount.point.rstrip("/")
        deeper = best is None or len(point) >= len(best.point.rstrip("/"))
        if deeper and (path == point or path.startswith(point + "/")):
            best = mount
    if best is None:
        return None
    rest = path[len(best.point.rstrip("/")) :]
    return best, best.root.rstrip("/") + rest or "/"


class MountPaths:
    """Paths of events: mounts by device, read again when an unknown device shows up.

    Args:
        read: Returns the mounts of this process's namespace.
        clock: Seconds that only grow; mounts are read at most once a second.
    """

    def __init__(self, read: Callable[[], list[Mount]], clock: Callable[[], float]) -> None:
        self._read = read
        self._clock = clock
        self._next = 0.0
        self._mounts: dict[int, list[Mount]] = {}

    def locate(self, dev: int, path: str) -> str:
        """Return the path from ``/``; of a device that is not mounted here, ``dev:N:/path``."""
        found = locate(self._mounts.get(dev, ()), path)
        if found is None and self._clock() >= self._next:
            self._next = self._clock() + 1
            self._mounts = {}
            for mount in self._read():
                self._mounts.setdefault(mount.dev, []).append(mount)
            found = locate(self._mounts.get(dev, ()), path)
        if found is None:
            return f"dev:{dev}:{path}"
        return found.encode("utf-8", "surrogateescape").decode(errors="backslashreplace")
