"""Rollouts over light hosts: real SSH, maps and commits, in the audit fallback of this kernel."""

from __future__ import annotations

import os
import pty
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fleet_support import HOSTS, Controller
from fleetsim.fleet import Fleet
from prometheus_support import free_port, prometheus

KILLS, LONGEST, WINDOW, PATIENCE = 6, 20.0, 15, 30.0
"""How often the controller is killed, after how many seconds at most; for how long a host waits for
its confirmation, and we for the host, on a busy machine."""


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with Fleet(HOSTS) as fleet:
        found = Controller(fleet, tmp_path_factory.mktemp("controller"))
        for number in range(1, HOSTS + 1):
            found.on(number, "load")
        found.play("site")
        found.roll(found.sign("one"))
        assert found.live() == ["one"] * HOSTS
        yield found


def test_a_rollout_of_what_is_there_changes_nothing(controller: Controller) -> None:
    told = controller.roll("one", aegisbpf_pause_after=["each"])
    assert told.count("changed=0") == HOSTS


def test_a_check_says_what_would_change_and_changes_nothing(controller: Controller) -> None:
    told = controller.roll(controller.sign("unborn"), "--check", "--diff")
    assert told.count("changed=1") == HOSTS
    assert told.count(f"+policy {controller.digests['unborn']}") == HOSTS
    assert controller.live() == ["one"] * HOSTS


def test_a_watch_that_does_not_fit_into_the_window_is_refused_up_front(
    controller: Controller,
) -> None:
    told = controller.roll("unborn", status=2, aegisbpf_confirm_within="20s",
                           aegisbpf_soak_seconds=30)  # fmt: skip
    assert "aegisbpf_confirm_within is 20 s, but watching and confirming wave 1" in told
    assert controller.live() == ["one"] * HOSTS
    told = controller.roll("unborn", "--forks=1", status=2, aegisbpf_confirm_within="60s",
                           aegisbpf_look_seconds=10)  # fmt: skip
    assert "wave 2 (3 hosts, 1 at once) takes 120 s" in " ".join(told.split())
    assert controller.live() == ["one"] * HOSTS


def test_a_gate_that_fails_undoes_its_wave_and_leaves_later_hosts_alone(
    controller: Controller,
) -> None:
    gate = controller.gate('[ "$AEGISBPF_HOST" != h002 ] || { echo checkout is slow; exit 1; }')
    told = controller.roll(controller.sign("two"), status=2, aegisbpf_waves=[1, 2, 1],
                           aegisbpf_gate_command=gate)  # fmt: skip
    assert "checkout is slow" in told
    assert controller.live() == ["two", "one", "one", "one"]


def test_all_hosts_go_back_where_asked_for(controller: Controller) -> None:
    before = controller.live()
    controller.sign("three")
    gate = controller.gate('[ "$AEGISBPF_HOST" != h003 ]')
    told = controller.roll("three", status=2, aegisbpf_rollback="all", aegisbpf_waves=[2, 1],
                           aegisbpf_gate_command=gate)  # fmt: skip
    assert "NOT UNDONE" not in told
    assert controller.live() == before
    for number in range(1, HOSTS + 1):
        assert controller.on(number, "policy", "verify-live")["tampered"] is False
    controller.roll("three")
    assert controller.live() == ["three"] * HOSTS


def test_all_hosts_go_back_where_the_one_that_fails_cannot_be_reached(
    controller: Controller,
) -> None:
    before = controller.live()
    subprocess.run(["ip", "link", "set", controller.fleet.link(3), "down"], check=True)
    told = controller.roll(controller.sign("lost"), status=2, aegisbpf_rollback="all",
                           aegisbpf_waves=[2, 1])  # fmt: skip
    subprocess.run(["ip", "link", "set", controller.fleet.link(3), "up"], check=True)
    assert "h003: it cannot be reached (nothing was changed)" in told
    assert controller.live() == before


def test_a_host_that_is_cut_off_stops_the_rollout_and_is_not_confirmed(
    controller: Controller,
) -> None:
    cut = f"ip link set {controller.fleet.link(3)} down"
    gate = controller.gate(f'[ "$AEGISBPF_HOST" != h003 ] || {cut}')
    before = controller.live()
    told = controller.roll(controller.sign("four"), status=2, aegisbpf_waves=[1, 2, 1],
                           aegisbpf_gate_command=gate)  # fmt: skip
    subprocess.run(["ip", "link", "set", controller.fleet.link(3), "up"], check=True)
    assert "UNREACHABLE: it undoes the change itself within 300s" in told
    assert controller.live() == ["four", before[1], "four?", before[3]]
    # What the agent or a timer does on a host that has one, when the time is over:
    controller.on(3, "policy", "revert")
    assert controller.live() == ["four", *before[1:]]


def test_a_host_that_is_not_there_stops_its_wave_before_any_change(controller: Controller) -> None:
    subprocess.run(["ip", "link", "set", controller.fleet.link(3), "down"], check=True)
    told = controller.roll("four", status=2)
    subprocess.run(["ip", "link", "set", controller.fleet.link(3), "up"], check=True)
    assert "h003: it cannot be reached (nothing was changed)" in told
    assert controller.live() == ["four", *["three"] * 3]


