"""The store's writer: whatever the store does, its caller never waits; every loss is counted."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from monitor_store_support import HOUR, NOW, event, sqlite_in, stored, wait_for, write

from aegis_tools.monitors.store.database import Database, StoreError
from aegis_tools.monitors.store.place import Place
from aegis_tools.monitors.store.query import Wanted, search
from aegis_tools.monitors.store.retention import DAY, Keep, prune, size_of
from aegis_tools.monitors.store.store import Batch, Done, Store
from aegis_tools.monitors.store.writer import Pace, Writer

FAST = Pace(events=100, seconds=0.02, retry=0.01, retry_most=0.05, prune=0.05, prune_least=0.01)
NEVER_OLD = Keep(events=1 << 60, hourly=1 << 60)
KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, "tests/unit")
from monitor_store_support import event, sqlite_in
from aegis_tools.monitors.store.database import Database
from aegis_tools.monitors.store.store import Store
from aegis_tools.monitors.store.writer import Pace, Writer
writer = Writer(Store(Database(sqlite_in(Path(sys.argv[1])))), pace=Pace(events=500, seconds=0.01))
writer.start()
number = 0
while True:
    writer.offer(event("open", path=f"/file/{number}"))
    number += 1
    if number % 500 == 0:
        print(sum(writer.counts.stored.values()), flush=True)
        time.sleep(0.01)
"""


