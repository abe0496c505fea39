"""What a store of an older version lacks is added, forward only; nothing in it is lost.

Version 1 is what seed 001 shows, made by whatever; it says no version of itself.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.schema import CreateColumn

from aegis_tools.errors import StateError
from aegis_tools.monitors.store.schema import EVENTS, VERSION, metadata, schema_version

_LOCK = 0x61656769  # of PostgreSQL, for the time of a transaction: one program upgrades at a time


def version_of(connection: Connection) -> int:
    """Return the version of the tables there are; 0 for none."""
    tables = set(inspect(connection).get_table_names())
    if schema_version.name in tables:
        found = connection.execute(select(schema_version.c.version)).scalar()
        return int(found) if found is not None else 1
    return 1 if tables & {table.name for table in EVENTS.values()} else 0


def upgrade(connection: Connection) -> tuple[int, list[str]]:
    """Bring the tables up to this version, and make those anew that somebody dropped.

    The caller's transaction holds all of it.

    Returns:
        The version there was (0: none), and the names of tables that were missing.

    Raises:
        StateError: A newer program made the store.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    before = version_of(connection)
    if before > VERSION:
        raise newer(before)
    there = set(inspect(connection).get_table_names())
    if 0 < before < VERSION:
        for step in _STEPS[before:]:
            step(connection)
    metadata.create_all(connection)
    connection.execute(schema_version.delete())
    connection.execute(schema_version.insert().values(version=VERSION))
    return before, sorted(set(metadata.tables) - there)


def newer(version: int) -> StateError:
    """Return the error for a store that this program does not know."""
    return StateError(
        f"the monitors' store is of version {version}, made by a newer program",
        hint="install that version of aegis-tools again, or name another store with --store",
    )


def _to_2(connection: Connection) -> None:
    """Add what the seed's tables lack: all columns may be NULL or have a default."""
    for name in ("memory_events", "disk_io_events"):
        if name in inspect(connection).get_table_names():
            _add_columns(connection, name)


def _add_columns(connection: Connection, name: str) -> None:
    found = inspect(connection)
    table = metadata.tables[name]
    there = {column["name"] for column in found.get_columns(name)}
    for column in table.columns:
        if column.name not in there:
            what = CreateColumn(column).compile(dialect=connection.dialect)
            connection.execute(text(f"ALTER TABLE {name} ADD COLUMN {what}"))
    indexes = {index["name"] for index in found.get_indexes(name)}
    for index in table.indexes:
        if index.name not in indexes:
            index.create(connection)


_STEPS: tuple[Callable[[Connection], None], ...] = (lambda _: None, _to_2)
"""From 0 to 1 there is nothing to change; from 1 to 2; and so on."""
