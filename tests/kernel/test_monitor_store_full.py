"""The monitors' store on a disk that is full, and a store that somebody else's hands were on."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from monitor_store_support import NOW, event, sqlite_at, stored, wait_for

from aegis_tools.errors import StateError
from aegis_tools.monitors.store.database import Database
from aegis_tools.monitors.store.query import Wanted, search
from aegis_tools.monitors.store.retention import Keep
from aegis_tools.monitors.store.store import Store
from aegis_tools.monitors.store.writer import Pace, Writer

pytestmark = pytest.mark.kernel
SIZE = 16 << 20
PACE = Pace(events=200, seconds=0.02, queue=500_000, retry=0.02, retry_most=0.1, prune=0.2)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder on a disk of 16 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    options = f"size={SIZE},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def offer(writer: Writer, start: int, count: int) -> int:
    """Offer events as fast as the queue takes them, and return how many it did not."""
    refused = 0
    for number in range(start, start + count):
        refused += not writer.offer(event("open", NOW + number, tid=number))
    return refused


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def consistent(file: Path) -> int:
    """Check a database as SQLite does, and return how many events it has."""
    with closing(sqlite3.connect(file)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        [(count,)] = raw.execute("SELECT count(*) FROM filesystem_events").fetchall()
    return int(count)


def test_a_disk_that_is_full_for_a_while_costs_what_the_queue_cannot_hold(small: Path) -> None:
    told: list[str] = []
    where = sqlite_at(small / "monitors.db")
    writer = Writer(Store(Database(where)), pace=PACE, tell=told.append, clock=lambda: NOW / 1e6)
    writer.start()
    assert offer(writer, 0, 100) == 0
    wait_for(lambda: writer.waiting == 0)
    fill(small / "somebody-elses")
    refused = 0
    number = 100
    while not refused:
        refused = offer(writer, number, 2000)
        number += 2000
    wait_for(lambda: writer.counts.failures > 2)
    assert writer.failing is not None
    assert writer.failing.message == "the disk of the monitors' store is full"
    lost = writer.counts.dropped["filesystem-monitor"]
    assert lost == refused
    (small / "somebody-elses").unlink()
    wait_for(lambda: writer.waiting == 0 and writer.failing is None)
    counts = writer.close()
    assert counts.stored["filesystem-monitor"] + lost == number
    assert told[-1] == "the monitors' store works again"
    assert consistent(small / "monitors.db") == number - lost
    database = Database(where, read_only=True)
    found: Any = search(database, Wanted(), 10)
    database.close()
    assert found.lost == {"filesystem-monitor": lost}


def test_a_store_does_not_fill_its_disk_though_it_may_be_larger(small: Path) -> None:
    where = sqlite_at(small / "monitors.db")
    keep = Keep(events=1 << 60, hourly=1 << 60, size=10 * SIZE)
    pace = PACE._replace(events=5000, queue=50_000_000, prune_least=0.0)
    writer = Writer(Store(Database(where)), pace=pace, keep=keep)
    writer.start()
    path = "/some/where/" + 500 * "x"
    least = SIZE
    for start in range(0, 30_000, 1000):
        for number in range(start, start + 1000):
            writer.offer(event("open", NOW + number, tid=number, path=path))
        wait_for(lambda: writer.waiting == 0)
        disk = os.statvfs(small)
        least = min(least, disk.f_bavail * disk.f_frsize)
    counts = writer.close()
    assert counts.stored["filesystem-monitor"] == 30_000
    assert counts.failures == 0
    assert counts.removed["filesystem_events"] > 10_000
    assert least > SIZE // 16
    assert stored(where)[-1]["tid"] == 29_999
    assert consistent(small / "monitors.db") > 1000


def test_a_store_that_is_made_on_a_full_disk_works_as_soon_as_there_is_room(small: Path) -> None:
    fill(small / "somebody-elses")
    where = sqlite_at(small / "monitors.db")
    writer = Writer(Store(Database(where)), pace=PACE)
    writer.start()
    offer(writer, 0, 50)
    wait_for(lambda: writer.counts.failures > 2)
    (small / "somebody-elses").unlink()
    wait_for(lambda: writer.waiting == 0)
    writer.close()
    assert len(stored(where)) == 50


def test_a_store_of_another_user_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "monitors.db"
    file.touch(0o600)
    os.chown(file, 12345, 12345)
    with pytest.raises(StateError, match="belongs to another user"):
        Store(Database(sqlite_at(file))).prepare()
    with pytest.raises(StateError, match="belongs to another user"):
        stored(sqlite_at(file))