class Faulty(Store):
    """A store that fails in a way of the test's choice."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.fails: Callable[[Batch], bool] = lambda _: False
        self.fault = "full"
        self.after = False
        self.tries = 0

    def write(self, batch: Batch) -> Done:
        """Fail before or after it is stored."""
        self.tries += 1
        if self.fails(batch) and not self.after:
            raise StoreError(self.fault)
        done = super().write(batch)
        if self.fails(batch):
            raise StoreError(self.fault)
        return done


@pytest.fixture
def where(tmp_path: Path) -> Place:
    return sqlite_in(tmp_path)


@pytest.fixture
def store(where: Place) -> Iterator[Faulty]:
    found = Faulty(Database(where))
    yield found
    found.database.close()


@pytest.fixture
def make(store: Faulty) -> Iterator[Callable[..., Writer]]:
    made: list[Writer] = []

    def build(**options: Any) -> Writer:
        options = {"pace": FAST, "keep": NEVER_OLD, **options}
        made.append(Writer(store, clock=lambda: NOW / 1e6, **options))
        made[-1].start()
        return made[-1]

    yield build
    for writer in made:
        if writer._thread.is_alive():
            writer.close()


def many(count: int, kind: str = "open") -> list[dict[str, Any]]:
    return [event(kind, NOW + n, tid=n) for n in range(count)]


def total(counts: dict[str, int]) -> int:
    return sum(counts.values())


def test_all_events_are_stored_in_order(make: Callable[..., Writer], where: Place) -> None:
    writer, events = make(), many(1234)
    assert all(writer.offer(one) for one in events)
    counts = writer.close()
    assert counts.stored == {"filesystem-monitor": 1234}
    assert counts.batches < 100
    assert stored(where) == events


def test_an_event_does_not_wait_for_others_for_long(
    make: Callable[..., Writer], where: Place
) -> None:
    writer = make()
    writer.offer(event())
    wait_for(lambda: writer.counts.batches == 1)
    assert stored(where) == [event()]


@pytest.mark.parametrize("fault", ["full", "locked", "gone", "failed"])
def test_a_store_that_fails_for_a_while_loses_nothing(
    store: Faulty, make: Callable[..., Writer], where: Place, fault: str
) -> None:
    told: list[str] = []
    store.fault, store.fails = fault, lambda _: True
    writer, events = make(tell=told.append), many(300)
    for one in events:
        writer.offer(one)
    wait_for(lambda: writer.counts.failures > 3)
    assert writer.failing is not None
    assert writer.waiting == 300
    store.fails = lambda _: False
    wait_for(lambda: writer.waiting == 0)
    wait_for(lambda: writer.failing is None)
    assert stored(where) == events
    assert len(told) == 2
    assert told[1] == "the monitors' store works again"


def test_an_answer_that_is_lost_stores_nothing_twice(
    store: Faulty, make: Callable[..., Writer], where: Place
) -> None:
    store.fault, store.after = "gone", True
    store.fails = lambda _: store.tries % 3 != 0
    writer, events = make(), many(1000)
    for one in events:
        writer.offer(one)
    assert total(writer.close().stored) == 1000
    assert stored(where) == events


def test_what_does_not_fit_is_dropped_at_once_and_counted_by_monitor(
    store: Faulty, make: Callable[..., Writer], where: Place
) -> None:
    store.fails = lambda _: True
    writer = make(pace=FAST._replace(queue=100_000))
    taken = [writer.offer(one) for one in [*many(200), *many(50, "kmalloc")]]
    assert 50 <= sum(taken) <= 100
    assert writer.counts.dropped == {
        "filesystem-monitor": 200 - sum(taken),
        "memory-monitor": 50,
    }
    store.fails = lambda _: False
    wait_for(lambda: writer.waiting == 0)
    counts = writer.close()
    assert total(counts.stored) + total(counts.dropped) == 250
    database = Database(where, read_only=True)
    found = search(database, Wanted(), 1000)
    assert found.events == many(sum(taken))
    assert found.lost == counts.dropped
    database.close()


def test_an_event_that_the_database_refuses_takes_no_other_with_it(
    store: Faulty, make: Callable[..., Writer], where: Place
) -> None:
    store.fault = "refused"
    store.fails = lambda batch: any(one["tid"] in (17, 83) for one in batch.events)
    writer, events = make(), many(100)
    for one in events:
        writer.offer(one)
    wait_for(lambda: writer.waiting == 0)
    counts = writer.close()
    assert counts.invalid == {"filesystem-monitor": 2}
    assert [one["tid"] for one in stored(where)] == [n for n in range(100) if n not in (17, 83)]


def test_an_event_that_no_driver_takes_ends_no_writer(
    make: Callable[..., Writer], where: Place
) -> None:
    writer = make()
    for one in (event(), event(future=object()), event("open")):
        writer.offer(one)
    wait_for(lambda: writer.waiting == 0)
    assert writer.close().invalid == {"disk-io-monitor": 1}
    assert stored(where) == [event(), event("open")]


def test_an_end_waits_no_longer_than_it_may(store: Faulty, make: Callable[..., Writer]) -> None:
    store.fails = lambda _: True
    writer = make()
    for one in many(30):
        writer.offer(one)
    counts = writer.close(timeout=0.1)
    assert counts.dropped == {"filesystem-monitor": 30}
    assert not writer.offer(event())


def test_offering_does_not_wait_for_a_store_that_hangs(
    store: Faulty, make: Callable[..., Writer]
) -> None:
    def hang(_: Batch) -> bool:
        time.sleep(0.5)
        return False

    store.fails = hang
    writer = make()
    writer.offer(event())
    wait_for(lambda: store.tries == 1)
    began = time.thread_time()
    for one in many(1000):
        writer.offer(one)
    assert writer.waiting == 1001
    assert store.tries == 1
    assert time.thread_time() - began < 0.5
    store.fails = lambda _: False


def test_a_store_that_another_program_locks_is_waited_for(
    make: Callable[..., Writer], where: Place, store: Faulty
) -> None:
    store.prepare()
    store.database.close()
    assert where.file is not None
    with closing(sqlite3.connect(where.file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writer = make()
        for one in many(10):
            writer.offer(one)
        wait_for(lambda: writer.failing is not None)
        other.execute("ROLLBACK")
    wait_for(lambda: writer.waiting == 0)
    assert stored(where) == many(10)


def test_tables_that_are_dropped_while_it_writes_are_made_anew(
    make: Callable[..., Writer], where: Place
) -> None:
    told: list[str] = []
    writer = make(tell=told.append)
    writer.offer(event())
    wait_for(lambda: writer.counts.batches == 1)
    assert where.file is not None
    with closing(sqlite3.connect(where.file)) as raw:
        raw.executescript("DROP TABLE memory_events; DROP TABLE disk_io_events;")
    writer.offer(event("kmalloc"))
    writer.offer(event("complete"))
    writer.close()
    assert [one["event"] for one in stored(where)] == ["complete", "kmalloc"]
    assert [line for line in told if "made anew: disk_io_events, memory_events" in line]


def test_a_killed_writer_leaves_a_store_that_is_whole(where: Place, tmp_path: Path) -> None:
    before = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        try:
            said = 0
            while said < 1500:
                said = int(process.stdout.readline())
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert where.file is not None
        with closing(sqlite3.connect(where.file)) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            count = "SELECT (SELECT count(*) FROM filesystem_events)"
            hourly = "(SELECT sum(count) FROM filesystem_stats_hourly)"
            [(events, counted)] = raw.execute(f"{count}, {hourly}").fetchall()
        assert events == counted
        assert events >= before + said
        before = events
    assert len(stored(where)) == before


def test_old_events_go_before_their_statistics(store: Faulty, where: Place) -> None:
    write(store, *(event("open", NOW - n * DAY) for n in range(10)))
    removed = prune(store.database, Keep(events=3 * DAY, hourly=6 * DAY), NOW)
    assert removed.rows == {"filesystem_events": 6, "filesystem_stats_hourly": 3}
    assert len(stored(where)) == 4


def test_a_clock_that_was_ahead_makes_nothing_stay_for_ever(store: Faulty, where: Place) -> None:
    write(store, *(event("open", NOW + 900 * DAY, tid=n) for n in range(6000)))
    write(store, *many(6000), number=1)
    limit = size_of(store.database) * 2 // 3
    prune(store.database, Keep(size=limit), NOW)
    left = stored(where)
    assert size_of(store.database) <= limit
    assert 0 < len([one for one in left if one["time"] < "2027"]) == 6000
    assert len(left) < 12000


def test_of_all_tables_the_oldest_goes_first_and_space_is_given_back(
    store: Faulty, where: Place
) -> None:
    kinds = ("open", "kmalloc", "complete", "send", "exec")
    for number in range(10):
        batch = [
            event(kinds[n % 5], NOW + number * HOUR + n, tid=number * 5000 + n) for n in range(5000)
        ]
        write(store, *batch, number=number)
    before = size_of(store.database)
    removed = prune(store.database, NEVER_OLD._replace(size=before // 2), NOW)
    assert set(removed.rows) == {
        "filesystem_events", "memory_events", "disk_io_events", "network_events", "process_events",
    }  # fmt: skip
    assert size_of(store.database) <= before // 2
    left = stored(where)
    assert len(left) > 15_000
    # They go a thousand at a time, and every fifth is of the same table.
    oldest = [min(one["tid"] for one in left if one["event"] == kind) for kind in kinds]
    assert max(oldest) - min(oldest) <= 5_000
    assert left[-1]["tid"] == 49_999
    store.database.run_outside("PRAGMA wal_checkpoint(TRUNCATE)")
    assert where.file is not None
    assert where.file.stat().st_size <= before // 2


def test_a_flood_does_not_make_the_file_larger_than_it_may_be(
    make: Callable[..., Writer], where: Place
) -> None:
    limit = 1 << 20
    writer = make(keep=NEVER_OLD._replace(size=limit), pace=FAST._replace(events=2000))
    largest = 0
    assert where.file is not None
    for _ in range(20):
        for one in many(2000):
            writer.offer(one)
        wait_for(lambda: writer.waiting == 0)
        largest = max(largest, where.file.stat().st_size)
    counts = writer.close()
    assert total(counts.stored) == 40_000
    assert total(counts.removed) > 10_000
    assert largest < limit + (1 << 19)
    log = where.file.with_name("monitors.db-wal")
    assert not log.exists()


def test_statistics_go_where_they_alone_are_too_much(store: Faulty, where: Place) -> None:
    names = [event("send", NOW + n % 100 * HOUR, comm=f"name{n}") for n in range(20_000)]
    write(store, *names)
    removed = prune(store.database, NEVER_OLD._replace(size=1 << 20), NOW)
    assert removed.rows["network_stats_hourly"] > 10_000
    assert len(stored(where)) > 0
