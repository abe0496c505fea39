"""Rollouts over light hosts: real SSH, maps and commits, in the audit fallback of this kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleetsim.fleet import Fleet

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SOAK = 2
HOSTS = 4


class Controller:
    """Where playbooks are started from."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet, self.folder = fleet, folder
        self.inventory = folder / "inventory.json"
        self.inventory.write_text(json.dumps(fleet.inventory()))
        self._aegisbpf("keys", "generate", str(folder / "ops"))
        self.digests = {name: self._bundle(name) for name in ("one", "two", "three")}

    def _aegisbpf(self, *words: str) -> dict[str, Any]:
        argv = [BIN / "aegisbpf", "--json", *words]
        return dict(json.loads(subprocess.run(argv, check=True, capture_output=True).stdout))

    def _bundle(self, name: str) -> str:
        policy, bundle = self.folder / f"{name}.yaml", self.folder / f"{name}.bundle"
        policy.write_text(f"version: 1\nrules:\n  - {{id: {name}, path: /srv/{name}}}\n")
        key = str(self.folder / "ops.key")
        sign = ("policy", "sign", str(policy), "--key", key, "--output", str(bundle))
        return str(self._aegisbpf(*sign)["digest"])

    def play(self, playbook: str, *, status: int = 0, **variables: Any) -> str:
        """Run a playbook and return what it told."""
        given = {
            "aegisbpf_allow_fallback": True,
            "aegisbpf_service_managed": False,
            "aegisbpf_trusted_keys": [str(self.folder / "ops.pub")],
            "aegisbpf_soak_seconds": SOAK,
            "aegisbpf_gate_interval": 1,
            **variables,
        }
        (self.folder / "vars.json").write_text(json.dumps(given))
        done = subprocess.run(
            [BIN / "ansible-playbook", "-i", self.inventory, f"playbooks/{playbook}.yml",
             "-e", f"@{self.folder / 'vars.json'}"],
            cwd=REPOSITORY,
            env={**os.environ, "ANSIBLE_CONFIG": "ansible.cfg", "ANSIBLE_HOME": str(self.folder),
                 "ANSIBLE_TIMEOUT": "5", "PATH": f"{BIN}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def roll(self, name: str, *, status: int = 0, **variables: Any) -> str:
        """Roll a policy out, one host and then the others unless told otherwise."""
        waves = {"aegisbpf_waves": [1, "100%"], **variables}
        return self.play(
            "rollout", status=status, aegisbpf_policy=str(self.folder / f"{name}.bundle"), **waves
        )

    def on(self, number: int, *words: str) -> dict[str, Any]:
        """Run aegisbpf on a host and return its document, whatever its exit code is."""
        ssh = ["ssh", "-F", "none", "-i", str(self.fleet.key), "-oBatchMode=yes",
               "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oLogLevel=ERROR",
               f"root@{self.fleet.address(number)}"]  # fmt: skip
        command = " ".join(["/opt/aegisbpf/current/bin/aegisbpf", "--json", *words])
        done = subprocess.run([*ssh, command], capture_output=True, text=True, check=False)
        return dict(json.loads(done.stdout))

    def live(self) -> list[str]:
        """Return by host which policy is live; with ``?`` where it is not confirmed."""
        names = {digest: name for name, digest in self.digests.items()}
        found = []
        for number in range(1, HOSTS + 1):
            status = self.on(number, "status")
            digest = status["policy"]["digest"]
            found.append(names.get(digest, digest) + ("?" if status["pending"] else ""))
        return found

    def gate(self, text: str) -> list[str]:
        """Return a team's own gate: a shell script."""
        path = self.folder / "gate"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return [str(path)]


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with Fleet(HOSTS) as fleet:
        found = Controller(fleet, tmp_path_factory.mktemp("controller"))
        for number in range(1, HOSTS + 1):
            found.on(number, "load")
        found.play("site")
        found.roll("one")
        assert found.live() == ["one"] * HOSTS
        yield found


def test_a_rollout_of_what_is_there_changes_nothing(controller: Controller) -> None:
    told = controller.roll("one")
    assert told.count("changed=0") == HOSTS


def test_a_gate_that_fails_undoes_its_wave_and_leaves_later_hosts_alone(
    controller: Controller,
) -> None:
    gate = controller.gate('[ "$AEGISBPF_HOST" != h002 ] || { echo checkout is slow; exit 1; }')
    told = controller.roll("two", status=2, aegisbpf_waves=[1, 2, 1], aegisbpf_gate_command=gate)
    assert "checkout is slow" in told
    assert controller.live() == ["two", "one", "one", "one"]
    controller.roll("two")
    assert controller.live() == ["two"] * HOSTS


def test_a_host_that_is_cut_off_stops_the_rollout_and_is_not_confirmed(
    controller: Controller,
) -> None:
    cut = f"ip link set {controller.fleet.link(3)} down"
    gate = controller.gate(f'[ "$AEGISBPF_HOST" != h003 ] || {cut}')
    before = controller.live()
    told = controller.roll("three", status=4, aegisbpf_waves=[1, 2, 1], aegisbpf_gate_command=gate)
    subprocess.run(["ip", "link", "set", controller.fleet.link(3), "up"], check=True)
    assert "h003" in told
    assert controller.live() == ["three", before[1], "three?", before[3]]
    # What the agent or a timer does on a host that has one, when the time is over:
    controller.on(3, "policy", "revert")
    controller.roll("three")
    assert controller.live() == ["three"] * HOSTS


def test_somebody_elses_change_is_not_confirmed(controller: Controller) -> None:
    before = controller.live()
    reach = " ".join(
        ["ssh", "-F", "none", "-i", str(controller.fleet.key), "-oStrictHostKeyChecking=no",
         "-oUserKnownHostsFile=/dev/null", f"root@{controller.fleet.address(1)}"]
    )  # fmt: skip
    revert = f"{reach} /opt/aegisbpf/current/bin/aegisbpf policy revert"
    controller._bundle("two")  # a newer serial, or the host refuses it
    told = controller.roll("two", status=2, aegisbpf_gate_command=controller.gate(revert))
    assert "another policy is live" in told
    assert controller.live() == before


def test_what_was_changed_by_hand_is_found(controller: Controller) -> None:
    intent = {"aegisbpf_policy": str(controller.folder / "three.bundle")}
    controller.play("drift", **intent)
    controller.on(2, "network", "deny", "add", "--ip", "203.0.113.9")
    told = controller.play("drift", status=2, **intent)
    assert "h002 differs: rules made by hand: manual:ip:203.0.113.9" in told
    assert [n for n in range(1, HOSTS + 1) if f"h{n:03} differs" in told] == [2]
    controller.on(2, "network", "deny", "del", "--ip", "203.0.113.9")
