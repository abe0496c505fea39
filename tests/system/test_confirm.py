"""A change that nobody confirms is gone in time, whatever happens to the host meanwhile.

The agent is not needed for any of it.
"""

from __future__ import annotations

import time

import pytest
from vmharness.system.machine import Machine

SECRET = "/srv/secret"
POLICY = "/etc/aegisbpf/policy.conf"
WITHIN = 20
"""Seconds to confirm in; a command takes two or three of them where everything is emulated."""
LATE = 30
"""Seconds that the old policy may take to come back after that."""


def write_policy(machine: Machine, *denied: str) -> None:
    machine.put(POLICY, "\n".join(["version=1", "[deny_path]", *denied, ""]))


def apply(machine: Machine, *options: str) -> None:
    machine.aegis("policy", "apply", POLICY, "--mode", "enforce", *options)


def refused(machine: Machine) -> bool:
    return machine.run(f"cat {SECRET}", check=False).status != 0


def wait_until_old(machine: Machine, seconds: float) -> None:
    """Wait until the policy of before, none, is live again in audit."""
    end = time.monotonic() + seconds
    while True:
        shown = machine.aegis("policy", "show")
        if (shown["digest"], shown["mode"]) == ("", "audit"):
            return
        assert time.monotonic() < end, shown
        time.sleep(1)


@pytest.fixture
def host(loaded_machine: Machine) -> Machine:
    """Return a host with a file to deny, and the programs loaded in audit."""
    loaded_machine.put(SECRET, "secret\n")
    return loaded_machine


def test_a_change_stays_only_if_a_new_connection_confirms_it(host: Machine) -> None:
    write_policy(host, SECRET)
    apply(host, "--confirm-within", f"{WITHIN}s", "--no-probe")
    assert refused(host)
    wait_until_old(host, WITHIN + LATE)
    assert not refused(host)

    apply(host, "--confirm-within", "10m")
    host.run("aegisbpf policy confirm", new=True, user="root")
    state = host.aegis("mode")
    assert (state["mode"], state["unconfirmed"]) == ("enforce", False)
    assert refused(host)


def test_the_kernel_ends_it_where_nothing_else_does_even_asleep(host: Machine) -> None:
    write_policy(host, SECRET)
    apply(host, "--confirm-within", "60s", "--no-probe")
    # Nobody is left to revert it; and no clock that a person can set is asked.
    host.run("systemctl stop aegisbpf-revert.timer")
    host.set_clock(time.time() - 86400)
    assert refused(host)

    host.suspend(61)

    assert not refused(host)
    state = host.aegis("mode")
    assert (state["mode"], state["state"]) == ("enforce", "deadline-passed")
    host.run("aegisbpf policy revert --if-overdue")
    wait_until_old(host, LATE)


def test_a_clock_that_is_set_forward_ends_nothing_early(host: Machine) -> None:
    write_policy(host, SECRET)
    apply(host, "--confirm-within", "10m", "--no-probe")
    host.set_clock(time.time() + 30 * 86400)
    host.run("aegisbpf policy revert --if-overdue")
    assert refused(host)
    host.run("aegisbpf policy confirm", new=True)
    assert refused(host)


def test_a_power_cut_before_the_confirmation_brings_the_old_policy(host: Machine) -> None:
    write_policy(host, SECRET)
    apply(host, "--confirm-within", "10m", "--no-probe")
    assert refused(host)

    host.power_cut()
    host.run("aegisbpf boot")

    wait_until_old(host, 1)
    assert not refused(host)
