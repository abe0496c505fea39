"""A flood of events: the agent's memory stays flat, and every event is told of or counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flood_support import Process, end, endure, running_agent, told
from kernel_support import NO_LSM, start_python

from aegis_tools.cli.main import run
from aegis_tools.control.heartbeat import read_heartbeat
from aegis_tools.control.live import Live
from aegis_tools.kernel import loader
from aegis_tools.kernel.layout import Stat
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths

FILES = 2000
OPENS = 200_000
WARM = 20_000
FLAT_KIB = 3072
"""What may come on top of the memory after the first events."""
STORM = """
import os, sys
folder, files, opens, names = sys.argv[1], *map(int, sys.argv[2:])
paths = [f"{folder}/f{n}".encode() for n in range(files)]
print("up", flush=True)
with open("/proc/self/comm", "wb", buffering=0) as comm:
    for at in range(opens):
        if names and at % 20 == 0:
            comm.write(b"n%d" % (at // 20))
        os.close(os.open(paths[at % files], os.O_RDONLY))
"""


@pytest.fixture
def folder(paths: Paths, pins: Pins, tmp_path: Path) -> Path:
    """Load with a ring of 64 KiB, deny 2,000 files, and return their folder."""
    loader.load(pins, NO_LSM, loader.LoadOptions(ringbuf_bytes=1 << 16))
    files = [tmp_path / f"f{number}" for number in range(FILES)]
    for path in files:
        path.touch()
    policy = tmp_path / "policy.conf"
    policy.write_text("version=1\n[deny_path]\n" + "\n".join(map(str, files)) + "\n")
    assert run(["--root", str(paths.root), "policy", "apply", str(policy)]) == 0
    return tmp_path


@pytest.fixture
def agent(paths: Paths, folder: Path) -> Iterator[Process]:
    """Run the agent, its events going to the file ``out``."""
    with running_agent(folder / "out", "--root", str(paths.root), "run", "--audit") as process:
        yield process


def storm(folder: Path, *, files: int, opens: int, names: bool) -> Process:
    """Start a process that opens files as fast as it can, under names that change if need be."""
    return start_python(STORM, folder, files, opens, int(names))


def weather(storm: Process, agent: Process) -> int:
    """Wait for a storm's end; return the highest memory of the agent meanwhile, in KiB."""
    highest = endure(storm, agent)
    storm.communicate()
    assert storm.returncode == 0
    return highest


def stats(pins: Pins) -> dict[Stat, int]:
    with Live(pins) as live:
        return live.stats()


@pytest.mark.parametrize(
    ("files", "names"),
    [(1, False), (FILES, False), (FILES, True)],
    ids=["one-file", "every-file-another", "every-process-another-name"],
)
def test_a_flood_leaves_memory_flat_and_no_event_uncounted(
    pins: Pins, folder: Path, agent: Process, files: int, names: bool
) -> None:
    early = weather(storm(folder, files=files, opens=WARM, names=names), agent)
    highest = weather(storm(folder, files=files, opens=OPENS - WARM, names=names), agent)
    said = end(agent)
    found = stats(pins)
    assert highest < early + FLAT_KIB
    assert found[Stat.AUDITS] == OPENS
    assert found[Stat.EVENTS] + found[Stat.RINGBUF_DROPS] == OPENS
    assert found[Stat.RINGBUF_DROPS] > 0  # else it was no flood
    assert told(folder / "out") == found[Stat.EVENTS]
    assert f"{found[Stat.RINGBUF_DROPS]} dropped meanwhile".encode() in said


def test_the_heartbeat_goes_on_in_a_flood_and_adds_up(
    paths: Paths, folder: Path, agent: Process
) -> None:
    beats = []
    for _ in range(50):  # of storms, until there have been some beats
        process = storm(folder, files=FILES, opens=OPENS // 4, names=False)
        while process.poll() is None:
            beats.append(read_heartbeat(paths))
            time.sleep(0.05)
        process.communicate()
        times = {beat["updated_boot_ns"] for beat in beats if beat}
        if len(times) > 3:
            break
    assert len(times) > 3
    last = [beat for beat in beats if beat][-1]
    assert last["pid"] == agent.pid
    assert last["events"] > 0
    assert last["events"] == last["written"] + last["folded"] + last["undecodable"]
    assert (last["undecodable"], last["starts_in_window"]) == (0, 1)
    assert 0 <= last["lag_seconds"] < 60
