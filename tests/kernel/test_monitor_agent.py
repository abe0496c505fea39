"""The monitors' agent on this kernel: what it stores and tells, and what cannot stop it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from edit_support import Host
from limits_support import Eater
from monitor_agent_support import (
    REPOSITORY,
    Running,
    configure,
    events_of,
    inside,
    query,
    total,
    until,
)
from postgresql_server import Server
from traffic_support import cgroup

from aegis_tools.monitors.load import unload
from aegis_tools.monitors.profiles import model
from aegis_tools.monitors.profiles.model import Action, Profile, make_limit
from aegis_tools.monitors.profiles.store import ProfileStore
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.paths import Paths

pytestmark = pytest.mark.kernel
MB = 1_000_000
NOTHING = ["maps.debug", "progs.debug"]


@pytest.fixture
def group() -> Iterator[Path]:
    with cgroup(f"aegis-agent-{os.getpid()}") as folder:
        yield folder


@pytest.fixture
def host(paths: Paths, group: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Host]:
    del group
    yield Host(paths, capsys)
    for name in MONITORS:
        unload(paths.monitor_pins, name)


@pytest.fixture
def agents() -> Iterator[list[Running]]:
    found: list[Running] = []
    yield found
    for one in found:
        if one.process.poll() is None:
            one.kill()


def only(group: Path, **more: Any) -> dict[str, Any]:
    """Return options by which nothing but what a cgroup does is told."""
    return {"only_cgroup": [f"/{group.name}"], "ring_size": "4M", **more}


def programs(group: Path, count: int) -> list[int]:
    """Run programs in a cgroup, and return their numbers."""
    found = []
    for _ in range(count):
        process = subprocess.Popen(inside(group, "true"))
        found.append(process.pid)
        assert process.wait() == 0
    return found


def exited(paths: Paths, ran: list[int]) -> list[dict[str, Any]]:
    """Return the stored ends of programs, as soon as all are there."""

    def found() -> list[dict[str, Any]]:
        events = [e for e in query(paths, "--event", "exit") if e["pid"] in ran]
        return events if len(events) >= len(ran) else []

    return list(until(found))


def pinned(paths: Paths) -> list[str]:
    return sorted(path.name for path in paths.bpffs.iterdir())


def test_what_is_told_is_stored_with_its_profile_and_counted_and_nothing_of_the_agent_itself(
    host: Host, group: Path, agents: list[Running]
) -> None:
    paths = host.paths
    configure(paths, {"process-monitor": only(group), "filesystem-monitor": only(group)})
    ProfileStore(paths).save(Profile("web", cgroups=(f"/{group.name}",)))
    agent = Running(paths, group, 2)
    agents.append(agent)
    of_itself = until(lambda: untold(host, agent))
    ran = programs(group, 20)
    assert {event["profile"] for event in exited(paths, ran)} == {"web"}
    # Its other threads write to the store and read settings all the time.
    until(lambda: untold(host, agent) == of_itself)
    assert host("monitor", "status", "process")["agent"]["pid"] == agent.process.pid
    refused = host("monitor", "events", "process", code=8)
    assert refused["hint"].endswith("aegisbpf monitor query --since 1m")
    again = subprocess.run(
        [sys.executable, "-m", "aegis_tools", "--root", str(paths.root), "monitor", "run"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (again.returncode, "monitor run" in again.stderr) == (8, True), again.stderr
    facts = agent.end()
    assert pinned(paths) == NOTHING
    assert not paths.monitor_heartbeat.exists()
    assert not paths.monitor_loads.exists()
    stored = query(paths)
    assert len(stored) == events_of(facts) == total(facts["store"]["stored"])
    assert [e for e in stored if e["pid"] in ran and e["event"] == "open"]
    assert [e for e in stored if e["pid"] == agent.process.pid] == []


def untold(host: Host, agent: Running) -> int:
    """Return how many events of files the kernel has told of, and the agent has not."""
    [told] = host("monitor", "status", "filesystem")["monitors"]
    found = (agent.beat() or {})["monitors"]["filesystem-monitor"]["events"]
    return int(told["counters"]["sent"]) - total(found)


def test_a_monitor_that_others_unload_or_read_is_taken_up_again(
    host: Host, group: Path, agents: list[Running]
) -> None:
    paths = host.paths
    host("monitor", "load", "process", "--only-cgroup", f"/{group.name}")
    reader = subprocess.Popen(
        [sys.executable, "-m", "aegis_tools", "--root", str(paths.root), "monitor", "events"],
        cwd=REPOSITORY, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: str(reader.pid) in locks(paths))
    configure(paths, {"process-monitor": only(group), "network-monitor": only(group)})
    agent = Running(paths, group, 1)
    agents.append(agent)
    agent.hears("process-monitor is being read by another command: monitor events")
    reader.send_signal(signal.SIGTERM)
    assert reader.wait(30) == 0
    agent.hears("process-monitor is followed again")
    exited(paths, programs(group, 3))
    host("monitor", "unload", "process")
    agent.hears("process-monitor was unloaded by another command")
    host("monitor", "load", "process", "--only-cgroup", f"/{group.name}")
    agent.hears("process-monitor is followed again", times=2)
    exited(paths, programs(group, 3))
    agent.end(signal.SIGINT)
    assert agent.said("is being read by") == agent.said("was unloaded by") == 1
    # What was loaded by hand stays; what it loaded itself is gone.
    assert [path.name for path in paths.monitor_pins.iterdir()] == ["process-monitor"]


def locks(paths: Paths) -> str:
    lock = paths.run / "process-monitor.lock"
    return lock.read_text() if lock.exists() else ""


def test_a_unit_that_is_started_again_has_another_cgroup_and_is_followed_all_the_same(
    host: Host, group: Path, agents: list[Running]
) -> None:
    paths, unit, other = host.paths, group / "unit", group / "other"
    unit.mkdir()
    names = [f"/{group.name}/{one.name}" for one in (unit, other)]
    configure(paths, {"process-monitor": {"only_cgroup": names}})
    agent = Running(paths, None, 1)
    agents.append(agent)
    agent.hears(f"nothing is told of: {names[1]}")
    try:
        exited(paths, programs(unit, 2))
        unit.rmdir()
        agent.hears(f"nothing is told of: {', '.join(names)}")
        unit.mkdir()
        agent.hears("process-monitor has a new filter")
        exited(paths, programs(unit, 2))
        other.mkdir()
        agent.hears("all of its cgroups are there again")
        agent.hears("process-monitor has a new filter", 2)
        exited(paths, [*programs(unit, 1), *programs(other, 1)])
        agent.end()
    finally:
        for one in (unit, other):
            if one.exists():
                one.rmdir()


def test_what_cannot_be_done_now_is_in_status_and_so_is_a_limit_that_nothing_measures(
    host: Host, agents: list[Running]
) -> None:
    paths = host.paths
    limit = make_limit(model.DISK_LATENCY, 1, Action.ALERT)
    ProfileStore(paths).save(Profile("web", cgroups=("/x",), limits={limit.kind.name: limit}))
    configure(paths, {"memory-monitor": {"only_cgroup": ["/nosuch"]}}, store=None)
    agent = Running(paths, None, 0)
    agents.append(agent)

    def troubles() -> dict[str, str]:
        return dict(host("monitor", "status", "memory")["agent"]["troubles"])

    until(lambda: len(troubles()) == 2)
    assert troubles() == {
        "load memory-monitor": "there is no cgroup /nosuch",
        "limits of disk-latency": (
            "nothing measures the limit of disk-latency of web: it needs disk-io-monitor"
        ),
    }
    configure(paths, {"disk-io-monitor": {}}, store=None)
    agent.reload()
    until(lambda: not troubles())
    agent.end()


def test_settings_are_read_anew_and_damaged_ones_change_nothing(
    host: Host, group: Path, agents: list[Running]
) -> None:
    paths = host.paths
    configure(paths, {})
    agent = Running(paths, group, 0)
    agents.append(agent)
    assert pinned(paths) == NOTHING
    assert agent.store() == {}
    configure(paths, {"process-monitor": only(group)})
    agent.reload()
    until(lambda: agent.read() == ["process-monitor"])
    paths.monitor_settings.write_text("{")
    agent.reload()
    agent.hears("the settings stay as they were")
    exited(paths, programs(group, 3))
    configure(paths, {"network-monitor": only(group), "memory-monitor": only(group)}, store=None)
    agent.reload()
    until(lambda: "network-monitor" in agent.read() and "memory-monitor" in agent.read())
    assert sorted(path.name for path in paths.monitor_pins.iterdir()) == [
        "memory-monitor", "network-monitor",
    ]  # fmt: skip
    configure(paths, {"memory-monitor": only(group, ring_size="64K", min_bytes=4096)})
    agent.reload()
    agent.hears("memory-monitor is loaded", times=2)
    [told] = host("monitor", "status", "memory")["monitors"]
    assert (told["ring"]["bytes"], told["filter"]["min_bytes"]) == (65536, 4096)
    agent.end()
    assert agent.said("unloaded by another command") == 0
    assert pinned(paths) == NOTHING


def test_killed_it_leaves_the_monitors_and_the_next_one_goes_on_with_them(
    host: Host, group: Path, agents: list[Running]
) -> None:
    paths = host.paths
    host("monitor", "load", "network")
    configure(paths, {"process-monitor": only(group), "network-monitor": {}})
    agent = Running(paths, group, 2)
    before = programs(group, 5)
    exited(paths, before)
    agent.kill()
    assert host("monitor", "status", "process")["agent"]["died"]
    meanwhile = programs(group, 5)  # waits in the ring
    agent = Running(paths, group, 2)
    agents.append(agent)
    after = programs(group, 5)
    assert len(exited(paths, before + meanwhile + after)) == 15
    agent.end()
    assert [path.name for path in paths.monitor_pins.iterdir()] == ["network-monitor"]


@pytest.fixture
def small(paths: Paths) -> Iterator[Path]:
    """Yield the folder of the state, on a disk of 16 MiB."""
    paths.state.mkdir(parents=True)
    options = "size=16m,mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(paths.state)], check=True)
    yield paths.state
    subprocess.run(["umount", str(paths.state)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_a_store_that_is_full_costs_nothing_but_what_is_counted(
    host: Host, group: Path, agents: list[Running], small: Path
) -> None:
    paths = host.paths
    configure(paths, {"process-monitor": only(group)})
    agent = Running(paths, group, 1)
    agents.append(agent)
    exited(paths, programs(group, 3))
    fill(small / "somebody-elses")
    ran = programs(group, 5)
    until(lambda: agent.store()["failing"] and agent.store()["waiting"] >= len(ran))
    found = host("monitor", "status", "process")
    assert "full" in found["agent"]["store"]["failing"]
    (small / "somebody-elses").unlink()
    assert len(exited(paths, ran)) == len(ran)
    until(lambda: agent.store()["failing"] is None)
    fill(small / "somebody-elses")
    lost = programs(group, 5)
    until(lambda: agent.store()["waiting"] >= len(lost))
    facts = agent.end()
    assert pinned(paths) == NOTHING
    assert agent.said("is full") == 2  # once each time
    kept, dropped = total(facts["store"]["stored"]), total(facts["store"]["dropped"])
    assert dropped >= 2 * len(lost)
    assert kept + dropped == events_of(facts)


@pytest.fixture
def server(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    found = Server()
    try:
        found.make()
        found.start()
        monkeypatch.setenv("PGPASSFILE", str(found.passfile))
        paths.etc.mkdir(parents=True)
        paths.monitor_store_url.write_text(found.url)
        paths.monitor_store_url.chmod(0o600)
        yield found
    finally:
        found.remove()


def test_a_server_that_is_gone_for_a_while_costs_nothing(
    host: Host, group: Path, agents: list[Running], server: Server
) -> None:
    paths = host.paths
    configure(paths, {"process-monitor": only(group)})
    agent = Running(paths, group, 1)
    agents.append(agent)
    ran = programs(group, 5)
    until(lambda: total(agent.store()["stored"]) >= 2 * len(ran))
    server.kill()
    more = programs(group, 5)
    until(lambda: agent.store()["failing"] and agent.store()["waiting"] >= 2 * len(more))
    server.start()
    until(lambda: agent.store()["failing"] is None and not agent.store()["waiting"])
    facts = agent.end()
    assert facts["store"]["dropped"] == {}
    assert total(facts["store"]["stored"]) == events_of(facts)
    assert len(exited(paths, ran + more)) == 10


@contextmanager
def web_server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the address of a web server, and what was posted to it."""
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", posted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


