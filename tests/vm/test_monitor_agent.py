"""The monitors' agent with all five monitors, as each kernel has them: used, killed, ended."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from monitor_agent_support import Running, configure, query, until
from traffic_support import cgroup

from aegis_tools.monitors.agent import heartbeat
from aegis_tools.monitors.load import unload
from aegis_tools.monitors.profiles.enforce import system_hierarchy
from aegis_tools.monitors.profiles.model import Profile
from aegis_tools.monitors.profiles.store import ProfileStore
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.paths import Paths

# One machine: the agent is the same on all kernels.
pytestmark = pytest.mark.once("5.10")
BPFFS = Path("/sys/fs/bpf")
WORK = 'echo $$ > "$0"/cgroup.procs; echo x > "$1"; exec 3<>/dev/tcp/127.0.0.1/$2; echo x >&3'
WITHOUT_DISKS = sorted({*MONITORS} - {"disk-io-monitor"})
"""The machine's files are in memory, so its disks have nothing to do."""


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Path]:
    if system_hierarchy().root is None:
        folder = tmp_path / "cgroup"
        folder.mkdir()
        subprocess.run(["mount", "-t", "cgroup2", "none", str(folder)], check=True)
    with cgroup("aegis-agent") as folder:
        yield folder


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    """Return a root whose BPF file system is the machine's."""
    root = tmp_path / "root"
    (root / "sys/fs").mkdir(parents=True)
    (root / "sys/fs/bpf").symlink_to(BPFFS)
    paths = Paths(root)
    yield paths
    for name in MONITORS:
        unload(paths.monitor_pins, name)


@pytest.fixture
def agents() -> Iterator[list[Running]]:
    found: list[Running] = []
    yield found
    for one in found:
        if one.process.poll() is None:
            one.kill()


def work(group: Path, file: Path) -> int:
    """Do something of each kind in a cgroup; return the number of the process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        argv = [group, file, server.getsockname()[1]]
        process = subprocess.Popen(["bash", "-c", WORK, *map(str, argv)])
        assert process.wait(60) == 0
    return process.pid


def seen(paths: Paths, pid: int) -> list[str]:
    """Return the monitors that told of a process, as soon as all that can have."""

    def found() -> list[str]:
        events = query(paths, "--pid", str(pid))
        assert {event["profile"] for event in events} <= {"web"}
        names = sorted({event["monitor"] for event in events})
        return names if {*names} >= {*WITHOUT_DISKS} else []

    return list(until(found, pause=0.5))


def test_it_stores_what_a_profile_does_survives_being_killed_and_leaves_nothing(
    paths: Paths, group: Path, agents: list[Running], tmp_path: Path
) -> None:
    before = sorted(path.name for path in BPFFS.iterdir())
    only = {"only_cgroup": [f"/{group.name}"]}
    large = {"memory-monitor": {**only, "min_bytes": 4096}}
    configure(paths, {**dict.fromkeys(MONITORS, only), **large})
    ProfileStore(paths).save(Profile("web", cgroups=(f"/{group.name}",)))
    agent = Running(paths, None, len(MONITORS))
    agents.append(agent)
    assert seen(paths, work(group, tmp_path / "file")) == WITHOUT_DISKS
    agent.kill()
    meanwhile = work(group, tmp_path / "file")
    assert sorted(os.listdir(paths.monitor_pins)) == sorted(MONITORS)  # noqa: PTH208
    agent = Running(paths, None, len(MONITORS))
    agents.append(agent)
    assert seen(paths, meanwhile) == WITHOUT_DISKS
    assert seen(paths, work(group, tmp_path / "file")) == WITHOUT_DISKS
    facts = agent.end()
    assert facts["store"]["failing"] is None
    assert heartbeat.read(paths) is None
    assert sorted(path.name for path in BPFFS.iterdir()) == before
