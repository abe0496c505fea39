"""A change that nobody confirms ends by itself, with all of ours dead; a confirmed one stays.

The clock that counts is the kernel's boot clock: setting the wall clock changes nothing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from battery import Host, can_read, in_child, refused, searched_once, touch

from aegis_tools.cli.main import run
from aegis_tools.control.bootclock import boot_ns
from aegis_tools.control.commit import commit
from aegis_tools.control.pending import read_pending
from aegis_tools.control.resolve import Rules
from aegis_tools.kernel.layout import Config
from aegis_tools.paths import Paths

# The oldest and the newest kernel: most of it is about programs.
pytestmark = pytest.mark.once("5.10")

WITHIN = 8
DAY = 86400


class Machine(NamedTuple):
    """A root of our own over the host's pins, two files, and a policy against each."""

    paths: Paths
    one: Path
    two: Path
    deny_one: Path
    deny_two: Path

    def __call__(self, *argv: str | Path, code: int = 0) -> None:
        assert run(["--root", str(self.paths.root), *map(str, argv)]) == code, argv

    def and_be_killed(self, *argv: str | Path) -> None:
        """Run a command in a process that ends by SIGKILL afterwards: nobody of ours is left."""

        def work() -> None:
            self(*argv)
            os.kill(os.getpid(), signal.SIGKILL)

        assert in_child(work) == -signal.SIGKILL

    def wait_for_deadline(self) -> None:
        pending = read_pending(self.paths)
        assert pending is not None
        while boot_ns() <= pending.deadline_ns:
            time.sleep(0.05)


@pytest.fixture
def machine(host: Host, tmp_path: Path) -> Iterator[Machine]:
    paths = Paths(tmp_path / "root")
    paths.bpffs.parent.mkdir(parents=True)
    # The file system itself, which boot would mount on a folder, and no other mount, which the
    # search for the needs of recovery would take for another host.
    paths.bpffs.symlink_to(host.pins.base.parent)
    host.set(MODE=0)
    found = []
    for name in ("one", "two"):
        file, policy = tmp_path / name, tmp_path / f"{name}.conf"
        file.write_text("secret")
        policy.write_text(f"version=1\n[deny_path]\n{file}\n")
        found += [file, policy]
    with searched_once(paths):
        yield Machine(paths, found[0], found[2], found[1], found[3])


@pytest.fixture
def wall_clock() -> Iterator[Callable[[int], None]]:
    """Set the wall clock by so many seconds; it is right again afterwards."""
    begun, boot = time.time(), boot_ns()
    yield lambda seconds: time.clock_settime(
        time.CLOCK_REALTIME, begun + (boot_ns() - boot) / 1e9 + seconds
    )
    time.clock_settime(time.CLOCK_REALTIME, begun + (boot_ns() - boot) / 1e9)


def test_a_denied_path_opens_again_after_the_deadline_with_everything_of_ours_dead(
    machine: Machine, host: Host
) -> None:
    apply = ("policy", "apply", machine.deny_one, "--mode", "enforce")
    machine.and_be_killed(*apply, "--no-probe", "--confirm-within", f"{WITHIN}s")
    with refused():
        machine.one.read_text()
    machine.wait_for_deadline()
    assert machine.one.read_text() == "secret"
    assert host.live.config(Config.MODE) == 1, "the kernel did it, not a command"
    machine("policy", "confirm", code=8)
    assert host.live.config(Config.MODE) == host.live.config(Config.DEADLINE) == 0
    assert not any(host.live.info().bundle)


def test_setting_the_wall_clock_changes_nothing(
    machine: Machine, wall_clock: Callable[[int], None]
) -> None:
    machine("policy", "apply", machine.deny_one)
    machine.and_be_killed("mode", "enforce", "--no-probe", "--confirm-within", f"{WITHIN}s")
    for jump in (DAY, -DAY, 10 * 365 * DAY):
        wall_clock(jump)
        assert not can_read(machine.one), jump
        machine("policy", "revert", "--if-overdue")
        assert not can_read(machine.one), jump
    machine.wait_for_deadline()
    wall_clock(-DAY)
    assert can_read(machine.one)
    machine("policy", "revert", "--if-overdue")
    machine("mode", "enforce")
    assert not can_read(machine.one)


