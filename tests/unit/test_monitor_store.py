"""The monitors' store: what goes in comes out, in the seed's tables, whoever made them."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monitor_store_support import (
    BODIES,
    HOUR,
    NOW,
    SECOND,
    changed_events,
    event,
    sqlite_at,
    sqlite_in,
    stored,
    without_null,
    write,
)

from aegis_tools.errors import StateError, UsageError
from aegis_tools.monitors.store import place
from aegis_tools.monitors.store.database import Database
from aegis_tools.monitors.store.fields import to_microseconds, to_time
from aegis_tools.monitors.store.place import Place
from aegis_tools.monitors.store.query import Wanted, search, trend
from aegis_tools.monitors.store.rows import from_row, to_row
from aegis_tools.monitors.store.schema import VERSION, metadata
from aegis_tools.monitors.store.store import Batch, Store
from aegis_tools.paths import Paths

DATA = Path(__file__).parent / "data"
SEED_COLUMNS = {
    "memory_events": ["id", "pid", "comm", "event_type", "size", "timestamp", "profile_id"],
    "disk_io_events": [
        "id", "pid", "comm", "device_major", "device_minor", "operation", "bytes", "latency_ns",
        "timestamp", "profile_id",
    ],
}  # fmt: skip
SEED_INDEXES = {
    f"idx_{table}_{column}"
    for table in ("memory_events", "disk_io_events")
    for column in ("timestamp", "profile")
}


@pytest.fixture
def where(tmp_path: Path) -> Place:
    return sqlite_in(tmp_path)


@pytest.fixture
def store(where: Place) -> Iterator[Store]:
    found = Store(Database(where))
    found.prepare()
    yield found
    found.database.close()


def sql(where: Place, statement: str) -> list[Any]:
    assert where.file is not None
    with closing(sqlite3.connect(where.file)) as raw, raw:
        return raw.execute(statement).fetchall()


def test_events_of_every_monitor_come_out_as_they_went_in(store: Store, where: Place) -> None:
    events = [event(kind, NOW + n * SECOND) for n, kind in enumerate(BODIES)]
    done = write(store, *events)
    assert sum(done.stored.values()) == len(events)
    assert stored(where) == events


def test_an_inode_number_may_have_all_64_bits(store: Store, where: Place) -> None:
    found = event("open", inode=(1 << 64) - 1, cgroup=1 << 63)
    write(store, found)
    assert stored(where) == [found]
    assert sql(where, "SELECT inode, cgroup FROM filesystem_events") == [(-1, -(1 << 63))]


@given(changed_events())
@settings(max_examples=400)
def test_no_value_is_lost_or_changed_by_the_columns(found: dict[str, Any]) -> None:
    back = from_row(found["monitor"], to_row(found, "", None), None)
    for key in found.keys() | back.keys():
        assert type(back.get(key)) is type(found.get(key))
        assert back.get(key) == found.get(key)


@given(events=st.lists(changed_events(), max_size=8))
@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_whatever_is_stored_is_found_again(
    events: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    where = sqlite_in(tmp_path_factory.mktemp("any"))
    store = Store(Database(where))
    write(store, *events)
    store.database.close()
    assert without_null(stored(where)) == without_null(events)


@given(st.integers(0, 253_402_300_799_999_999))
def test_a_time_is_the_same_after_the_way_there_and_back(at: int) -> None:
    assert to_microseconds(to_time(at)) == at


@pytest.mark.parametrize(
    "change",
    [
        {"time": "yesterday"}, {"time": "2026-02-30T00:00:00.000000Z"}, {"time": None},
        {"monitor": "moon-monitor"}, {"monitor": ["x"]}, {"event": "kmalloc"}, {"pid": None},
        {"pid": "4"}, {"comm": 5},
    ],
)  # fmt: skip
def test_what_is_no_event_is_counted_and_stops_no_other(
    store: Store, where: Place, change: dict[str, Any]
) -> None:
    done = write(store, event(**change), event())
    assert sum(done.invalid.values()) == 1
    assert stored(where) == [event()]


def test_a_batch_is_stored_once_however_often_it_is_sent(store: Store, where: Place) -> None:
    write(store, event(), number=7)
    write(store, event(), number=7)
    assert len(stored(where)) == 1
    write(store, event(), number=8)
    write(store, event(), number=7, writer="another")
    assert len(stored(where)) == 3


@pytest.mark.seed("T3.2")
@pytest.mark.usefixtures("store")
def test_the_seed_s_tables_have_its_columns_and_indexes(where: Place) -> None:
    for table, columns in SEED_COLUMNS.items():
        found = {
            row[1]: (row[2], row[3], row[5]) for row in sql(where, f"PRAGMA table_info({table})")
        }
        for column in columns:
            kind, not_null, key = found[column]
            assert kind == ("TEXT" if column == "comm" else "INTEGER")
            assert bool(not_null) == (column != "profile_id")
            assert bool(key) == (column == "id")
        [(_, _, target, own, other, *_)] = sql(where, f"PRAGMA foreign_key_list({table})")
        assert (target, own, other) == ("profiles", "profile_id", "id")
    indexes = {row[0] for row in sql(where, "SELECT name FROM sqlite_master WHERE type='index'")}
    assert indexes >= SEED_INDEXES


@pytest.mark.seed("T3.2")
@pytest.mark.usefixtures("store")
def test_rows_can_be_added_with_no_more_than_the_seed_s_columns(where: Place) -> None:
    sql(where, f"INSERT INTO memory_events (pid, comm, event_type, size, timestamp) "
               f"VALUES (9, 'x', 1, 64, {NOW})")  # fmt: skip
    [found] = stored(where)
    assert (found["pid"], found["event"], found["bytes"]) == (9, "kmalloc", 64)


def test_dropped_tables_are_made_anew_and_it_is_said(store: Store, where: Place) -> None:
    write(store, event(), event("kmalloc"), event("open"))
    sql(where, "DROP TABLE memory_events")
    sql(where, "DROP TABLE disk_io_events")
    done = write(store, event(), event("kmalloc"), number=1)
    assert done.remade == ["disk_io_events", "memory_events"]
    assert [one["event"] for one in stored(where)] == ["complete", "open", "kmalloc"]
    indexes = {row[0] for row in sql(where, "SELECT name FROM sqlite_master WHERE type='index'")}
    assert indexes >= SEED_INDEXES


def test_a_store_that_was_removed_is_made_anew(store: Store, where: Place) -> None:
    write(store, event())
    assert where.file is not None
    for path in where.file.parent.glob("monitors.db*"):
        path.unlink()
    write(store, event("open"), number=1)
    assert stored(where) == [event("open")]


def test_an_event_belongs_to_its_profile(where: Place) -> None:
    store = Store(Database(where), profile_of=lambda one: "child" if one["uid"] == 1000 else None)
    write(store, event(), event(uid=0))
    assert [one.get("profile") for one in stored(where)] == ["child", None]
    assert stored(where, profile="child") == [event(profile="child")]
    sql(where, "UPDATE disk_io_events SET profile_id = NULL")
    sql(where, "DELETE FROM profiles")
    write(store, event(), number=1)
    assert len(stored(where, profile="child")) == 1
    store.database.close()


@pytest.mark.seed("T6.3")
def test_a_store_of_version_1_is_brought_up_to_date_with_all_that_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "monitors.db"
    with closing(sqlite3.connect(file)) as raw:
        raw.executescript((DATA / "monitors-v1.sql").read_text(encoding="utf-8"))
    file.chmod(0o600)
    where = sqlite_at(file)
    with pytest.raises(StateError, match="version 1"):
        stored(where)
    store = Store(Database(where))
    before, made = store.prepare()
    assert before == 1
    assert "process_events" in made
    write(store, event(), event("kmalloc"))
    store.database.close()
    old = [one for one in stored(where) if one["time"] < to_time(NOW)]
    assert [(one["event"], one["pid"], one["comm"], one["bytes"]) for one in old] == [
        ("kmalloc", 11, "stress-ng", 4096),
        ("complete", 12, "dd", 1048576),
    ]
    assert old[1]["latency_ns"] == 250_000_000
    assert old[1]["profile"] == "child"
    fresh = sqlite_in(tmp_path / "fresh")
    other = Store(Database(fresh))
    other.prepare()
    other.database.close()
    for table in metadata.tables:
        found, wanted = (
            {row[1]: (row[2], row[3] or row[5]) for row in sql(one, f"PRAGMA table_info({table})")}
            for one in (where, fresh)
        )
        assert found == wanted
        found, wanted = (
            {row[1]: row[2] for row in sql(one, f"PRAGMA index_list({table})")}
            for one in (where, fresh)
        )
        assert found == wanted
    assert sql(where, "PRAGMA auto_vacuum") == [(2,)]
    assert sql(where, "PRAGMA integrity_check") == [("ok",)]


def test_a_store_of_a_newer_program_is_left_alone(store: Store, where: Place) -> None:
    sql(where, f"UPDATE schema_version SET version = {VERSION + 1}")
    store.database.close()
    with pytest.raises(StateError, match="newer program"):
        Store(Database(where)).prepare()
    with pytest.raises(StateError, match="newer program"):
        stored(where)


def test_the_file_is_for_root_alone(store: Store, where: Place) -> None:
    write(store, event())
    assert where.file is not None
    found = sorted(where.file.parent.glob("monitors.db*"))
    assert len(found) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o600}
    assert sql(where, "PRAGMA journal_mode") == [("wal",)]


@pytest.mark.parametrize("name", ["monitors.db", "monitors.db-wal"])
def test_a_link_in_the_place_of_the_store_is_refused(tmp_path: Path, name: str) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / name).symlink_to(target)
    with pytest.raises(StateError, match="symbolic link"):
        Store(Database(sqlite_at(tmp_path / "monitors.db"))).prepare()
    assert target.read_text() == "precious"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_store_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "monitors.db"
    file.touch()
    file.chmod(mode)
    with pytest.raises(StateError, match="can be used by others"):
        Store(Database(sqlite_at(file))).prepare()
    with pytest.raises(StateError, match="can be used by others") as caught:
        stored(sqlite_at(file))
    assert caught.value.hint == f"make it safe with: chmod 0600 {file}"


def test_a_store_in_a_folder_that_others_can_change_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StateError, match="can be changed by others"):
        Store(Database(sqlite_at(tmp_path / "monitors.db"))).prepare()


def test_what_is_no_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "monitors.db"
    file.write_bytes(b"these are my notes, not yours" * 100)
    file.chmod(0o600)
    with pytest.raises(StateError, match="damaged") as caught:
        Store(Database(sqlite_at(file))).prepare()
    assert f"move {file} and" in caught.value.hint
    assert file.read_bytes() == b"these are my notes, not yours" * 100


def test_nothing_is_made_by_reading(where: Place) -> None:
    with pytest.raises(StateError, match="nothing was stored yet"):
        stored(where)
    assert where.file is not None
    assert not where.file.exists()


def test_events_are_found_by_what_they_have(store: Store, where: Place) -> None:
    write(
        store, event(at=NOW - 3 * HOUR), event("open", pid=1), event("write", comm="cat"),
        event("kmalloc", NOW + 5),
    )  # fmt: skip
    assert len(stored(where, since=NOW - HOUR)) == 3
    assert [one["event"] for one in stored(where, until=NOW - HOUR)] == ["complete"]
    assert [one["event"] for one in stored(where, monitors=("filesystem",))] == ["open", "write"]
    assert [one["event"] for one in stored(where, events=("write", "kmalloc"))] == [
        "write",
        "kmalloc",
    ]
    assert [one["event"] for one in stored(where, pid=1)] == ["open"]
    assert [one["event"] for one in stored(where, comm="cat")] == ["write"]
    with pytest.raises(UsageError, match="no event 'opened'"):
        stored(where, events=("opened",))


def test_of_too_many_the_newest_are_shown_and_it_is_told(store: Store, where: Place) -> None:
    write(store, *(event(("open", "kmalloc")[n % 2], NOW + n) for n in range(50)))
    found = search(Database(where, read_only=True), Wanted(), 7)
    assert found.cut
    assert [one["time"] for one in found.events] == [to_time(NOW + n) for n in range(43, 50)]


def test_the_clock_may_go_back(store: Store, where: Place) -> None:
    write(store, event(at=NOW + HOUR), event(at=NOW))
    write(store, event(at=NOW - HOUR), number=1)
    assert [one["time"] for one in stored(where)] == [
        to_time(NOW + n * HOUR) for n in (-1, 0, 1)
    ]  # fmt: skip


def test_hourly_statistics_are_those_of_the_events(store: Store, where: Place) -> None:
    latencies = [50_000, 100_000, 100_001, 7_000_000, 2_000_000_000]
    for number, latency in enumerate(latencies):
        write(store, event(latency_ns=latency, at=NOW + number), number=number)
    write(store, event("complete", NOW + HOUR, comm="cat"), event(at=NOW + 2 * HOUR), number=9)
    database = Database(where, read_only=True)
    [hours] = trend(database, Wanted(comm="dd", until=NOW + 2 * HOUR)).values()
    assert [hour.start for hour in hours] == [NOW, NOW + HOUR, NOW + 2 * HOUR]
    first = hours[0]
    assert (first.count, first.size, first.timed) == (5, 5 * 4096, 5)
    assert first.latency_max_ns == 2_000_000_000
    assert first.latency_avg_ns == sum(latencies) // 5
    assert first.histogram == (2, 1, 0, 1, 0, 0, 0, 1)
    assert hours[1].count == 0
    [by_pid] = trend(database, Wanted(pid=4000, comm="dd", until=NOW + 2 * HOUR)).values()
    assert [(h.count, h.size, h.latency_sum_ns) for h in by_pid] == [
        (h.count, h.size, h.latency_sum_ns) for h in hours
    ]
    database.close()


def test_statistics_stay_when_the_events_are_gone(store: Store, where: Place) -> None:
    write(store, event("send"), event("exit"))
    sql(where, "DELETE FROM network_events")
    found = trend(Database(where, read_only=True), Wanted(comm="dd", until=NOW))
    assert found["network-monitor"][0].size == 1448
    assert found["process-monitor"][0].latency_max_ns == 1_250_000_000


def test_numbers_that_are_nonsense_stop_nothing(store: Store, where: Place) -> None:
    huge = (1 << 63) - 1
    write(store, *(event(bytes=huge, latency_ns=huge) for _ in range(3)))
    write(store, event("exit", age_seconds=1e300), event(bytes=-5, latency_ns=-5), number=1)
    for wanted in (Wanted(comm="dd", until=NOW), Wanted(pid=4000, until=NOW)):
        found = trend(Database(where, read_only=True), wanted)
        assert found["disk-io-monitor"][0].count == 4


def test_what_was_lost_is_told_with_what_was_found(store: Store, where: Place) -> None:
    store.write(Batch("test", 0, [], {(NOW, "memory-monitor"): 12}, NOW))
    store.write(Batch("test", 1, [event()], {(NOW + 1, "memory-monitor"): 3}, NOW))
    database = Database(where, read_only=True)
    assert search(database, Wanted(since=NOW), 10).lost == {"memory-monitor": 15}
    assert search(database, Wanted(since=NOW + HOUR), 10).lost == {}
    assert search(database, Wanted(monitors=("disk-io",)), 10).lost == {}
    database.close()


def test_a_password_does_not_belong_on_the_command_line(tmp_path: Path) -> None:
    for url in ("postgresql://u:hunter2@h/d", "postgresql://u@h/d?password=hunter2"):
        with pytest.raises(UsageError, match="can read a password") as caught:
            place.find(Paths(tmp_path), url, {})
        assert "hunter2" not in repr(caught.value.to_dict())
    found = place.find(Paths(tmp_path), "", {place.ENVIRONMENT: "postgresql://u:hunter2@h/d"})
    assert "hunter2" not in found.shown + repr(found)


@pytest.mark.parametrize(
    "url", ["mysql://h/d", "monitors.db", "postgresql:/hunter2", "sqlite://:memory:"]
)
def test_what_is_no_place_is_not_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError) as caught:
        place.find(Paths(tmp_path), "", {place.ENVIRONMENT: url})
    assert url not in repr(caught.value.to_dict())
    assert caught.value.__cause__ is None


def test_the_place_can_be_in_a_file_that_nobody_else_reads(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.etc.mkdir(parents=True)
    paths.monitor_store_url.write_text("postgresql://u:hunter2@db.example/fleet\n")
    paths.monitor_store_url.chmod(0o640)
    with pytest.raises(StateError, match="can be used by others"):
        place.find(paths, "", {})
    paths.monitor_store_url.chmod(0o600)
    assert place.find(paths, "", {}).shown == "PostgreSQL fleet at db.example"
    assert place.find(paths, f"sqlite:///{tmp_path}/x.db", {}).file == tmp_path / "x.db"
