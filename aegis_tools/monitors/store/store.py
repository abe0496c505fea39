"""Batches into the database: events, hourly statistics and what was lost, or nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, case, select
from sqlalchemy.dialects import postgresql, sqlite

from aegis_tools.monitors.store.database import Database, StoreError
from aegis_tools.monitors.store.fields import clean
from aegis_tools.monitors.store.migrations import upgrade
from aegis_tools.monitors.store.retention import CHUNK, Keep, Removed, prune
from aegis_tools.monitors.store.rows import Event, Hourly, NotAnEventError, monitor_of, to_row
from aegis_tools.monitors.store.schema import (
    EVENTS,
    HOUR,
    HOURLY,
    losses_hourly,
    profiles,
    writers,
)


class Batch(NamedTuple):
    """What is stored together.

    Attributes:
        writer: Who stores it; a name no other has.
        number: Of this writer's batches, growing: the same again is stored once only.
        events: Of any monitor.
        lost: How many could not be stored before, by hour (microseconds) and monitor.
        time: Now, in microseconds since 1970.
    """

    writer: str
    number: int
    events: Sequence[Event]
    lost: Mapping[tuple[int, str], int]
    time: int


@dataclass
class Done:
    """What became of a batch.

    Attributes:
        stored: Events, by monitor.
        invalid: Those that are no events, by monitor.
        remade: Tables that were missing and were made anew.
    """

    stored: dict[str, int] = field(default_factory=dict)
    invalid: dict[str, int] = field(default_factory=dict)
    remade: list[str] = field(default_factory=list)


class Store:
    """The writing side.

    Args:
        database: Where to.
        host: This host's name, in a store of many.
        profile_of: Returns the name of the profile an event belongs to; by default its field
            ``profile``.
    """

    def __init__(
        self,
        database: Database,
        *,
        host: str = "",
        profile_of: Callable[[Event], str | None] | None = None,
    ) -> None:
        self.database = database
        self.host = clean(host)
        self._profile_of = profile_of or _profile_of
        self._profiles: dict[str, int] = {}
        self._ready = False

    def prepare(self) -> tuple[int, list[str]]:
        """Make or upgrade the tables; return the version there was, and the tables that were not.

        Raises:
            StateError: The store cannot be used.
        """
        self._profiles.clear()
        with self.database.transaction() as connection:
            found = upgrade(connection)
        if self.database.is_sqlite:
            self._let_shrink()
        self._ready = True
        return found

    def write(self, batch: Batch) -> Done:
        """Store a batch; tables that somebody dropped meanwhile are made anew.

        Raises:
            StoreError: Nothing of it is stored.
            StateError: The file is not safe to use any more.
        """
        remade: list[str] = []
        if not self._ready:
            self.prepare()
        try:
            done = self._write(batch)
        except StoreError as error:
            if error.fault not in ("dropped", "refused"):
                raise
            # A profile that was deleted is refused as a foreign key.
            remade = self.prepare()[1]
            done = self._write(batch)
        done.remade = remade
        return done

    def prune(self, keep: Keep, now: int, chunk: int = CHUNK) -> Removed:
        """Remove what is too old or too much; as ``retention.prune``.

        Raises:
            StoreError: The database failed.
            StateError: The file is not safe to use any more.
        """
        if not self._ready:
            self.prepare()
        try:
            return prune(self.database, keep, now, chunk)
        except StoreError as error:
            self._ready = error.fault != "dropped"
            raise

    def _write(self, batch: Batch) -> Done:
        with self.database.transaction() as connection:
            before = select(writers.c.batch).where(writers.c.name == batch.writer)
            stored = connection.execute(before).scalar()
            rows, done = self._rows(connection, batch.events)
            if stored is not None and stored >= batch.number:
                return done
            hourly = Hourly()
            for monitor, found in rows.items():
                for row in found:
                    hourly.add(monitor, row)
                connection.execute(EVENTS[monitor].insert(), found)
            add_hourly(connection, hourly)
            self._add_losses(connection, batch.lost)
            mark = {"name": batch.writer, "batch": batch.number, "timestamp": batch.time}
            _upsert(connection, writers, [mark], adding=())
        return done

    def _rows(
        self, connection: Connection, events: Sequence[Event]
    ) -> tuple[dict[str, list[dict[str, Any]]], Done]:
        rows: dict[str, list[dict[str, Any]]] = {}
        done = Done()
        for one in events:
            monitor = monitor_of(one)
            try:
                row = to_row(one, self.host, self._profile(connection, one))
            except NotAnEventError:
                done.invalid[monitor] = done.invalid.get(monitor, 0) + 1
                continue
            rows.setdefault(monitor, []).append(row)
        done.stored = {monitor: len(found) for monitor, found in rows.items()}
        return rows, done

    def _profile(self, connection: Connection, one: Event) -> int | None:
        name = self._profile_of(one)
        if name is None:
            return None
        if name not in self._profiles:
            values = {"name": clean(name)}
            insert = _insert(connection, profiles).values(values).on_conflict_do_nothing()
            connection.execute(insert)
            wanted = select(profiles.c.id).where(profiles.c.name == values["name"])
            self._profiles[name] = int(connection.execute(wanted).scalar_one())
        return self._profiles[name]

    def _add_losses(self, connection: Connection, lost: Mapping[tuple[int, str], int]) -> None:
        rows = [
            {"hour": hour - hour % HOUR, "host": self.host, "monitor": monitor, "count": count}
            for (hour, monitor), count in sorted(lost.items())
        ]
        if rows:
            _upsert(connection, losses_hourly, rows, adding=("count",))

    def _let_shrink(self) -> None:
        """Let a file give space back that was made without that; it is rewritten once."""
        if self.database.run_outside("PRAGMA auto_vacuum")[0][0] == 2:
            return
        self.database.run_outside("PRAGMA auto_vacuum = INCREMENTAL")
        self.database.run_outside("VACUUM")


def add_hourly(connection: Connection, hourly: Hourly) -> None:
    """Add a batch's statistics to those there are."""
    for monitor, found in hourly.found.items():
        table = HOURLY[monitor]
        numbers = [c.name for c in table.columns if not c.primary_key]
        # In order, so that two writers never wait for each other.
        rows = [
            {**key._asdict(), **dict.fromkeys(numbers, 0), **sums}
            for key, sums in sorted(found.items())
        ]
        _upsert(connection, table, rows, adding=numbers)


def _profile_of(one: Event) -> str | None:
    found = one.get("profile")
    return found if isinstance(found, str) and found else None


def _insert(connection: Connection, table: Table) -> Any:
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def _upsert(
    connection: Connection, table: Table, rows: list[dict[str, Any]], *, adding: Sequence[str]
) -> None:
    """Insert rows; where there is one of that key, add to it, or else take the new values."""
    insert = _insert(connection, table)
    values: dict[str, Any] = {}
    for column in table.columns:
        if column.primary_key:
            continue
        new = insert.excluded[column.name]
        if column.name == "latency_max_ns":
            values[column.name] = case((new > column, new), else_=column)
        else:
            values[column.name] = column + new if column.name in adding else new
    keys = [column.name for column in table.primary_key]
    connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=values), rows)
