"""Limits where the kernel itself holds them: cgroup v2 with memory, pids and io controllers."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from battery import loop_ext4
from limits_support import Eater, steps, watcher
from traffic_support import cable, cgroup, traffic

from aegis_tools.kernel.features import mount_if_missing
from aegis_tools.monitors.profiles import model
from aegis_tools.monitors.profiles.bandwidth import Bandwidth, Wanted
from aegis_tools.monitors.profiles.enforce import Plan, enforce, system_hierarchy
from aegis_tools.monitors.profiles.ledger import SUBTREE
from aegis_tools.monitors.profiles.model import Action
from aegis_tools.paths import Paths

# The oldest and the newest kernel: cgroup v2 is the same to us in between.
pytestmark = pytest.mark.once("5.10", "7.2")
MB = 1_000_000


@pytest.fixture(scope="module", autouse=True)
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where cgroup v2 is, and mount it where it is not."""
    hierarchy = system_hierarchy()
    if hierarchy.root is None:
        folder = tmp_path_factory.mktemp("cgroup")
        subprocess.run(["mount", "-t", "cgroup2", "none", str(folder)], check=True)
        hierarchy = system_hierarchy()
    assert {"io", "memory", "pids"} <= hierarchy.available(), (
        "no controllers: is cgroup v1 mounted?"
    )
    return hierarchy.base()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path)
    mount_if_missing("bpf", paths.bpffs)
    return paths


@pytest.fixture
def group() -> Iterator[Path]:
    with cgroup("aegis-limits") as folder:
        yield folder


@pytest.fixture
def eaters(group: Path) -> Iterator[list[Eater]]:
    found = [Eater(group), Eater(group)]
    yield found
    for one in found:
        one.end()


def let_go(paths: Paths) -> None:
    enforce(paths, system_hierarchy(), Plan([], {}))


def test_memory_max_ends_who_eats_too_much_and_it_is_told_within_two_seconds(
    paths: Paths, group: Path, eaters: list[Eater]
) -> None:
    before = (group.parent / SUBTREE).read_text()
    watch = watcher(paths, group, model.MEMORY, 150 * MB, Action.TERMINATE)
    (group / "memory.swap.max").write_text("0")
    assert (group / "memory.max").read_text() == f"{150 * MB // 4096 * 4096}\n"
    eaters[0].tell(f"eat {200 * MB}")
    assert eaters[0].process.wait(120) == -signal.SIGKILL
    [event] = steps(watch)
    assert (event["state"], event["done"], event["killed"]) == ("exceeded", "terminated", 1)
    eaters[1].tell("eat 1")
    assert eaters[1].hear() == "done\n"
    let_go(paths)
    assert (group.parent / SUBTREE).read_text() == before


def test_memory_high_holds_it_and_is_told(paths: Paths, group: Path, eaters: list[Eater]) -> None:
    watch = watcher(paths, group, model.MEMORY, 100 * MB, Action.THROTTLE)
    eaters[0].tell(f"eat {160 * MB}")
    [event] = steps(watch)
    assert (event["state"], event["done"]) == ("exceeded", "throttled")
    assert event["held"] > 0
    assert eaters[0].process.poll() is None
    let_go(paths)


def test_pids_max_refuses_new_ones_and_it_is_told(
    paths: Paths, group: Path, eaters: list[Eater]
) -> None:
    watch = watcher(paths, group, model.PROCESSES, 10, Action.THROTTLE)
    eaters[0].tell("threads 20")
    [event] = steps(watch)
    assert (event["limit"], event["done"], event["held"] > 0) == ("processes", "throttled", True)
    assert event["measured"] <= 10
    let_go(paths)


def test_io_max_holds_what_is_written_and_it_is_told(
    paths: Paths, group: Path, tmp_path: Path
) -> None:
    before = (group.parent / SUBTREE).read_text()
    with loop_ext4(tmp_path) as mounted:
        disk = mounted.stat().st_dev
        number = f"{os.major(disk)}:{os.minor(disk)}"
        watch = watcher(paths, group, model.DISK_BANDWIDTH, 16 * MB, Action.THROTTLE)
        assert (
            f"{number} rbps=2000000 wbps=2000000 riops=max wiops=max\n"
            in (group / "io.max").read_text()
        )
        # Through the page cache: what is written back later is the cgroup's own, too.
        one = Eater(group, mounted / "file")
        began = time.monotonic()
        one.tell("write 6")
        told = steps(watch)
        assert one.hear() == "done\n"
        took = time.monotonic() - began
        one.end()
    [event] = told
    assert (event["limit"], event["state"], event["done"]) == (
        "disk-bandwidth", "exceeded", "throttled",
    )  # fmt: skip
    assert (event["device"], event["process"]["pid"]) == (number, one.process.pid)
    assert took >= 2.5, took  # 6 MB at 2 MB/s, and what may be saved
    let_go(paths)
    assert (group.parent / SUBTREE).read_text() == before


@pytest.mark.parametrize("kind", ["download", "upload"])
def test_10_mbps_are_held_within_5_percent(kind: str, paths: Paths, group: Path) -> None:
    bandwidth = Bandwidth(paths, system_hierarchy())
    bandwidth.reconcile({"x": Wanted(10_000_000, {f"/{group.name}": group.stat().st_ino})})
    with cable(f"aegis{os.getpid()}") as spaces:
        found = traffic(spaces, group, kind, 10)
    counts = bandwidth.counts("x")
    bandwidth.reconcile({})
    assert 9_500_000 <= found <= 10_500_000, (found, counts)
