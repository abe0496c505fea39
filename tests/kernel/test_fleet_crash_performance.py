"""The playbooks of the crash loop and of performance, where one host is in trouble and one not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_support import Controller
from fleetsim.fleet import Fleet

HOSTS = 2
NUMBERS = range(1, HOSTS + 1)
QUICK = {"aegisbpf_measure_seconds": 1, "aegisbpf_stable_for": "1s"}
STATE = "/var/lib/aegisbpf"


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with Fleet(HOSTS) as fleet:
        found = Controller(fleet, tmp_path_factory.mktemp("runbook"))
        for number in NUMBERS:
            found.on(number, "load")
            for rule in ("one", "two"):
                policy = f"version: 1\\nrules:\\n  - {{id: {rule}, path: /srv/{rule}}}\\n"
                found.shell(number, f"printf '{policy}' > /run/{rule}.yaml")
                assert found.on(number, "policy", "apply", f"/run/{rule}.yaml")["digest"]
        yield found


def play(controller: Controller, playbook: str, *words: str, **variables: Any) -> str:
    given = {**QUICK, "aegisbpf_incidents": str(controller.folder / "incidents"), **variables}
    return controller.play(playbook, *words, **given)


def changes(told: str) -> list[int]:
    """Return how many tasks changed each host, in the order of the recap."""
    recap = told.partition("PLAY RECAP")[2]
    return [int(part.split()[0]) for part in recap.split("changed=")[1:]]


def records(controller: Controller, number: int) -> list[Path]:
    return sorted((controller.folder / "incidents" / f"h{number:03}").glob("*"))


def test_a_damaged_policy_gives_way_on_the_one_host_and_the_record_is_brought(
    controller: Controller,
) -> None:
    before = controller.on(1, "policy", "show")["digest"]
    digest = controller.on(2, "policy", "show")["digest"]
    controller.shell(2, f"echo damaged >> {STATE}/bundles/{digest}.policy")
    assert changes(play(controller, "runbook_crash_loop", "--check")) == [0, 1]
    assert not (controller.folder / "incidents").exists()
    assert controller.on(2, "incident", "list")["incidents"] == []

    told = changes(play(controller, "runbook_crash_loop"))
    assert told[0] == 0
    assert told[1] > 0
    page, record = sorted(records(controller, 2), key=lambda path: path.suffix == ".json")
    assert "configuration" in page.read_text()
    assert json.loads(record.read_text())["result"] == "recovered"
    assert controller.on(2, "boot", "--dry-run")["policy"] == "one.yaml"

    assert changes(play(controller, "runbook_crash_loop")) == [0] * HOSTS
    assert controller.on(1, "policy", "show")["digest"] == before
    assert (records(controller, 1), controller.on(1, "incident", "list")["incidents"]) == ([], [])


def test_a_sample_rate_that_was_lowered_is_brought_back_where_it_was(
    controller: Controller,
) -> None:
    lowered = '{"format": 1, "sample": 4294967296, "since": 1}'
    controller.shell(1, f"echo '{lowered}' > /run/aegisbpf/sampling.json")
    controller.on(1, "config", "set", "event-sample-rate", "0.1")
    restore = {"aegisbpf_sample_restore": True, "aegisbpf_ring_apply": True}
    assert changes(play(controller, "runbook_performance", "--check", **restore)) == [1, 0]
    told = changes(play(controller, "runbook_performance", **restore))
    assert told[0] > 0
    assert told[1] == 0
    assert controller.on(1, "config", "get", "event-sample-rate")["event-sample-rate"] == 1.0
    assert len(records(controller, 1)) == 2
    assert changes(play(controller, "runbook_performance", **restore)) == [0] * HOSTS
