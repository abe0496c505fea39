"""The same store on a real PostgreSQL server, which is killed as well."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monitor_store_support import (
    BODIES,
    HOUR,
    NOW,
    changed_events,
    event,
    sqlite_in,
    stored,
    wait_for,
    without_null,
    write,
)
from postgresql_server import PASSWORD, Server
from sqlalchemy import inspect, text

from aegis_tools.cli.main import run as command
from aegis_tools.errors import StateError
from aegis_tools.monitors.store import place
from aegis_tools.monitors.store.database import Database, StoreError
from aegis_tools.monitors.store.place import Place
from aegis_tools.monitors.store.query import Wanted, search, trend
from aegis_tools.monitors.store.retention import DAY, Keep, prune
from aegis_tools.monitors.store.schema import metadata
from aegis_tools.monitors.store.store import Store
from aegis_tools.monitors.store.writer import Pace, Writer
from aegis_tools.paths import Paths

FAST = Pace(events=100, seconds=0.02, retry=0.05, retry_most=0.2)
NEVER_OLD = Keep(events=1 << 60, hourly=1 << 60)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = Server()
    try:
        found.make()
        found.start()
        yield found
    finally:
        found.remove()


@pytest.fixture
def where(server: Server, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Return the place of an empty database, with the password in a file of libpq's."""
    if server.process is None:
        server.start()
    monkeypatch.setenv("PGPASSFILE", str(server.passfile))
    found = place.find(Paths(Path("/nonexistent")), server.url, {})
    run(found, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return found


@pytest.fixture
def store(where: Place) -> Iterator[Store]:
    found = Store(Database(where), host="web1")
    found.prepare()
    yield found
    found.database.close()


def run(where: Place, statements: str) -> None:
    database = Database(where)
    with database.transaction() as connection:
        for statement in statements.split(";"):
            connection.execute(text(statement))
    database.close()


def without_host(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in one.items() if key != "host"} for one in events]


def test_events_of_every_monitor_come_out_as_they_went_in(store: Store, where: Place) -> None:
    events = [event(kind, NOW + n) for n, kind in enumerate(BODIES)]
    write(store, *events)
    assert stored(where) == [{**one, "host": "web1"} for one in events]


@given(events=st.lists(changed_events(), min_size=1, max_size=8))
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_stored_is_found_again(
    store: Store, where: Place, events: list[dict[str, Any]]
) -> None:
    run(where, f"TRUNCATE {', '.join(metadata.tables)}")
    store.prepare()
    write(store, *events)
    assert without_null(without_host(stored(where))) == without_null(events)


def test_the_tables_are_those_of_sqlite(store: Store, tmp_path: Path) -> None:
    other = Store(Database(sqlite_in(tmp_path)))
    other.prepare()
    found = []
    for database in (store.database, other.database):
        with database.transaction() as connection:
            shown = inspect(connection)
            found.append(
                {
                    name: (
                        [(c["name"], c["nullable"]) for c in shown.get_columns(name)],
                        sorted(
                            i["name"] or ""
                            for i in shown.get_indexes(name)
                            if not i.get("duplicates_constraint")
                        ),
                        [tuple(k["constrained_columns"]) for k in shown.get_foreign_keys(name)],
                    )
                    for name in shown.get_table_names()
                }
            )
    assert found[0] == found[1]
    other.database.close()


def test_a_batch_is_stored_once_and_statistics_add_up(store: Store, where: Place) -> None:
    for number in (0, 0, 1, 1):
        write(store, event(), event(latency_ns=9_000_000), event("exit"), number=number)
    assert len(stored(where)) == 6
    database = Database(where, read_only=True)
    found = trend(database, Wanted(comm="dd", until=NOW))
    by_pid = trend(database, Wanted(pid=4000, until=NOW))
    database.close()
    [hour] = found["disk-io-monitor"]
    assert (hour.count, hour.size, hour.latency_max_ns) == (4, 4 * 4096, 9_000_000)
    assert hour.latency_avg_ns == 7_000_000
    for monitor, [one] in by_pid.items():
        assert one.latency_sum_ns == found[monitor][0].latency_sum_ns
        assert one.size == found[monitor][0].size


def test_hosts_that_begin_together_share_one_store(where: Place) -> None:
    writers = [
        Writer(Store(Database(where), host=f"host{n}"), keep=NEVER_OLD, pace=FAST) for n in range(4)
    ]
    for writer in writers:
        writer.start()
    for number in range(500):
        for writer in writers:
            writer.offer(event("send", NOW + number, profile=f"profile{number % 3}"))
    for writer in writers:
        counts = writer.close()
        assert counts.stored == {"network-monitor": 500}
        assert counts.failures == 0
    assert len(stored(where, host="host2", profile="profile1")) == 167
    database = Database(where, read_only=True)
    [hours] = trend(database, Wanted(comm="dd", until=NOW)).values()
    database.close()
    assert hours[0].count == 2000


