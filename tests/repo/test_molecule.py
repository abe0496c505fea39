"""Molecule passes over a playbook that is not there: every step of a scenario has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import REPOSITORY

SCENARIOS = sorted(REPOSITORY.glob("molecule/*/molecule.yml"))
CONVERGING = ("converge", "check", "idempotence")


@pytest.fixture(params=SCENARIOS, ids=lambda path: path.parent.name)
def scenario(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def steps(path: Path) -> list[tuple[str, str]]:
    """Return the actions of a scenario, each with its playbook."""
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    playbooks = found["ansible"]["playbooks"]
    asked = [line.split() for line in found["scenario"]["test_sequence"]]
    # Another playbook than the configured one counts only where one is configured.
    return [
        (words[0], [playbooks["converge" if words[0] in CONVERGING else words[0]], *words[1:]][-1])
        for words in asked
    ]


def test_every_step_has_its_playbook_and_every_playbook_a_step(scenario: Path) -> None:
    named = {playbook for _, playbook in steps(scenario)}
    assert named == {path.name for path in scenario.parent.glob("*.yml")} - {scenario.name}


def test_every_scenario_converges_and_is_verified_at_last(scenario: Path) -> None:
    actions = [action for action, _ in steps(scenario)]
    assert "converge" in actions
    assert actions[-1] == "verify"


def test_every_scenario_can_be_run() -> None:
    text = (REPOSITORY / "scripts/molecule").read_text()
    for path in SCENARIOS:
        assert f'    "{path.parent.name}": Scenario(' in text
