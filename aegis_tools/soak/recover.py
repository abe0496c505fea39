"""What the last turn remembered; or, where that is lost, what the rows say of it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from aegis_tools.control import files
from aegis_tools.soak import changes, columns, happened, state
from aegis_tools.soak.changes import Now
from aegis_tools.soak.columns import Sample
from aegis_tools.soak.folder import Folder
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.settings import Settings
from aegis_tools.soak.state import State

_TAIL = 8192
"""Bytes that have the newest row in them, and some more."""
_LOST = "what the turns remembered was damaged: what happened since the last one may be missing"


def remembered(at: Folder, settings: Settings) -> tuple[State, list[Happened]]:
    """Return the memory of the soak, and what is to be told of its loss.

    Raises:
        StateError: A file of the soak cannot be read.
    """
    found = state.read(at.state)
    if found is not None:
        return found, []
    samples, _ = columns.parse(_text(at.samples, columns.MAX_BYTES).decode("utf-8", "replace"))
    if not samples:
        return State(), []
    last = samples[-1]
    rebuilt = replace(of_rows(samples, settings), told=_size(at), lines=_lines(at))
    return rebuilt, [Happened(last.timestamp, "reading-failed", _LOST, boot_s=last.boot_s)]


def of_rows(samples: list[Sample], settings: Settings) -> State:
    """Return what rows say: how long the soak has lasted, and where it stood.

    What the host was like they do not say; that is taken as the next turn finds it.
    """
    found = State(turn=1, wall=settings.started, boot=settings.boot, boot_s=settings.boot_s)
    for one in samples:
        now = Now(one.timestamp, one.boot or "", one.boot_s or 0.0, "", "")
        lasted = changes.elapsed(found, now)
        found = replace(found, elapsed_s=lasted, wall=now.wall, boot=now.boot, boot_s=now.boot_s)
    return replace(found, turn=len(samples))


def newest_row(path: Path) -> Sample | None:
    """Return the last row of a file that is one; None where there is none, or it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data = os.pread(fd, _TAIL, max(0, os.fstat(fd).st_size - _TAIL))
        finally:
            os.close(fd)
    except OSError:
        return None
    samples, _ = columns.parse(data.decode("utf-8", "replace"))
    return samples[-1] if samples else None


def _text(path: Path, limit: int) -> bytes:
    owners = {0, os.geteuid()}
    return files.read_if_present(path, limit, what="samples of the soak", owners=owners) or b""


def _size(at: Folder) -> int:
    return len(_text(at.happened, happened.MAX_BYTES))


def _lines(at: Folder) -> int:
    return _text(at.happened, happened.MAX_BYTES).count(b"\n")
