"""The metrics of monitors that are loaded, and how a real Prometheus has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from edit_support import Host
from kernel_support import REPOSITORY
from metrics_support import values
from monitor_metrics_support import heartbeat
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_support import Api, ended, prometheus
from promql_support import dashboard_queries, with_values

from aegis_tools.monitors.load import unload
from aegis_tools.monitors.metrics import Collector
from aegis_tools.monitors.pins import MonitorPins
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.paths import Paths

Beat = Callable[..., None]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def host(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Iterator[Host]:
    yield Host(paths, capsys)
    for name in MONITORS:
        unload(paths.monitor_pins, name)


@pytest.fixture
def beat(paths: Paths) -> Beat:
    """Return what gives a sign of life of a monitors' agent, which is this process."""
    paths.run.mkdir(parents=True, exist_ok=True)

    def give(**parts: Any) -> None:
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        found = {**heartbeat(**parts), "pid": os.getpid(), "updated_boot_ns": now}
        new = paths.monitor_heartbeat.with_suffix(".new")
        new.write_text(json.dumps(found))
        new.chmod(0o644)
        new.replace(paths.monitor_heartbeat)

    return give


def scraped(paths: Paths) -> Samples:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(paths))
    return values(generate_latest(registry).decode())


def of(found: Samples, name: str) -> dict[str, float]:
    """Return a metric's values by monitor."""
    return {dict(labels)["monitor"]: v for (n, labels), v in found.items() if n == name}


def work(folder: Path) -> None:
    """Have a program begin, and a file written to a disk."""
    subprocess.run(["true"], check=True)
    with (folder / "file").open("wb") as file:
        file.write(bytes(100_000))
        file.flush()
        os.fsync(file.fileno())


def test_what_is_loaded_is_told_as_status_tells_it(host: Host, tmp_path: Path) -> None:
    host("monitor", "load")
    before = scraped(host.paths)
    work(tmp_path)
    found = scraped(host.paths)
    assert of(found, "aegisbpf_monitor_attached") == dict.fromkeys(MONITORS, 1)
    for name in ("process-monitor", "filesystem-monitor", "memory-monitor"):
        seen = "aegisbpf_monitor_seen_total"
        assert of(found, seen)[name] > of(before, seen)[name]
    for told in host("monitor", "status")["monitors"]:
        name = told["monitor"]
        labels = (("monitor", name), ("variant", told["variant"]))
        assert found["aegisbpf_monitor_variant_info", labels] == 1
        assert of(found, "aegisbpf_monitor_ring_bytes")[name] == told["ring"]["bytes"]
        assert of(found, "aegisbpf_monitor_memory_bytes")[name] > 0
        for counter, later in told["counters"].items():
            assert of(found, f"aegisbpf_monitor_{counter}_total")[name] <= later
        programs = {
            dict(labels)["program"]
            for metric, labels in found
            if metric == "aegisbpf_monitor_program_runs_total" and ("monitor", name) in labels
        }
        assert programs == {program["name"] for program in told["programs"]}
    pending = (("map", "PENDING_IO"), ("monitor", "disk-io-monitor"))
    assert found["aegisbpf_monitor_map_capacity", pending] == 10240


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_a_torn_monitor_is_told_of_and_leaves_the_others_alone(host: Host) -> None:
    host("monitor", "load", "process", "disk-io")
    pins = MonitorPins(host.paths.monitor_pins, "process-monitor")
    scraped(host.paths)
    opened = descriptors()
    pins.path("links", pins.names("links")[0]).unlink()
    found = scraped(host.paths)
    assert of(found, "aegisbpf_monitor_attached")["process-monitor"] == 0
    assert of(found, "aegisbpf_monitor_loaded")["process-monitor"] == 1
    assert found["aegisbpf_monitor_readable", (("part", "kernel"),)] == 1
    pins.path("maps", "stats").unlink()
    found = scraped(host.paths)
    assert found["aegisbpf_monitor_readable", (("part", "kernel"),)] == 0
    assert set(of(found, "aegisbpf_monitor_seen_total")) == {"disk-io-monitor"}
    host("monitor", "unload")
    found = scraped(host.paths)
    assert of(found, "aegisbpf_monitor_loaded") == dict.fromkeys(MONITORS, 0)
    assert descriptors() == opened


@pytest.fixture
def api(host: Host, beat: Beat, tmp_path: Path) -> Iterator[Api]:
    """Run a Prometheus with our rules that scrapes a host with two monitors and their agent."""
    host("monitor", "load", "process", "disk-io")
    beat()
    command = [sys.executable, "-m", "aegis_tools", "--root", str(host.paths.root), "metrics"]
    process = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process.stderr as told:
        try:
            endpoint = urllib.parse.urlsplit(told.readline().split()[-1]).netloc
            with prometheus(endpoint, tmp_path) as found:
                yield found
        finally:
            ended(process)
    assert process.returncode == 0


def test_a_real_prometheus_has_the_monitors_and_tells_when_something_is_wrong(
    api: Api, host: Host, beat: Beat, tmp_path: Path
) -> None:
    def later(query: str, **parts: Any) -> Any:
        """Return what is found while the agent lives."""

        def asked() -> list[dict[str, Any]]:
            beat(**parts)
            return api.query(query)

        return api.until(query, asked)

    later("aegisbpf_monitor_agent_up == 1")
    (p99,) = later("histogram_quantile(0.9, aegisbpf_monitor_disk_latency_seconds_bucket) > 0")
    assert float(p99["value"][1]) == pytest.approx(65.536e-6)
    assert api.query('aegisbpf_monitor_seen_total{monitor="process-monitor"}')

    store = {**heartbeat()["store"], "dropped": {"disk-io-monitor": 50}}
    work(tmp_path)
    fired = 'ALERTS{alertname="AegisMonitorStoreDropping", alertstate="firing"}'
    (alert,) = later(fired, store=store)
    assert alert["metric"]["monitor"] == "disk-io-monitor"
    (over,) = later('ALERTS{alertname="AegisLimitExceeded"}', store=store)
    assert (over["metric"]["profile"], over["metric"]["limit"]) == ("web", "memory")
    assert later('ALERTS{alertname="AegisMonitorStoreFailing"}', store=store)
    assert api.states("AegisMonitorGone") == api.states("AegisMonitorAgentDown") == []

    rules = [one for group in api.get("/api/v1/rules")["groups"] for one in group["rules"]]
    assert {rule["name"] for rule in rules} >= {"AegisDiskLatencyHigh", "AegisMonitorDropping"}
    assert [rule["lastError"] for rule in rules if "lastError" in rule] == []
    empty = [
        query
        for query in dashboard_queries()
        if "aegisbpf_monitor" in query and not api.query(with_values(query))
    ]
    # Nothing is missing here, and no program has been measured.
    assert [
        query for query in empty if "asked" not in query and "_seconds_total" not in query
    ] == []

    pins = MonitorPins(host.paths.monitor_pins, "process-monitor")
    pins.path("links", pins.names("links")[0]).unlink()
    (gone,) = later('ALERTS{alertname="AegisMonitorGone"}')
    assert gone["metric"]["monitor"] == "process-monitor"
    host.paths.monitor_heartbeat.write_text("{")
    api.until("the agent is down", lambda: api.states("AegisMonitorAgentDown"))
