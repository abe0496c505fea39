"""Byte layouts of the kernel maps: what bpf/aegis.h says, in Python.

A test compares every size and offset here with the object's BTF. Integers are in host
byte order; everything is packed without padding, because aegis.h has none hidden.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from aegis_tools.kernel import syscall

try:  # what hashlib hands out, without its loading OpenSSL: 5 ms of a cold start
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

_UNHASHED = blake2b(digest_size=8)
LAYOUT = 2
SLOTS = 2
NAME_MAX = 256
MANUAL_TEXT = 1000
EVENT_PATH = 512

INODE_KEY = struct.Struct("QII")
NAME_KEY = struct.Struct("QII256s")
PATH_KEY = struct.Struct("256s")
FILE_ENTRY = struct.Struct("4QIHH")
NET_ENTRY = struct.Struct("2Q")
IPV4_KEY = struct.Struct("4s")
IPV6_KEY = struct.Struct("16s")
CIDR_V4_KEY = struct.Struct("I4s")
CIDR_V6_KEY = struct.Struct("I16s")
PORT_KEY = struct.Struct("HBx")
IP_PORT_V4_KEY = struct.Struct("4sHBx")
IP_PORT_V6_KEY = struct.Struct("16sHBx")
UID = struct.Struct("Q")
RULE_ATTR = struct.Struct("BB6x")
RULE_HITS = struct.Struct("QQQ")
MANUAL_RULE = struct.Struct("QIIBBHI1000s")
SLOT_INFO = struct.Struct("IIQQ32s32s16I")
CONFIG_VALUE = struct.Struct("Q")
GENERATION = struct.Struct("I")
EVENT = struct.Struct("QQIIIIIIQQQBBBBHBB16s16s16s")
EVENT_SAME = 28
"""Offset of what is the same for repetitions of an event: struct event from dev on."""
FILE_EVENT_TAIL = struct.Struct("II")
FILE_EVENT_SIZE = EVENT.size + FILE_EVENT_TAIL.size + EVENT_PATH
INODE_ID = struct.Struct("QIIII")

DIR_HAS_NAMES = 1
ANY_GENERATION = 2
SAMPLE_ALL = 1 << 32


class Config(IntEnum):
    """Elements of the ``config`` map, enum aegis_config."""

    ACTIVE_SLOT = 0
    MODE = 1
    DEADLINE = 2
    SAMPLE = 3
    DISABLED = 4
    LAYOUT = 5


class Stat(IntEnum):
    """Per-CPU counters of ``block_stats``, enum aegis_stat."""

    BLOCKS = 0
    AUDITS = 1
    TERM = 2
    KILL = 3
    INT = 4
    CONNECT_BLOCKS = 5
    BIND_BLOCKS = 6
    SEND_BLOCKS = 7
    CGROUP_ALLOWED = 8
    SURVIVAL_ALLOWED = 9
    EVENTS = 10
    RINGBUF_DROPS = 11
    SAMPLED_OUT = 12
    HITS_LOST = 13


@dataclass(frozen=True)
class MapSpec:
    """One policy map.

    Attributes:
        name: Pin name of the outer map.
        key_size: Bytes of a key.
        value_size: Bytes of a value.
        kind: Bit in slot_info.kinds set when the map holds anything; 0 = none.
        capacity: Default max_entries of an inner map.
        lpm: A longest-prefix-match trie, not a hash.
    """

    name: str
    key_size: int
    value_size: int
    kind: int
    capacity: int
    lpm: bool = False

    @property
    def type(self) -> int:
        """Kernel map type of an inner map."""
        return syscall.MAP_TYPE_LPM_TRIE if self.lpm else syscall.MAP_TYPE_HASH


def _spec(name: str, key: struct.Struct, value: struct.Struct, kind: int, capacity: int) -> MapSpec:
    return MapSpec(name, key.size, value.size, kind, capacity, name.startswith("deny_cidr"))


POLICY_MAPS = (
    _spec("rules", UID, RULE_ATTR, 0, 131072),
    _spec("manual_rules", UID, MANUAL_RULE, 0, 4096),
    _spec("allow_cgroup_map", UID, UID, 0, 256),
    _spec("deny_inode_map", INODE_KEY, FILE_ENTRY, 1, 65536),
    _spec("deny_path_map", NAME_KEY, FILE_ENTRY, 2, 65536),
    _spec("deny_dir_map", INODE_KEY, FILE_ENTRY, 4, 65536),
    _spec("audit_path_map", PATH_KEY, FILE_ENTRY, 1024, 65536),
    _spec("deny_ipv4_map", IPV4_KEY, NET_ENTRY, 8, 16384),
    _spec("deny_ipv6_map", IPV6_KEY, NET_ENTRY, 16, 16384),
    _spec("deny_cidr_v4_map", CIDR_V4_KEY, NET_ENTRY, 32, 16384),
    _spec("deny_cidr_v6_map", CIDR_V6_KEY, NET_ENTRY, 64, 16384),
    _spec("deny_port_map", PORT_KEY, NET_ENTRY, 128, 4096),
    _spec("deny_ip_port_v4_map", IP_PORT_V4_KEY, NET_ENTRY, 256, 4096),
    _spec("deny_ip_port_v6_map", IP_PORT_V6_KEY, NET_ENTRY, 512, 4096),
)
"""In the order of slot_info.entries."""

SPECS = {spec.name: spec for spec in POLICY_MAPS}
GLOBAL_MAPS = {
    "config": (syscall.MAP_TYPE_ARRAY, 4, CONFIG_VALUE.size),
    "slot_info": (syscall.MAP_TYPE_ARRAY, 4, SLOT_INFO.size),
    "capacities": (syscall.MAP_TYPE_ARRAY, 4, 4),
    "survival_allowlist": (syscall.MAP_TYPE_HASH, INODE_KEY.size, GENERATION.size),
    "rule_hits": (syscall.MAP_TYPE_HASH, UID.size, RULE_HITS.size),
    "block_stats": (syscall.MAP_TYPE_PERCPU_ARRAY, 4, 8),
    "events": (syscall.MAP_TYPE_RINGBUF, 0, 0),
}
"""Type, key size and value size of the maps that are not in slots."""

OUTER_MAP = (syscall.MAP_TYPE_ARRAY_OF_MAPS, 4, 4)
"""The same of every outer policy map."""


def uid_key(rule_id: str) -> bytes:
    """Return the 8 bytes by which the kernel knows a rule: BLAKE2b of its id."""
    hashed = _UNHASHED.copy()  # a third less time than making one, and 65,536 are wanted
    hashed.update(rule_id.encode("utf-8", "surrogateescape"))
    return hashed.digest()


def uid_of(rule_id: str) -> int:
    """Return the same as the number that map entries hold (little-endian)."""
    return int.from_bytes(uid_key(rule_id), "little")


EDITING = 15
"""The element of slot_info.entries that is 1 while an edit by hand is under way."""


class SlotInfo(NamedTuple):
    """What a slot holds, struct slot_info.

    Attributes:
        kinds: OR of the MapSpec.kind of the maps that hold anything.
        walk: Directory levels that a lookup climbs.
        applied_ns: Wall clock of the commit.
        serial: Of the bundle; 0 = unsigned.
        bundle: Digest of the stored bundle; zeros = none.
        content: Digest of the maps as committed.
        entries: Entries by map, in the order of POLICY_MAPS.
    """

    kinds: int = 0
    walk: int = 0
    applied_ns: int = 0
    serial: int = 0
    bundle: bytes = bytes(32)
    content: bytes = bytes(32)
    entries: tuple[int, ...] = (0,) * 16

    def pack(self) -> bytes:
        """Return the struct's bytes."""
        return SLOT_INFO.pack(*self[:6], *self.entries)

    @classmethod
    def unpack(cls, data: bytes) -> SlotInfo:
        """Read the struct's bytes."""
        kinds, walk, applied_ns, serial, bundle, content, *entries = SLOT_INFO.unpack(data)
        return cls(kinds, walk, applied_ns, serial, bundle, content, tuple(entries))

    @property
    def editing(self) -> bool:
        """Whether an edit by hand is under way, or died half-way (control.edit)."""
        return bool(self.entries[EDITING])

    def count(self, name: str) -> int:
        """Return the number of entries of one policy map."""
        return self.entries[_INDEX[name]]


_INDEX = {spec.name: index for index, spec in enumerate(POLICY_MAPS)}


class ManualRule(NamedTuple):
    """A rule made by hand, struct manual_rule. ``text`` is ``KIND:TARGET``."""

    added_ns: int
    added_by: int
    operations: int
    enforce: int
    signal: int
    depth: int
    text: str

    def pack(self) -> bytes:
        """Return the struct's bytes; the text must be at most MANUAL_TEXT bytes."""
        data = self.text.encode()
        return MANUAL_RULE.pack(*self[:6], len(data), data)

    @classmethod
    def unpack(cls, data: bytes) -> ManualRule:
        """Read the struct's bytes; undecodable text is shown with escapes."""
        at, by, ops, enforce, signal, depth, length, raw = MANUAL_RULE.unpack(data)
        text = raw[: min(length, MANUAL_TEXT)].decode(errors="backslashreplace")
        return cls(at, by, ops, enforce, signal, depth, text)
