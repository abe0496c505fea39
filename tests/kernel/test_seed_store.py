"""Seed 001's T3.1, T3.3 and step 3 of its rollback: events in tables, added up, and dropped."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from edit_support import Host
from kernel_support import start_python

from aegis_tools.monitors.load import unload
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.monitors.store.schema import EVENTS, HOURLY
from aegis_tools.paths import Paths

COMM = "seed"
SIZES = {"first": (4321, 99), "second": (70_000, 5)}
WORK = """
import ctypes, json, os, socket, subprocess, sys
ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)
subprocess.run(["/bin/true"], check=True)
file = os.open(sys.argv[2], os.O_CREAT | os.O_WRONLY, 0o600)
os.write(file, bytes(100_000))
os.fsync(file)
os.close(file)
with socket.create_server(("127.0.0.1", 0)) as server:
    client = socket.create_connection(server.getsockname())
    peer, _ = server.accept()
for size in map(int, sys.argv[3:]):
    client.sendall(bytes(size))
    left = size
    while left:
        left -= len(peer.recv(left))
print(json.dumps({"pid": os.getpid(), "port": client.getsockname()[1]}))
"""


@pytest.fixture
def host(paths: Paths, built: None, capsys: pytest.CaptureFixture[str]) -> Iterator[Host]:
    del built
    yield Host(paths, capsys)
    for name in MONITORS:
        unload(paths.monitor_pins, name)


@contextmanager
def recording(host: Host) -> Iterator[Callable[[str, Path], dict[str, Any]]]:
    """Store what all monitors tell of programs of the tests; yield what runs one of them."""
    of = ["--only-command", f"{COMM}-first", "--only-command", f"{COMM}-second"]
    host("monitor", "load", "--min-bytes", "1", *of)
    process = host.start("monitor", "record", "--json")
    assert process.stderr is not None
    assert b"storing in" in process.stderr.readline()

    def work(name: str, folder: Path) -> dict[str, Any]:
        facts = run_work(name, folder)
        # The last that is told of a program; what waits in a ring at the end is for the next time.
        end = time.monotonic() + 20
        while not ask(host.paths, f"SELECT 1 FROM process_events WHERE pid = {facts['pid']}"):
            assert time.monotonic() < end
            time.sleep(0.1)
        return facts

    yield work
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    counts = json.loads(out)
    assert (counts["dropped"], counts["invalid"]) == ({}, {})


def ask(paths: Paths, statement: str) -> list[Any]:
    with closing(sqlite3.connect(paths.monitor_store)) as raw, raw:
        return raw.execute(statement).fetchall()


def run_work(name: str, folder: Path) -> dict[str, Any]:
    """Run a program that uses what each monitor watches; return what it says of itself."""
    process = start_python(WORK, f"{COMM}-{name}", folder / name, *SIZES[name])
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    facts: dict[str, Any] = json.loads(out)
    return facts


@pytest.fixture
def sql(host: Host) -> Callable[[str], list[Any]]:
    return partial(ask, host.paths)


@pytest.mark.seed("T3.1")
def test_t3_1_events_of_every_monitor_reach_its_table(
    host: Host, tmp_path: Path, sql: Callable[[str], list[Any]]
) -> None:
    with recording(host) as work:
        pid = work("first", tmp_path)["pid"]
    told = {
        name: {row[0] for row in sql(f"SELECT DISTINCT event_type FROM {table} WHERE pid = {pid}")}
        for name, table in EVENTS.items()
    }
    # The exec was of Python, whose name is no program's of the tests.
    assert told.pop("process-monitor") == {2}
    assert told == {name: set(MONITORS[name].types) for name in told}
    written = sql(
        f"SELECT SUM(bytes) FROM filesystem_events WHERE pid = {pid} AND event_type = 3 "
        f"AND inode = {(tmp_path / 'first').stat().st_ino}"
    )
    assert written == [(100_000,)]
    [(least, most)] = sql(f"SELECT MIN(size), MAX(size) FROM memory_events WHERE pid = {pid}")
    assert 0 <= least < most < 1 << 32
    assert sql(f"SELECT COUNT(*) FROM disk_io_events WHERE pid = {pid} "
               "AND event_type = 2 AND latency_ns <= 0") == [(0,)]  # fmt: skip


@pytest.mark.seed("T3.3")
def test_t3_3_bytes_sent_and_received_are_added_up_by_process(
    host: Host, tmp_path: Path, sql: Callable[[str], list[Any]]
) -> None:
    with recording(host) as work:
        facts = {name: work(name, tmp_path) for name in SIZES}
    added = sql(
        "SELECT pid, event_type, SUM(bytes) FROM network_events "
        "WHERE event_type IN (2, 3) GROUP BY pid, event_type"
    )
    assert sorted(added) == sorted(
        (facts[name]["pid"], kind, sum(sizes)) for name, sizes in SIZES.items() for kind in (2, 3)
    )
    hours = sql(
        f"SELECT comm, event_type, SUM(bytes) FROM {HOURLY['network-monitor'].name} "
        "WHERE event_type IN (2, 3) GROUP BY comm, event_type"
    )
    assert sorted(hours) == sorted(
        (f"{COMM}-{name}", kind, sum(sizes)) for name, sizes in SIZES.items() for kind in (2, 3)
    )
    pid = str(facts["second"]["pid"])
    shown = host.any("monitor", "trend", "--monitor", "network", "--event", "send", "--pid", pid)
    assert str(sum(SIZES["second"])) in json.dumps(shown)


@pytest.mark.seed("R3")
@pytest.mark.parametrize("way", ["the seed's lines", "monitor forget"])
def test_r3_tables_are_dropped_and_the_rest_goes_on(
    host: Host, tmp_path: Path, sql: Callable[[str], list[Any]], way: str
) -> None:
    with recording(host) as work:
        work("first", tmp_path)
    before = {table.name: sql(f"SELECT COUNT(*) FROM {table.name}") for table in EVENTS.values()}
    assert [(0,)] not in before.values()
    if way == "monitor forget":
        would = host("monitor", "forget", "memory", "disk-io", "--dry-run")["tables"]
        done = host("monitor", "forget", "memory", "disk-io")["tables"]
        assert done == would
        assert [(done["memory_events"],)] == before["memory_events"]
    else:
        sql("DROP TABLE memory_events;")
        sql("DROP TABLE disk_io_events;")
    left = {row[0] for row in sql("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {table.name for table in EVENTS.values()} - left == {"memory_events", "disk_io_events"}
    found = host.text("--json", "monitor", "query", "--limit", "100000")
    assert {json.loads(line)["monitor"] for line in found} == {
        "process-monitor", "filesystem-monitor", "network-monitor",
    }  # fmt: skip
    with recording(host) as work:  # what is stored next makes them anew
        pid = work("second", tmp_path)["pid"]
    assert (pid,) in sql("SELECT DISTINCT pid FROM memory_events")
    assert (pid,) in sql("SELECT DISTINCT pid FROM disk_io_events")
    for name in ("process_events", "filesystem_events", "network_events"):
        assert sql(f"SELECT COUNT(*) FROM {name}") > before[name]
