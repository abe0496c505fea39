"""Policies that lock everybody out: refused; where forced, the host comes back by itself."""

from __future__ import annotations

import time

import pytest
from vmharness.system.machine import Machine

POLICY = "/etc/aegisbpf/policy.yaml"
WITHIN = 30
"""Seconds to confirm in."""
LATE = 90
FORCED = f"--i-know-this-locks-me-out --confirm-within {WITHIN}s --mode enforce --no-probe"


def write_policy(machine: Machine, path: str) -> None:
    machine.put(POLICY, f"version: 1\nrules:\n  - id: cut-off\n    path: {path}\n")


@pytest.mark.parametrize(
    ("denied", "because"),
    [
        pytest.param("/usr/lib/x86_64-linux-gnu/libcrypto.so.3", "sshd", id="a library"),
        pytest.param("/lib64/ld-linux-x86-64.so.2", "no program starts", id="the loader"),
    ],
)
def test_a_forced_policy_cuts_the_host_off_until_its_time_is_over(
    loaded_machine: Machine, denied: str, because: str
) -> None:
    machine = loaded_machine
    write_policy(machine, denied)
    proof = machine.run(f"aegisbpf policy apply {POLICY} --mode enforce", check=False)
    assert proof.status != 0
    assert because in proof.stderr, proof.stderr

    machine.run(f"aegisbpf policy apply {POLICY} {FORCED}")
    # The survival list may know the file that was there; the rule is about whatever has the name.
    replace = f"f=$(readlink -f {denied}); cp -p $f $f.new && mv $f.new $f"
    machine.run(replace, check=False)
    assert not machine.can_login()

    end = time.monotonic() + WITHIN + LATE
    while not machine.can_login():
        assert time.monotonic() < end, machine.qemu.console()[-2000:]
    while (shown := machine.aegis("policy", "show"))["digest"]:
        assert time.monotonic() < end, shown
        time.sleep(1)
    assert shown["mode"] == "audit"


def test_what_no_proof_foresees_is_undone_by_the_probe_at_once(loaded_machine: Machine) -> None:
    write_policy(loaded_machine, "/usr/bin/getent")
    done = loaded_machine.run(
        f"aegisbpf policy apply {POLICY} --mode enforce --confirm-within 10m", check=False
    )
    assert done.status != 0
    assert "undone at once" in done.stderr
    assert loaded_machine.run("getent passwd root", new=True, user="admin").stdout
    assert loaded_machine.aegis("mode")["mode"] == "audit"
