"""``monitor forget``: tables are dropped, of the monitors that are named and of no other."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from monitor_store_support import BODIES, event, sqlite_in, stored, write

from aegis_tools.cli.main import run
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.monitors.store.database import Database
from aegis_tools.monitors.store.store import Batch, Store

NOW = 1_795_255_200_000_000


class Command:
    """Runs ``monitor forget`` on a host."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._root, self._capsys = root, capsys

    def __call__(self, line: str, code: int = 0) -> dict[str, Any]:
        self._capsys.readouterr()
        words = ["--json", "--root", str(self._root), "monitor", "forget", *line.split()]
        assert run(words) == code
        found: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store with events of every monitor, and losses of two."""
    store = Store(Database(sqlite_in(tmp_path)))
    lost = {(NOW, "memory-monitor"): 5, (NOW, "process-monitor"): 7}
    store.write(Batch("test", 0, [event(kind) for kind in BODIES], lost, NOW))
    store.database.close()
    return store


@pytest.fixture
def forget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


def tables(root: Path) -> set[str]:
    with closing(sqlite3.connect(sqlite_in(root).file or "")) as raw:
        return {row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE type='table'")}


@pytest.mark.usefixtures("store")
def test_the_named_monitors_tables_are_dropped_and_no_others(
    forget: Command, tmp_path: Path
) -> None:
    before = tables(tmp_path)
    gone = {"memory_events", "memory_stats_hourly", "disk_io_events", "disk_io_stats_hourly"}
    done = forget("memory disk-io-monitor")
    assert done["changed"]
    assert set(done["tables"]) == gone
    assert done["tables"]["memory_events"] == 1
    assert before - tables(tmp_path) == gone
    left = {one["monitor"] for one in stored(sqlite_in(tmp_path))}
    assert left == set(MONITORS) - {"memory-monitor", "disk-io-monitor"}
    with closing(sqlite3.connect(sqlite_in(tmp_path).file or "")) as raw:
        lost = raw.execute("SELECT monitor, count FROM losses_hourly").fetchall()
    assert lost == [("process-monitor", 7)]


@pytest.mark.usefixtures("store")
def test_a_dry_run_says_what_would_be_dropped_and_drops_nothing(
    forget: Command, tmp_path: Path
) -> None:
    before = tables(tmp_path)
    would = forget("--all --dry-run")
    assert would["dry_run"]
    assert len(would["tables"]) == 2 * len(MONITORS)
    assert would["tables"]["filesystem_events"] == 2
    assert tables(tmp_path) == before
    assert len(stored(sqlite_in(tmp_path))) == len(BODIES)
    forget("--all")
    assert stored(sqlite_in(tmp_path)) == []
    assert not forget("--all")["changed"]


@pytest.mark.parametrize("line", ["", "--all memory", "nothing-of-the-kind", "--dry-run"])
@pytest.mark.usefixtures("store")
def test_nothing_is_forgotten_that_was_not_asked_for(
    forget: Command, tmp_path: Path, line: str
) -> None:
    assert forget(line, code=2)["hint"]
    assert len(stored(sqlite_in(tmp_path))) == len(BODIES)


@pytest.mark.usefixtures("store")
def test_a_store_of_a_newer_program_is_left_alone(forget: Command, tmp_path: Path) -> None:
    with closing(sqlite3.connect(sqlite_in(tmp_path).file or "")) as raw, raw:
        raw.execute("UPDATE schema_version SET version = 99")
    before = tables(tmp_path)
    for line in ("memory", "memory --dry-run"):
        assert "made by a newer program" in forget(line, code=8)["message"]
    assert tables(tmp_path) == before


def test_where_nothing_was_stored_nothing_is_made(forget: Command, tmp_path: Path) -> None:
    assert "nothing was stored" in forget("--all", code=8)["message"]
    assert not (sqlite_in(tmp_path).file or tmp_path).exists()


def test_who_goes_on_storing_makes_the_tables_anew(
    forget: Command, store: Store, tmp_path: Path
) -> None:
    write(store, event(), number=1)  # its connection stays open
    forget("--all")
    done = write(store, event(), number=2)
    assert "disk_io_events" in done.remade
    assert stored(sqlite_in(tmp_path)) == [event()]
    store.database.close()


def test_a_store_that_is_locked_for_a_while_is_waited_for(
    forget: Command, store: Store, tmp_path: Path
) -> None:
    del store
    raw = sqlite3.connect(sqlite_in(tmp_path).file or "", check_same_thread=False)
    raw.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, raw.rollback)
    timer.start()
    assert forget("--all")["changed"]
    timer.join()
    raw.close()


@pytest.mark.usefixtures("store")
def test_it_is_in_the_history(forget: Command, tmp_path: Path,
                              capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    forget("memory")
    assert run(["--json", "--root", str(tmp_path), "history"]) == 0
    assert "monitor forget" in capsys.readouterr().out
