"""What is wrong with each host of a fleet, and where records of incidents may be written."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_support import Controller
from fleetsim.fleet import Fleet


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with Fleet(1) as fleet:
        yield Controller(fleet, tmp_path_factory.mktemp("diagnose"))


def test_a_fleet_is_asked_and_left_as_it_is(controller: Controller) -> None:
    controller.on(1, "reset")
    controller.on(1, "load")
    told = controller.play("diagnose")
    assert "MEDIUM  kernel-upgrade: " in told
    assert "changed=0" in told
    assert "failed=0" in told


@pytest.mark.parametrize(
    "identifier", ["", "../../../../etc/x", "20270115T080000Z-blocking/../x", "x\n20270115"]
)
def test_a_host_cannot_choose_where_its_record_is_written(
    controller: Controller, tmp_path: Path, identifier: str
) -> None:
    book = tmp_path / "collect.yml"
    book.write_text(
        "- hosts: all\n  gather_facts: false\n  tasks:\n"
        "    - ansible.builtin.include_role: {name: aegisbpf, tasks_from: incident_collect}\n"
    )
    command = controller.command("diagnose")
    at = command["args"].index("playbooks/diagnose.yml")
    command["args"][at] = str(book)
    given = {"__aegisbpf_incident": {"id": identifier}, "aegisbpf_incidents": str(tmp_path / "in")}
    command["args"] += ["-e", json.dumps(given)]
    done = subprocess.run(**command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=0" in done.stdout
    assert "skipped=4" in done.stdout, "read, folder, record and answer"
    assert not (tmp_path / "in").exists()
