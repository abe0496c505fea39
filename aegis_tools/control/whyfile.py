"""A path to what the hooks would see of it: inode, name, and the directories above."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType

from aegis_tools.control.live import Live
from aegis_tools.control.resolve import Identify
from aegis_tools.control.why import File
from aegis_tools.kernel.inode_keys import InodeId
from aegis_tools.kernel.layout import GENERATION
from aegis_tools.kernel.maps import Map
from aegis_tools.kernel.mountpaths import inside, locate
from aegis_tools.kernel.mounts import Mount


class Tables:
    """The inner maps of the active slot, opened as they are asked for. A context manager."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._slot = live.slot
        self._open: dict[str, Map | None] = {}

    def __enter__(self) -> Tables:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for opened in self._open.values():
            if opened is not None:
                opened.close()

    def get(self, name: str, key: bytes) -> bytes | None:
        """Return the entry at a key of a policy map; a trie answers with the longest prefix."""
        if name not in self._open:
            self._open[name] = self._live.inner(name, self._slot)
        opened = self._open[name]
        return opened.get(key) if opened is not None else None


def survives(live: Live, file: File) -> bool:
    """Return whether a file is on the survival allowlist; see survives() in bpf/report.h."""
    if file.inode is None:
        return False
    value = live.map("survival_allowlist").get(file.inode.key)
    generation = GENERATION.unpack(value)[0] if value else None
    return generation == file.inode.generation


def look_at(path: str, identify: Identify, mounts: Sequence[Mount]) -> tuple[File, str]:
    """Return a file as the hooks see it, and a remark on what could not be seen (or nothing).

    Args:
        path: Absolute; symbolic links are followed.
        identify: Names files as the kernel does.
        mounts: In the order of mountinfo.
    """
    real = os.path.realpath(path)
    inode = identify.identify([real])[real]
    place = inside(mounts, real)
    if place is None:
        return File(real, inode), f"{real} is on no mount that can be seen from here"
    mount, within = place
    same = [m for m in mounts if m.dev == mount.dev]
    above: list[tuple[str, str | None]] = []
    while within not in ("", "/"):
        within = within.rpartition("/")[0] or "/"
        above.append((within, locate(same, within)))
    visible = [shown for _, shown in above if shown is not None]
    ids = identify.identify(visible)
    known: list[tuple[str, InodeId]] = []
    for hidden, shown in above:
        directory = ids.get(shown) if shown is not None else None
        if shown is None or directory is None or directory.dev != mount.dev:
            remark = f"{hidden} of the file system cannot be seen from here, nor what is above it"
            return File(real, inode, known), remark
        known.append((shown, directory))
    return File(real, inode, known), ""