def test_a_question_to_a_real_prometheus_is_a_gate(controller: Controller, tmp_path: Path) -> None:
    with prometheus(f"127.0.0.1:{free_port()}", tmp_path) as api:
        url = api._base
        query = "vector({{ inventory_hostname[1:] | int }}) != 3"
        told = controller.roll("four", status=2, aegisbpf_waves=[1, 1, 1, 1],
                               aegisbpf_gate_promql=[{"url": url, "query": query}])  # fmt: skip
        assert "vector(3) != 3: it does not hold: no series" in told
        assert controller.live() == ["four", "four", "three", "three"]
    told = controller.roll("four", status=2, aegisbpf_gate_audit_extra=-1,
                           aegisbpf_gate_promql=[{"url": url, "query": "vector(1)"}])  # fmt: skip
    assert "Prometheus did not answer" in told
    assert "0.0 would-be refusals a second, 0.0 before; at most -1.0" in told
    assert controller.live() == ["four", "four", "three", "three"]


def test_without_a_person_a_pause_stops_and_starting_again_goes_on(controller: Controller) -> None:
    waves = {"aegisbpf_waves": [3, 1], "aegisbpf_pause_after": ["1"]}
    told = controller.roll("four", status=2, **waves)
    assert "nobody said yes (is there a terminal?). To go on, start it again" in " ".join(
        told.split()
    )
    assert controller.live() == ["four", "four", "four", "three"]
    controller.roll("four", **waves)
    assert controller.live() == ["four"] * HOSTS


def test_a_person_who_says_yes_lets_the_next_wave_come(controller: Controller) -> None:
    name = controller.sign("five")
    given = controller.command("rollout", aegisbpf_policy=controller.bundle(name),
                               aegisbpf_waves=[2, 2], aegisbpf_pause_after=["each"])  # fmt: skip
    child, terminal = pty.fork()
    if not child:
        os.chdir(given["cwd"])
        os.execvpe(given["args"][0], list(map(str, given["args"])), given["env"])
    told, asked = b"", False
    try:
        while data := os.read(terminal, 65536):
            told += data
            if not asked and b"Go on? (yes)" in told:
                assert controller.live() == [name, name, "four", "four"]
                os.write(terminal, b"yes\r")
                asked = True
    except OSError:  # the terminal's other end is closed
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, told.decode()
    assert controller.live() == [name] * HOSTS


def test_without_evidence_no_host_goes_from_audit_to_enforce(controller: Controller) -> None:
    told = controller.play("enforce", status=2, aegisbpf_policy=controller.bundle("five"))
    assert "is not clean for long enough: it is live as it is now for" in " ".join(told.split())
    told = controller.play("enforce", aegisbpf_policy=controller.bundle("five"),
                           aegisbpf_stragglers="skip")  # fmt: skip
    assert told.count("stays in audit: five is not clean for long enough") == HOSTS
    assert told.count("changed=0") == HOSTS
    other = controller.sign("unseen")
    told = controller.play("enforce", status=2, aegisbpf_policy=controller.bundle(other))
    assert "not the policy that was watched" in " ".join(told.split())
    assert controller.live() == ["five"] * HOSTS


def test_somebody_elses_change_is_not_confirmed(controller: Controller) -> None:
    before = controller.live()
    reach = " ".join(controller.reach(1))
    revert = f"{reach} /opt/aegisbpf/current/bin/aegisbpf policy revert"
    told = controller.roll(controller.sign("six"), status=2,
                           aegisbpf_gate_command=controller.gate(revert))  # fmt: skip
    assert "another policy is live" in told
    assert controller.live() == before


def test_a_killed_controller_leaves_every_host_old_or_new_and_is_resumed(
    controller: Controller,
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown where the test fails
    chance = random.Random(seed)
    old = new = controller.live()[0]
    for kill in range(KILLS):
        if set(controller.live()) == {new}:
            old, new = new, controller.sign(f"killed{kill}")
        given = {"aegisbpf_policy": controller.bundle(new), "aegisbpf_waves": [1, 2, 1]}
        command = controller.command("rollout", aegisbpf_confirm_within=f"{WINDOW}s", **given)
        with controller.started(command) as process, suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(1, LONGEST))
        end = time.monotonic() + WINDOW + PATIENCE
        while not set(controller.live()) <= {old, new}:
            assert time.monotonic() < end, controller.live()
            for number in range(1, HOSTS + 1):
                # What the agent, or the timer, does on a host that has one.
                controller.on(number, "policy", "revert", "--if-overdue")
        for number in range(1, HOSTS + 1):
            assert controller.on(number, "policy", "verify-live")["tampered"] is False
    controller.roll(new)
    assert controller.live() == [new] * HOSTS


def test_what_was_changed_by_hand_is_found(controller: Controller) -> None:
    intent = {"aegisbpf_policy": controller.bundle(controller.live()[0])}
    controller.play("drift", **intent)
    controller.on(2, "network", "deny", "add", "--ip", "203.0.113.9")
    told = controller.play("drift", status=2, **intent)
    assert "h002 differs: rules made by hand: manual:ip:203.0.113.9" in told
    assert [n for n in range(1, HOSTS + 1) if f"h{n:03} differs" in told] == [2]
    controller.on(2, "network", "deny", "del", "--ip", "203.0.113.9")
