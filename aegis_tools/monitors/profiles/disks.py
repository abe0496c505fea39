"""The disks of this host, and the files of the io controller, which have a line a disk.

``io.stat`` counts bytes of each disk that a cgroup has used, ``io.max`` holds what was limited:
``8:16 rbps=2097152 wbps=max riops=max wiops=max`` (admin-guide/cgroup-v2). The kernel takes whole
disks only, no partitions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aegis_tools.monitors.profiles.hierarchy import read

NO_LIMIT = "max"
_IN_MEMORY = ("ram", "zram")
DIRECTIONS = {"read": "rbytes", "write": "wbytes"}


def disks(block: Path) -> Iterator[str]:
    """Yield the numbers of all whole disks that hold something: ``8:16``.

    What is made of other disks is one, too (device-mapper, md, loop); what is memory is none.

    Args:
        block: Where the kernel shows them.
    """
    try:
        found = sorted(block.iterdir())
    except FileNotFoundError:
        return
    for folder in found:
        number = read(folder / "dev")  # paths of a multipath disk have none
        empty = read(folder / "size") in ("", "0")
        if number and not empty and not folder.name.startswith(_IN_MEMORY):
            yield number


def bytes_moved(text: str) -> Iterator[tuple[str, str, int]]:
    """Yield (disk, ``read`` or ``write``, bytes) of an ``io.stat``."""
    for disk, fields in _lines(text):
        for direction, key in DIRECTIONS.items():
            if fields.get(key, "").isdecimal():
                yield disk, direction, int(fields[key])


def limit(disk: str, reads: object, writes: object) -> str:
    """Return a line for ``io.max`` that leaves operations a second as they are.

    Args:
        disk: Its number.
        reads: Bytes a second, or NO_LIMIT.
        writes: The same.
    """
    return f"{disk} rbps={reads} wbps={writes}"


def limited(text: str, disk: str) -> str:
    """Return what an ``io.max`` says of a disk, as ``limit`` writes it."""
    fields = dict(_lines(text)).get(disk, {})
    return limit(disk, fields.get("rbps", NO_LIMIT), fields.get("wbps", NO_LIMIT))


def _lines(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (disk, fields). Some kernels forget the end of a line that has no fields."""
    disk, fields = "", dict[str, str]()
    for word in text.split():
        key, equals, value = word.partition("=")
        if equals:
            fields[key] = value
            continue
        if disk:
            yield disk, fields
        disk, fields = word, {}
    if disk:
        yield disk, fields
