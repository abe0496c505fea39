"""The tables. ``memory_events`` and ``disk_io_events`` hold what seed 001 gives them, and more.

A ``timestamp`` is microseconds since 1970, an ``hour`` that of its beginning; ``event_type`` is a
number of ``registry.Monitor.types``. ``host`` is empty in SQLite, which is of one host.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Index, MetaData, Table, Text, text
from sqlalchemy.types import Integer

from aegis_tools.monitors.registry import MONITORS
from aegis_tools.monitors.store.fields import FIELDS, HEAD, Field

VERSION = 2
HOUR = 3600 * 1_000_000
NUMBER = BigInteger().with_variant(Integer, "sqlite")
_TYPES: dict[str, Any] = {"integer": NUMBER, "text": Text, "real": Double}
_MILLISECOND = 1_000_000
_TIMES = tuple(_MILLISECOND * n for n in (1, 10, 100, 1_000, 10_000, 60_000, 3_600_000))
_SIZES = (64, 512, 4 << 10, 32 << 10, 256 << 10, 2 << 20, 16 << 20)
BUCKETS: dict[str, tuple[str, tuple[int, ...]]] = {
    "process-monitor": ("lifetime_ns", _TIMES),
    "filesystem-monitor": ("bytes", _SIZES),
    "network-monitor": ("bytes", _SIZES),
    "memory-monitor": ("bytes", _SIZES),
    "disk-io-monitor": (
        "latency_ns",
        tuple(_MILLISECOND * n // 10 for n in (1, 10, 50, 100, 500, 1_000, 10_000)),
    ),
}
"""What each histogram is of, and the upper bounds of its buckets; the last has none."""
SUMS = ("count", "bytes", "latency_count", "latency_sum_ns")
BUCKET_NAMES = tuple(f"bucket_{n}" for n in range(8))

_TYPE = {"disk-io-monitor": text("2")}
"""What the seed's table has no column for: its rows are of completed requests."""

metadata = MetaData()


def _host() -> Column[Any]:
    return Column("host", Text, nullable=False, server_default="")


profiles = Table(
    "profiles",
    metadata,
    Column("id", NUMBER, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    sqlite_autoincrement=True,
)
schema_version = Table("schema_version", metadata, Column("version", Integer, nullable=False))
writers = Table(
    "writers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("batch", NUMBER, nullable=False),
    Column("timestamp", NUMBER, nullable=False),
)
"""The last batch that each writer has stored: none is stored twice when an answer is lost."""
losses_hourly = Table(
    "losses_hourly",
    metadata,
    Column("hour", NUMBER, primary_key=True, autoincrement=False),
    Column("host", Text, primary_key=True, server_default=""),
    Column("monitor", Text, primary_key=True),
    Column("count", NUMBER, nullable=False),
)
"""Events that were seen and could not be stored."""


def columns_of(field: Field) -> list[Column[Any]]:
    """Return the columns of a field."""
    default = None if field.empty is None else text(str(field.empty))
    return [
        Column(name, _TYPES[field.kind.sql], nullable=default is None, server_default=default)
        for name in field.names
    ]


def base_of(monitor: str) -> str:
    """Return what the names of its tables begin with: ``disk_io`` of ``disk-io-monitor``."""
    return monitor.removesuffix("-monitor").replace("-", "_")


def _events(monitor: str) -> Table:
    name = f"{base_of(monitor)}_events"
    return Table(
        name,
        metadata,
        Column("id", NUMBER, primary_key=True),
        Column("pid", NUMBER, nullable=False),
        Column("comm", Text, nullable=False),
        Column("event_type", NUMBER, nullable=False, server_default=_TYPE.get(monitor)),
        *(column for field in FIELDS[monitor] for column in columns_of(field)),
        Column("timestamp", NUMBER, nullable=False),
        Column("profile_id", NUMBER, ForeignKey("profiles.id")),
        *(column for field in HEAD for column in columns_of(field)),
        _host(),
        Column("more", Text),
        Index(f"idx_{name}_timestamp", "timestamp"),
        Index(f"idx_{name}_profile", "profile_id"),
        sqlite_autoincrement=True,
    )


def _hourly(monitor: str) -> Table:
    numbers = (*SUMS, "latency_max_ns", *BUCKET_NAMES)
    return Table(
        f"{base_of(monitor)}_stats_hourly",
        metadata,
        Column("hour", NUMBER, primary_key=True, autoincrement=False),
        Column("host", Text, primary_key=True, server_default=""),
        Column("comm", Text, primary_key=True),
        # 0 is no profile: NULL is never equal, so it can be no part of a key.
        Column("profile_id", NUMBER, primary_key=True, autoincrement=False),
        Column("event_type", NUMBER, primary_key=True, autoincrement=False),
        *(Column(name, NUMBER, nullable=False, server_default=text("0")) for name in numbers),
        sqlite_with_rowid=False,
    )


EVENTS = {monitor: _events(monitor) for monitor in MONITORS}
HOURLY = {monitor: _hourly(monitor) for monitor in MONITORS}
