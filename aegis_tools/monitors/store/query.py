"""What was stored: single events, and the history of a process or a profile by the hour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, Table, case, func, inspect, literal, select

from aegis_tools.errors import StateError, UsageError
from aegis_tools.monitors.registry import MONITORS, find
from aegis_tools.monitors.store.database import Database
from aegis_tools.monitors.store.fields import clean
from aegis_tools.monitors.store.migrations import newer, version_of
from aegis_tools.monitors.store.rows import from_row
from aegis_tools.monitors.store.schema import (
    BUCKET_NAMES,
    BUCKETS,
    EVENTS,
    HOUR,
    HOURLY,
    SUMS,
    VERSION,
    losses_hourly,
    profiles,
)

_LONGEST = 9e6
"""Seconds that any process can have lived: more is nonsense, and past what a sum can hold."""


@dataclass(frozen=True)
class Wanted:
    """Which events; an empty text or None is no condition.

    Attributes:
        monitors: Names, all where none is given; ``memory`` is ``memory-monitor``.
        events: Names of events.
        since: Microseconds since 1970, not before.
        until: Not after.
        pid: Process.
        comm: Its name.
        profile: The profile's name.
        host: In a store of many.
    """

    monitors: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    since: int = 0
    until: int | None = None
    pid: int | None = None
    comm: str = ""
    profile: str = ""
    host: str = ""


class Found(NamedTuple):
    """Events, and what is to be known of them.

    Attributes:
        events: In order of time.
        cut: There are older ones.
        lost: Events of that time that could not be stored, by monitor.
    """

    events: list[dict[str, Any]]
    cut: bool
    lost: dict[str, int]


def search(database: Database, wanted: Wanted, limit: int) -> Found:
    """Return the newest events, at most ``limit``.

    Raises:
        UsageError: There is no such monitor or event.
        StateError: The store cannot be read.
    """
    chosen = _types(wanted)
    with database.transaction() as connection:
        there = _check(connection)
        rows: list[tuple[int, int, str, dict[str, Any]]] = []
        for monitor, types in chosen.items():
            if EVENTS[monitor].name in there:
                rows += _newest(connection, monitor, types, wanted, limit + 1)
        rows.sort(key=itemgetter(0, 2, 1))
        lost = _lost(connection, wanted, list(chosen)) if losses_hourly.name in there else {}
    events = [event for *_, event in rows[-limit:]]
    return Found(events, len(rows) > limit, lost)


def _check(connection: Connection) -> set[str]:
    """Return the tables there are: one that was dropped is as good as empty.

    A store of another version is refused: reading changes nothing, so it cannot be upgraded.
    """
    version = version_of(connection)
    if version > VERSION:
        raise newer(version)
    if version == 0:
        raise StateError("nothing was stored yet", hint="run: aegisbpf monitor record")
    if version < VERSION:
        raise StateError(
            f"the monitors' store is of version {version}, this program's is {VERSION}",
            hint="aegisbpf monitor record brings it up to date, and keeps what is in it",
        )
    return set(inspect(connection).get_table_names())


def _types(wanted: Wanted) -> dict[str, list[int]]:
    """Return the numbers of wanted events by monitor; nothing for all."""
    found = {one.name: one.types for one in find(wanted.monitors)}
    if not wanted.events:
        return {name: [] for name in found}
    chosen = {
        name: [number for number, event in types.items() if event in wanted.events]
        for name, types in found.items()
    }
    unknown = set(wanted.events) - {event for types in found.values() for event in types.values()}
    if unknown:
        known = sorted({event for types in found.values() for event in types.values()})
        raise UsageError(
            f"there is no event {min(unknown)!r}", hint=f"one of: {', '.join(known)}"
        )  # fmt: skip
    return {name: numbers for name, numbers in chosen.items() if numbers}


def _newest(
    connection: Connection, monitor: str, types: Sequence[int], wanted: Wanted, limit: int
) -> Iterator[tuple[int, int, str, dict[str, Any]]]:
    table = EVENTS[monitor]
    statement = (
        select(table, profiles.c.name.label("profile"))
        .outerjoin(profiles, table.c.profile_id == profiles.c.id)
        .where(table.c.timestamp >= wanted.since)
        .order_by(table.c.timestamp.desc(), table.c.id.desc())
        .limit(limit)
    )
    if types:
        statement = statement.where(table.c.event_type.in_(types))
    if wanted.until is not None:
        statement = statement.where(table.c.timestamp <= wanted.until)
    statement = _of(statement, table, wanted)
    for row in connection.execute(statement).mappings():
        yield row["timestamp"], row["id"], monitor, from_row(monitor, dict(row), row["profile"])


def _of(statement: Select[Any], table: Table, wanted: Wanted) -> Select[Any]:
    if wanted.pid is not None:
        statement = statement.where(table.c.pid == wanted.pid)
    if wanted.comm:
        statement = statement.where(table.c.comm == clean(wanted.comm))
    if wanted.profile:
        profile = select(profiles.c.id).where(profiles.c.name == clean(wanted.profile))
        statement = statement.where(table.c.profile_id == profile.scalar_subquery())
    if wanted.host:
        statement = statement.where(table.c.host == clean(wanted.host))
    return statement


def _lost(connection: Connection, wanted: Wanted, monitors: list[str]) -> dict[str, int]:
    statement = (
        select(losses_hourly.c.monitor, func.sum(losses_hourly.c.count))
        .where(losses_hourly.c.hour >= wanted.since - wanted.since % HOUR)
        .where(losses_hourly.c.monitor.in_(monitors))
        .group_by(losses_hourly.c.monitor)
        .order_by(losses_hourly.c.monitor)
    )
    if wanted.until is not None:
        statement = statement.where(losses_hourly.c.hour <= wanted.until)
    if wanted.host:
        statement = statement.where(losses_hourly.c.host == clean(wanted.host))
    return {str(monitor): int(count) for monitor, count in connection.execute(statement)}


@dataclass(frozen=True)
class Hour:
    """An hour of a monitor.

    Attributes:
        start: Microseconds since 1970.
        count: Events.
        size: Bytes moved, or allocated.
        timed: Events that have a latency (of a process: a lifetime).
        latency_sum_ns: Of these.
        latency_max_ns: Of these.
        histogram: Events by bucket of ``schema.BUCKETS``; empty where it is of a single process.
    """

    start: int
    count: int = 0
    size: int = 0
    timed: int = 0
    latency_sum_ns: int = 0
    latency_max_ns: int = 0
    histogram: tuple[int, ...] = ()

    @property
    def latency_avg_ns(self) -> int:
        """Mean latency; 0 where there is none."""
        return self.latency_sum_ns // self.timed if self.timed else 0


def trend(database: Database, wanted: Wanted) -> dict[str, list[Hour]]:
    """Return the hours by monitor, those without events too; a monitor without any is left out.

    Of a process or a profile by name these are the hourly statistics, which are kept far longer
    than events; of a process by number they are counted from the events.

    Raises:
        UsageError: There is no such monitor or event.
        StateError: The store cannot be read.
    """
    chosen = _types(wanted)
    with database.transaction() as connection:
        there = _check(connection)
        count, tables = (_hourly, HOURLY) if wanted.pid is None else (_by_pid, EVENTS)
        found = {
            monitor: count(connection, monitor, types, wanted)
            for monitor, types in chosen.items()
            if tables[monitor].name in there
        }
    until = wanted.until if wanted.until is not None else _last(found)
    return {
        monitor: _filled(hours, wanted.since, until) for monitor, hours in found.items() if hours
    }


def _hourly(
    connection: Connection, monitor: str, types: Sequence[int], wanted: Wanted
) -> list[Hour]:
    table = HOURLY[monitor]
    sums = [func.sum(table.c[name]) for name in (*SUMS, *BUCKET_NAMES)]
    statement = (
        select(table.c.hour, func.max(table.c.latency_max_ns), *sums)
        .where(table.c.hour >= wanted.since - wanted.since % HOUR)
        .group_by(table.c.hour)
        .order_by(table.c.hour)
    )
    bounded = _until(statement, table, table.c.hour, types, wanted)
    return [_hour(row) for row in connection.execute(bounded)]


def _until(
    statement: Select[Any], table: Table, moment: Any, types: Sequence[int], wanted: Wanted
) -> Select[Any]:
    """Return the statement with an end and the types that are wanted, if any, of whom is wanted."""
    if wanted.until is not None:
        statement = statement.where(moment <= wanted.until)
    if types:
        statement = statement.where(table.c.event_type.in_(types))
    return _of(statement, table, wanted)


def _hour(row: Sequence[Any]) -> Hour:
    start, longest, count, size, timed, total, *buckets = map(int, row)
    return Hour(start, count, size, timed, total, longest, tuple(buckets))


def _by_pid(
    connection: Connection, monitor: str, types: Sequence[int], wanted: Wanted
) -> list[Hour]:
    table = EVENTS[monitor]
    hour = (table.c.timestamp - table.c.timestamp % HOUR).label("hour")
    numbers = [func.count(), _sum(_size(monitor, table))]
    took = _took(monitor, table)
    if took is not None:
        numbers += [func.count(took), _sum(took), func.coalesce(func.max(took), 0)]
    statement = (
        select(hour, *numbers)
        .where(table.c.timestamp >= wanted.since)
        .group_by(hour)
        .order_by(hour)
    )
    bounded = _until(statement, table, table.c.timestamp, types, wanted)
    return [_hour_of_events(row) for row in connection.execute(bounded)]


def _hour_of_events(row: Sequence[Any]) -> Hour:
    start, count, size, *more = map(int, row)
    timed, total, longest = more or (0, 0, 0)
    return Hour(start, count, size, timed, total, longest)


def _sum(column: Any) -> Any:
    # As floating point: SQLite refuses a sum of integers past 64 bits.
    return func.coalesce(func.sum(column * 1.0), 0)


def _size(monitor: str, table: Table) -> Any:
    if monitor == "process-monitor":
        return literal(0)
    return func.nullif(table.c["size" if monitor == "memory-monitor" else "bytes"], -1)


def _took(monitor: str, table: Table) -> Any:
    if monitor == "disk-io-monitor":
        return func.nullif(table.c.latency_ns, 0)
    if monitor == "process-monitor":
        seconds = table.c.age_seconds
        return case((seconds > _LONGEST, _LONGEST), else_=seconds) * 1e9
    return None


def _last(found: dict[str, list[Hour]]) -> int:
    return max((hours[-1].start for hours in found.values() if hours), default=0)


def _filled(hours: list[Hour], since: int, until: int) -> list[Hour]:
    """Return them with empty ones between: a pause is part of the history."""
    by_start = {hour.start: hour for hour in hours}
    first = max(since - since % HOUR, hours[0].start)
    return [by_start.get(start, Hour(start)) for start in range(first, until + 1, HOUR)]


def buckets_of(monitor: str) -> tuple[str, tuple[int, ...]]:
    """Return what a monitor's histogram is of, and the upper bounds of its buckets."""
    return BUCKETS[MONITORS[monitor].name]
