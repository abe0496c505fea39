"""An agent that dies: once, and again and again. One machine for all of them, left as it was."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from enforcing_support import POLICY, SECRET, enforce
from prometheus_support import Api, prometheus
from vmharness.system.machine import Machine

KILLS = 5
READY_SECONDS = 60
ALERT = "AegisBPFCrashLoop"
ALERT_SECONDS = 120
METRICS_PORT = 9635
TARGET_SECONDS = 300
"""What the runbook promises."""
OBJECTS = "/opt/aegis/lib/python3.11/site-packages/aegis_tools/objects"
SPOIL = f"""
import hashlib, shutil
path, sums = "{OBJECTS}/aegis.bpf.o", "{OBJECTS}/SHA256SUMS"
for name in (path, sums):
    shutil.copy2(name, name + ".good")
data = open(path, "rb").read()
bad = data.replace(bytes.fromhex("9500000000000000"), bytes.fromhex("0500000000000000"))
text = open(sums).read().replace(*(hashlib.sha256(one).hexdigest() for one in (data, bad)))
open(path, "wb").write(bad)
open(sums, "w").write(text)
"""
"""Objects that the verifier does not take: no program of them has an end."""
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


@pytest.fixture(scope="module")
def guarded(shared_machine: Machine) -> Machine:
    """Return a machine that refuses a secret, by the second of two policies, with its agent."""
    machine = shared_machine
    machine.put(SECRET, "secret\n")
    machine.put("/srv/other", "other\n")
    machine.put(POLICY, f"version=1\n[deny_path]\n{SECRET}\n/srv/other\n")
    machine.aegis("policy", "apply", POLICY)
    enforce(machine)
    machine.run("aegisbpf service install --now", seconds=120)
    return machine


def crash_loop(machine: Machine, *words: str, status: int = 0) -> dict[str, Any]:
    """Run the procedure as an operator does; return its answer."""
    command = " ".join(["aegisbpf --json incident crash-loop --stable-for 5s", *words])
    begun = time.monotonic()
    done = machine.run(command, check=False, seconds=500)
    assert done.status == status, done
    answer = dict(done.json())
    took = time.monotonic() - begun
    steps = [f"{one['action']} {one['state']} {one['seconds']:.1f}" for one in answer["steps"]]
    print(f"crash-loop {words}: {answer['result']} in {took:.1f} s: {steps}")
    assert took < TARGET_SECONDS
    return answer


def is_well(machine: Machine) -> bool:
    return refused(machine) and machine.aegis("mode")["mode"] == "enforce"


def test_an_agent_that_keeps_dying_ends_in_audit_until_a_person_resumes(
    guarded: Machine, tmp_path: Path
) -> None:
    machine = guarded
    assert crash_loop(machine)["result"] == "nothing-to-do"
    with watched(machine, tmp_path) as alerts:
        assert alerts.states(ALERT) == []
        kill_until_held(machine)
        alerts.until("firing", lambda: alerts.states(ALERT) == ["firing"], seconds=ALERT_SECONDS)
        told_why(machine)

        found = crash_loop(machine)
        assert (found["result"], found["cause"]["cause"]) == ("recovered", "unknown")
        assert any("status=9/KILL" in line for line in found["cause"]["lines"])
        assert found["next"] == ["aegisbpf resume"]
        assert crash_loop(machine)["result"] == "nothing-to-do"

        machine.aegis("resume")
        assert refused(machine)
        assert machine.aegis("mode")["mode"] == "enforce"
        # Silent because all is well, not because nothing is scraped.
        alerts.until("a scrape", lambda: alerts.query(ENFORCING), seconds=ALERT_SECONDS)
        alerts.until("inactive", lambda: not alerts.states(ALERT))


def until_it_loops(machine: Machine) -> None:
    end = time.monotonic() + READY_SECONDS
    ask = "systemctl show --value --property=NRestarts aegisbpf.service"
    while int(machine.run(ask).stdout) < 2:
        assert time.monotonic() < end, machine.journal("aegisbpf.service")
        time.sleep(0.5)


def test_one_that_dies_of_an_option_is_started_as_shipped_and_the_host_enforces_throughout(
    guarded: Machine,
) -> None:
    machine = guarded
    folder = "/etc/systemd/system/aegisbpf.service.d"
    text = "[Service]\nExecStart=\nExecStart=/opt/aegis/bin/aegisbpf run --no-such-option\n"
    machine.put(f"{folder}/override.conf", text)
    machine.run("systemctl daemon-reload; systemctl restart --no-block aegisbpf")
    until_it_loops(machine)
    # Cut off while the agent is stopped.
    machine.run(
        "aegisbpf incident crash-loop & job=$!; for i in $(seq 600); do "
        "test $(systemctl show --value -p ActiveState aegisbpf) = inactive && break; "
        "sleep 0.1; done; kill -KILL $job",
        check=False,
    )
    assert refused(machine)
    found = crash_loop(machine)
    assert (found["result"], found["cause"]["cause"]) == ("recovered", "configuration")
    assert any("--no-such-option" in line for line in found["cause"]["lines"])
    assert found["held"] is False
    assert is_well(machine)
    pid_of_ready_agent(machine)
    again = crash_loop(machine)
    assert (again["changed"], again["result"]) == (False, "nothing-to-do")

    failed = crash_loop(machine, "--normal-start", status=8)
    assert failed["result"] == "not-recovered"
    pid_of_ready_agent(machine)
    machine.run(f"rm -r {folder}")
    assert crash_loop(machine, "--normal-start")["result"] == "recovered"
    assert machine.run("systemctl cat aegisbpf | grep -c zz-safe", check=False).stdout == "0\n"
    assert is_well(machine)


def test_a_damaged_stored_policy_gives_way_to_the_one_before(guarded: Machine) -> None:
    machine = guarded
    digest = machine.aegis("policy", "show")["digest"]
    machine.run(f"echo damaged >> /var/lib/aegisbpf/bundles/{digest}.policy; aegisbpf reset")
    assert machine.run("systemctl restart aegisbpf-boot", check=False).status != 0
    assert not refused(machine)
    found = crash_loop(machine)
    assert (found["result"], found["cause"]["cause"]) == ("recovered", "configuration")
    assert any("a stored policy is damaged" in line for line in found["cause"]["lines"])
    assert not refused(machine), "what was lost comes back in audit"
    assert "aegisbpf resume" in found["next"]
    assert machine.run("systemctl is-active aegisbpf-boot").stdout == "active\n"
    machine.aegis("resume")
    assert is_well(machine)
    machine.run("systemctl start aegisbpf")  # it ended with the reset


def test_programs_that_the_verifier_rejects_give_way_to_the_audit_fallback(
    guarded: Machine,
) -> None:
    machine = guarded
    machine.run(f"python3 - <<'END'\n{SPOIL}\nEND")
    machine.run("aegisbpf reset; systemctl restart --no-block aegisbpf")
    until_it_loops(machine)
    found = crash_loop(machine)
    assert (found["result"], found["cause"]["cause"]) == ("recovered", "verifier-rejection"), found
    assert found["cause"]["source"] == "trial"
    assert any("processed" in line for line in found["cause"]["lines"])
    assert "verifier.txt" in {one["name"] for one in found["record"]["files"]}
    pid_of_ready_agent(machine)
    status = machine.aegis("status", check=False)
    assert (status["mode"]["mode"], status["mode"]["state"]) == ("audit", "audit-fallback")
    assert status["policy"]["digest"], "the stored policy is watched"

    machine.run(f"cd {OBJECTS} && mv aegis.bpf.o.good aegis.bpf.o && mv SHA256SUMS.good SHA256SUMS")
    machine.run("aegisbpf reset && aegisbpf boot && aegisbpf resume", seconds=300)
    assert crash_loop(machine, "--normal-start")["result"] == "recovered"
    assert is_well(machine)
