"""An agent that dies: once, and again and again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_support import Api, prometheus
from vmharness.system.machine import Machine

SECRET = "/srv/secret"
POLICY = "/etc/aegisbpf/policy.conf"
KILLS = 5
READY_SECONDS = 60
ALERT = "AegisBPFCrashLoop"
ALERT_SECONDS = 120
METRICS_PORT = 9635
ENFORCING = "aegisbpf_enforcing == 1 unless on() aegisbpf_held_in_audit == 1"


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


@contextmanager
def watched(machine: Machine, folder: Path) -> Iterator[Api]:
    """Scrape the machine as its own Prometheus would, on loopback, with our rules as they are."""
    with (
        machine.tunnel(METRICS_PORT) as port,
        prometheus(f"127.0.0.1:{port}", folder, interval=5) as api,
    ):
        api.until("a scrape", lambda: api.query(ENFORCING))
        yield api


def kill_until_held(machine: Machine) -> None:
    """Kill the agent as often as a crash loop takes; the kernel goes on until the hold."""
    pid = pid_of_ready_agent(machine)
    for count in range(KILLS):
        machine.run(f"kill -KILL {pid}")
        # Between two agents, and after the first few: the kernel goes on.
        assert count > 2 or refused(machine)
        pid = pid_of_ready_agent(machine, other_than=pid)


def told_why(machine: Machine) -> None:
    """Assert that a person who looks finds what happened, and what to do."""
    assert not refused(machine)
    found = machine.run("aegisbpf diagnose --json", check=False)
    assert (found.status, found.json()["scenario"]) == (22, "crash-loop"), found.stdout
    state = machine.aegis("mode")
    assert state["mode"] == "audit"
    assert "crash" in state["held"], state
    health = machine.run("aegisbpf health", check=False)
    assert health.status != 0
    assert "aegisbpf resume" in health.stdout + health.stderr, health
    assert "crash" in machine.journal("aegisbpf.service")


def test_an_agent_that_keeps_dying_ends_in_audit_until_a_person_resumes(
    loaded_machine: Machine, tmp_path: Path
) -> None:
    machine = loaded_machine
    machine.put(SECRET, "secret\n")
    machine.put(POLICY, f"version=1\n[deny_path]\n{SECRET}\n")
    machine.aegis("policy", "apply", POLICY)
    machine.aegis("mode", "enforce")
    machine.run("aegisbpf service install --now", seconds=120)

    with watched(machine, tmp_path) as alerts:
        assert alerts.states(ALERT) == []
        kill_until_held(machine)
        alerts.until("firing", lambda: alerts.states(ALERT) == ["firing"], seconds=ALERT_SECONDS)
        told_why(machine)

        machine.aegis("resume")
        assert refused(machine)
        assert machine.aegis("mode")["mode"] == "enforce"
        # Silent because all is well, not because nothing is scraped.
        alerts.until("a scrape", lambda: alerts.query(ENFORCING), seconds=ALERT_SECONDS)
        alerts.until("inactive", lambda: not alerts.states(ALERT))
