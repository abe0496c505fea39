"""Policies that lock everybody out: where one is forced, the host comes back by itself.

One machine for all of them. Each is made so that a new login fails at once; then the host must let
people in again, under the policy and in the mode of before. The programs that a policy denies are
replaced first, as an upgrade would: the survival list knows those that were there. The probe is
left out where the deadline is to be seen.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest
from vmharness.system.machine import Machine

POLICY = "/etc/aegisbpf/policy.yaml"
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
WITHIN = 15
"""Seconds to confirm in; to make a policy live takes two of them where all is emulated."""
LATE = 90
FORCED = "--i-know-this-locks-me-out --mode enforce"


@dataclass(frozen=True)
class Cut:
    """A policy that locks out.

    Attributes:
        rule: What it denies.
        upgraded: A file that is replaced before.
        then: What happens to the host afterwards.
    """

    rule: str
    upgraded: str = ""
    then: str = ""


CUTS = {
    "a library": Cut(f"path: {LIBRARIES}/libpam.so.0", f"{LIBRARIES}/libpam.so.0"),
    "all libraries": Cut(f"directory: {LIBRARIES}", f"{LIBRARIES}/libcrypto.so.3"),
    "the loader": Cut("path: /lib64/ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.2"),
    "the shell": Cut("path: /bin/bash", "/bin/bash"),
    # One that runs serves on; but it is the end of it when something starts it again.
    "sshd": Cut("path: /usr/sbin/sshd", "/usr/sbin/sshd", "systemctl restart ssh"),
    "its port": Cut("port: 22:tcp:bind", then="systemctl restart ssh"),
}


def write_policy(machine: Machine, rule: str) -> None:
    machine.put(POLICY, f"version: 1\nrules:\n  - id: cut-off\n    {rule}\n")


def force(machine: Machine, cut: Cut) -> None:
    """Make it live past the proof, without a probe."""
    write_policy(machine, cut.rule)
    if cut.upgraded:
        machine.run(f"f=$(readlink -f {cut.upgraded}) && cp -p $f $f.new && mv $f.new $f")
    machine.run(f"aegisbpf policy apply {POLICY} {FORCED} --confirm-within {WITHIN}s --no-probe")
    if cut.then:
        machine.run(cut.then, check=False)


def wait_for_login(machine: Machine) -> None:
    end = time.monotonic() + WITHIN + LATE
    while not machine.can_login(seconds=LATE):
        assert time.monotonic() < end, machine.qemu.console()[-2000:]
        time.sleep(0.2)


def wait_for_policy_of_before(machine: Machine) -> None:
    """Wait until nothing is applied, in audit, as in the beginning.

    The change stays unconfirmed, and overdue, until its way back is done: the rules go first.
    """
    end = time.monotonic() + LATE
    while (shown := machine.aegis("policy", "show"))["unconfirmed_seconds"] is not None:
        assert time.monotonic() < end, shown
    assert (shown["mode"], shown["digest"]) == ("audit", "")


@pytest.mark.parametrize("name", CUTS)
def test_a_forced_policy_cuts_the_host_off_until_its_time_is_over(
    shared_machine: Machine, name: str
) -> None:
    force(shared_machine, CUTS[name])
    assert not shared_machine.can_login()

    wait_for_login(shared_machine)
    wait_for_policy_of_before(shared_machine)


def test_the_kernel_alone_lets_people_in_again(shared_machine: Machine) -> None:
    machine = shared_machine
    assert machine.run("systemctl is-active aegisbpf", check=False).stdout.strip() == "inactive"
    force(machine, Cut("path: /etc/passwd"))
    machine.run("systemctl stop aegisbpf-revert.timer")
    assert not machine.can_login()

    wait_for_login(machine)
    state = machine.aegis("mode", new=True)
    assert (state["mode"], state["state"]) == ("enforce", "deadline-passed")
    machine.run("aegisbpf policy revert --if-overdue")
    wait_for_policy_of_before(machine)


def test_a_program_of_ours_that_is_denied_is_back_in_time_as_well(shared_machine: Machine) -> None:
    python = "/usr/bin/python3.11"
    force(shared_machine, Cut(f"path: {python}", python))
    assert shared_machine.can_login()
    refused = shared_machine.run("aegisbpf policy revert", check=False, new=True)
    assert "Operation not permitted" in refused.stderr

    end = time.monotonic() + WITHIN + LATE
    while shared_machine.run("aegisbpf --version", check=False).status:
        assert time.monotonic() < end
        time.sleep(0.5)
    wait_for_policy_of_before(shared_machine)


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param("path: /usr/bin/getent", id="what no proof foresees"),
        pytest.param("cidr: 0.0.0.0/0", id="every address"),
    ],
)
def test_what_the_probe_finds_broken_is_undone_at_once(shared_machine: Machine, rule: str) -> None:
    write_policy(shared_machine, rule)
    done = shared_machine.run(
        f"aegisbpf policy apply {POLICY} {FORCED} --confirm-within 1h", check=False
    )
    assert done.status != 0
    assert "undone at once" in done.stderr
    assert shared_machine.run("getent passwd root", new=True, user="admin").stdout
    wait_for_policy_of_before(shared_machine)


def test_what_keeps_us_from_our_own_records_is_undone_at_once(shared_machine: Machine) -> None:
    write_policy(shared_machine, "directory: /")
    done = shared_machine.run(
        f"aegisbpf policy apply {POLICY} {FORCED} --confirm-within 1h --no-probe", check=False
    )
    assert (done.status, "undone" in done.stderr) == (8, True), done
    assert shared_machine.can_login()
    wait_for_policy_of_before(shared_machine)


def test_none_of_them_is_applied_without_being_forced(shared_machine: Machine) -> None:
    rules = "".join(f"  - id: cut-{n}\n    {cut.rule}\n" for n, cut in enumerate(CUTS.values()))
    shared_machine.put(POLICY, f"version: 1\nrules:\n{rules}")
    proof = shared_machine.run(f"aegisbpf --json policy apply {POLICY}", check=False).json()
    assert (proof["error"], len(proof["refusals"])) == ("lockout", len(CUTS))
    wait_for_policy_of_before(shared_machine)
