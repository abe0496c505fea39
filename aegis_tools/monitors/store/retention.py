"""The store does not grow for ever: the oldest goes first, by age and then by size.

Age is by the events' own times. Size goes by the order in which they were stored: a clock that was
wrong for a while cannot make new ones the oldest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Column, Connection, Select, Table, delete, func, select, text

from aegis_tools.monitors.store.database import Database
from aegis_tools.monitors.store.schema import EVENTS, HOURLY, losses_hourly, writers

DAY = 86_400 * 1_000_000
CHUNK = 1_000
_LOCK = 0x61656770  # of PostgreSQL: one program removes at a time
_EVENT_BYTES, _HOUR_BYTES = 400, 300
"""Of a row with its indexes, in PostgreSQL, whose files do not shrink with what is in them."""
_AIM = 0.9
"""Of the limit: what is removed to, so that the next batch does not reach it again."""


class Keep(NamedTuple):
    """How much is kept.

    Attributes:
        events: Microseconds.
        hourly: Microseconds.
        size: Bytes; fewer where the disk has not that much to spare (``Database.room``).
    """

    events: int = 7 * DAY
    hourly: int = 400 * DAY
    size: int = 1 << 30


@dataclass
class Removed:
    """What was removed: rows, by table."""

    rows: dict[str, int] = field(default_factory=dict)

    def add(self, table: Table, count: int) -> None:
        """Count rows."""
        if count:
            self.rows[table.name] = self.rows.get(table.name, 0) + count


def size_of(database: Database) -> int:
    """Return bytes: of the file with what is free in it, or an estimate for PostgreSQL."""
    if database.is_sqlite:
        pages = database.run_outside("PRAGMA page_count")[0][0]
        return int(pages * database.run_outside("PRAGMA page_size")[0][0])
    with database.transaction() as connection:
        return sum(_estimate(connection).values())


def prune(database: Database, keep: Keep, now: int, chunk: int = CHUNK) -> Removed:
    """Remove what is too old or too much, in short transactions, and give the space back.

    Args:
        database: Which.
        keep: The limits.
        now: Microseconds since 1970.
        chunk: Rows of a transaction; on a disk that is nearly full there is room for few.

    Raises:
        StoreError: The database failed; what was removed until then stays removed.
    """
    removed = Removed()
    for table, column, before in (
        *((table, "timestamp", now - keep.events) for table in EVENTS.values()),
        *((table, "hour", now - keep.hourly) for table in (*HOURLY.values(), losses_hourly)),
        # Of writers that are gone; a day is far longer than an answer can be late.
        (writers, "timestamp", now - DAY),
    ):
        while _remove_old(database, table.c[column], before, chunk, removed) >= chunk:
            pass
    limit = database.room(keep.size)
    if size_of(database) > limit:
        while _remove_first(database, limit, chunk, removed):
            pass
    if database.is_sqlite:
        database.give_back()
    return removed


def _remove_old(
    database: Database, column: Column[int], before: int, chunk: int, removed: Removed
) -> int:
    """Remove some of what is too old, and return how many rows that were."""
    table = column.table
    with database.transaction() as connection:
        if not _mine(connection):
            return 0
        old = _oldest(table, column.name, chunk).where(column < before)
        count = _delete(connection, table, old)
    removed.add(table, count)
    return count


def _remove_first(database: Database, limit: int, chunk: int, removed: Removed) -> bool:
    """Remove the oldest events of all; statistics only where they are a quarter of the limit."""
    with database.transaction() as connection:
        rows = _estimate(connection)
        used = _used(connection) if database.is_sqlite else sum(rows.values())
        table = _to_shorten(connection, rows, limit)
        if used <= limit * _AIM or table is None or not _mine(connection):
            return False
        column = "id" if "id" in table.c else "hour"
        count = _delete(connection, table, _oldest(table, column, chunk))
    removed.add(table, count)
    return True


def _to_shorten(connection: Connection, rows: dict[str, int], limit: int) -> Table | None:
    """Return the table whose oldest row is the oldest of all; None where nothing is left."""
    hourly = [table for table in HOURLY.values() if rows[table.name]]
    events = [table for table in EVENTS.values() if rows[table.name]]
    if hourly and (not events or sum(rows[table.name] for table in hourly) > limit // 4):
        return min(hourly, key=lambda table: _first(connection, table, "hour", "hour"))
    if not events:
        return None
    return min(events, key=lambda table: _first(connection, table, "id", "timestamp"))


def _first(connection: Connection, table: Table, order: str, column: str) -> int:
    found = select(table.c[column]).order_by(table.c[order]).limit(1)
    return int(connection.execute(found).scalar() or 0)


def _oldest(table: Table, column: str, count: int) -> Select[tuple[object, ...]]:
    keys = list(table.primary_key)
    return select(*keys).order_by(table.c[column]).limit(count)


def _delete(connection: Connection, table: Table, which: Select[tuple[object, ...]]) -> int:
    keys = list(table.primary_key)
    if len(keys) == 1:
        gone = delete(table).where(keys[0].in_(which))
    else:
        from sqlalchemy import tuple_

        gone = delete(table).where(tuple_(*keys).in_(which))
    return connection.execute(gone).rowcount


def _estimate(connection: Connection) -> dict[str, int]:
    """Return bytes by table; events by their ids, as counting them all takes too long."""
    found = {}
    for table in EVENTS.values():
        first, last = connection.execute(
            select(func.min(table.c.id), func.max(table.c.id))
        ).one()  # fmt: skip
        found[table.name] = (last - first + 1) * _EVENT_BYTES if last is not None else 0
    for table in HOURLY.values():
        count = connection.execute(select(func.count()).select_from(table)).scalar_one()
        found[table.name] = count * _HOUR_BYTES
    return found


def _used(connection: Connection) -> int:
    """Return bytes of SQLite's pages that are in use."""
    pages, free, size = (
        connection.execute(text(f"PRAGMA {name}")).scalar_one()
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _mine(connection: Connection) -> bool:
    """Tell whether nobody else removes at the same time."""
    if connection.dialect.name != "postgresql":
        return True
    locked = text("SELECT pg_try_advisory_xact_lock(:lock)")
    return bool(connection.execute(locked, {"lock": _LOCK}).scalar_one())
