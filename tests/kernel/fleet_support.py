"""A controller with playbooks, and light hosts to run them on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fleetsim.fleet import Fleet

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SOAK = 2
HOSTS = 4


def descendants(pid: int) -> list[int]:
    """Return a process's children, their children, and so on."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text(encoding="ascii").split())
    return [*found, *(inner for child in found for inner in descendants(child))]


class Controller:
    """Where playbooks are started from."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet, self.folder = fleet, folder
        self.inventory = folder / "inventory.json"
        self.inventory.write_text(json.dumps(fleet.inventory()))
        self._aegisbpf("keys", "generate", str(folder / "ops"))
        self.digests: dict[str, str] = {}

    def _aegisbpf(self, *words: str) -> dict[str, Any]:
        argv = [BIN / "aegisbpf", "--json", *words]
        return dict(json.loads(subprocess.run(argv, check=True, capture_output=True).stdout))

    def sign(self, name: str) -> str:
        """Sign a policy of that name, newer than all before, and return the name."""
        policy, bundle = self.folder / f"{name}.yaml", self.folder / f"{name}.bundle"
        policy.write_text(f"version: 1\nrules:\n  - {{id: {name}, path: /srv/{name}}}\n")
        key = str(self.folder / "ops.key")
        sign = ("policy", "sign", str(policy), "--key", key, "--output", str(bundle))
        self.digests[name] = str(self._aegisbpf(*sign)["digest"])
        return name

    def command(self, playbook: str, *words: str, **variables: Any) -> dict[str, Any]:
        """Return how to run a playbook, as arguments of Popen."""
        given = {
            "aegisbpf_allow_fallback": True,
            "aegisbpf_service_managed": False,
            "aegisbpf_trusted_keys": [str(self.folder / "ops.pub")],
            "aegisbpf_confirm_within": "300s",
            "aegisbpf_soak_seconds": SOAK,
            "aegisbpf_gate_interval": 1,
            "aegisbpf_baseline_seconds": 1,
            "aegisbpf_waves": [1, "100%"],
            "aegisbpf_report": str(self.folder / "reports"),
            **variables,
        }
        (self.folder / "vars.json").write_text(json.dumps(given))
        return {
            "args": [BIN / "ansible-playbook", "-i", self.inventory, f"playbooks/{playbook}.yml",
                     "-e", f"@{self.folder / 'vars.json'}", *words],
            "cwd": REPOSITORY,
            "env": {**os.environ, "ANSIBLE_CONFIG": "ansible.cfg", "ANSIBLE_TIMEOUT": "30",
                    "ANSIBLE_HOME": str(self.folder), "PATH": f"{BIN}:{os.environ['PATH']}",
                    "PYTHONPATH": str(REPOSITORY)},
        }  # fmt: skip

    def play(self, playbook: str, *words: str, status: int = 0, **variables: Any) -> str:
        """Run a playbook and return what it told."""
        done = subprocess.run(
            **self.command(playbook, *words, **variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout
        return str(done.stdout)

    @contextmanager
    def started(self, command: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
        """Run a playbook until the block ends, then kill it with all its workers at once."""
        process = subprocess.Popen(
            **command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            # Ansible's workers are in sessions of their own.
            for pid in [process.pid, *descendants(process.pid)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()

    def bundle(self, name: str) -> str:
        """Return the path of a signed policy."""
        return str(self.folder / f"{name}.bundle")

    def roll(self, name: str, *words: str, status: int = 0, **variables: Any) -> str:
        """Roll a policy out, one host and then the others unless told otherwise."""
        given = {"aegisbpf_policy": self.bundle(name), **variables}
        return self.play("rollout", *words, status=status, **given)

    def reach(self, number: int) -> list[str]:
        """Return how to run a shell line on a host, which comes last."""
        options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
                   "LogLevel=ERROR")  # fmt: skip
        return ["ssh", "-F", "none", "-i", str(self.fleet.key), *(f"-o{one}" for one in options),
                f"root@{self.fleet.address(number)}"]  # fmt: skip

    def shell(self, number: int, script: str) -> str:
        """Run a script on a host, and return what it prints."""
        argv = [*self.reach(number), "sh -e"]
        return subprocess.run(argv, input=script, check=True, capture_output=True, text=True).stdout

    def on(self, number: int, *words: str) -> dict[str, Any]:
        """Run aegisbpf on a host and return its document, whatever its exit code is."""
        command = " ".join(["/opt/aegisbpf/current/bin/aegisbpf", "--json", *words])
        argv = [*self.reach(number), command]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
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
