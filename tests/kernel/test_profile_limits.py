"""Limits on this kernel's own cgroups: set, acted on within two seconds, gone without a trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_support import REPOSITORY, kill_after, start_python
from limits_support import Eater, steps, watcher
from traffic_support import cable, cgroup, traffic

from aegis_tools.cli.main import run
from aegis_tools.monitors.profiles import model
from aegis_tools.monitors.profiles.enforce import system_hierarchy
from aegis_tools.monitors.profiles.ledger import SUBTREE, Ledger
from aegis_tools.monitors.profiles.model import Action
from aegis_tools.monitors.profiles.settings import Setting, Settings
from aegis_tools.paths import Paths

MB = 1_000_000


@pytest.fixture
def group() -> Iterator[Path]:
    with cgroup(f"aegis-limits-{os.getpid()}") as folder:
        yield folder


@pytest.fixture
def eaters(group: Path) -> Iterator[list[Eater]]:
    found = [Eater(group), Eater(group)]
    yield found
    for one in found:
        one.end()


def test_who_eats_too_much_is_ended_and_the_others_are_not(
    paths: Paths, group: Path, eaters: list[Eater]
) -> None:
    guilty, other = eaters
    watch = watcher(paths, group, model.MEMORY, 150 * MB, Action.TERMINATE)
    guilty.tell(f"eat {200 * MB}")
    guilty.hear()
    event = next(e for e in steps(watch) if e["event"] == "limit")
    assert (event["state"], event["done"], event["limit"]) == ("exceeded", "terminated", "memory")
    assert guilty.process.wait(30) == -signal.SIGKILL
    other.tell("eat 1")
    assert other.hear() == "done\n"


def test_an_alert_leaves_everybody_alone(paths: Paths, group: Path, eaters: list[Eater]) -> None:
    watch = watcher(paths, group, model.MEMORY, 150 * MB, Action.ALERT)
    eaters[0].tell(f"eat {200 * MB}")
    eaters[0].hear()
    [event] = steps(watch)
    assert event["done"] == "nothing"
    assert event["process"]["pid"] == eaters[0].process.pid
    assert 200 * MB < event["measured"] < 400 * MB
    assert [one.process.poll() for one in eaters] == [None, None]


def test_the_latest_of_too_many_is_ended(paths: Paths, group: Path, eaters: list[Eater]) -> None:
    watch = watcher(paths, group, model.PROCESSES, 10, Action.TERMINATE)
    assert steps(watch) == []
    eaters[0].tell("threads 4")
    eaters[0].hear()
    late = Eater(group)
    late.tell("threads 12")
    late.hear()
    [event] = steps(watch)
    assert (event["measured"], event["done"]) == (2 + 4 + 13, "terminated")
    assert event["process"]["pid"] == late.process.pid
    assert late.process.wait(30) == -signal.SIGKILL
    late.end()
    assert [one.process.poll() for one in eaters] == [None, None]


@pytest.fixture
def file() -> Iterator[Path]:
    """Return a file of a disk; what is in memory is moved nowhere."""
    with tempfile.TemporaryDirectory(dir=REPOSITORY / "build") as folder:
        yield Path(folder, "file")


@pytest.mark.parametrize("action", [Action.ALERT, Action.TERMINATE])
def test_who_keeps_a_disk_busy_is_known_and_not_who_came_last(
    action: Action, paths: Paths, group: Path, file: Path
) -> None:
    watch = watcher(paths, group, model.DISK_BANDWIDTH, 8 * MB, action)
    guilty, other = Eater(group, file), Eater(group)
    try:
        assert steps(watch, at_most=3) == []
        guilty.tell("write 20")
        event = next(e for e in steps(watch) if e["event"] == "limit")
        assert (event["limit"], event["state"]) == ("disk-bandwidth", "exceeded")
        assert event["process"]["pid"] == guilty.process.pid
        assert event["measured"] > 8 * MB
        if action is Action.TERMINATE:
            assert event["done"] == "terminated"
            assert guilty.process.wait(30) == -signal.SIGKILL
        else:
            assert (event["done"], guilty.hear()) == ("nothing", "done\n")
        other.tell("eat 1")
        assert other.hear() == "done\n"
    finally:
        guilty.end()
        other.end()


def hugetlb(group: Path) -> list[Setting]:
    """Return settings of a controller that cgroup v2 has on any host, without huge pages."""
    hierarchy = system_hierarchy()
    root = hierarchy.base().stat().st_ino
    return [
        Setting("/", root, SUBTREE, "hugetlb", "x"),
        Setting(f"/{group.name}", group.stat().st_ino, "hugetlb.2MB.max", str(1 << 30), "x"),
    ]


def state(group: Path) -> tuple[bool, str]:
    base = system_hierarchy().base()
    file = group / "hugetlb.2MB.max"
    enabled = "hugetlb" in (base / SUBTREE).read_text().split()
    return enabled, file.read_text() if file.exists() else "-"


def test_the_kernel_takes_settings_and_gives_them_back(paths: Paths, group: Path) -> None:
    settings = Settings(system_hierarchy(), Ledger(paths))
    before = state(group)
    assert len(settings.reconcile(hugetlb(group)).made) >= 1
    assert state(group) == (True, f"{1 << 30}\n")
    assert settings.reconcile(hugetlb(group)).made == []
    settings.reconcile([])
    assert state(group) == before
    assert Ledger(paths).read() == []


_LOOP = """
import sys
from pathlib import Path
from test_profile_limits import Ledger, Paths, Settings, hugetlb, system_hierarchy
settings = Settings(system_hierarchy(), Ledger(Paths(Path(sys.argv[1]))))
wanted = hugetlb(Path(sys.argv[2]))
print("up", flush=True)
while True:
    settings.reconcile(wanted)
    settings.reconcile([])
