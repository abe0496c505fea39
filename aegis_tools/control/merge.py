"""What happens to map entries when a rule joins them or leaves: decisions without effects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from aegis_tools.control.live import Entries, strip, uids_of, without
from aegis_tools.kernel.layout import (
    ANY_GENERATION,
    DIR_HAS_NAMES,
    FILE_ENTRY,
    INODE_KEY,
    NET_ENTRY,
)

ENTRY_MAPS = (
    "deny_inode_map",
    "deny_path_map",
    "deny_dir_map",
    "audit_path_map",
    "deny_ipv4_map",
    "deny_ipv6_map",
    "deny_cidr_v4_map",
    "deny_cidr_v6_map",
    "deny_port_map",
    "deny_ip_port_v4_map",
    "deny_ip_port_v6_map",
)
"""The maps whose values hold rule uids."""

FILE_MAPS = ENTRY_MAPS[:4]
NETWORK_MAPS = ENTRY_MAPS[4:]

ModeOf = Callable[[int], "int | None"]
"""Says whether the rule of a uid enforces (1) or audits (0); None: there is no such rule."""


class Merged(NamedTuple):
    """An entry with one more rule.

    Attributes:
        entry: What the map is to hold.
        kept: Uids of other rules that already do what was asked.
        in_place: Whether taking the new rule out again would give the old entry back. Where
            not, only a commit keeps the record of what is live honest.
    """

    entry: bytes
    kept: frozenset[int]
    in_place: bool


def merge(old: bytes | None, new: bytes, mode_of: ModeOf) -> Merged:
    """Return the entry that a key holds once the rule in ``new`` has joined ``old``.

    For every operation an enforcing rule stays before an auditing one, and of two alike the
    one that was there. An entry made for an inode that is gone (another generation) gives way.
    """
    if old is None:
        return Merged(new, frozenset(), True)
    uids = set(uids_of(new))
    if len(old) == NET_ENTRY.size:
        left, kept = _join(NET_ENTRY.unpack(old), NET_ENTRY.unpack(new), mode_of)
        entry = NET_ENTRY.pack(*left)
    else:
        a, b = FILE_ENTRY.unpack(old), FILE_ENTRY.unpack(new)
        if not same_file(old, new):
            return Merged(new, frozenset(), not any(a[:4]))
        left, kept = _join(a[:4], b[:4], mode_of)
        entry = FILE_ENTRY.pack(
            *left, a[4] if b[6] & ANY_GENERATION else b[4], max(a[5], b[5]), a[6] | b[6]
        )
    return Merged(entry, frozenset(kept), _essence(entry, uids) == _essence(old, uids))


def same_file(one: bytes, other: bytes) -> bool:
    """Return whether two file entries of a key are made for the same file."""
    a, b = FILE_ENTRY.unpack(one), FILE_ENTRY.unpack(other)
    return bool(a[4] == b[4] or (a[6] | b[6]) & ANY_GENERATION)


def _join(
    old: tuple[int, ...], new: tuple[int, ...], mode_of: ModeOf
) -> tuple[list[int], set[int]]:
    kept: set[int] = set()
    left = []
    for there, wanted in zip(old, new, strict=True):
        if not wanted or there == wanted:
            left.append(there)
        elif not there or _gives_way(mode_of(there), mode_of(wanted)):
            left.append(wanted)
        else:
            left.append(there)
            kept.add(there)
    return left, kept


def _gives_way(there: int | None, wanted: int | None) -> bool:
    return there is None or (not there and bool(wanted))


def _essence(entry: bytes, uids: set[int]) -> bytes | None:
    """Return what the content digest sees of an entry without these rules."""
    left = without(entry, uids)
    return left if left is not None and any(left[: min(len(left), 32)]) else None


class Usage(NamedTuple):
    """What the entries of a slot say about rules.

    Attributes:
        columns: By map and by operation, the uids that stand there in any entry.
    """

    columns: dict[str, dict[int, set[int]]]

    def of(self, name: str) -> set[int]:
        """Return the uids that stand in one map."""
        return set().union(*self.columns[name].values())

    @property
    def used(self) -> set[int]:
        """All uids that stand in entries."""
        return set().union(*map(self.of, self.columns))

    def complete(self, name: str, operations: int) -> set[int]:
        """Return the uids that stand in a map for all of some operations."""
        columns = self.columns[name]
        wanted = [columns.get(1 << bit, set()) for bit in range(6) if operations >> bit & 1]
        return set.intersection(*wanted) if wanted else self.of(name)


def usage(maps: Mapping[str, Entries]) -> Usage:
    """Return where rules stand."""
    columns: dict[str, dict[int, set[int]]] = {}
    for name in ENTRY_MAPS:
        shape, bits = (FILE_ENTRY, range(4)) if name in FILE_MAPS else (NET_ENTRY, range(4, 6))
        table = zip(*shape.iter_unpack(b"".join(maps[name].values())), strict=True)
        columns[name] = {1 << bit: set(uids) - {0} for bit, uids in zip(bits, table, strict=False)}
    return Usage(columns)


def tidy(maps: Mapping[str, Entries], removed: Iterable[int] = ()) -> dict[str, Entries]:
    """Return maps without some rules, and without what cannot matter.

    That is entries of rules that are no more, and directories noted only because a name in
    them was ruled.
    """
    attributes = {int.from_bytes(uid, "little") for uid in maps["rules"]}
    gone = (usage(maps).used - attributes) | set(removed)
    result = {name: dict(entries) for name, entries in maps.items()}
    affected = _affected(maps, gone)
    for name, left in strip(affected, gone).items():
        for key in affected[name]:
            if key in left:
                result[name][key] = left[key]
            else:
                del result[name][key]
    result["deny_dir_map"] = _directories(result)
    return result


def _affected(maps: Mapping[str, Entries], gone: set[int]) -> dict[str, Entries]:
    """Return the entries that hold any of these rules: most often few of very many."""
    return {
        name: {key: entries[key] for key in _affected_keys(entries, name, gone)}
        for name, entries in maps.items()
    }


def _affected_keys(entries: Entries, name: str, gone: set[int]) -> list[bytes]:
    wanted = {uid.to_bytes(8, "little") for uid in gone}
    if name in ENTRY_MAPS:
        starts = (0, 8, 16, 24) if name in FILE_MAPS else (0, 8)
        return [
            key
            for key, entry in entries.items()
            if not wanted.isdisjoint([entry[i : i + 8] for i in starts])
        ]
    return [uid for uid in wanted if uid in entries] if name in ("rules", "manual_rules") else []


def _directories(maps: Mapping[str, Entries]) -> Entries:
    named = {key[:12] + bytes(4) for key in maps["deny_path_map"]}
    result: Entries = {}
    for key, entry in maps["deny_dir_map"].items():
        *rules, generation, depth, flags = FILE_ENTRY.unpack(entry)
        if key not in named:
            flags &= ~DIR_HAS_NAMES
        if flags & DIR_HAS_NAMES or any(rules):
            result[key] = FILE_ENTRY.pack(*rules, generation, depth, flags)
    return result


def want_generation(inodes: Entries, by_path: set[int]) -> None:
    """Let entries match one file only, where no rule is left that names an inode number."""
    for key, entry in inodes.items():
        *rules, generation, depth, flags = FILE_ENTRY.unpack(entry)
        if flags & ANY_GENERATION and {uid for uid in rules if uid} <= by_path:
            inodes[key] = FILE_ENTRY.pack(*rules, generation, depth, flags & ~ANY_GENERATION)


def inode_key(target: str) -> bytes:
    """Return the struct inode_key of a canonical ``dev:ino``."""
    dev, _, ino = target.partition(":")
    return INODE_KEY.pack(int(ino), int(dev), 0)


def inode_text(key: bytes) -> str:
    """Return ``dev:ino`` of a struct inode_key, or of the directory in a struct name_key."""
    return f"{int.from_bytes(key[8:12], 'little')}:{int.from_bytes(key[:8], 'little')}"
