"""The monitors' metrics: the page, what a hostile file can do to it, and what nothing costs."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metrics_support import exposed as policy_exposed
from metrics_support import reading as policy_reading
from metrics_support import values
from monitor_metrics_support import (
    BOOT_NS,
    NOTHING,
    PID,
    exposed,
    heartbeat,
    histogram,
    reading,
    told,
)

from aegis_tools.monitors.metrics import Collector, families
from aegis_tools.monitors.metrics_agent import PROFILES, alive, parse
from aegis_tools.paths import Paths

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("data") / "monitor-metrics.prom"
DISK = (("monitor", "disk-io-monitor"),)
BUCKET = "aegisbpf_monitor_disk_latency_seconds_bucket"


def collector(paths: Paths, *, boot_ns: int = BOOT_NS, pid: int = PID) -> Collector:
    return Collector(paths, lambda: boot_ns, lambda number: number == pid)


def page(paths: Paths, **how: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the samples of a host whose files are below a folder."""
    return values(exposed(collector(paths, **how).read()))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path)
    for folder in (found.run, found.etc, found.bpffs):
        folder.mkdir(parents=True)
    return found


def write(path: Path, data: Any) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    path.chmod(0o644)
    return path


def checked(text: str) -> tuple[str, int]:
    """Return what promtool says of a page, and its status."""
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr, done.returncode


def test_the_page_is_as_it_was() -> None:
    assert exposed() == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("found", [reading(), NOTHING], ids=["all", "nothing"])
def test_promtool_finds_no_fault(found: Any) -> None:
    assert checked(exposed(found)) == ("", 0)


def test_no_family_is_also_one_of_the_policy() -> None:
    text = policy_exposed(policy_reading()) + exposed()
    types = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(set(types)) == len(types)
    assert values(text)


def test_nothing_to_tell_has_the_same_families_and_no_counter() -> None:
    assert [f.name for f in families(NOTHING)] == [f.name for f in families(reading())]
    found = values(exposed(NOTHING))
    assert not [name for name, _ in found if name.endswith("_total")]
    assert "aegisbpf_monitor_agent_up" not in {name for name, _ in found}
    assert {v for (name, _), v in found.items() if name == "aegisbpf_monitor_loaded"} == {0}