"""


@pytest.mark.parametrize("then", ["complete", "undo"])
def test_killed_at_any_instant_the_next_run_puts_it_right(
    paths: Paths, group: Path, then: str
) -> None:
    before = state(group)
    settings = Settings(system_hierarchy(), Ledger(paths))
    for n in range(6):
        assert kill_after(start_python(_LOOP, paths.root, group), 0.02 + 0.0037 * n)
        if then == "complete":
            settings.reconcile(hugetlb(group))
            assert state(group) == (True, f"{1 << 30}\n")
        settings.reconcile([])
        assert state(group) == before


class Command:
    """Runs ``profile`` commands below a root."""

    def __init__(self, paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = str(paths.root)
        self._capsys = capsys

    def __call__(self, line: str, code: int = 0) -> dict[str, Any]:
        assert run(["--json", "--root", self.root, "profile", *line.split()]) == code
        found: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return found


@pytest.fixture
def command(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(paths, capsys)


def test_a_bandwidth_limit_by_command_holds_and_goes_with_the_profile(
    command: Command, paths: Paths, group: Path
) -> None:
    command(f"create child --cgroup {group}")
    dry = command("set-bandwidth-limit child 10Mbps --dry-run")
    assert (dry["changed"], dry["dry_run"]) == (True, True)
    assert not paths.limit_pins.exists()
    done = command("set-bandwidth-limit child 10Mbps")
    assert (done["held_by"], done["bandwidth"]) == ("cgroup program", ["child"])
    assert not command("set-bandwidth-limit child 10Mbps")["changed"]
    with cable(f"aegisc{os.getpid()}") as spaces:
        # TCP may come short of it on a busy machine, datagrams do not wait for anybody.
        assert traffic(spaces, group, "download", 3) < 11_000_000
        assert 9_000_000 < traffic(spaces, group, "datagrams", 3) < 11_000_000
    shown = command("show child")
    assert shown["bandwidth"]["in"]["dropped_packets"] > 0
    assert shown["cgroups_now"] == [{"path": f"/{group.name}", "of": "cgroup", "exists": True}]
    assert command("set-bandwidth-limit child --none")["changed"]
    assert not paths.limit_pins.exists()
    command("set-bandwidth-limit child 10Mbps")
    command("delete child")
    assert not paths.limit_pins.exists()
    assert command("list") == {"profiles": [], "damaged": []}


_COMMAND = [sys.executable, "-m", "aegis_tools", "--root"]


def test_a_command_that_is_killed_is_completed_or_undone_by_the_next(
    command: Command, paths: Paths, group: Path
) -> None:
    command(f"create child --cgroup {group}")
    for n in range(8):
        line = [*_COMMAND, command.root, "profile", "set-bandwidth-limit", "child", "1Mbps"]
        with subprocess.Popen(line, cwd=REPOSITORY, stdout=subprocess.DEVNULL) as process:
            time.sleep(0.08 + 0.06 * n)
            process.kill()
        if n % 2:
            command("set-bandwidth-limit child 1Mbps")
            assert len(list((paths.limit_pins / "child" / "links").iterdir())) == 2
        command("set-bandwidth-limit child --none")
        assert not paths.limit_pins.exists()


def test_what_the_kernel_cannot_do_is_said_and_nothing_is_kept(
    command: Command, group: Path
) -> None:
    command(f"create child --cgroup {group}")
    if "memory" in system_hierarchy().available():
        assert command("set-memory-limit child 500MB")["held_by"] == "memory.high"
        assert (group / "memory.high").read_text() == f"{500 * MB // 4096 * 4096}\n"
        command("set-memory-limit child --none")
        return
    error = command("set-disk-bandwidth-limit child 10MBps", code=6)
    assert "no io controller here: a cgroup v1 tree holds it" in error["message"]
    error = command("set-memory-limit child 500MB", code=6)
    assert "no memory controller here" in error["message"]
    assert command("show child")["limits"] == {}
    assert command("set-memory-limit child 500MB --action alert")["held_by"] == "watcher"
