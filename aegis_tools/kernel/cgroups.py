"""cgroup v2: where it is mounted, and the id by which BPF knows a cgroup.

The id is the inode number of its directory (kernfs node id; cgroup_file_handle in
name_to_handle_at(2) gives the same 64 bits).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path


@cache
def mount_point() -> Path | None:
    """Return where cgroup v2 is mounted; hybrid hosts have it at .../unified."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup2 ") and left.split()[3] == "/":
            return Path(left.split()[4])
    return None


def cgroup_id(text: str) -> int | None:
    """Return the id of ``/system.slice/x.service``, of its full path, or of ``cgid:N``.

    None where there is no such cgroup.
    """
    if text.startswith("cgid:"):
        number = text[5:]
        return int(number) if number.isdecimal() and 0 < int(number) < 1 << 64 else None
    base = mount_point()
    if base is None:
        return None
    path = Path(text)
    if not path.is_relative_to(base):
        path = base / text.lstrip("/")
    try:
        return path.stat().st_ino if path.is_dir() else None
    except OSError:
        return None


def cgroup_ids(texts: Iterable[str]) -> dict[str, int]:
    """Return the ids of those cgroups that exist, by their text."""
    found = ((text, cgroup_id(text)) for text in texts)
    return {text: number for text, number in found if number is not None}


def cgroup_path(number: int) -> str | None:
    """Return the path of a cgroup below the mount point; None where it is gone.

    Opens the directory by its handle's id, through a walk: ids are inode numbers.
    """
    base = mount_point()
    if base is None:
        return None
    for directory in (base, *base.rglob("*/")):
        try:
            if directory.stat().st_ino == number:
                relative = directory.relative_to(base).as_posix()
                return "/" if relative == "." else f"/{relative}"
        except OSError:
            continue
    return None
