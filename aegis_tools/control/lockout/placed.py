"""Needs as the hooks see them: inode, name and the folders above; see whyfile for one file."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from aegis_tools.control.lockout.model import Need
from aegis_tools.control.resolve import Identify
from aegis_tools.control.why import File
from aegis_tools.kernel.inode_keys import InodeId
from aegis_tools.kernel.mountpaths import inside, locate
from aegis_tools.kernel.mounts import Mount


class Placed(NamedTuple):
    """A need and the file that it is now."""

    need: Need
    file: File


def place(needs: Iterable[Need], identify: Identify, mounts: Sequence[Mount]) -> list[Placed]:
    """Return where needs are.

    Args:
        needs: What is needed.
        identify: Names files as the kernel does; asked once.
        mounts: In the order of mountinfo.
    """
    folders = _Folders(mounts)
    real = {path: folders.real(path) for path in {need.path for need in needs}}
    wanted = dict.fromkeys(real.values())
    above = {path: folders.above(path) for path in wanted}
    shown = dict.fromkeys(s for chain in above.values() for s in chain)
    ids = identify.identify([*wanted, *(s for s in shown if s not in wanted)])
    files = {path: File(path, ids[path], _known(above[path], ids)) for path in wanted}
    return [Placed(need, files[real[need.path]]) for need in needs]


def _known(above: list[str], ids: dict[str, InodeId | None]) -> tuple[tuple[str, InodeId], ...]:
    found: list[tuple[str, InodeId]] = []
    for path in above:
        inode = ids[path]
        if inode is None or (found and inode.dev != found[0][1].dev):
            break
        found.append((path, inode))
    return tuple(found)


class _Folders:
    """What is asked of every folder once, though it holds hundreds of files."""

    def __init__(self, mounts: Sequence[Mount]) -> None:
        self._mounts = mounts
        self._points = {mount.point for mount in mounts}
        self._real: dict[str, str] = {}
        self._above: dict[str, list[str]] = {}

    def real(self, path: str) -> str:
        """Return a path without symbolic links."""
        folder, _, name = path.rpartition("/")
        if not name:
            return path or "/"
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder or "/")
        whole = posixpath.join(self._real[folder], name)
        return os.path.realpath(whole) if Path(whole).is_symlink() else whole

    def above(self, path: str) -> list[str]:
        """Return the folders above a path up to its file system's root, nearest first."""
        if path in self._points:
            return self._find(path)
        folder = path.rpartition("/")[0] or "/"
        if path == "/":
            return []
        if folder not in self._above:
            self._above[folder] = [folder, *self._find(folder)]
        return self._above[folder]

    def _find(self, path: str) -> list[str]:
        where = inside(self._mounts, path)
        if where is None:
            return []
        mount, within = where
        same = [m for m in self._mounts if m.dev == mount.dev]
        found = []
        while within not in ("", "/"):
            within = within.rpartition("/")[0] or "/"
            shown = locate(same, within)
            if shown is None:
                break
            found.append(shown)
        return found