def test_nothing_loaded_imports_nothing_that_reads_the_kernel(paths: Paths) -> None:
    code = (
        "import sys; from pathlib import Path; from aegis_tools.cli.main import run\n"
        "assert run(['--root', sys.argv[1], 'metrics']) == 0\n"
        "print([m for m in sys.modules if m.startswith('aegis_tools.monitors')], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, paths.root],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = done.stderr.splitlines()[-1]
    assert "aegis_tools.monitors.metrics_agent" in loaded
    for heavy in ("metrics_kernel", "load", "status", "profiles", "store", "notify"):
        assert f"'aegis_tools.monitors.{heavy}" not in loaded
    assert 'aegisbpf_monitor_loaded{monitor="disk-io-monitor"} 0.0' in done.stdout


def test_what_the_agent_tells_is_on_the_page(paths: Paths) -> None:
    write(paths.monitor_heartbeat, heartbeat())
    found = page(paths)
    assert found["aegisbpf_monitor_agent_up", ()] == 1
    assert found["aegisbpf_monitor_agent_heartbeat_age_seconds", ()] == 0.5
    assert found["aegisbpf_monitor_events_total", (*DISK, ("type", "complete"))] == 10
    assert found["aegisbpf_monitor_event_bytes_total", (*DISK, ("type", "issue"))] == 12 * 4096
    assert found["aegisbpf_monitor_store_dropped_total", DISK] == 2
    memory = (("limit", "memory"), ("profile", "web"))
    assert found["aegisbpf_limit_exceeded", memory] == 1
    assert found["aegisbpf_limit_actions_total", memory] == 2
    latency = (("limit", "disk-latency"), ("profile", "web"), ("unit", "seconds"))
    assert found["aegisbpf_limit_threshold", latency] == 0.1


def test_latency_is_a_histogram_that_ends_with_all_of_them() -> None:
    found = values(exposed())
    buckets = {
        dict(labels)["le"]: value
        for (name, labels), value in found.items()
        if name == BUCKET and dict(labels)["operation"] == "read"
    }
    assert buckets == {"1.6384e-05": 4, "6.5536e-05": 9, "+Inf": 10}
    read = (("operation", "read"),)
    assert found["aegisbpf_monitor_disk_latency_seconds_count", read] == 10
    assert found["aegisbpf_monitor_disk_latency_seconds_sum", read] == 0.025


GOOD = histogram(4, 9, 10, sum_ns=1)
NO_HISTOGRAMS: list[Any] = [
    None, [], {}, {**GOOD, "count": 11}, {**GOOD, "count": None}, {**GOOD, "sum_ns": -1},
    {**GOOD, "buckets": [[16000, 5], [64000, 4], [None, 10]]},
    {**GOOD, "buckets": [[64000, 4], [16000, 9], [None, 10]]},
    {**GOOD, "buckets": [[16000, 4], [16000, 9], [None, 10]]},
    {**GOOD, "buckets": [[None, 4], [None, 10]]}, {**GOOD, "buckets": [[16000]]},
    {**GOOD, "buckets": [["16000", 4]]}, {**GOOD, "buckets": "x"}, {**GOOD, "buckets": [None]},
    {**GOOD, "buckets": [[i, 1] for i in range(1000)]},
]  # fmt: skip


@pytest.mark.parametrize("damaged", NO_HISTOGRAMS)
def test_what_is_no_histogram_is_left_out_alone(damaged: Any) -> None:
    disk = {"events": {"issue": 3}, "latency": {"read": damaged, "write": GOOD}}
    found = told(monitors={"disk-io-monitor": disk})
    assert list(found.latency) == ["write"]
    assert found.events["disk-io-monitor", "issue"] == 3


def test_a_histogram_without_its_last_bucket_gets_it() -> None:
    disk = {"latency": {"read": {"count": 7, "sum_ns": 1, "buckets": [[16000, 4]]}}}
    latency = told(monitors={"disk-io-monitor": disk}).latency["read"]
    assert latency.buckets == ((1.6e-05, 4), (math.inf, 7))


def test_what_has_not_happened_yet_is_0_so_that_the_first_time_is_a_rise() -> None:
    found = told()
    assert found.events["process-monitor", "exit"] == 0
    assert found.store is not None
    assert found.store.dropped["process-monitor",] == 0
    assert ("memory-monitor", "kmalloc") not in found.events


@pytest.mark.parametrize(
    ("boot_ns", "pid", "up"),
    [
        (BOOT_NS, PID, 1),
        (BOOT_NS + 14_000_000_000, PID, 1),
        (BOOT_NS + 15_000_000_000, PID, 0),
        (BOOT_NS, PID + 1, 0),
        (0, PID, 1),
    ],
    ids=["fresh", "late", "stale", "dead", "of the future"],
)
def test_of_an_agent_that_does_not_live_only_that_is_told(
    paths: Paths, boot_ns: int, pid: int, up: int
) -> None:
    write(paths.monitor_heartbeat, heartbeat())
    found = page(paths, boot_ns=boot_ns, pid=pid)
    assert found["aegisbpf_monitor_agent_up", ()] == up
    named = {name for name, _ in found}
    assert ("aegisbpf_limit_exceeded" in named, "aegisbpf_monitor_events_total" in named) == (
        bool(up), bool(up),
    )  # fmt: skip


def test_a_process_that_is_gone_is_known_also_while_nobody_has_asked_how_it_ended() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not alive(process.pid)
    process.wait()
    assert not alive(process.pid)
    assert alive(os.getpid())
    assert alive(1)


NO_HEARTBEATS = {
    "empty": b"",
    "truncated": json.dumps(heartbeat()).encode()[:200],
    "no object": b"[]",
    "deep": b"[" * 100_000,
    "not a number": b'{"pid": 812, "updated_boot_ns": NaN}',
    "no time": json.dumps({**heartbeat(), "updated_boot_ns": None}).encode(),
    "all processes": json.dumps({**heartbeat(), "pid": -1}).encode(),
    "no process": json.dumps({**heartbeat(), "pid": True}).encode(),
    "endless": json.dumps({**heartbeat(), "pid": 10**400}).encode(),
    "twice": b'{"pid": 812, "pid": 813, "updated_boot_ns": 1}',
    "no UTF-8": b'{"pid": "\xff"}',
    "huge": json.dumps(heartbeat(version="x" * (1 << 20))).encode(),
}


@pytest.mark.parametrize("data", NO_HEARTBEATS.values(), ids=NO_HEARTBEATS.keys())
def test_a_file_that_says_nothing_is_an_agent_that_is_not_up(paths: Paths, data: bytes) -> None:
    write(paths.monitor_heartbeat, data)
    found = page(paths)
    assert found["aegisbpf_monitor_agent_up", ()] == 0
    assert found["aegisbpf_monitor_readable", (("part", "agent"),)] == 0
    assert found["aegisbpf_monitor_readable", (("part", "settings"),)] == 1


@pytest.mark.parametrize("odd", ["link", "folder", "pipe", "writable"])
def test_a_file_that_is_not_ours_is_not_believed(paths: Paths, odd: str, tmp_path: Path) -> None:
    path = paths.monitor_heartbeat
    if odd == "link":
        path.symlink_to(write(tmp_path / "elsewhere", heartbeat()))
    elif odd == "folder":
        path.mkdir()
    elif odd == "pipe":
        os.mkfifo(path)
    else:
        write(path, heartbeat()).chmod(0o666)
    found = page(paths)
    assert found["aegisbpf_monitor_agent_up", ()] == 0
    assert found["aegisbpf_monitor_readable", (("part", "agent"),)] == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["disk-io-monitor", "events", "bytes", "latency", "read", "issue", "buckets", "count", "web",
     "sum_ns", "memory", "threshold", "value", "unit", "over", "stored", "journal", "sent", "\n"]
)  # fmt: skip
ODD = st.recursive(
    JSON, lambda inner: st.dictionaries(KEYS, inner, max_size=4) | st.lists(inner), max_leaves=20
)


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("monitors", "store", "notifications", "limits", "started", "version"), ODD
        ),
    )
)
def test_whatever_a_living_agent_writes_the_page_stays_one(parts: dict[str, Any]) -> None:
    try:
        found = told(**parts)
    except ValueError:
        return
    text = exposed(reading(told_=found))
    assert values(text)["aegisbpf_monitor_agent_up", ()] == 1
    assert all(math.isfinite(value) and value >= 0 for value in values(text).values())


