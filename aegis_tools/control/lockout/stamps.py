"""Whether the host still is what a remembered finding was made of."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MOUNTS = Path("/proc/self/mountinfo")


def take(
    watched: Iterable[str], expected: Mapping[str, bool], folders: Iterable[str] = ()
) -> dict[str, Any]:
    """Return what to compare later.

    Args:
        watched: Files and folders whose change counts.
        expected: Paths of which only the being there counts.
        folders: Where the files are that were found; a mount there or right below counts.
    """
    known = sorted(folders)
    return {
        "of": _identity(known),
        "folders": known,
        "watched": {path: _stamp(path) for path in sorted(watched)},
        "expected": dict(expected),
    }


def holds(stamps: Mapping[str, Any]) -> bool:
    """Return whether nothing changed since; False for what is no such mapping."""
    try:
        return (
            stamps["of"] == _identity(stamps["folders"])
            and all(_stamp(path) == was for path, was in stamps["watched"].items())
            and all(Path(path).exists() is was for path, was in stamps["expected"].items())
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        return False


def _identity(folders: Collection[str]) -> list[str]:
    """This boot (device numbers last no longer), its mounts, the Python we run in."""
    known = set(folders)
    mounts = _MOUNTS.read_text("utf-8", "surrogateescape")
    # A mount that is made again has another number and is the same.
    lines = (line.split(" ", 2)[2] for line in mounts.splitlines())
    shown = sorted(line for line in lines if _counts(line.split(" ", 3)[2], known))
    return [_BOOT_ID.read_text().strip(), sys.executable, *shown]


def _counts(point: str, folders: Collection[str]) -> bool:
    """Containers come and go with mounts of their own: those are nowhere near."""
    return point in folders or (point.rpartition("/")[0] or "/") in folders


def _stamp(path: str) -> list[int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 (hundreds of times on every `block add`)
    except OSError:
        return None
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
