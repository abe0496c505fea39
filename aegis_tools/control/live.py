"""The policy that is live: read from the kernel, never from a file that could disagree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice

from aegis_tools.errors import DriftError, NotLoadedError
from aegis_tools.kernel import syscall
from aegis_tools.kernel.layout import (
    CONFIG_VALUE,
    DIR_HAS_NAMES,
    FILE_ENTRY,
    GLOBAL_MAPS,
    NET_ENTRY,
    OUTER_MAP,
    POLICY_MAPS,
    RULE_HITS,
    SPECS,
    Config,
    ManualRule,
    SlotInfo,
    Stat,
)
from aegis_tools.kernel.maps import Map
from aegis_tools.kernel.pins import Pins

Entries = dict[bytes, bytes]
_PIECE = 2048


class Live:
    """The pinned maps, opened as they are asked for. A context manager.

    Args:
        pins: Where they are pinned.

    Raises:
        NotLoadedError: Nothing is loaded.
    """

    def __init__(self, pins: Pins) -> None:
        if not pins.is_loaded():
            raise NotLoadedError
        self.pins = pins
        self._open: dict[str, Map] = {}

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._open.values():
            opened.close()
        self._open.clear()

    def map(self, name: str) -> Map:
        """Return a pinned map, by name."""
        if name not in self._open:
            opened = self.pins.open_map(name)
            self._open[name] = opened
            wanted = GLOBAL_MAPS.get(name, OUTER_MAP)
            _check_shape(name, (opened.type, opened.key_size, opened.value_size), wanted)
        return self._open[name]

    def config(self, which: Config) -> int:
        """Return one setting."""
        value = self.map("config").get(int(which).to_bytes(4, "little"))
        return int(CONFIG_VALUE.unpack(value)[0]) if value else 0

    def set_config(self, which: Config, value: int) -> None:
        """Write one setting: a single store, seen by every hook at once."""
        self.map("config").set(int(which).to_bytes(4, "little"), CONFIG_VALUE.pack(value))

    @property
    def slot(self) -> int:
        """The active slot."""
        return self.config(Config.ACTIVE_SLOT) & 1

    def info(self, slot: int | None = None) -> SlotInfo:
        """Return what a slot holds; of the active one by default."""
        index = self.slot if slot is None else slot
        value = self.map("slot_info").get(index.to_bytes(4, "little"))
        return SlotInfo.unpack(value) if value else SlotInfo()

    def set_info(self, slot: int, info: SlotInfo) -> None:
        """Write what a slot holds."""
        self.map("slot_info").set(slot.to_bytes(4, "little"), info.pack())

    def capacity(self, name: str) -> int:
        """Return the configured max_entries of a policy map."""
        index = [spec.name for spec in POLICY_MAPS].index(name)
        value = self.map("capacities").get(index.to_bytes(4, "little")) or b""
        return int.from_bytes(value, "little") or SPECS[name].capacity

    def inner(self, name: str, slot: int | None = None) -> Map | None:
        """Open a slot's inner map; None where the slot has none. The caller closes it."""
        index = self.slot if slot is None else slot
        value = self.map(name).get(index.to_bytes(4, "little"))
        if value is None:
            return None
        inner = Map(syscall.map_get_fd_by_id(int.from_bytes(value, "little")))
        spec = SPECS[name]
        wanted = (spec.type, spec.key_size, spec.value_size)
        try:
            _check_shape(name, (inner.type, inner.key_size, inner.value_size), wanted)
        except DriftError:
            inner.close()
            raise
        return inner

    def entries(self, name: str, slot: int | None = None) -> Entries:
        """Return the entries of one policy map."""
        inner = self.inner(name, slot)
        if inner is None:
            return {}
        with inner:
            return dict(inner.items())

    def all_entries(self) -> dict[str, Entries]:
        """Return the entries of every policy map of the active slot."""
        slot = self.slot
        return {spec.name: self.entries(spec.name, slot) for spec in POLICY_MAPS}

    def manual_rules(self) -> dict[int, ManualRule]:
        """Return the rules made by hand, by uid."""
        return {
            int.from_bytes(uid, "little"): ManualRule.unpack(value)
            for uid, value in self.entries("manual_rules").items()
        }

    def stats(self) -> dict[Stat, int]:
        """Return the counters, summed over all CPUs."""
        opened = self.map("block_stats")
        return {
            stat: sum(
                int.from_bytes(value, "little")
                for value in opened.get_per_cpu(int(stat).to_bytes(4, "little"))
            )
            for stat in Stat
        }

    def hits(self) -> dict[int, tuple[int, int, int]]:
        """Return (blocks, audits, last hit on the boot clock in ns) by rule uid."""
        return {
            int.from_bytes(uid, "little"): RULE_HITS.unpack(value)
            for uid, value in self.map("rule_hits").items()
        }


