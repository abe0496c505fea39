"""Under which map keys a rule could come upon a need: what says "harmless" without a proof. Pure.

Each key begins with a letter for its map: ``i`` inode, ``d`` directory, ``n`` name in a directory.
A rule none of whose keys is a need's denies nothing of it; one that has such a key may.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from aegis_tools.kernel.layout import FILE_ENTRY, NAME_KEY

if TYPE_CHECKING:
    from aegis_tools.control.lockout.model import Maps
    from aegis_tools.control.lockout.placed import Placed
    from aegis_tools.control.why import File


def keys_of_rules(maps: Maps) -> Iterator[bytes]:
    """Yield what the entries of rules are found by."""
    for key in maps.get("deny_inode_map", {}):
        yield b"i" + key
    for key, entry in maps.get("deny_dir_map", {}).items():
        if FILE_ENTRY.unpack(entry)[5]:  # without a depth it only says that names follow
            yield b"d" + key
    for key in maps.get("deny_path_map", {}):
        yield b"n" + key


def keys_of_file(file: File) -> Iterator[bytes]:
    """Yield every key under which the hooks look for a file."""
    if file.inode is not None:
        yield b"i" + file.inode.key
        yield b"d" + file.inode.key
    for _, inode in file.above:
        yield b"d" + inode.key
    if file.above:
        parent, name = file.above[0][1], file.name
        yield b"n" + NAME_KEY.pack(parent.ino, parent.dev, len(name), name)


class Touched:
    """Needs by key, so that many rules are proven with each need looked at once.

    Args:
        placed: The needs.
    """

    def __init__(self, placed: Iterable[Placed]) -> None:
        self._placed = list(placed)
        self._by_key: dict[bytes, list[int]] = {}
        for at, one in enumerate(self._placed):
            for key in keys_of_file(one.file):
                self._by_key.setdefault(key, []).append(at)

    def by(self, maps: Maps) -> list[Placed]:
        """Return the needs that rules could come upon, in the order of before."""
        found = {at for key in keys_of_rules(maps) for at in self._by_key.get(key, ())}
        return [self._placed[at] for at in sorted(found)]
