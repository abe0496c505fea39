"""cgroup v2: where it is mounted, and the id by which BPF knows a cgroup.

The id is the inode number of its directory (kernfs node id; cgroup_file_handle in
name_to_handle_at(2) gives the same 64 bits).
"""

from __future__ import annotations

import ctypes
import os
import struct
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

    None where there is no such cgroup. A folder elsewhere is none: its number may be that of one.
    """
    if text.startswith("cgid:"):
        number = text[5:]
        return int(number) if number.isdecimal() and 0 < int(number) < 1 << 64 else None
    base = mount_point()
    if base is None or not text:
        return None
    path = Path(text)
    if not path.is_relative_to(base):
        path = base / text.lstrip("/")
    try:
        found = path.stat()
        is_cgroup = path.is_dir() and found.st_dev == base.stat().st_dev
    except (OSError, ValueError):
        return None
    return found.st_ino if is_cgroup else None


def cgroup_ids(texts: Iterable[str]) -> dict[str, int]:
    """Return the ids of those cgroups that exist, by their text."""
    found = ((text, cgroup_id(text)) for text in texts)
    return {text: number for text, number in found if number is not None}


def cgroup_path(number: int) -> str | None:
    """Return the path of a cgroup below the mount point; None where it is gone."""
    base = mount_point()
    if base is None:
        return None
    try:
        root = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = _open_by_id(root, number)
        finally:
            os.close(root)
        try:
            real = Path(f"/proc/self/fd/{found}").readlink()
        finally:
            os.close(found)
        relative = real.relative_to(base).as_posix()
    except (OSError, ValueError):
        return None
    return "/" if relative == "." else f"/{relative}"


def _open_by_id(root: int, number: int) -> int:
    """Open a cgroup by the file handle that kernfs makes of its id (FILEID_KERNFS, exportfs.h)."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = ctypes.create_string_buffer(struct.pack("=IiQ", 8, 0xFE, number), 16)
    found: int = libc.open_by_handle_at(root, handle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return found
