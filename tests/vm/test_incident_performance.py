"""A storm of refusals: sampled, given room and told of whole again, and refused throughout."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from battery import can_read
from storm_support import FILES, agent_again_and_again, storm

from aegis_tools.control.heartbeat import read_heartbeat
from aegis_tools.control.live import Live
from aegis_tools.incident import sampling
from aegis_tools.kernel import loader
from aegis_tools.kernel.features import read_features
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths

FOLDER = Path("/sys/fs/bpf/storm-test")
BURST = 1000
SMALL_RING = 1 << 15
READY_SECONDS = 120
TARGET_SECONDS = 180
"""What the runbook promises."""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    """Return a root of its own that refuses ``tmp_path/files``, with a small ring."""
    FOLDER.mkdir()
    paths = Paths(tmp_path / "root")
    paths.bpffs.parent.mkdir(parents=True)
    paths.bpffs.symlink_to(FOLDER)
    folder, policy = tmp_path / "files", tmp_path / "policy.conf"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"f{number}").write_text("secret")
    names = "\n".join(str(folder / f"f{number}") for number in range(FILES))
    policy.write_text(f"version=1\n[deny_path]\n{names}\n")
    options = loader.LoadOptions(ringbuf_bytes=SMALL_RING)
    loader.load(Pins(paths.pins), read_features(), options, require_lsm=True)
    aegis(paths, "policy", "apply", str(policy), "--mode", "enforce")
    yield paths
    Pins(paths.pins).remove_all()
    FOLDER.rmdir()


def aegis(paths: Paths, *words: str) -> dict[str, Any]:
    """Run a command as a process of its own, as an operator does; return its document."""
    done = subprocess.run(
        [sys.executable, "-m", "aegis_tools", "--json", "--root", str(paths.root), *words],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def wait_for_agent(paths: Paths, events: Path) -> None:
    end = time.monotonic() + READY_SECONDS
    while not (read_heartbeat(paths) or {}).get("ready"):
        assert time.monotonic() < end, events.with_name("events.said").read_text()
        time.sleep(0.1)


@pytest.mark.once("6.12")
def test_a_storm_of_refusals_is_sampled_given_room_and_told_of_whole_again(
    paths: Paths, tmp_path: Path
) -> None:
    events, secret = tmp_path / "events", tmp_path / "files/f0"
    words = ("incident", "performance", "--seconds", "4", "--event-sample-rate", "0.01",
             "--max-events", "1000000", "--max-hook-cpu", "100", "--file", str(events))  # fmt: skip
    with agent_again_and_again(paths.root, events):
        wait_for_agent(paths, events)
        assert aegis(paths, *words)["result"] == "nothing-to-do"
        assert not paths.incidents.exists()
        with storm(tmp_path / "files", BURST):
            began = time.monotonic()
            first = aegis(paths, *words)
            assert not can_read(secret)
            last = aegis(paths, *words, "--apply", "--restore")
            took = time.monotonic() - began
        assert not can_read(secret)
    print(f"{took=:.1f} {first['comparison']=} {last['comparison']=}")
    for found in (first, last):
        assert found["result"] == "recovered", found
        assert found["comparison"]["dropped_per_second"]["before"] > 0
        assert found["comparison"]["dropped_per_second"]["after"] == 0
        assert found["comparison"]["refused_per_second"]["after"] > 0
    assert first["id"] == last["id"]
    assert first["record"]["facts"]["before"]["processes"]
    assert first["record"]["facts"]["before"]["hooks"][0]["nanoseconds"] > 0
    with Live(Pins(paths.pins)) as live:
        assert sampling.rate(live) == 1.0
        assert live.map("events").max_entries > SMALL_RING
    assert took < TARGET_SECONDS
