"""What limits have changed in cgroups, and what was there before.

A line is written before the change it tells of. So whoever is killed in between leaves a line
whose change may be made or not; both are put right by making it (again), or by taking it back. The
file is where a reboot forgets it, as it forgets the cgroups.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from aegis_tools.control import files
from aegis_tools.errors import StateError
from aegis_tools.paths import Paths
from aegis_tools.policy import strictjson

VERSION = 1
_MAX_BYTES = 16 << 20
_WHAT = "record of limits"


@dataclass(frozen=True)
class Entry:
    """One file of a cgroup that was changed.

    Attributes:
        cgroup: Its path from the root of cgroup v2.
        number: The id of the cgroup: another of the same path is not the one that was changed.
        file: ``memory.high`` and the like; ``cgroup.subtree_control`` for a controller.
        before: What the file said, ``io.max`` of one disk; empty for a controller, which was off.
        wrote: What it was made to say; the name of a controller.
        profile: For whom.
    """

    cgroup: str
    number: int
    file: str
    before: str
    wrote: str
    profile: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What two entries cannot share: a file, and of controllers and disks the one."""
        part = self.wrote.partition(" ")[0] if self.file in (SUBTREE, IO_MAX) else ""
        return self.cgroup, self.file, part


SUBTREE = "cgroup.subtree_control"
IO_MAX = "io.max"


class Ledger:
    """The entries. Who changes them holds the lock.

    Args:
        paths: Where the file is.
    """

    def __init__(self, paths: Paths) -> None:
        self._path = paths.limits

    def read(self) -> list[Entry]:
        """Return all entries, in the order of the changes.

        Raises:
            StateError: The file is damaged.
        """
        data = files.read_if_present(
            self._path, _MAX_BYTES, what=_WHAT, owners=frozenset((0, os.geteuid()))
        )
        if data is None:
            return []
        try:
            found = strictjson.loads(data)
            if set(found) != {"version", "entries"} or found["version"] != VERSION:
                raise ValueError("of another version")
            return [_entry(one) for one in found["entries"]]
        except (ValueError, TypeError, KeyError) as error:
            raise StateError(
                "the record of limits is damaged",
                hint="reboot to be rid of every limit, or set them by hand and move it away",
                detail=f"{self._path}: {error}",
            ) from None

    def write(self, entries: Iterable[Entry]) -> None:
        """Replace all entries; with none the file goes."""
        files.ensure_folder(self._path.parent, mode=0o755)
        files.remove_leftovers(self._path.parent, self._path.name)
        listed = [asdict(entry) for entry in entries]
        if listed:
            data = strictjson.dumps({"version": VERSION, "entries": listed})
            files.write_atomic(self._path, data, what=_WHAT)
        else:
            files.remove(self._path, what=_WHAT)


def _entry(found: Any) -> Entry:
    texts = ("cgroup", "file", "before", "wrote", "profile")
    if not isinstance(found, dict) or set(found) != {*texts, "number"}:
        raise ValueError("an entry is none")
    if not all(isinstance(found[key], str) for key in texts) or ".." in found["cgroup"]:
        raise ValueError("an entry is none")
    if "/" in found["file"] or not strictjson.is_integer(found["number"], 0, (1 << 64) - 1):
        raise ValueError("an entry is none")
    return Entry(**found)
