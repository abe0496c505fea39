"""A machine that the role has brought to its desired state, and the wheelhouse it came from."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from vmharness.kernels import HarnessError
from vmharness.system import image, package, recipe
from vmharness.system.machine import Keys, Machine
from vmharness.system.package import REPOSITORY
from vmharness.system.qemu import Qemu
from vmharness.system.snapshot import Snapshot, bare, cached, machine_key

BIN = Path(sys.executable).parent
ROLE = ("roles", "playbooks/site.yml", "scripts/build-wheelhouse", "ansible.cfg")
CONVERGE_SECONDS = 1500
OPTIONS = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"


def converged(environment: Mapping[str, str]) -> Snapshot:
    """Return a machine after ``site.yml``: installed, loaded, in audit, without keys and policy.

    Raises:
        HarnessError: It cannot be made.
    """
    before = bare(environment)
    parts = [machine_key(), package.content_key(), *digests(tracked(ROLE))]
    return cached(
        environment, "converged", recipe.key(parts), lambda fresh: _converge(before, fresh)
    )


def wheelhouse(snapshot: Snapshot) -> Path:
    """Return the archive that the role installs from."""
    return snapshot.folder / "wheelhouse.tar"


def inventory(machines: Iterable[Machine], variables: Mapping[str, object]) -> dict[str, object]:
    """Return the inventory: ``vm1`` and so on, and what is the same for all."""
    hosts = {
        f"vm{number}": {
            "ansible_host": "127.0.0.1",
            "ansible_port": machine.port,
            "ansible_user": recipe.USER,
            "ansible_ssh_private_key_file": str(machine.keys.private),
            "ansible_ssh_common_args": OPTIONS,
        }
        for number, machine in enumerate(machines, 1)
    }
    return {"all": {"children": {"machines": {"hosts": hosts}}, "vars": dict(variables)}}


def tracked(names: Iterable[str]) -> list[Path]:
    """Return the files that git knows or would add, below some of the repository's."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *names]
    listing = subprocess.run(
        command, cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout
    paths = [REPOSITORY / name for name in sorted(set(filter(None, listing.split("\0"))))]
    return [path for path in paths if path.is_file()]


def digests(paths: Iterable[Path]) -> list[str]:
    """Return a line for each file, which names it and what is in it."""
    return [
        f"{path.relative_to(REPOSITORY)} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in paths
    ]


def _converge(before: Snapshot, fresh: Snapshot) -> None:
    started = time.monotonic()
    archive = wheelhouse(fresh)
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"  # Debian 12's, here and there
    build = [sys.executable, "scripts/build-wheelhouse", str(archive), "--python", python]
    image.run(build, cwd=REPOSITORY)
    image.say(f"a wheelhouse after {time.monotonic() - started:.0f} s")
    with (
        tempfile.TemporaryDirectory(prefix="aegis-converge-") as name,
        Qemu(before.disk, state=before.state, disk=fresh.disk) as qemu,
    ):
        folder = Path(name)
        machine = Machine(qemu, Keys(folder))
        machine.open()
        _play("site", [machine], folder, {"aegisbpf_wheelhouse": str(archive)})
        machine.run("sync")
        machine.close()
        qemu.store(fresh.state)
    image.say(f"a machine that has converged after {time.monotonic() - started:.0f} s")


def _play(
    name: str, machines: Iterable[Machine], folder: Path, variables: Mapping[str, object]
) -> None:
    file = folder / "inventory.json"
    file.write_text(json.dumps(inventory(machines, variables)), encoding="utf-8")
    done = subprocess.run(
        [BIN / "ansible-playbook", f"--inventory={file}", f"playbooks/{name}.yml"],
        cwd=REPOSITORY,
        env={**os.environ, "ANSIBLE_HOME": str(folder), "PATH": f"{BIN}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=CONVERGE_SECONDS,
        check=False,
    )
    if done.returncode:
        raise HarnessError(f"{name}.yml failed", detail=done.stdout)
