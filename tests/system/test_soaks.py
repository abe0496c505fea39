"""Soaks of ten minutes on whole systems, all at once: one a scenario.

They wait for most of that time, so they are run beside other tests.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from soak_machines import Outcome, Running, Wanted, begin, prepare
from vmharness.system.machine import Machine

SECONDS, INTERVAL = 600, 20
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
def outcomes(loaded_machines: Callable[[], Machine]) -> dict[str, Outcome]:
    """Return how each ended."""
    running = {name: started(loaded_machines(), name) for name in SOAKS}
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