def test_dropped_tables_are_made_anew(store: Store, where: Place) -> None:
    write(store, event(), event("kmalloc"))
    run(where, "DROP TABLE memory_events; DROP TABLE disk_io_events")
    done = write(store, event(), event("kmalloc"), number=1)
    assert done.remade == ["disk_io_events", "memory_events"]
    assert len(stored(where)) == 2


def test_what_other_hosts_have_told_is_not_forgotten_by_mistake(
    store: Store, where: Place, server: Server, tmp_path: Path
) -> None:
    write(store, event(), event("kmalloc"))
    words = ["--root", str(tmp_path), "monitor", "forget", "memory", "--store", server.url]
    assert command([*words]) == 2
    assert len(stored(where)) == 2
    assert command([*words, "--every-host"]) == 0
    assert [one["event"] for one in stored(where)] == ["complete"]


def test_a_server_that_is_killed_loses_and_doubles_nothing(server: Server, where: Place) -> None:
    told: list[str] = []
    writer = Writer(
        Store(Database(where), host="web1"), keep=NEVER_OLD, pace=FAST, tell=told.append
    )
    writer.start()
    begun, ended = threading.Event(), threading.Event()

    def offer() -> None:
        number = 0
        while not ended.is_set():
            writer.offer(event("open", NOW + number, tid=number))
            number += 1
            if number == 500:
                begun.set()
            ended.wait(0.0005)

    thread = threading.Thread(target=offer)
    thread.start()
    try:
        for _ in range(2):
            begun.wait(20)
            server.kill()
            failures = writer.counts.failures
            wait_for(lambda before=failures: writer.counts.failures > before + 1)  # type: ignore[misc]
            assert writer.failing is not None
            server.start()
            wait_for(lambda: writer.failing is None)
    finally:
        ended.set()
        thread.join()
    counts = writer.close(timeout=30)
    assert not counts.dropped
    found = [one["tid"] for one in stored(where)]
    assert found == list(range(counts.stored["filesystem-monitor"]))
    assert len(found) > 500
    assert "the monitors' store works again" in told


def test_a_server_that_stays_away_costs_what_the_queue_cannot_hold(
    server: Server, where: Place
) -> None:
    server.kill()
    writer = Writer(
        Store(Database(where), host="web1"), keep=NEVER_OLD, pace=FAST._replace(queue=200_000)
    )
    writer.start()
    taken = [writer.offer(event("open", NOW + n, tid=n)) for n in range(1000)]
    wait_for(lambda: writer.failing is not None)
    assert writer.failing is not None
    assert "cannot be reached" in writer.failing.message
    lost = writer.counts.dropped["filesystem-monitor"]
    assert lost == taken.count(False) > 500
    server.start()
    wait_for(lambda: writer.waiting == 0)
    writer.close()
    database = Database(where, read_only=True)
    found = search(database, Wanted(), 2000)
    database.close()
    assert len(found.events) + lost == 1000
    assert sum(found.lost.values()) == lost


def test_old_events_go_first_by_age_and_by_size(store: Store, where: Place) -> None:
    write(store, *(event("open", NOW - n * HOUR, tid=n) for n in range(4000)))
    removed = prune(store.database, Keep(events=100 * DAY, hourly=200 * DAY), NOW)
    assert removed.rows == {"filesystem_events": 4000 - 2401}
    prune(store.database, NEVER_OLD._replace(size=2_000_000), NOW)
    assert 0 < len(stored(where)) <= 5000
    write(store, *(event("kmalloc", NOW + n) for n in range(8000)), number=1)
    removed = prune(store.database, NEVER_OLD._replace(size=3_000_000), NOW)
    assert removed.rows["filesystem_events"] == 2401
    assert stored(where)[-1]["event"] == "kmalloc"


def test_a_wrong_password_is_not_told_on(
    where: Place, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.delenv("PGPASSFILE")
    secret = server.url.replace("owner@", "owner:hunter2@")
    found = place.find(Paths(Path("/nonexistent")), "", {place.ENVIRONMENT: secret})
    for database in (Database(found), Database(where)):
        with pytest.raises(StateError) as caught:
            Store(database).prepare()
        told = f"{caught.value.to_dict()} {caught.value!r} {caught.value.__cause__}"
        assert "hunter2" not in told
        assert PASSWORD not in told
        assert isinstance(caught.value, StoreError)