def test_labels_are_bounded_and_of_one_line() -> None:
    many = {f'op"\n{i}': GOOD for i in range(1000)}
    limit = {"threshold": 1, "value": 0, "unit": "bytes", "over": False, "actions": 0}
    profiles = {f"p{i:04}": {"memory": limit, "no such": limit} for i in range(1000)}
    profiles["p0999"] = {"memory": {**limit, "over": True}}
    found = told(
        monitors={"disk-io-monitor": {"latency": many, "events": many}, "none-monitor": {}},
        notifications={f"way{i}": {"sent": 1} for i in range(1000)},
        limits={**profiles, 'hostile"} 1\n': {"memory": limit}},
    )
    samples = values(exposed(reading(told_=found)))
    assert len(samples) < 2500
    shown = {dict(k)["profile"] for name, k in samples if name == "aegisbpf_limit_exceeded"}
    assert len(shown) == PROFILES
    assert "p0999" in shown
    assert samples["aegisbpf_limits", ()] == 1000
    assert not [labels for _, labels in samples if any("\n" in value for _, value in labels)]


def test_no_secret_of_the_store_is_on_the_page() -> None:
    assert "SECRET" not in exposed()
    assert values(exposed())["aegisbpf_monitor_store_failing", ()] == 1


def test_an_agent_that_stores_nothing_has_no_sample_of_a_store() -> None:
    found = values(exposed(reading(told_=told(store=None))))
    assert not [name for name, _ in found if name.startswith("aegisbpf_monitor_store")]


@pytest.mark.parametrize("name", ["disk-io-monitor", "disk-io"])
def test_what_the_settings_ask_for_is_missed_and_so_is_the_agent(paths: Paths, name: str) -> None:
    write(paths.monitor_settings, {"version": 1, "monitors": {name: {}, "x": {}}})
    found = page(paths)
    asked = {k: v for (name, k), v in found.items() if name == "aegisbpf_monitor_asked"}
    assert asked.pop(DISK) == 1
    assert set(asked.values()) == {0}
    assert found["aegisbpf_monitor_attached", DISK] == 0
    assert found["aegisbpf_monitor_agent_up", ()] == 0


@pytest.mark.parametrize(
    "settings", [b"", b" \n", b"{}", b'{"version": 1, "monitors": {}}'], ids=repr
)
def test_settings_that_ask_for_nothing_ask_for_no_agent(paths: Paths, settings: bytes) -> None:
    write(paths.monitor_settings, settings)
    found = page(paths)
    assert ("aegisbpf_monitor_agent_up", ()) not in found
    assert found["aegisbpf_monitor_readable", (("part", "settings"),)] == 1


@pytest.mark.parametrize("settings", [b"{", b"[]", b'{"monitors": []}', b"\xff"], ids=repr)
def test_settings_that_cannot_be_read_are_told_of(paths: Paths, settings: bytes) -> None:
    write(paths.monitor_settings, settings)
    found = page(paths)
    assert found["aegisbpf_monitor_readable", (("part", "settings"),)] == 0
    assert found["aegisbpf_monitor_agent_up", ()] == 0


def test_settings_are_read_again_when_they_change_and_stay_unreadable_till_then(
    paths: Paths,
) -> None:
    read = collector(paths).read
    write(paths.monitor_settings, {"monitors": {"process-monitor": {}}})
    assert read().asked == read().asked == {"process-monitor"}
    write(paths.monitor_settings, {"monitors": {"process-monitor": {}, "disk-io-monitor": {}}})
    assert read().asked == {"process-monitor", "disk-io-monitor"}
    write(paths.monitor_settings, b"{")
    assert read().unreadable == read().unreadable == {"settings"}
    paths.monitor_settings.unlink()
    assert (read().asked, read().unreadable) == (frozenset(), frozenset())


def test_an_agent_of_another_host_clock_is_read_by_the_boot_clock() -> None:
    data = json.dumps(heartbeat(updated=0, started="yesterday")).encode()
    found = parse(data, BOOT_NS, lambda _: True)
    assert (found.up, found.age, found.started) == (True, 0.5, 0.0)
