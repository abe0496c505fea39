"""How often the agent was started lately without having ended well: the sign of a crash loop.

``<run>/starts.json`` holds the boot-clock times of starts that were not followed by an orderly
end. A reboot empties the folder, and a person's ``resume`` removes the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from aegis_tools.control import files
from aegis_tools.errors import StateError
from aegis_tools.paths import Paths
from aegis_tools.policy import strictjson

LIMIT = 3
"""Restarts within the window that are still taken for bad luck."""
WINDOW_SECONDS = 300
_KEEP = 100
_MAX_FILE = 65536
_WHAT = "record of the agent's starts"


def recent(starts: Sequence[int], now_ns: int) -> list[int]:
    """Return the starts within the window; those of a clock that ran ahead are none."""
    oldest = now_ns - WINDOW_SECONDS * 10**9
    return [at for at in starts if oldest <= at <= now_ns][-_KEEP:]


def is_loop(starts: int) -> bool:
    """Return whether so many starts, the present one among them, are a crash loop."""
    return starts - 1 > LIMIT


def read_starts(paths: Paths) -> list[int]:
    """Return what is recorded; nothing where it is damaged, for that proves no crash."""
    try:
        owners = {0, os.geteuid()}
        data = files.read_if_present(paths.starts, _MAX_FILE, what=_WHAT, owners=owners)
        found = strictjson.loads(data) if data is not None else []
    except (StateError, ValueError, RecursionError):
        return []
    if not isinstance(found, list):
        return []
    return [at for at in found if strictjson.is_integer(at, 0, 2**63 - 1)]


def began(paths: Paths, now_ns: int) -> list[int]:
    """Record a start; return the starts within the window, this one among them.

    Raises:
        StateError: It cannot be written.
    """
    starts = [*recent(read_starts(paths), now_ns)[1 - _KEEP :], now_ns]
    _write(paths, starts)
    return starts


def ended(paths: Paths, started_ns: int) -> None:
    """Take a start back: its agent has ended as it should.

    Raises:
        StateError: It cannot be written.
    """
    left = [at for at in read_starts(paths) if at != started_ns]
    _write(paths, left)


def forget(paths: Paths) -> None:
    """Begin anew: a person has looked at it."""
    files.remove(paths.starts, what=_WHAT)


def _write(paths: Paths, starts: Sequence[int]) -> None:
    files.ensure_folder(paths.run)
    files.write_atomic(paths.starts, json.dumps(list(starts)).encode(), what=_WHAT)
