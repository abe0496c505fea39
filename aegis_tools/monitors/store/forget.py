"""Tables dropped: what the monitors saw is gone, and what goes on storing makes them anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, Table, func, inspect, select

from aegis_tools.monitors.store.database import Database
from aegis_tools.monitors.store.migrations import newer, version_of
from aegis_tools.monitors.store.schema import EVENTS, HOURLY, VERSION, losses_hourly


def tables_of(monitors: Iterable[str]) -> list[Table]:
    """Return the tables that hold what these monitors told, by their full names."""
    return [table for name in monitors for table in (EVENTS[name], HOURLY[name])]


def rows(database: Database, monitors: Sequence[str]) -> dict[str, int]:
    """Return how many rows each of their tables has, of those that there are.

    Raises:
        StateError: Nothing was stored yet, a newer program made the store, or it cannot be used.
    """
    with database.transaction() as connection:
        _check_version(connection)
        return _rows(connection, monitors)


def hosts(database: Database, monitors: Sequence[str]) -> set[str]:
    """Return whose events there are in a store of many hosts. Raises StateError."""
    found: set[str] = set()
    with database.transaction() as connection:
        there = set(inspect(connection).get_table_names())
        for name in monitors:
            if HOURLY[name].name in there:
                found.update(connection.execute(select(HOURLY[name].c.host).distinct()).scalars())
    return found


def drop(database: Database, monitors: Sequence[str]) -> dict[str, int]:
    """Drop their tables, all of them or none, and give the space back.

    Returns:
        How many rows each had.

    Raises:
        StateError: A newer program made the store, or it cannot be used; nothing was dropped.
    """
    with database.transaction() as connection:
        _check_version(connection)
        found = _rows(connection, monitors)
        for table in tables_of(monitors):
            table.drop(connection, checkfirst=True)
        if losses_hourly.name in inspect(connection).get_table_names():
            of_these = losses_hourly.c.monitor.in_(monitors)
            connection.execute(losses_hourly.delete().where(of_these))
    if database.is_sqlite:
        database.give_back()
    return found


def _check_version(connection: Connection) -> None:
    """Leave alone what is not known: what hangs on these tables in a newer store."""
    version = version_of(connection)
    if version > VERSION:
        raise newer(version)


def _rows(connection: Connection, monitors: Sequence[str]) -> dict[str, int]:
    there = set(inspect(connection).get_table_names())
    return {
        table.name: int(connection.execute(select(func.count()).select_from(table)).scalar_one())
        for table in tables_of(monitors)
        if table.name in there
    }
