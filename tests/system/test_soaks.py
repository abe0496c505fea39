"""Soaks of ten minutes on whole systems, all at once: one a scenario.

They wait for most of that time, so they are run beside other tests.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from soak_machines import PATIENCE_SECONDS, Outcome, Running, Wanted, begin, prepare
from testrun.documents import blocks_of
from vmharness.system.machine import Machine

SECONDS, INTERVAL = 600, 60
SOAKS = {
    "shadow": Wanted("shadow", SECONDS, INTERVAL, "developer", cpu_percent=5),
    "enforce": Wanted("enforce", SECONDS, INTERVAL, "web", cpu_percent=5),
    "stress": Wanted("stress", SECONDS, INTERVAL, "stress", cpu_percent=5),
}

pytestmark = pytest.mark.timeout(3600)


def started(machine: Machine, name: str) -> Running:
    """Begin one on a machine."""
    wanted = SOAKS[name]
    prepare(machine, wanted.scenario)
    return begin(machine, wanted)


@pytest.fixture(scope="module")
def machines(loaded_machines: Callable[[], Machine]) -> dict[str, Machine]:
    """Return a machine for each."""
    return {name: loaded_machines() for name in SOAKS}


@pytest.fixture(scope="module")
def outcomes(machines: dict[str, Machine]) -> dict[str, Outcome]:
    """Return how each ended."""
    running = {name: started(machine, name) for name, machine in machines.items()}
    found = {name: one.outcome() for name, one in running.items()}
    for outcome in found.values():
        print(outcome.summary())
    return found


@pytest.mark.parametrize("name", list(SOAKS))
def test_a_scenario_is_soaked_for_ten_minutes_and_nothing_fails(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    found = outcomes[name]
    assert found.state == "done"
    assert found.status["elapsed_seconds"] >= SECONDS
    assert found.failed == set(), found.summary()
    assert {one.canary for one in found.samples} == {"ok"}
    # Emulated, and beside others: turns come late.
    assert len(found.samples) > SECONDS / INTERVAL / 2
    assert len({one.agent_pid for one in found.samples}) == 1
    assert (found.samples[-1].agent, found.status["problems"]) == ("running", [])
    if name == "enforce":
        assert found.criterion("false_positives") == "PASS"
    assert not {"crash", "kernel", "canary-miss", "mode", "policy"} & set(found.kinds)
    assert {"report.html", "report.md", "report.json", "verdict.json"} <= set(found.files)


def lines_of_the_guide() -> list[str]:
    """Return what docs/soak.md shows to be typed on a host; jq is not on it."""
    lines = [line for block in blocks_of("soak.md") for line in block]
    return [line.partition(" | jq")[0] for line in lines if line.startswith("aegisbpf soak")
            and "reports/" not in line]  # fmt: skip


def test_the_guides_lines_work_as_written(
    machines: dict[str, Machine], outcomes: dict[str, Outcome]
) -> None:
    machine, first = machines["shadow"], outcomes["shadow"].id
    lines = lines_of_the_guide()
    assert len(lines) > 8
    latest = first
    for line in lines:
        typed = line.replace("20260101T100000Z-shadow", first)
        typed = typed.replace("20260115T100000Z-shadow", latest)
        done = machine.run(typed, check=False, seconds=PATIENCE_SECONDS)
        assert done.status in (0, 30, 31), (line, done.stderr)
        assert "Traceback" not in done.stderr
        if line.startswith("aegisbpf soak start") and "--dry-run" not in line:
            latest = machine.aegis("soak", "status")["id"]
    assert latest != first
    assert machine.aegis("soak", "status", latest)["state"] == "stopped"
    assert "<svg" in machine.get("/root/soak.html")
