"""Seed 001's tests of the monitors by their numbers, with its own lines: T1, T2 and the rollback.

What each number became, and where T3 to T6 are: docs/seed-conformance.md. What a program did is
told of exactly in test_monitor_*.py; here it is what the seed has done, as a person sees it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from seed_support import (
    Fetched,
    Machine,
    Ran,
    Serving,
    Written,
    fetch,
    forget_what_waits,
    shell,
    time_between,
    wait_for,
    write,
)
from test_monitor_all import SEED_MAPS

from aegis_tools.monitors.layout import MEMORY_KEY
from aegis_tools.monitors.pins import MonitorPins
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.monitors.top import read_totals
from aegis_tools.paths import Paths

BPFFS = Path("/sys/fs/bpf")
PAGE = 4096
UID, GID = 12345, 23456
PROBES = {
    "process-monitor": 2, "filesystem-monitor": 4, "network-monitor": 3, "memory-monitor": 4,
    "disk-io-monitor": 3,
}  # fmt: skip
"""How many the seed has attached, by T1.1 to T1.5."""
KINDS = {"PENDING_IO": "hash", "CMDLINE_BUF": "percpu_array", "FILENAME_BUF": "percpu_array"}
"""Of T1.6; the others are rings."""

oldest_and_newest = pytest.mark.once("5.10", "7.2")
seed = pytest.mark.seed


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("bin"))


def load_by_bpftool(machine: Machine, name: str) -> None:
    """T1.1 to T1.5 as they are written; bpftool attaches nothing, ``monitor load`` does."""
    try:
        machine(f"sudo bpftool prog load prebuilt-ebpf/{name} /sys/fs/bpf/{name}")
        assert f'"{name}"' in machine(f"sudo bpftool prog list | grep {name}")
    finally:
        (BPFFS / name).unlink(missing_ok=True)


@seed("T1.1")
def test_t1_1_process_monitor_loads(machine: Machine) -> None:
    load_by_bpftool(machine, "process-monitor")


@seed("T1.2")
def test_t1_2_filesystem_monitor_loads(machine: Machine) -> None:
    load_by_bpftool(machine, "filesystem-monitor")


@seed("T1.3")
def test_t1_3_network_monitor_loads(machine: Machine) -> None:
    load_by_bpftool(machine, "network-monitor")


@seed("T1.4")
def test_t1_4_memory_monitor_loads(machine: Machine) -> None:
    load_by_bpftool(machine, "memory-monitor")


@seed("T1.5")
def test_t1_5_disk_io_monitor_loads(machine: Machine) -> None:
    load_by_bpftool(machine, "disk-io-monitor")


def listed(machine: Machine, what: str) -> dict[int, dict[str, Any]]:
    """Return what ``bpftool WHAT list`` shows, by id."""
    rows = json.loads(machine(f"bpftool --json {what} list") or "[]")
    return {row["id"]: row for row in rows}


class There(NamedTuple):
    """What the machine had before the monitors: ids by ``prog``, ``map``, ``link``; pins."""

    ids: dict[str, set[int]]
    pins: list[Path]

    def is_within(self, other: There) -> bool:
        """Return whether there is nothing that the other has not: the kernel frees in its own
        time what earlier tests have let go of."""
        return all(found <= other.ids[what] for what, found in self.ids.items())


def what_is_there(machine: Machine) -> There:
    ids = {what: set(listed(machine, what)) for what in ("prog", "map", "link")}
    return There(ids, sorted(BPFFS.rglob("*")))


@pytest.fixture(scope="module")
def before(machine: Machine) -> There:
    return what_is_there(machine)


@pytest.fixture(scope="module")
def monitors(machine: Machine, before: There) -> Iterator[str]:
    """Load all five as T4.2 does; return what was said."""
    del before
    yield machine("./load_all_monitors.sh")
    machine.monitor("unload")


@seed("T1.6")
@oldest_and_newest
def test_t1_6_all_maps_are_there_and_all_probes_attached(machine: Machine, monitors: str) -> None:
    assert monitors.count(": loaded (") == 5
    kinds = {row.get("name"): row["type"] for row in listed(machine, "map").values()}
    names = {name for found in SEED_MAPS.values() for name in found}
    assert len(names) == 8
    shown = machine("sudo bpftool map list")
    for name in names:
        assert f"name {name} " in shown
        assert kinds[name] == KINDS.get(name, "ringbuf")
    links = [row["prog_id"] for row in listed(machine, "link").values()]
    programs = listed(machine, "prog")
    for name, row in machine.status().items():
        attached = [
            one for one in links if programs[one].get("metadata", {}).get("monitor") == name
        ]
        assert row["attached"]
        assert len(attached) == len(row["programs"]) >= PROBES[name]


class Told(NamedTuple):
    """What the seed's T2 did, and what ``monitor events --json`` told of it."""

    programs: Ran
    files: Ran
    fetched: list[Fetched]
    memory: Ran
    disk: Written
    events: dict[str, list[dict[str, Any]]]

    def of(self, monitor: str, ran: Ran) -> list[dict[str, Any]]:
        """Return what was told of a process and its children."""
        return [e for e in self.events[monitor] if ran.pid in (e["pid"], e["ppid"])]