def _check_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Nothing is read from a map of another shape: the kernel writes as much as *it* thinks."""
    if found != wanted:
        raise DriftError(
            "a loaded map is not ours, or of another version",
            hint="run: aegisbpf reset && aegisbpf load",
            detail=f"{name}: type, key and value size {found}, not {wanted}",
        )


def uids_of(entry: bytes) -> Iterator[int]:
    """Yield the rule uids in one entry of a file or network map."""
    if len(entry) == FILE_ENTRY.size:
        yield from (uid for uid in FILE_ENTRY.unpack(entry)[:4] if uid)
    elif len(entry) == NET_ENTRY.size:
        yield from (uid for uid in NET_ENTRY.unpack(entry) if uid)


def without(entry: bytes, uids: set[int]) -> bytes | None:
    """Return an entry without these rules; None where nothing is left of it."""
    if len(entry) == NET_ENTRY.size:
        egress, bind = (0 if uid in uids else uid for uid in NET_ENTRY.unpack(entry))
        return NET_ENTRY.pack(egress, bind) if egress or bind else None
    *rules, generation, depth, flags = FILE_ENTRY.unpack(entry)
    left = [0 if uid in uids else uid for uid in rules]
    if not any(left):
        return FILE_ENTRY.pack(*left, generation, 0, flags) if flags & DIR_HAS_NAMES else None
    return FILE_ENTRY.pack(*left, generation, depth, flags)


def strip(maps: Mapping[str, Entries], uids: set[int]) -> dict[str, Entries]:
    """Return maps without every trace of these rules but directories kept for names."""
    if not uids:
        return {name: dict(entries) for name, entries in maps.items()}
    result: dict[str, Entries] = {}
    for name, entries in maps.items():
        if name in ("rules", "manual_rules"):
            result[name] = {
                uid: value
                for uid, value in entries.items()
                if int.from_bytes(uid, "little") not in uids
            }
        elif name == "allow_cgroup_map":
            result[name] = dict(entries)
        else:
            left = ((key, without(entry, uids)) for key, entry in entries.items())
            result[name] = {key: entry for key, entry in left if entry is not None}
    return result


def content_digest(maps: Mapping[str, Entries]) -> bytes:
    """Return the SHA-256 of the maps' contents; the record of manual rules is not part of it.

    Per map: its name, a zero, the entry count as 8 bytes, then key and value of each entry
    in the order of the keys. Directories that only say "names are ruled here" are left out:
    they follow from deny_path_map.
    """
    import hashlib  # brings OpenSSL, 5 ms, which adding a rule does not need

    digest = hashlib.sha256()
    for spec in POLICY_MAPS:
        if spec.name == "manual_rules":
            continue
        entries = maps.get(spec.name, {})
        if spec.name == "deny_dir_map":
            entries = {key: entry for key, entry in entries.items() if any(entry[:32])}
        digest.update(spec.name.encode() + b"\0" + len(entries).to_bytes(8, "little"))
        keys = sorted(entries)
        parts = chain.from_iterable(zip(keys, map(entries.__getitem__, keys), strict=True))
        # In pieces: joined whole, 65,536 names are 20 MB more of memory, and slower for it.
        while piece := b"".join(islice(parts, _PIECE)):
            digest.update(piece)
    return digest.digest()


def committed_digest(info: SlotInfo) -> bytes:
    """Return the digest that the slot's maps had when committed; before any commit, of none."""
    return info.content if any(info.content) else content_digest({})


def live_digest(live: Live) -> bytes:
    """Return the digest of what is live, without manual rules added since the commit."""
    maps = live.all_entries()
    applied = live.info().applied_ns
    added = {uid for uid, rule in live.manual_rules().items() if rule.added_ns > applied}
    return content_digest(strip(maps, added))


def boot_to_wall_ns() -> int:
    """Return what to add to a boot clock time to get Unix time, in ns."""
    import time

    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
