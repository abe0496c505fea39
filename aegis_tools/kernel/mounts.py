"""Facts about mounted file systems, from /proc/self/mountinfo (proc_pid_mountinfo(5)).

Its major:minor is the kernel's s_dev, which stat(2)'s st_dev is not everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo.

    Attributes:
        dev: s_dev, (major << 20) | minor.
        root: The directory within the file system that is mounted.
        point: Where.
        kind: Type of the file system.
        options: Of the superblock, such as ``rw`` and ``upperdir=/x``.
    """

    dev: int
    root: str
    point: str
    kind: str
    options: tuple[str, ...]


def parse_mountinfo(text: str) -> list[Mount]:
    """Parse the lines of mountinfo; ones that are not understood are left out."""
    found = []
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        before, after = left.split(" "), right.split(" ")
        major, _, minor = before[2].partition(":") if len(before) > 5 else ("", "", "")
        if separator and major.isdecimal() and minor.isdecimal() and len(after) >= 3:
            dev = int(major) << 20 | int(minor)
            root, point = _unescape(before[3]), _unescape(before[4])
            found.append(Mount(dev, root, point, after[0], tuple(after[2].split(","))))
    return found


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def read_mounts() -> list[Mount]:
    """Return the mounts of this process's namespace, in mount order."""
    data = Path("/proc/self/mountinfo").read_bytes()
    return parse_mountinfo(data.decode("utf-8", "surrogateescape"))


def ambiguous_devices(mounts: list[Mount]) -> set[int]:
    """Return the overlays on which two files may have the same inode number.

    An overlay gives a file the number it has in its layer. Where the layers are on different
    file systems and ``xino`` is off, two layers' numbers can meet (ovl_map_ino in
    fs/overlayfs/inode.c); a rule by inode would then hold for a stranger as well.
    """
    return {
        mount.dev
        for mount in mounts
        if mount.kind == "overlay" and "xino=on" not in mount.options and not _one_layer_fs(mount)
    }


def _one_layer_fs(mount: Mount) -> bool:
    devices = set()
    for option in mount.options:
        name, _, value = option.partition("=")
        if name in ("lowerdir", "lowerdir+", "datadir+", "upperdir"):
            for layer in value.split(":"):
                try:
                    devices.add(Path(layer).stat().st_dev if layer else 0)
                except OSError:  # of another mount namespace: cannot tell
                    devices.add(-1)
    return len(devices - {0}) == 1 and -1 not in devices