def test_what_is_confirmed_stays_beyond_the_deadline_and_comes_back_at_boot(
    machine: Machine, host: Host
) -> None:
    apply = ("policy", "apply", machine.deny_one, "--mode", "enforce")
    machine(*apply, "--no-probe", "--confirm-within", f"{WITHIN}s")
    pending = read_pending(machine.paths)
    assert pending is not None
    machine("policy", "confirm")
    while boot_ns() <= pending.deadline_ns:
        with refused():
            touch(machine.one)
        time.sleep(0.2)
    machine("policy", "revert", "--if-overdue")
    assert not can_read(machine.one)
    commit(host.live, Rules())
    host.set(MODE=0)
    assert can_read(machine.one)
    machine("boot")
    assert not can_read(machine.one)


def test_a_policy_that_was_clean_for_long_enough_enforces_and_another_does_not(
    machine: Machine, wall_clock: Callable[[int], None]
) -> None:
    machine("policy", "apply", machine.deny_one)
    apply = ("policy", "apply", machine.deny_one, "--mode", "enforce", "--clean-for")
    touch(machine.one)
    machine(*apply, "1h", code=3)
    time.sleep(2.1)
    wall_clock(365 * DAY)
    machine(*apply, "300d", code=3)
    wall_clock(0)
    machine("policy", "apply", machine.deny_two, *apply[3:], "0s", code=3)
    assert can_read(machine.one)
    time.sleep(2.1)
    machine(*apply, "2s")
    assert not can_read(machine.one)


def test_a_revert_brings_the_old_policy_back_without_a_gap(machine: Machine) -> None:
    machine("policy", "apply", machine.deny_one, "--mode", "enforce")
    machine("policy", "apply", machine.deny_two, "--no-probe", "--confirm-within", "10m")
    assert can_read(machine.one)
    assert not can_read(machine.two)
    machine("policy", "revert")
    assert not can_read(machine.one)
    assert can_read(machine.two)


def test_after_a_missed_deadline_the_old_policy_enforces_again(machine: Machine) -> None:
    machine("policy", "apply", machine.deny_one, "--mode", "enforce")
    machine.and_be_killed(
        "policy", "apply", machine.deny_two, "--no-probe", "--confirm-within", f"{WITHIN}s"
    )
    machine.wait_for_deadline()
    assert can_read(machine.one)
    assert can_read(machine.two)
    machine("policy", "revert", "--if-overdue")
    assert not can_read(machine.one)
    assert can_read(machine.two)


def test_a_promoted_rule_refuses_at_once_and_a_demoted_one_no_more(
    machine: Machine, tmp_path: Path
) -> None:
    policy = tmp_path / "staged.yaml"
    policy.write_text(f"version: 1\nrules:\n  - {{path: {machine.one}, id: r1, mode: audit}}\n")
    machine("policy", "apply", policy, "--mode", "enforce")
    machine("rule", "promote", "r1")
    assert not can_read(machine.one)
    machine("policy", "apply", policy)
    assert not can_read(machine.one), "an apply keeps a promotion"
    machine("rule", "demote", "r1")
    assert can_read(machine.one)
    machine("rule", "promote", "r1", code=3)
    assert can_read(machine.one), "it has matched in audit since"
    machine("rule", "promote", "r1", "--force", "--no-probe", "--confirm-within", f"{WITHIN}s")
    assert not can_read(machine.one)
    machine.wait_for_deadline()
    assert can_read(machine.one)


def test_a_host_enforces_once_it_was_watched_and_nothing_matched_for_long_enough(
    machine: Machine,
) -> None:
    machine("policy", "apply", machine.deny_one)
    enforce = ("policy", "apply", machine.deny_one, "--mode", "enforce", "--clean-for")
    assert can_read(machine.one)
    machine(*enforce, "7d", code=3)
    assert can_read(machine.one), "it still only watches"
    end = time.monotonic() + 300
    while run(["--root", str(machine.paths.root), *map(str, enforce), "2s"]) == 3:
        assert time.monotonic() < end
        time.sleep(1)
    assert not can_read(machine.one)
    assert can_read(machine.two)
