"""Each of the monitors as a person has them: loaded, followed, looked at from above, unloaded."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from edit_support import Host
from kernel_support import REPOSITORY, kill_after, start_python

from aegis_tools.kernel.run import run
from aegis_tools.monitors.load import unload
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.paths import Paths

SCHEMA = json.loads(files("aegis_tools.monitors").joinpath("event.schema.json").read_text("utf-8"))
VALID = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
WORK = """
import os, socket, subprocess, sys, time
print("ready", flush=True)
while True:
    subprocess.run(["/bin/true"], check=True)
    with open(sys.argv[1], "wb") as file:
        file.write(bytes(100_000))
        file.flush()
        os.fsync(file.fileno())
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            peer, _ = server.accept()
            with peer:
                client.sendall(bytes(1000))
                peer.recv(1000)
    time.sleep(0.02)
"""
BUILT = [
    name
    for name in MONITORS
    if (REPOSITORY / "bpf" / "monitors" / f"{name}.bpf.c").exists()
]  # fmt: skip


@pytest.fixture
def host(paths: Paths, built: None, capsys: pytest.CaptureFixture[str]) -> Iterator[Host]:
    del built
    yield Host(paths, capsys)
    for name in MONITORS:
        unload(paths.monitor_pins, name)


@contextmanager
def busy(folder: Path) -> Iterator[None]:
    """Have programs begin, files written to a disk, and bytes sent, for the time of the block."""
    # Of the process that follows nothing is told, so this is one of its own.
    process = start_python(WORK, folder / "file")
    try:
        yield
    finally:
        assert kill_after(process, 0)


@pytest.mark.parametrize("name", BUILT)
def test_a_monitor_is_loaded_tells_by_its_schema_and_is_gone(
    name: str, host: Host, tmp_path: Path
) -> None:
    least = "1" if name == "memory-monitor" else "0"
    [loaded] = host("monitor", "load", name, "--min-bytes", least)["monitors"]
    assert loaded["loaded"]
    assert [one["variant"] for one in loaded["refused"]] + [loaded["variant"]] == [
        variant.name for variant in MONITORS[name].variants
    ][: len(loaded["refused"]) + 1]
    with busy(tmp_path):
        lines = host.text("--json", "monitor", "events", name, "--for", "2s", "--count", "2000")
    assert lines
    for event in map(json.loads, lines):
        VALID.validate(event)
        assert event["monitor"] == name
    [told] = host("monitor", "status", name)["monitors"]
    assert (told["attached"], told["current"]) == (True, True)
    assert told["counters"]["sent"] >= len(lines)
    host("monitor", "unload", name)
    assert not host.paths.monitor_pins.exists()


NEEDS = {"memory": "memory", "io": "disk-io", "latency": "disk-io", "bandwidth": "network"}


@pytest.mark.parametrize("by", [by for by, name in NEEDS.items() if f"{name}-monitor" in BUILT])
def test_who_uses_most_is_found(by: str, host: Host, tmp_path: Path) -> None:
    host("monitor", "load", NEEDS[by])
    with busy(tmp_path):
        told = host("monitor", "top", "--once", "--by", by, "--interval", "1s")
    assert (told["by"], told["monitors"]) == (by, [f"{NEEDS[by]}-monitor"])
    used = {
        "memory": lambda use: use["allocated"],
        "io": lambda use: use["read"] + use["written"],
        "latency": lambda use: use["latency_max_ns"],
        "bandwidth": lambda use: use["sent"] + use["received"],
    }[by]
    amounts = [used(use) for use in told["processes"]]
    assert amounts == sorted(amounts, reverse=True)
    assert amounts[0] > 0


SEED_MAPS = {
    "process-monitor": {"PROCESS_EVENTS", "CMDLINE_BUF"},
    "filesystem-monitor": {"FS_EVENTS", "FILENAME_BUF"},
    "network-monitor": {"NETWORK_EVENTS"},
    "memory-monitor": {"MEMORY_EVENTS"},
    "disk-io-monitor": {"DISK_IO_EVENTS", "PENDING_IO"},
}
"""What the plan's T1.6 finds after its T1.1 to T1.5."""


def needs_tracepoints_only(name: str) -> bool:
    """Return whether any kernel that the tests run on takes what is prebuilt."""
    variants = {one.name: one for one in MONITORS[name].variants}
    return all(need.startswith("btf_trace_") for need in variants["portable"].needs)


@pytest.mark.parametrize("name", [*filter(needs_tracepoints_only, BUILT)])
def test_bpftool_loads_what_is_prebuilt_and_finds_its_maps(name: str, host: Host) -> None:
    pin = host.paths.bpffs / name
    done = subprocess.run(
        ["bpftool", "prog", "load", f"prebuilt-ebpf/{name}", pin],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = json.loads(run(["bpftool", "--json", "prog", "show", "pinned", str(pin)]))
    assert shown["metadata"]["monitor"] == name
    maps = [
        json.loads(run(["bpftool", "--json", "map", "show", "id", str(number)]))["name"]
        for number in shown["map_ids"]
    ]
    assert SEED_MAPS[name] <= set(maps)
    pin.unlink()
