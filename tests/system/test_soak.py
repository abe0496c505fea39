"""Soaks by a real systemd: sampler killed, host rebooted, ended by itself; an agent that dies."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from soak_machines import FOLDER, TIMER, WORKLOAD, Running, Wanted, begin, is_active, prepare
from soak_machines import properties as shown
from vmharness.system.machine import Machine

SERVICE = "aegis-soak.service"
SCRIPT = (Path(__file__).resolve().parents[2] / "scripts/soak_monitor.sh").read_text()


@pytest.fixture(scope="module")
def host(shared_machine: Machine) -> Machine:
    """Return a host in audit, with an agent, whose policy denies some files."""
    prepare(shared_machine, "shadow")
    return shared_machine


def nothing_is_left(machine: Machine) -> None:
    """Assert that of a soak only its files are there; nobody waits for the timer to stop."""
    end = time.monotonic() + 120
    while is_active(machine, TIMER):
        assert time.monotonic() < end, "the timer is still active"
        time.sleep(1)
    assert machine.run(f"systemctl is-enabled {TIMER}", check=False).stdout.strip() == "disabled"
    listed = machine.run("systemctl list-units --plain --no-legend 'aegis-soak*'").stdout
    assert [line for line in listed.splitlines() if " active " in line] == []
    assert machine.run("pgrep -f soak[.]work", check=False).stdout == ""
    assert FOLDER not in machine.run("aegisbpf block list").stdout
    assert machine.run(f"ls {FOLDER}/running", check=False).status != 0


def kill_a_turn(machine: Machine) -> None:
    """Kill a turn in its midst."""
    begun = f"systemctl start --no-block {SERVICE}; sleep 0.6; "
    for _ in range(5):
        done = machine.run(begun + f"systemctl kill --signal=KILL {SERVICE}", check=False)
        result = shown(machine, SERVICE, ["Result"])["Result"]
        if done.status == 0 and result == "signal":
            return
    raise AssertionError("no turn was caught")


def test_a_soak_goes_on_over_a_killed_turn_and_a_reboot_and_ends_by_itself(host: Machine) -> None:
    machine = host
    running = begin(machine, Wanted(seconds=600, interval=20, workload="database"))
    assert machine.aegis("soak", "status")["id"] == running.id
    again = machine.run("aegisbpf soak start --scenario shadow --duration 7d", check=False)
    assert (again.status, "is running" in again.stderr) == (8, True)
    assert is_active(machine, TIMER)
    names = ["ActiveState", "MemoryMax", "TasksMax", "RuntimeMaxUSec", "CPUQuotaPerSecUSec"]
    limits = shown(machine, WORKLOAD, names)
    assert (limits["ActiveState"], limits["MemoryMax"]) == ("active", str(512 << 20))
    assert limits["TasksMax"] == "128"
    assert limits["RuntimeMaxUSec"] == "11min"

    running.until_turns(3)
    kill_a_turn(machine)
    before = len(running.rows())
    running.until_turns(before + 2)
    used = shown(machine, SERVICE, ["CPUUsageNSec", "ExecMainStatus"])
    print("a turn:", used, [(one.boot_s, one.turn_ms) for one in running.rows()])

    machine.reboot()
    running.until_turns(before + 4)
    assert is_active(machine, WORKLOAD)
    outcome = running.outcome()
    print(outcome.summary())
    nothing_is_left(machine)

    assert outcome.state == "done"
    assert outcome.status["problems"] == []
    assert len({one.boot for one in outcome.samples}) == 2
    assert "reboot" in outcome.kinds
    assert outcome.kinds[0] == "begun"
    assert outcome.kinds[-1] == "ended"
    for kind in ("canary-miss", "crash", "kernel", "policy", "mode"):
        assert kind not in outcome.kinds, outcome.happened
    assert {one.canary for one in outcome.samples} == {"ok"}
    last = outcome.samples[-1]
    assert (last.agent, last.mode) == ("running", "audit")
    assert (last.mem_mb or 0) > 5
    assert {"report.html", "report.md", "report.json", "verdict.json"} <= set(outcome.files)
    assert outcome.failed == set()
    # It ran for as long as it was to, on the clock of the machine.
    assert outcome.status["elapsed_seconds"] >= 600
    failed = machine.run(f"journalctl --no-pager -p err -u {SERVICE} -o cat", check=False).stdout
    assert "aegisbpf:" not in failed


def crashed(running: Running) -> bool:
    """Kill the agent; return whether the soak knows of it."""
    running.machine.kill("aegisbpf.service")
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if '"kind":"crash"' in running.get("happened.ndjson"):
            return True
        time.sleep(3)
    return False


def test_an_agent_that_dies_fails_the_soak_and_leaves_evidence(host: Machine) -> None:
    machine = host
    running = begin(machine, Wanted(seconds=120, interval=15))
    running.until_turns(2)
    assert crashed(running)
    outcome = running.outcome()
    print(outcome.summary())
    nothing_is_left(machine)
    assert outcome.verdict["status"] == "FAIL"
    assert outcome.criterion("crashes") == "FAIL"
    assert "restart" in outcome.kinds
    assert "canary-miss" not in outcome.kinds
    journal = running.get("evidence/first-journal.txt")
    assert "status=9/KILL" in journal
    assert running.get("evidence/end-programs.json")


def test_one_that_is_stopped_leaves_nothing_running(host: Machine) -> None:
    machine = host
    running = begin(machine, Wanted(seconds=3600, interval=60, workload="idle"))
    answer = machine.aegis("soak", "stop")
    assert answer["problems"] == []
    nothing_is_left(machine)
    assert machine.aegis("soak", "status", running.id)["state"] == "stopped"
    # A turn that is asked for by hand finds nothing to do.
    assert machine.aegis("soak", "sample")["running"] is False


def test_the_seeds_lines_for_cron_work(host: Machine) -> None:
    machine = host
    machine.put("/root/soak_monitor.sh", SCRIPT, mode=0o755)
    done = machine.run("env -i /bin/sh -c /root/soak_monitor.sh; env -i /root/soak_monitor.sh")
    assert (done.stdout, done.stderr) == ("", "")
    header, first, second = machine.get("/var/log/aegisbpf-soak-metrics.csv").splitlines()
    assert header.startswith("timestamp,cpu_pct,mem_mb,blocks,ringbuf_drops,map_deny_path,")
    for row in (first, second):
        fields = row.split(",")
        assert len(fields) == 8
        assert float(fields[2]) > 5
        assert int(fields[5]) == 5