FLOOD = "import sys\nwhile True:\n    open(sys.executable, 'rb').close()\n"


def test_limits_are_told_of_while_events_flood_it(
    host: Host, group: Path, agents: list[Running]
) -> None:
    paths = host.paths
    profile = Profile("web", cgroups=(f"/{group.name}",))
    for kind, threshold in ((model.MEMORY, 400 * MB), (model.ALLOCATION, 20 * MB)):
        profile = profile.with_limit(kind, make_limit(kind, threshold, Action.ALERT))
    ProfileStore(paths).save(profile)
    eater = Eater(group)
    flood = subprocess.Popen(inside(group, sys.executable, "-c", FLOOD))
    try:
        with web_server() as (url, posted):
            monitors = {"filesystem-monitor": only(group), "memory-monitor": only(group)}
            configure(paths, monitors, webhook={"url": url})
            agent = Running(paths, group, 2)
            agents.append(agent)
            until(lambda: events_of(agent.beat() or {"monitors": {}}) > 10_000)
            eater.tell(f"eat {500 * MB}")
            eater.hear()
            until(lambda: {one["limit"] for one in posted} == {"memory", "allocation"})
            until(lambda: (agent.beat() or {})["limits"]["web"]["memory"]["over"])
            facts = agent.end()
    finally:
        flood.kill()
        flood.wait()
        eater.end()
    assert {one["process"]["pid"] for one in posted} == {eater.process.pid}
    assert facts["limits"]["web"]["memory"]["unit"] == "bytes"
    assert facts["notifications"]["webhook"]["sent"] >= 2
    assert total(facts["store"]["stored"]) + total(facts["store"]["dropped"]) == events_of(facts)
