"""A file that a machine refuses, and how it comes to that."""

from __future__ import annotations

from vmharness.system.machine import Machine

SECRET = "/srv/secret"
POLICY = "/etc/aegisbpf/policy.conf"


def enforce(machine: Machine) -> None:
    """Let a machine on which the programs are loaded refuse the secret."""
    machine.put(SECRET, "secret\n")
    machine.put(POLICY, f"version=1\n[deny_path]\n{SECRET}\n")
    machine.aegis("policy", "apply", POLICY)
    machine.aegis("mode", "enforce")
