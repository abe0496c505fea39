"""Which fields an event has, and how each is a column: the same for SQLite and PostgreSQL.

An event is the JSON object that ``monitor events --json`` prints. What goes in comes out: a value
that its column cannot hold (a name that is no Unicode, a number past 64 bits, a field of a later
version) is kept as JSON in the column ``more``, beside what the column can hold of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any, NamedTuple

from aegis_tools.monitors.decode import OPERATIONS

_DEVICE = re.compile(r"(\d{1,9}):(\d{1,9})", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
_MICROSECOND = timedelta(microseconds=1)
_OPERATIONS = {name: number for number, name in OPERATIONS.items()}
"""Of ``operation``; -1 is any other, named in ``more``."""


class Packed(NamedTuple):
    """What columns hold of a value, and whether that is all of it."""

    values: tuple[Any, ...]
    whole: bool


@dataclass(frozen=True)
class Kind:
    """How a value is stored.

    Attributes:
        sql: ``integer``, ``text`` or ``real``.
        pack: JSON value, which is not null, to columns.
        unpack: Columns, none of them NULL, to the JSON value.
    """

    sql: str
    pack: Callable[[Any], Packed]
    unpack: Callable[..., Any]


def _integer(value: Any) -> Packed:
    fits = type(value) is int and _LEAST <= value <= _MOST
    return Packed((value if fits else None,), fits)


def _unsigned(value: Any) -> Packed:
    """A u64: neither database has one, so the upper half is stored as the negative numbers."""
    fits = type(value) is int and 0 <= value < 1 << 64
    return Packed(((value + (1 << 63)) % (1 << 64) - (1 << 63) if fits else None,), fits)


def clean(text: str) -> str:
    """Return text as both databases can hold it: NUL and lone surrogates as escapes."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")


def _text(value: Any) -> Packed:
    if not isinstance(value, str):
        return Packed((None,), False)
    stored = clean(value)
    return Packed((stored,), stored == value)


def _real(value: Any) -> Packed:
    fits = type(value) is float and math.isfinite(value)
    return Packed((value if fits else None,), fits)


def _boolean(value: Any) -> Packed:
    fits = type(value) is bool
    return Packed((int(value) if fits else None,), fits)


def _json(value: Any) -> Packed:
    return Packed((to_json(value),), True)


def _device(value: Any) -> Packed:
    found = _DEVICE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return Packed((None, None), False)
    major, minor = int(found[1]), int(found[2])
    return Packed((major, minor), value == f"{major}:{minor}")


def _operation(value: Any) -> Packed:
    number = _OPERATIONS.get(value, -1) if isinstance(value, str) else -1
    return Packed((number,), number >= 0)


def _same(value: Any) -> Any:
    return value


INTEGER = Kind("integer", _integer, _same)
UNSIGNED = Kind("integer", _unsigned, lambda value: value % (1 << 64))
TEXT = Kind("text", _text, _same)
REAL = Kind("real", _real, _same)
BOOLEAN = Kind("integer", _boolean, bool)
JSON = Kind("text", _json, json.loads)
DEVICE = Kind("integer", _device, lambda major, minor: f"{major}:{minor}")
OPERATION = Kind("integer", _operation, OPERATIONS.get)


def to_json(value: Any) -> str:
    """Return compact ASCII, which holds any text that Python can."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def to_microseconds(text: Any) -> int | None:
    """Return microseconds since 1970 of a time as events have it; None if it is none."""
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        return None
    try:
        return (datetime.fromisoformat(text[:-1] + "+00:00") - _EPOCH) // _MICROSECOND
    except ValueError:
        return None


def to_time(microseconds: int) -> str:
    """Return the time as events have it."""
    found = _EPOCH + timedelta(microseconds=microseconds)
    return found.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


@dataclass(frozen=True)
class Field:
    """A field of events.

    Attributes:
        key: Its name in JSON.
        kind: How it is stored.
        columns: Where; the key itself by default.
        empty: What stands for null in columns that are never NULL, as in the seed.
        event: The only one that has it; empty for all.
    """

    key: str
    kind: Kind
    columns: tuple[str, ...] = ()
    empty: int | None = None
    event: str = ""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return self.columns or (self.key,)

    @cached_property
    def absent(self) -> tuple[int | None, ...]:
        """What the columns hold for null."""
        return (self.empty,) * len(self.names)

    def pack(self, value: Any) -> Packed:
        """Return what its columns hold."""
        if value is None:
            return Packed(self.absent, True)
        packed = self.kind.pack(value)
        if None in packed.values or packed.values == self.absent:
            return Packed(self.absent, False)
        return packed

    def unpack(self, values: tuple[Any, ...]) -> Any:
        """Return the JSON value."""
        return None if values == self.absent or None in values else self.kind.unpack(*values)


HEAD = (
    Field("tid", INTEGER), Field("ppid", INTEGER), Field("uid", INTEGER), Field("gid", INTEGER),
    Field("cgroup", UNSIGNED), Field("cut", BOOLEAN), Field("cause_known", BOOLEAN),
)  # fmt: skip
"""Of every event, besides time, pid and comm, which none lacks."""
_DEVICES = ("device_major", "device_minor")
_PARTITIONS = ("partition_major", "partition_minor")
FIELDS: dict[str, tuple[Field, ...]] = {
    "process-monitor": (
        Field("executable", TEXT, event="exec"), Field("arguments", JSON, event="exec"),
        Field("device", DEVICE, _DEVICES, event="exec"), Field("inode", UNSIGNED, event="exec"),
        Field("age_seconds", REAL, event="exit"), Field("exit_status", INTEGER, event="exit"),
        Field("signal", INTEGER, event="exit"),
    ),
    "filesystem-monitor": (
        Field("path", TEXT), Field("device", DEVICE, _DEVICES), Field("inode", UNSIGNED),
        Field("bytes", INTEGER), Field("result", INTEGER), Field("flags", JSON),
    ),
    "network-monitor": (
        Field("family", TEXT), Field("protocol", TEXT), Field("local", TEXT),
        Field("local_port", INTEGER), Field("remote", TEXT), Field("remote_port", INTEGER),
        Field("bytes", INTEGER), Field("result", INTEGER),
    ),
    "memory-monitor": (
        Field("bytes", INTEGER, ("size",), empty=0), Field("order", INTEGER, ("page_order",)),
    ),
    "disk-io-monitor": (
        Field("device", DEVICE, _DEVICES, empty=0),
        Field("operation", OPERATION, empty=-1),
        Field("bytes", INTEGER, empty=-1), Field("latency_ns", INTEGER, empty=0),
        Field("partition", DEVICE, _PARTITIONS), Field("sector", UNSIGNED),
        Field("queued_ns", INTEGER), Field("error", INTEGER),
    ),
}  # fmt: skip