PROGRAMS = 'ls /tmp\necho "test" | cat'
FILES = 'touch /tmp/test.txt\necho "data" > /tmp/test.txt\ncat /tmp/test.txt\nrm /tmp/test.txt'
MEMORY = "exec stress-ng --vm 1 --vm-bytes 128M --timeout 5s --quiet"


@pytest.fixture(scope="module")
def told(machine: Machine, monitors: str, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Do everything, then read it: the kernel leaves out what others do meanwhile."""
    del monitors
    of = " ".join(f"--only-command {name}" for name in ("bash", "ls", "cat", "touch", "rm", "curl"))
    machine.monitor(f"load process filesystem network {of}")
    machine.monitor("unload memory")  # its ring is made anew: what fits is read a line an event
    machine.monitor("load memory --ring-size 128K --min-bytes 1 "
                    "--only-command stress-ng --only-command stress-ng-vm")  # fmt: skip
    forget_what_waits()
    with ThreadPoolExecutor(1) as beside:
        memory = beside.submit(shell, MEMORY)
        programs = shell(PROGRAMS, user=UID, group=GID, extra_groups=[])
        files = shell(FILES)
        fetched = [fetch(socket.AF_INET, "127.0.0.1", "127.0.0.1"),
                   fetch(socket.AF_INET6, "::1", "[::1]")]  # fmt: skip
        disk = write(machine, tmp_path_factory.mktemp("disk"))
    lines = machine("aegis-tools monitor events --json --waiting --for 2s").splitlines()
    events: dict[str, list[dict[str, Any]]] = {name: [] for name in MONITORS}
    for event in map(json.loads, lines):
        events[event["monitor"]].append(event)
    return Told(programs, files, fetched, memory.result(), disk, events)


def within(events: list[dict[str, Any]], ran: Ran) -> None:
    """Each has a time, and it is one at which that ran."""
    assert events
    assert all(ran.began <= event["time"] <= ran.ended for event in events)


@seed("T2.1")
@oldest_and_newest
def test_t2_1_programs_that_begin_and_end_are_told_of(told: Told) -> None:
    ran = told.programs
    events = told.of("process-monitor", ran)
    within(events, ran)
    assert {(event["uid"], event["gid"]) for event in events} == {(UID, GID)}
    assert {event["ppid"] for event in events if event["pid"] == ran.pid} == {os.getpid()}
    begun = [event for event in events if event["event"] == "exec"]
    assert sorted((Path(e["executable"]).name, e["arguments"]) for e in begun) == [
        ("bash", ["bash", "-c", PROGRAMS]), ("cat", ["cat"]), ("ls", ["ls", "/tmp"]),
    ]  # fmt: skip
    for event in begun:
        assert event["executable"] == os.path.realpath(f"/bin/{event['comm']}")
    ended = [event for event in events if event["event"] == "exit"]
    assert {(event["exit_status"], event["signal"]) for event in ended} == {(0, None)}
    # The shell's own child wrote "test".
    assert sorted(event["comm"] for event in ended) == ["bash", "bash", "cat", "ls"]
    assert {event["pid"] for event in begun} <= {event["pid"] for event in ended}


@seed("T2.2")
@oldest_and_newest
def test_t2_2_what_is_done_with_a_file_is_told_of(told: Told) -> None:
    ran = told.files
    events = told.of("filesystem-monitor", ran)
    within(events, ran)
    opens = [e for e in events if e["path"] == "/tmp/test.txt"]
    create = os.O_WRONLY | os.O_CREAT
    assert [(e["comm"], e["flags"] & (create | os.O_TRUNC)) for e in opens] == [
        ("touch", create), ("bash", create | os.O_TRUNC), ("cat", os.O_RDONLY),
    ]  # fmt: skip
    [(device, inode)] = {(event["device"], event["inode"]) for event in opens}
    number = Path("/tmp").stat().st_dev
    assert device == f"{os.major(number)}:{os.minor(number)}"
    mine = [event for event in events if (event["device"], event["inode"]) == (device, inode)]
    moved = [(e["event"], e["comm"], e["bytes"]) for e in mine if e["event"] in ("read", "write")]
    assert moved == [("write", "bash", 5), ("read", "cat", 5), ("read", "cat", 0)]
    closed = {event["comm"] for event in mine if event["event"] == "close"}
    assert closed == {"touch", "bash", "cat"}


@seed("T2.3")
@oldest_and_newest
@pytest.mark.parametrize("number", [0, 1], ids=["IPv4", "IPv6"])
def test_t2_3_connections_and_bytes_are_told_of(told: Told, number: int) -> None:
    ran, facts, peer, shown = told.fetched[number]
    # Which of its own addresses it has, curl finds out by UDP sockets that send nothing.
    events = [e for e in told.of("network-monitor", ran) if e["protocol"] == "tcp"]
    within(events, ran)
    ends = {(e["local"], e["local_port"], e["remote"], e["remote_port"]) for e in events}
    assert ends == {
        (facts["local_ip"], facts["local_port"], facts["remote_ip"], facts["remote_port"])
    }
    assert peer == (facts["local_ip"], facts["local_port"])
    # ss on the server's side, which closed first.
    assert [text.rsplit(":", 1)[1] for text in shown] == [
        str(facts["remote_port"]), str(facts["local_port"]),
    ]  # fmt: skip
    assert {event["family"] for event in events} == {["IPv4", "IPv6"][number]}
    bytes_of = {
        kind: sum(e["bytes"] for e in events if e["event"] == kind)
        for kind in ("connect", "send", "receive")
    }
    assert bytes_of == {
        "connect": 0,
        "send": facts["size_request"],
        "receive": facts["size_header"] + facts["size_download"],
    }
    assert facts["size_download"] == len(Serving.PAGE)
    assert [e["result"] for e in events if e["event"] == "connect"] == [0]


@seed("T2.4")
@oldest_and_newest
def test_t2_4_allocations_and_pages_are_told_of(told: Told) -> None:
    events = told.events["memory-monitor"]
    within(events, told.memory)
    assert {event["event"] for event in events} == {"kmalloc", "kfree", "page-alloc", "page-free"}
    for event in events:
        if event["event"] == "kmalloc":
            assert 0 < event["bytes"] <= 8 << 20, "that is an address"
        elif event["event"] == "kfree":
            assert event["bytes"] is None
        else:
            assert event["bytes"] == PAGE << event["order"]
    pins = MonitorPins(Paths().monitor_pins, "memory-monitor")
    with pins.open_map("MEMORY_TOTALS") as opened:
        totals = read_totals(opened)
    pages = sum(
        total.size
        for key, total in totals.items()
        if total.comm.rstrip(b"\0") == b"stress-ng-vm" and MEMORY_KEY.unpack(key)[1] == 3
    )
    assert pages >= 128 << 20


@seed("T2.5")
@oldest_and_newest
def test_t2_5_requests_to_a_disk_are_told_of_with_their_latency(told: Told) -> None:
    ran, device, counted, pending = told.disk
    events = [
        event
        for event in told.events["disk-io-monitor"]
        if event["device"] == device and ran.began <= event["time"] <= ran.ended
    ]
    written = [e for e in events if e["event"] == "complete" and e["operation"] == "write"]
    assert sum(event["bytes"] for event in written) == 512 * counted.write_sectors >= 100 << 20
    assert len(written) == counted.writes
    took = time_between(ran.began, ran.ended)
    assert all(0 < event["latency_ns"] < took for event in written)
    assert all(event["error"] == 0 for event in events)
    issued = [e for e in events if e["event"] == "issue" and e["operation"] == "write"]
    assert {e["sector"] for e in issued} == {e["sector"] for e in written}
    assert json.loads(pending) == []


@seed("R1")
@oldest_and_newest
def test_r1_one_monitor_is_taken_away_and_the_others_count_on(
    machine: Machine, monitors: str
) -> None:
    del monitors
    machine.monitor("load")  # of every process, again
    first = machine.status()
    machine.monitor("unload memory-monitor")
    wait_for(lambda: "memory-monitor" not in machine("sudo bpftool prog list"))
    second = machine.status()
    assert not second.pop("memory-monitor")["loaded"]
    for name, row in second.items():
        assert row["attached"]
        assert row["counters"]["seen"] >= first[name]["counters"]["seen"]
    for name in ("process-monitor", "filesystem-monitor"):
        assert second[name]["counters"]["seen"] > first[name]["counters"]["seen"]


@seed("R2")
@oldest_and_newest
def test_r2_all_monitors_are_taken_away_and_nothing_is_left(
    machine: Machine, before: There, monitors: str
) -> None:
    del monitors
    machine.monitor("unload")
    wait_for(lambda: what_is_there(machine).is_within(before))
    assert what_is_there(machine).pins == before.pins
