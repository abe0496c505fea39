"""An agent that dies: once, and again and again."""

from __future__ import annotations

import time

from vmharness.system.machine import Machine

SECRET = "/srv/secret"
POLICY = "/etc/aegisbpf/policy.conf"
KILLS = 5
READY_SECONDS = 60


def pid_of_ready_agent(machine: Machine, other_than: str = "0") -> str:
    """Return the main process of the agent once it has told systemd that it is ready."""
    end = time.monotonic() + READY_SECONDS
    while True:
        shown = machine.run(
            "systemctl show --value --property=ActiveState --property=MainPID aegisbpf.service"
        ).stdout.split()
        [pid] = [word for word in shown if word.isdigit()]
        if "active" in shown and pid not in ("0", other_than):
            return pid
        assert time.monotonic() < end, machine.journal("aegisbpf.service")
        time.sleep(0.5)


def refused(machine: Machine) -> bool:
    return machine.run(f"cat {SECRET}", check=False).status != 0


def test_an_agent_that_keeps_dying_ends_in_audit_until_a_person_resumes(
    loaded_machine: Machine,
) -> None:
    machine = loaded_machine
    machine.put(SECRET, "secret\n")
    machine.put(POLICY, f"version=1\n[deny_path]\n{SECRET}\n")
    machine.aegis("policy", "apply", POLICY)
    machine.aegis("mode", "enforce")
    machine.run("aegisbpf service install --now", seconds=120)

    pid = pid_of_ready_agent(machine)
    for count in range(KILLS):
        machine.run(f"kill -KILL {pid}")
        # Between two agents, and after the first few: the kernel goes on.
        assert count > 2 or refused(machine)
        pid = pid_of_ready_agent(machine, other_than=pid)

    assert not refused(machine)
    state = machine.aegis("mode")
    assert state["mode"] == "audit"
    assert "crash" in state["held"], state
    health = machine.run("aegisbpf health", check=False)
    assert health.status != 0
    assert "aegisbpf resume" in health.stdout + health.stderr, health
    assert "crash" in machine.journal("aegisbpf.service")

    machine.aegis("resume")
    assert refused(machine)
    assert machine.aegis("mode")["mode"] == "enforce"
