"""Map keys and values as JSON, and back: what ``aegisbpf map`` prints and reads."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from aegis_tools.control.manual import SIGNAL_NAMES
from aegis_tools.control.merge import ENTRY_MAPS, FILE_MAPS
from aegis_tools.control.resolve import SIGNALS, describe_network, network_key
from aegis_tools.kernel.layout import (
    ANY_GENERATION,
    DIR_HAS_NAMES,
    FILE_ENTRY,
    INODE_KEY,
    NAME_KEY,
    NAME_MAX,
    NET_ENTRY,
    PATH_KEY,
    POLICY_MAPS,
    RULE_ATTR,
    RULE_HITS,
    Config,
    ManualRule,
    SlotInfo,
    Stat,
)
from aegis_tools.policy.model import Kind, Signal
from aegis_tools.policy.targets import canonical

MISMATCHES = (ValueError, LookupError, TypeError, AttributeError, OverflowError)
"""What encoding raises for JSON that is not such a key or value."""

_OPS = ("read", "write", "exec", "modify")
_NET_OPS = ("egress", "bind")
_FLAGS = {"has_names": DIR_HAS_NAMES, "any_generation": ANY_GENERATION}


class _Pair(NamedTuple):
    """How one kind of key or value is shown and read."""

    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]


def decode_key(name: str, key: bytes) -> dict[str, Any]:
    """Return a key as a JSON object."""
    shown: dict[str, Any] = _key_pair(name).decode(key)
    return shown


def encode_key(name: str, value: Any) -> bytes:
    """Return the key that :func:`decode_key` shows so.

    Raises:
        One of MISMATCHES: It is none.
    """
    return _HEX.encode(value) if set(value) == {"hex"} else _key_pair(name).encode(value)


def decode_value(name: str, data: bytes) -> Any:
    """Return a value as JSON."""
    return _value_pair(name).decode(data)


def encode_value(name: str, value: Any) -> bytes:
    """Return the bytes of a value that :func:`decode_value` shows so.

    Raises:
        One of MISMATCHES: It is none.
    """
    if isinstance(value, dict) and set(value) == {"hex"}:
        return _HEX.encode(value)
    return _value_pair(name).encode(value)


def _key_pair(name: str) -> _Pair:
    if name in ENTRY_MAPS and name not in FILE_MAPS:
        return _Pair(lambda key: _network_key(name, key), lambda value: _from_network(name, value))
    return KEYS.get(name, _HEX)


def _value_pair(name: str) -> _Pair:
    if name in FILE_MAPS:
        return _FILE
    return _NET if name in ENTRY_MAPS else _VALUES.get(name, _HEX)


def _inode_key(key: bytes) -> dict[str, Any]:
    ino, dev, _ = INODE_KEY.unpack(key)
    return {"dev": dev, "ino": ino}


def _name_key(key: bytes) -> dict[str, Any]:
    ino, dev, length, raw = NAME_KEY.unpack(key)
    return {"dev": dev, "ino": ino, "name": _text(raw[: min(length, NAME_MAX)])}


def _from_name(value: Any) -> bytes:
    raw = _raw(value["name"])
    return _packed(NAME_KEY, int(value["ino"]), int(value["dev"]), len(raw), raw)


def _network_key(name: str, key: bytes) -> dict[str, Any]:
    kind, target = describe_network(name, key)
    return {kind.value: target}


def _from_network(name: str, value: Any) -> bytes:
    ((word, text),) = value.items()
    home, key = network_key(Kind(word), canonical(Kind(word), text))
    if home != name:
        raise ValueError(f"this key belongs to {home}")
    return key


def _indexed(word: str, names: list[str]) -> _Pair:
    def decode(key: bytes) -> dict[str, Any]:
        index = int.from_bytes(key, "little")
        return {word: names[index] if index < len(names) else str(index)}

    return _Pair(decode, lambda value: names.index(str(value[word])).to_bytes(4, "little"))


def _file_entry(data: bytes) -> dict[str, Any]:
    *uids, generation, depth, flags = FILE_ENTRY.unpack(data)
    shown: dict[str, Any] = {op: f"{uid:016x}" for op, uid in zip(_OPS, uids, strict=True) if uid}
    shown.update(generation=generation, depth=depth)
    shown.update({name: bool(flags & bit) for name, bit in _FLAGS.items()})
    return shown


def _from_file_entry(value: Any) -> bytes:
    _only(value, {*_OPS, *_FLAGS, "generation", "depth"})
    uids = [int(value.get(op, "0"), 16) for op in _OPS]
    flags = sum(bit for name, bit in _FLAGS.items() if value.get(name))
    return _packed(
        FILE_ENTRY, *uids, int(value.get("generation", 0)), int(value.get("depth", 0)), flags
    )


def _net_entry(data: bytes) -> dict[str, Any]:
    pairs = zip(_NET_OPS, NET_ENTRY.unpack(data), strict=True)
    return {op: f"{uid:016x}" for op, uid in pairs if uid}


def _from_net_entry(value: Any) -> bytes:
    _only(value, set(_NET_OPS))
    return _packed(NET_ENTRY, *(int(value.get(op, "0"), 16) for op in _NET_OPS))


def _attributes(data: bytes) -> dict[str, Any]:
    enforce, number = RULE_ATTR.unpack(data)
    signal = SIGNAL_NAMES.get(number)
    return {
        "mode": "enforce" if enforce else "audit",
        "signal": signal.value if signal else str(number),
    }


def _from_attributes(value: Any) -> bytes:
    _only(value, {"mode", "signal"})
    enforce = {"enforce": 1, "audit": 0}[value["mode"]]
    return RULE_ATTR.pack(enforce, SIGNALS[Signal(value.get("signal", "none"))])


def _slot_info(data: bytes) -> dict[str, Any]:
    info = SlotInfo.unpack(data)._asdict()
    return {key: v.hex() if isinstance(v, bytes) else v for key, v in info.items()}


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _from_integer(size: int) -> Callable[[Any], bytes]:
    return lambda value: int(value).to_bytes(size, "little")


def _only_hex(_: Any) -> bytes:
    raise ValueError('values of this map are given in hex: {"hex": "…"}')


def _only(value: dict[str, Any], known: set[str]) -> None:
    strange = set(value) - known
    if strange:
        raise ValueError(f"unknown: {', '.join(sorted(strange))}")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _raw(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) >= NAME_MAX or b"\0" in raw:
        raise ValueError("the text is too long, or holds a NUL")
    return raw


def _packed(shape: struct.Struct, *values: Any) -> bytes:
    try:
        return shape.pack(*values)
    except struct.error as error:
        raise ValueError(str(error)) from None


_HEX = _Pair(lambda data: {"hex": data.hex()}, lambda value: bytes.fromhex(value["hex"]))
_UID = _Pair(
    lambda key: {"uid": f"{_integer(key):016x}"},
    lambda value: int(value["uid"], 16).to_bytes(8, "little"),
)
_INODE = _Pair(
    _inode_key, lambda value: _packed(INODE_KEY, int(value["ino"]), int(value["dev"]), 0)
)
_FILE = _Pair(_file_entry, _from_file_entry)
_NET = _Pair(_net_entry, _from_net_entry)
KEYS = {
    "rules": _UID,
    "manual_rules": _UID,
    "rule_hits": _UID,
    "allow_cgroup_map": _Pair(
        lambda key: {"cgroup": _integer(key)},
        lambda value: int(value["cgroup"]).to_bytes(8, "little"),
    ),
    "deny_inode_map": _INODE,
    "deny_dir_map": _INODE,
    "survival_allowlist": _INODE,
    "deny_path_map": _Pair(_name_key, _from_name),
    "audit_path_map": _Pair(
        lambda key: {"path": _text(key.rstrip(b"\0"))},
        lambda value: PATH_KEY.pack(_raw(value["path"])),
    ),
    "config": _indexed("setting", [setting.name.lower() for setting in Config]),
    "block_stats": _indexed("stat", [stat.name.lower() for stat in Stat]),
    "capacities": _indexed("map", [spec.name for spec in POLICY_MAPS]),
    "slot_info": _indexed("slot", ["0", "1"]),
}
_VALUES = {
    "rules": _Pair(_attributes, _from_attributes),
    "rule_hits": _Pair(
        lambda data: dict(
            zip(("blocks", "audits", "last_ns"), RULE_HITS.unpack(data), strict=True)
        ),
        _only_hex,
    ),
    "manual_rules": _Pair(lambda data: ManualRule.unpack(data)._asdict(), _only_hex),
    "slot_info": _Pair(_slot_info, _only_hex),
    "config": _Pair(_integer, _from_integer(8)),
    "allow_cgroup_map": _Pair(_integer, _from_integer(8)),
    "survival_allowlist": _Pair(_integer, _from_integer(4)),
    "capacities": _Pair(_integer, _from_integer(4)),
}
