"""The watcher: it sets, measures, tells within one step, and never stops for one trouble."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cgroup_support import Tree
from repository import REPOSITORY

from aegis_tools.control.lock import locked
from aegis_tools.monitors.notify.notifier import Notifier
from aegis_tools.monitors.notify.outbox import CAPACITY
from aegis_tools.monitors.profiles import model
from aegis_tools.monitors.profiles.bandwidth import Count
from aegis_tools.monitors.profiles.decide import CALM, Measure, Process
from aegis_tools.monitors.profiles.enforce import Seams
from aegis_tools.monitors.profiles.hierarchy import Target
from aegis_tools.monitors.profiles.measure import Feed, Reader
from aegis_tools.monitors.profiles.model import Action, Profile, make_limit
from aegis_tools.monitors.profiles.store import ProfileStore
from aegis_tools.monitors.profiles.watcher import AGAIN, Event, Watcher
from aegis_tools.paths import Paths

SCHEMA = json.loads((REPOSITORY / "aegis_tools/monitors/limit.schema.json").read_text())
CGROUP = "/user.slice/user-1000.slice"
MB = 1_000_000


class Host:
    """A tree of cgroups, profiles, a clock, and a watcher over them."""

    def __init__(self, tmp_path: Path, controllers: str = "io memory pids") -> None:
        (tmp_path / "cgroup").mkdir()
        self.tree = Tree(tmp_path / "cgroup", controllers)
        self.proc = tmp_path / "proc"
        for cgroup in ("/", "/user.slice"):
            self.tree.make(cgroup)
            for controller in controllers.split():
                path = self.tree.hierarchy.path(cgroup) / "cgroup.subtree_control"
                self.tree.write(path, f"+{controller}")
        self.paths = Paths(tmp_path)
        self.store = ProfileStore(self.paths)
        self.now = 100.0
        self.emitted: list[Event] = []
        self.seams = Seams(
            hierarchy=lambda: self.tree.hierarchy,
            uid_of={"child": 1000}.get,
            proc=self.proc,
            clock=lambda: self.now,
            wall=lambda: 1_700_000_000.25 + self.now,
        )
        self.watcher = Watcher(self.paths, self.emitted.append, seams=self.seams)

    def limit(self, kind: model.Kind, threshold: int, action: Action) -> None:
        profile = Profile("child", users=("child",))
        if "child" in self.store.names():
            profile = self.store.load("child")
        self.store.save(profile.with_limit(kind, make_limit(kind, threshold, action)))

    def put(self, file: str, text: object) -> None:
        (self.tree.hierarchy.path(CGROUP) / file).write_text(str(text))

    def step(self, seconds: float = 1.0) -> list[Event]:
        self.now += seconds
        told = self.watcher.step()
        for event in told:
            jsonschema.validate(event, SCHEMA)
        return told


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    host.tree.make(CGROUP)
    return host


def short(events: list[Event]) -> list[tuple[Any, ...]]:
    return [(e.get("state"), e.get("limit"), e.get("measured"), e.get("done")) for e in events]


def test_600_mb_against_500_is_told_within_one_step_and_ends_after_calm(host: Host) -> None:
    host.limit(model.MEMORY, 500 * MB, Action.ALERT)
    host.put("memory.current", 400 * MB)
    assert host.step() == []
    host.put("memory.current", 600 * MB)
    [event] = host.step()
    assert event == {
        "time": "2023-11-14T22:15:02.250000Z",
        "event": "limit",
        "state": "exceeded",
        "profile": "child",
        "limit": "memory",
        "unit": "bytes",
        "measured": 600 * MB,
        "threshold": 500 * MB,
        "action": "alert",
        "device": None,
        "process": None,
        "held": 0,
        "killed": 0,
        "done": "nothing",
    }
    host.put("memory.current", 100 * MB)
    assert host.step() == []
    assert short(host.step(CALM)) == [("ended", "memory", 100 * MB, "nothing")]
    assert len(host.emitted) == 2


def test_the_watcher_sets_what_the_kernel_holds_also_for_who_logs_in_later(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.limit(model.MEMORY, 500 * MB, Action.THROTTLE)
    assert host.step() == []
    folder = host.tree.make(CGROUP)
    # The tree takes a plain write for these.
    assert host.step() == []
    assert (folder / "memory.high").read_text() == str(500 * MB // 4096 * 4096)
    host.put("memory.current", 499 * MB)
    host.put("memory.events", "low 0\nhigh 7\nmax 0\noom 0\noom_kill 0")
    assert short(host.step()) == [("exceeded", "memory", 499 * MB, "throttled")]


def test_a_process_that_the_kernel_ended_is_told_of(host: Host) -> None:
    host.limit(model.MEMORY, 500 * MB, Action.TERMINATE)
    host.step()
    host.put("memory.events", "low 0\nhigh 0\nmax 30\noom 1\noom_kill 1")
    [event] = host.step()
    assert (event["killed"], event["held"], event["done"]) == (1, 30, "terminated")


def test_what_somebody_else_limits_is_not_taken_for_ours(host: Host) -> None:
    host.limit(model.MEMORY, 500 * MB, Action.ALERT)
    host.limit(model.PROCESSES, 10, Action.ALERT)
    host.step()
    host.put("memory.events", "low 0\nhigh 9\nmax 9\noom 9\noom_kill 9")
    host.put("pids.events", "max 9")
    assert host.step() == []


def test_refused_processes_are_told_of(host: Host) -> None:
    host.limit(model.PROCESSES, 10, Action.THROTTLE)
    host.step()
    host.put("pids.current", 10)
    host.put("pids.events", "max 4")
    assert short(host.step()) == [("exceeded", "processes", 10, "throttled")]


@pytest.mark.parametrize("by", ["uid", "cgroup"])
def test_a_slow_disk_is_told_of_with_who_waited_for_it(host: Host, by: str) -> None:
    host.limit(model.DISK_LATENCY, 100_000_000, Action.ALERT)
    host.step()
    number = host.tree.hierarchy.path(CGROUP).stat().st_ino
    event = {"monitor": "disk-io-monitor", "event": "complete", "pid": 7, "comm": "dd",
             "uid": 1000 if by == "uid" else 5,
             "cgroup": number if by == "cgroup" else 1, "device": "8:16"}  # fmt: skip
    host.watcher.feed.event({**event, "latency_ns": 250_000_000})
    host.watcher.feed.event({**event, "latency_ns": 120_000_000, "comm": "cp"})
    host.watcher.feed.event({**event, "latency_ns": 10**9, "uid": 6, "cgroup": 2})
    host.watcher.feed.event({**event, "latency_ns": None, "event": "issue"})
    [told] = host.step()
    assert (told["measured"], told["unit"]) == (250_000_000, "ns")
    assert told["process"] == {"pid": 7, "comm": "dd", "uid": event["uid"]}
    assert told["device"] == "8:16"
    assert host.step() == []


def process(host: Host, pid: int, *, read: int = 0, written: int = 0, started: int = 5) -> None:
    """Have a process of the cgroup, or one that has moved more."""
    folder = host.proc / str(pid)
    folder.mkdir(parents=True, exist_ok=True)
    fields = ["S", "1", *["0"] * 17, str(started), "0", "10", *["0"] * 20]
    (folder / "stat").write_text(f"{pid} (p{pid}) {' '.join(fields)}")
    (folder / "io").write_text(f"rchar: 9\nread_bytes: {read}\nwrite_bytes: {written}\n")
    procs = host.tree.hierarchy.path(CGROUP) / "cgroup.procs"
    procs.write_text("\n".join(sorted({*procs.read_text().split(), str(pid)})))


def test_the_busiest_disk_is_told_of_with_who_moved_most(host: Host) -> None:
    host.limit(model.DISK_BANDWIDTH, 80_000_000, Action.ALERT)
    process(host, 700, read=9 * MB)
    process(host, 701, read=10**12)
    host.put("io.stat", "8:0 rbytes=999999999 wbytes=0 rios=3 wios=0 dbytes=0 dios=0")
    assert host.step() == []
    # 254:1 has a line and no fields, as some kernels write it; 8:16 had none before.
    host.put(
        "io.stat", f"8:0 rbytes=999999999 wbytes={9 * MB} 254:1 8:16 rbytes={22 * MB} wbytes=1"
    )
    process(host, 700, read=31 * MB)
    process(host, 702, written=9 * MB)
    [told] = host.step(2.0)
    assert (told["measured"], told["unit"]) == (88_000_000, "bits/s")
    assert (told["device"], told["process"]["pid"], told["done"]) == ("8:16", 700, "nothing")


def test_a_rate_of_a_disk_is_of_a_second_though_looks_come_faster(host: Host) -> None:
    host.limit(model.DISK_BANDWIDTH, 80_000_000, Action.ALERT)
    total = 0
    for moved in (0, *(6, 3) * 4):  # half a second each, in requests of 3 MB
        total += moved * MB
        host.put("io.stat", f"8:0 rbytes={total} wbytes=0")
        assert host.step(0.5) == []
    host.put("io.stat", f"8:0 rbytes={total + 8 * MB} wbytes=0")
    [told] = host.step(0.5)
    assert told["measured"] == (3 + 8) * 8 * MB


def test_a_disk_that_is_held_is_told_of_though_the_kernel_does_not_count_it(host: Host) -> None:
    host.tree.disk("sda", "8:0")
    host.limit(model.DISK_BANDWIDTH, 80_000_000, Action.THROTTLE)
    assert host.step() == []
    assert (host.tree.hierarchy.path(CGROUP) / "io.max").read_text().startswith("8:0 rbps=10000000")
    total = 0
    for moved, expected in ((0, []), (9_400_000, []), (9_600_000, [76_800_000])):
        total += moved
        host.put("io.stat", f"8:0 rbytes={total} wbytes=0")
        told = host.step()
        assert [one["measured"] for one in told] == expected
        assert [one["done"] for one in told] == ["throttled"] * len(expected)
    host.put("io.stat", f"8:0 rbytes={total + 15 * MB} wbytes=0")  # an instant's excess is none
    assert host.step() == []


def test_without_the_controller_it_is_what_the_processes_have_moved(tmp_path: Path) -> None:
    host = Host(tmp_path, "memory pids")
    host.tree.make(CGROUP)
    host.limit(model.DISK_BANDWIDTH, 80_000_000, Action.ALERT)
    process(host, 700, read=10**12, written=10**12)
    assert host.step() == []
    process(host, 700, read=10**12 + 6 * MB, written=10**12 + 11 * MB)
    process(host, 701, read=6 * MB)
    [told] = host.step()
    assert (told["measured"], told["process"]["pid"], told["device"]) == (96_000_000, 700, None)


class Counts:
    """What went through, as the test says."""

    def __init__(self) -> None:
        self.now = {way: Count(0, 0, 0, 0) for way in ("in", "out")}

    def counts(self, _profile: str) -> dict[str, Count]:
        return self.now


@pytest.mark.parametrize("action", [Action.ALERT, Action.TERMINATE])
def test_who_moved_most_over_the_network_is_known_by_the_monitor(
    host: Host, action: Action
) -> None:
    counts, feed = Counts(), Feed()
    feed.set_members({1000: {"child"}}, {})
    reader = Reader(host.tree.hierarchy, counts, feed, host.proc)
    for pid, started in ((700, 5), (701, 9), (702, 7)):
        process(host, pid, started=started)
    limit = make_limit(model.BANDWIDTH, 10_000_000, action)
    profile = Profile("child", users=("child",), limits={"bandwidth": limit})
    found = [Target(CGROUP, "user child", 5)]
    list(reader.measure(profile, found, 0.0))

    def measured(*events: tuple[int, str, str, int]) -> Measure:
        before = counts.now["in"].passed_bytes
        counts.now = {**counts.now, "in": Count(before + 2 * MB, 0, 0, 0)}
        for pid, kind, remote, size in events:
            feed.event({"event": kind, "uid": 1000, "cgroup": 1, "pid": pid, "comm": "x",
                        "remote": remote, "bytes": size})  # fmt: skip
        [(_, measure)] = reader.measure(profile, found, 1.0)
        assert measure.value == 16_000_000
        return measure

    latest = 701 if action is Action.TERMINATE else None
    found_by = measured(
        (700, "receive", "192.0.2.1", 3), (700, "receive", "2001:db8::1", 3),
        (702, "receive", "192.0.2.1", 5), (702, "receive", "127.0.0.1", 99),
        (701, "receive", "::1", 99), (701, "send", "192.0.2.1", 99),
        (999, "receive", "192.0.2.1", 99),
    )  # fmt: skip
    assert found_by.process is not None
    assert found_by.process.pid == 700
    assert measured((999, "receive", "192.0.2.1", 99)).process is None  # it has ended since
    # Nobody told: the latest, where one has to be chosen.
    who = measured().process
    assert (who.pid if who else None) == latest


def test_destinations_that_hang_keep_no_step_waiting(host: Host) -> None:
    host.limit(model.MEMORY, 500 * MB, Action.ALERT)
    opened, entered = threading.Event(), threading.Event()

    def hang(_: Mapping[str, Any]) -> None:
        entered.set()
        assert opened.wait(30)

    def gone(_: Mapping[str, Any]) -> None:
        raise OSError("the bus does not take it")

    notifier = Notifier({"webhook": hang, "dbus": gone}, burst=1000)
    watcher = Watcher(host.paths, notifier.tell, seams=host.seams)
    try:
        for n in range(2 * CAPACITY):  # each tells: of the beginning, or of the end
            host.put("memory.current", 600 * MB * (n % 2 == 0))
            for _ in range(2):
                host.now += CALM
                watcher.step()
        assert entered.wait(30)
        # It was asked once, and is at it still: no step has waited for it.
        counts = notifier.counts()["webhook"]
        assert (counts["accepted"], counts["sent"]) == (CAPACITY + 1, 0)
        assert counts["accepted"] + counts["dropped"] == 2 * CAPACITY
    finally:
        opened.set()
    assert notifier.close(30)
    assert notifier.counts()["dbus"]["failed"] == 2 * CAPACITY


def test_what_one_process_allocates_in_a_second_is_told_of(host: Host) -> None:
    host.limit(model.ALLOCATION, 100 * MB, Action.ALERT)
    host.step()
    for pid, size in ((7, 120 * MB), (7, 90 * MB), (8, 190 * MB)):
        host.watcher.feed.allocated(Process(pid, "eater", 1000), 0, size)
    [told] = host.step(2.0)
    assert (told["measured"], told["process"]["pid"]) == (105 * MB, 7)


def test_a_damaged_profile_is_told_of_once_and_nothing_is_taken_back(host: Host) -> None:
    host.limit(model.MEMORY, 500 * MB, Action.THROTTLE)
    host.step()
    (host.paths.profiles / "child.json").write_text("{")
    [event] = host.step()
    assert (event["event"], event["profile"]) == ("limit-trouble", "child")
    assert host.step() == []
    assert (host.tree.hierarchy.path(CGROUP) / "memory.high").read_text() != "max"
    host.store.delete("child")
    host.step()
    assert (host.tree.hierarchy.path(CGROUP) / "memory.high").read_text() == "max"


def test_a_lock_that_somebody_holds_delays_setting_and_not_telling(host: Host) -> None:
    host.limit(model.MEMORY, 500 * MB, Action.THROTTLE)
    host.put("memory.current", 600 * MB)
    with locked(host.paths.lock, "another"):
        events = host.step()
    assert [event["event"] for event in events] == ["limit-trouble", "limit"]
    high = host.tree.hierarchy.path(CGROUP) / "memory.high"
    assert high.read_text() == "max"
    host.step()
    assert high.read_text() != "max"


def test_a_limit_that_somebody_takes_away_is_set_again_within_seconds(host: Host) -> None:
    host.limit(model.MEMORY, 500 * MB, Action.THROTTLE)
    host.step()
    host.put("memory.high", "max")
    host.step()
    assert host.step(AGAIN) == []
    assert (host.tree.hierarchy.path(CGROUP) / "memory.high").read_text() != "max"


def test_another_action_or_threshold_begins_anew_between_two_steps(host: Host) -> None:
    host.put("memory.current", 600 * MB)
    for threshold, action in ((500, "alert"), (400, "alert"), (400, "throttle"), (500, "alert")):
        host.limit(model.MEMORY, threshold * MB, Action(action))
        [event] = host.step()
        assert (event["state"], event["threshold"]) == ("exceeded", threshold * MB)
        assert host.step() == []


def test_a_limit_that_is_taken_back_begins_anew(host: Host) -> None:
    host.limit(model.MEMORY, 500 * MB, Action.ALERT)
    host.put("memory.current", 600 * MB)
    assert len(host.step()) == 1
    profile = host.store.load("child")
    host.store.save(replace(profile, limits={}))
    assert host.step() == []
    host.store.save(profile)
    assert short(host.step()) == [("exceeded", "memory", 600 * MB, "nothing")]
