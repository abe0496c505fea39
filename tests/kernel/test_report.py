"""A rollout over light hosts leaves a report, however it ends: real SSH, commits and playbooks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fleetsim.fleet import Fleet

from aegis_tools.rollout import report as module

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SCHEMA = json.loads(Path(module.__file__).with_name("report.schema.json").read_text())
HOSTS = 2
SECONDS = 300.0


class Controller:
    """Where playbooks are started from, in a folder of its own."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.folder, self.reports = folder, folder / "reports"
        (folder / "inventory.json").write_text(json.dumps(fleet.inventory()))
        self._aegisbpf("keys", "generate", str(folder / "ops"))
        for name in ("one", "two", "three"):
            (folder / f"{name}.yaml").write_text(
                f"version: 1\nrules:\n  - {{id: {name}, path: /srv/{name}}}\n"
            )
            out = ("--key", str(folder / "ops.key"), "--output", str(folder / f"{name}.bundle"))
            self._aegisbpf("policy", "sign", str(folder / f"{name}.yaml"), *out)

    def _aegisbpf(self, *words: str) -> None:
        subprocess.run([BIN / "aegisbpf", "--json", *words], check=True, capture_output=True)

    def start(self, playbook: str, **variables: Any) -> subprocess.Popen[str]:
        """Start a playbook."""
        given = {
            "aegisbpf_allow_fallback": True,
            "aegisbpf_service_managed": False,
            "aegisbpf_trusted_keys": [str(self.folder / "ops.pub")],
            "aegisbpf_waves": [1, "100%"],
            "aegisbpf_soak_seconds": 2,
            "aegisbpf_gate_interval": 1,
            "aegisbpf_baseline_seconds": 0,
            **variables,
        }
        argv = [BIN / "ansible-playbook", "-i", self.folder / "inventory.json",
                REPOSITORY / f"playbooks/{playbook}.yml", "-e", json.dumps(given)]  # fmt: skip
        environment = {**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"),
                       "ANSIBLE_HOME": str(self.folder), "PYTHONPATH": str(REPOSITORY),
                       "PATH": f"{BIN}:{os.environ['PATH']}"}  # fmt: skip
        environment.pop("AEGISBPF_REPORT", None)
        return subprocess.Popen(
            argv,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def play(self, playbook: str, *, status: int = 0, **variables: Any) -> str:
        """Run a playbook and return what it told."""
        process = self.start(playbook, **variables)
        told, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == status, told
        return told

    def report(self, told: str) -> dict[str, Any]:
        """Return the report that a playbook said it wrote."""
        [name] = re.findall(r"^report: (.*)$", told, re.MULTILINE)
        page = self.folder / name
        assert "<!doctype html>" in page.read_text()
        found = json.loads(page.with_suffix(".json").read_text())
        jsonschema.validate(found, SCHEMA)
        return dict(found)


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with Fleet(HOSTS) as fleet:
        found = Controller(fleet, tmp_path_factory.mktemp("controller"))
        for number in range(1, HOSTS + 1):
            ssh = ["ssh", "-F", "none", "-i", str(fleet.key), "-oStrictHostKeyChecking=no",
                   "-oUserKnownHostsFile=/dev/null", f"root@{fleet.address(number)}"]  # fmt: skip
            load = "/opt/aegisbpf/current/bin/aegisbpf --json load"
            subprocess.run([*ssh, load], check=False, capture_output=True)
        told = found.play("site")
        assert "report:" not in told
        assert not found.reports.exists()
        yield found


def outcomes(report: dict[str, Any]) -> dict[str, str]:
    return {host["name"]: host["outcome"] for host in report["hosts"]}


def test_a_rollout_that_went_well_is_reported(controller: Controller) -> None:
    told = controller.play("rollout", aegisbpf_policy=str(controller.folder / "one.bundle"))
    report = controller.report(told)
    assert (report["result"], report["playbook"].rpartition("/")[2]) == ("ok", "rollout.yml")
    assert outcomes(report) == {"h001": "changed", "h002": "changed"}
    assert [wave["hosts"] for wave in report["waves"]] == [1, 1]
    assert [rule["rule"] for rule in report["changes"][0]["added"]] == ["one"]
    assert all(host["gate"]["passed"] for host in report["hosts"])
    assert report["settings"]["aegisbpf_waves"] == [1, "100%"]
    assert report["hosts"][0]["mode"] == {"before": "audit", "target": "audit", "after": "audit"}
    key = (controller.folder / "ops.key").read_text().split()[-1]
    for path in controller.reports.iterdir():
        assert key not in path.read_text()


def test_a_gate_that_fails_is_reported(controller: Controller) -> None:
    gate = controller.folder / "gate"
    gate.write_text('#!/bin/sh\n[ "$AEGISBPF_HOST" != h001 ] || { echo "<b>slow</b>"; exit 1; }\n')
    gate.chmod(0o755)
    bundle = str(controller.folder / "two.bundle")
    told = controller.play("rollout", status=2, aegisbpf_policy=bundle,
                           aegisbpf_gate_command=[str(gate)])  # fmt: skip
    report = controller.report(told)
    assert outcomes(report) == {"h001": "rolled-back", "h002": "untouched"}
    assert report["result"] == "failed"
    assert report["reason"].startswith("h001: gate: ")
    assert report["hosts"][0]["gate"]["looks"][-1]["reasons"]


def test_an_interrupted_rollout_is_reported(controller: Controller) -> None:
    process = controller.start("rollout", aegisbpf_soak_seconds=100, aegisbpf_confirm_within="10m",
                               aegisbpf_policy=str(controller.folder / "three.bundle"))  # fmt: skip
    told, end = "", time.monotonic() + SECONDS
    assert process.stdout is not None
    # The change is made; hosts are being watched.
    while "changed: [h001]" not in told:
        told += process.stdout.readline()
        assert time.monotonic() < end, told
    begun = max(controller.reports.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    assert json.loads(begun.read_text())["result"] == "running"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=SECONDS)
    report = controller.report(told + rest)
    assert process.returncode == 99
    assert report["result"] == "interrupted"
    assert outcomes(report) == {"h001": "unconfirmed", "h002": "untouched"}


def test_another_playbook_is_reported_where_that_is_asked_for(controller: Controller) -> None:
    folder = controller.folder / "asked"
    told = controller.play("status", aegisbpf_report=str(folder))
    report = controller.report(told)
    assert report["playbook"].endswith("status.yml")
    assert outcomes(report) == {"h001": "unchanged", "h002": "unchanged"}
    assert len(list(folder.iterdir())) == 2
    told = controller.play("status", aegisbpf_report="none")
    assert "report:" not in told
