"""What the kernel tells is in the store, each event once: also if whoever stores it is killed."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from process_support import PROCESS, RING

from aegis_tools.cli.main import parser_of
from aegis_tools.cli.output import App
from aegis_tools.monitors.choose import kernel_names
from aegis_tools.monitors.load import load, unload
from aegis_tools.paths import Paths

pytestmark = pytest.mark.kernel
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def loaded(paths: Paths) -> Iterator[Paths]:
    with kernel_names() as has:
        load(paths.monitor_pins, PROCESS, has, ring_bytes=RING)
    yield paths
    unload(paths.monitor_pins, PROCESS.name)


def recorder(paths: Paths) -> subprocess.Popen[str]:
    """Start it, and return once it stores."""
    argv = ["--root", str(paths.root), "monitor", "record", "process", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "aegis_tools", *argv],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert "storing in" in process.stderr.readline()
    return process


def query(paths: Paths, *argv: str) -> list[dict[str, Any]]:
    out = io.StringIO()
    arguments = parser_of("monitor").parse_args(["query", *argv])
    arguments.run(App(paths, json=True, out=out, err=io.StringIO()), arguments)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def programs(count: int) -> dict[int, int]:
    """Run programs, and return their statuses by process."""
    found = {}
    for number in range(count):
        process = subprocess.Popen(["sh", "-c", f"exit {number % 5}"])
        found[process.pid] = process.wait()
    return found


def statuses(events: list[dict[str, Any]], of: dict[int, int]) -> dict[int, int]:
    return {e["pid"]: e["exit_status"] for e in events if e["event"] == "exit" and e["pid"] in of}


def stored(paths: Paths, ran: dict[int, int]) -> list[dict[str, Any]]:
    """Return the events of these processes, as soon as all are there."""
    end = time.monotonic() + 20
    while True:
        found = [e for e in query(paths, "--limit", "100000") if e["pid"] in ran]
        if statuses(found, ran) == ran or time.monotonic() >= end:
            return found
        time.sleep(0.2)


def test_every_program_that_ran_is_in_the_store_once(loaded: Paths) -> None:
    process = recorder(loaded)
    ran = programs(40)
    found = stored(loaded, ran)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert json.loads(out)["dropped"] == {}
    assert statuses(found, ran) == ran
    assert len([one for one in found if one["event"] == "exec"]) == len(ran)
    assert len([one for one in found if one["event"] == "exit"]) == len(ran)
    [pid, *_] = ran
    [began, ended] = query(loaded, "--pid", str(pid), "--monitor", "process")
    assert began["arguments"] == ["sh", "-c", "exit 0"]
    assert ended["age_seconds"] > 0


def test_a_recorder_that_is_killed_costs_no_more_than_what_it_held(loaded: Paths) -> None:
    process = recorder(loaded)
    before = programs(10)
    assert statuses(stored(loaded, before), before) == before
    process.kill()
    process.communicate()
    meanwhile = programs(10)  # waits in the ring
    process = recorder(loaded)
    after = programs(10)
    ran = {**before, **meanwhile, **after}
    found = stored(loaded, ran)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert statuses(found, ran) == ran
    assert len(found) == 2 * len(ran)
