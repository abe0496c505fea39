"""The parts of the monitors' agent that need no kernel: settings, counts, notifications."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.agent.tell import NOTICE, WARNING
from aegis_tools.cli.main import run
from aegis_tools.cli.monitor_run import status, status_line, status_lines
from aegis_tools.control.lock import locked
from aegis_tools.errors import KernelError, StateError, UsageError
from aegis_tools.monitors.agent import heartbeat, settings
from aegis_tools.monitors.agent.allocations import Allocations
from aegis_tools.monitors.agent.heartbeat import Self
from aegis_tools.monitors.agent.notifying import Notifying
from aegis_tools.monitors.agent.saying import Saying
from aegis_tools.monitors.agent.settings import Keeping, Settings, parse
from aegis_tools.monitors.agent.tally import BOUNDS, Tally
from aegis_tools.monitors.notify.settings import Settings as Telling
from aegis_tools.monitors.options import Options
from aegis_tools.monitors.profiles.measure import Feed
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.paths import Paths

NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "only_uid": st.lists(NAMES | st.integers(0, 1 << 32), max_size=3),
        "only_cgroup": st.lists(NAMES, max_size=3),
        "only_command": st.lists(NAMES, max_size=3),
        "min_bytes": st.integers(0, 1 << 40),
        "sample": st.floats(1e-9, 1) | st.sampled_from(["1", "0.1", 1]),
        "ring_size": st.sampled_from([4096, 1 << 20, "4M", "1G", None]),
    },
)
SETTINGS = st.fixed_dictionaries(
    {"version": st.just(1)},
    optional={
        "monitors": st.dictionaries(st.sampled_from(sorted(MONITORS)), OPTIONS),
        "store": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "keep": st.sampled_from(["7d", "90s", "1"]),
                "keep_hourly": st.sampled_from(["400d", "2w"]),
                "keep_size": st.sampled_from(["1G", "64M", 1 << 20]),
            },
        ),
    },
)


def dumped(found: object) -> bytes:
    return json.dumps(found, ensure_ascii=False).encode()


@given(SETTINGS)
def test_settings_that_are_well_written_are_taken_as_they_are(found: dict[str, Any]) -> None:
    parsed = parse(dumped(found))
    asked = found.get("monitors", {})
    assert list(parsed.monitors) == list(asked)
    for name, options in asked.items():
        taken = asdict(parsed.monitors[name])
        for key, value in options.items():
            if isinstance(value, list):
                assert taken[key] == tuple(map(str, value))
            elif key == "min_bytes":
                assert taken[key] == value
    assert (parsed.store is None) == ("store" in found and found["store"] is None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@given(
    SETTINGS,
    st.sampled_from(["version", "monitors", "store", "x"]),
    JSON | st.dictionaries(st.sampled_from(["memory", "disk-io-monitor", "x"]), JSON),
    st.sampled_from([None, *Options.__dataclass_fields__, "keep", "keep_size", "keep_hourly"]),
)
def test_settings_of_any_other_kind_are_refused_or_mean_something(
    found: dict[str, Any], key: str, value: Any, inner: str | None
) -> None:
    damaged = {**found, key: value if inner is None else {inner: value, "memory": {inner: value}}}
    try:
        parsed = parse(dumped(damaged))
    except ValueError:
        return
    assert set(parsed.monitors) <= set(MONITORS)
    assert parsed.store is None or min(asdict(parsed.store).values()) > 0


@given(st.binary(max_size=200))
def test_bytes_are_settings_or_a_value_error(data: bytes) -> None:
    try:
        parse(data)
    except ValueError:
        return


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"version": 2}, "another version"),
        ({"version": 1, "monitor": {}}, "the key 'monitor' is not known"),
        ({"version": 1, "monitors": {"disks": {}}}, "there is no monitor 'disks'"),
        ({"version": 1, "monitors": {"memory": {}, "memory-monitor": {}}}, "there twice"),
        ({"version": 1, "monitors": {"memory": {"min-bytes": 1}}}, "'min-bytes' is not known"),
        ({"version": 1, "monitors": {"memory": {"min_bytes": "1"}}}, "no number of bytes"),
        ({"version": 1, "monitors": {"memory": {"ring_size": "3M"}}}, "no size of a ring"),
        ({"version": 1, "monitors": {"memory": {"sample": 2}}}, "no sample rate"),
        ({"version": 1, "monitors": {"memory": {"sample": 0}}}, "no share"),
        ({"version": 1, "monitors": {"memory": {"only_uid": "0"}}}, "no list of texts"),
        ({"version": 1, "store": {"keep": "0s"}}, "keep is no time"),
        ({"version": 1, "store": {"keep_size": 1}}, "no size"),
        ({"version": 1, "store": False}, "neither null nor"),
    ],
)
def test_a_mistake_in_the_settings_is_named(found: Mapping[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(dumped(found))


def test_without_a_file_nothing_is_loaded_and_a_damaged_or_unsafe_one_is_refused(
    tmp_path: Path,
) -> None:
    paths = Paths(tmp_path)
    assert settings.load(paths) == Settings({}, Keeping(7 * 86400, 400 * 86400, 1 << 30))
    paths.etc.mkdir(parents=True)
    paths.monitor_settings.write_text('{"version": 1, "monitors": {"process": {}}}')
    assert settings.load(paths).monitors == {"process-monitor": Options()}
    paths.monitor_settings.chmod(0o666)
    with pytest.raises(StateError):
        settings.load(paths)
    paths.monitor_settings.chmod(0o644)
    paths.monitor_settings.write_text("{")
    with pytest.raises(StateError, match="settings of the monitors are damaged"):
        settings.load(paths)


def test_options_name_users_and_cgroups_as_the_host_knows_them_when_they_are_needed() -> None:
    assert Options(only_uid=("root", "7"), min_bytes=5, sample="0.5").filter().uids == {0, 7}
    for wrong in (Options(only_uid=("no-such-user",)), Options(only_cgroup=("/no/such",))):
        with pytest.raises(UsageError):
            wrong.filter()
    with pytest.raises(UsageError):
        Options(only_command=("",))


@pytest.mark.parametrize("path", ["", "../..", "../../etc", "/sys/fs/cgroup/../../../etc", "a\0"])
def test_a_folder_that_is_no_cgroup_is_none_for_its_number_may_be_that_of_one(path: str) -> None:
    with pytest.raises(UsageError, match="there is no cgroup"):
        Options(only_cgroup=(path,)).filter()


def test_a_dry_run_says_what_would_wait_as_the_agent_does_not_end_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = Paths(tmp_path)
    paths.etc.mkdir(parents=True)
    monitors = {"memory-monitor": {"only_cgroup": ["/nosuch"]}, "process-monitor": {}}
    paths.monitor_settings.write_text(json.dumps({"version": 1, "monitors": monitors}))
    assert run(["--json", "--root", str(tmp_path), "monitor", "run", "--dry-run"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["monitor"] for row in found["monitors"]] == ["process-monitor"]
    assert found["waits"] == {"memory-monitor": "there is no cgroup /nosuch"}


def event(monitor: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"monitor": monitor, "event": kind, **more}


def test_events_and_bytes_are_counted_by_type() -> None:
    tally = Tally()
    for size in (10, 20, None):
        tally.add(event("memory-monitor", "kmalloc", bytes=size))
    tally.add(event("process-monitor", "exec"))
    found = tally.to_dict(["network-monitor"], {"process-monitor": 3})
    assert found == {
        "memory-monitor": {
            "events": {"kmalloc": 3}, "bytes": {"kmalloc": 30}, "damaged": 0, "latency": {},
        },
        "network-monitor": {"events": {}, "bytes": {}, "damaged": 0, "latency": {}},
        "process-monitor": {"events": {"exec": 1}, "bytes": {}, "damaged": 3, "latency": {}},
    }  # fmt: skip


def test_the_bounds_are_powers_of_four_from_16_us_to_17_s() -> None:
    assert (BOUNDS[0], BOUNDS[-1]) == (16_384, 17_179_869_184)
    assert all(high == 4 * low for low, high in pairwise(BOUNDS))


@given(st.lists(st.integers(1, 1 << 36)))
def test_each_bucket_has_what_took_at_most_so_long(took: list[int]) -> None:
    tally = Tally()
    for one in took:
        tally.add(event("disk-io-monitor", "complete", operation="read", bytes=1, latency_ns=one))
    tally.add(event("disk-io-monitor", "complete", operation="flush", bytes=0, latency_ns=None))
    tally.add(event("disk-io-monitor", "issue", operation="read", bytes=0, latency_ns=None))
    found = tally.to_dict([], {})["disk-io-monitor"]["latency"]
    assert list(found) == (["read"] if took else [])
    if took:
        assert (found["read"]["count"], found["read"]["sum_ns"]) == (len(took), sum(took))
        assert found["read"]["buckets"] == [
            [bound, sum(one <= bound for one in took)] for bound in BOUNDS
        ] + [[None, len(took)]]


def test_a_trouble_is_said_once_until_it_is_another_or_over() -> None:
    told: list[tuple[int, str]] = []
    saying = Saying(lambda priority, text: told.append((priority, text)))
    for _ in range(3):
        saying.trouble("x", KernelError("it fails", hint="do this"))
    saying.trouble("x", "it fails otherwise")
    saying.fine("x", "it works again")
    saying.fine("x", "it works again")
    assert [text for priority, text in told if priority in (NOTICE, WARNING)] == [
        "warning: it fails", "  next: do this", "warning: it fails otherwise",
        "aegisbpf: it works again",
    ]  # fmt: skip


def test_counts_of_notifications_go_on_when_the_settings_change() -> None:
    nobody = Telling(journal=False, dbus=False)
    notifying = Notifying(Telling(journal=False, dbus=True))
    assert not notifying.change(Telling(journal=False, dbus=True))
    assert notifying.counts()["dbus"]["accepted"] == 0
    assert notifying.change(nobody)
    assert set(notifying.counts()) == {"dbus"}
    notifying.close()


def test_status_tells_whether_the_agent_runs_and_stores(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    assert status_line(heartbeat_status(paths)) == (
        "agent: does not run (systemctl start aegis-monitors)"
    )
    store = {"place": "/x/monitors.db", "failing": "the disk is full"}
    with locked(paths.monitor_agent_lock, "monitor run"):
        heartbeat.write(paths, Self(os.getpid(), "1", 1_700_000_000.0), {"store": store})
        found = heartbeat_status(paths)
        assert found is not None
        assert (found["runs"], found["pid"], found["store"]) == (True, os.getpid(), store)
        assert status_line(found) == (
            f"agent: runs (process {os.getpid()}, since 2023-11-14T22:13:20Z), "
            "does NOT store: the disk is full"
        )
        assert status_lines(found) == [status_line(found)]
        troubles = {"load memory-monitor": "there is no cgroup /x"}
        heartbeat.write(paths, Self(os.getpid(), "1", 0.0), {"troubles": troubles})
        assert status_lines(heartbeat_status(paths))[1:] == [
            "  load memory-monitor: there is no cgroup /x"
        ]
    assert "DIED" in status_line(heartbeat_status(paths))
    assert len(status_lines(heartbeat_status(paths))) == 1
    heartbeat.remove(paths)
    assert heartbeat_status(paths) is None


def heartbeat_status(paths: Paths) -> dict[str, Any] | None:
    from aegis_tools.cli.output import App

    return status(App(paths))


def test_a_look_that_is_not_due_reads_nothing() -> None:
    allocations = Allocations(Feed(), clock=lambda: 5.0)
    allocations.look(None, needed=False)  # type: ignore[arg-type]
