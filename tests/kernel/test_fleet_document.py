"""Every command of the fleet's document is run as it stands, in order, by a controller."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from fleet_support import BIN, REPOSITORY, Controller
from fleetsim.fleet import Fleet

COPIED = ("roles", "playbooks", "ansible.cfg")
LINKED = ("scripts", "policies", "aegis_tools")
REFUSED = {"enforce.yml": "not clean"}
"""What a host that was watched for a minute refuses, as the document says it would."""

pytestmark = pytest.mark.timeout(1500)


def lines() -> list[str]:
    """Return the lines of the document's ``sh`` blocks."""
    text = (REPOSITORY / "docs/fleet.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def settle(fleet: Fleet, folder: Path) -> None:
    """Make the folder what a clone would be, its staging inventory being the fleet's."""
    for name in COPIED:
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    for name in LINKED:
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "inventories/staging").mkdir(parents=True)
    staging = yaml.safe_load((REPOSITORY / "inventories/staging/hosts.yml").read_text())
    inventory = fleet.inventory()
    inventory["all"]["vars"] = {
        **staging["all"]["vars"],
        **inventory["all"]["vars"],
        "aegisbpf_allow_fallback": True,
        "aegisbpf_service_managed": False,
        "aegisbpf_soak_seconds": 1,
        "aegisbpf_gate_interval": 1,
        "aegisbpf_baseline_seconds": 1,
    }
    (folder / "inventories/staging/hosts.json").write_text(json.dumps(inventory))


def test_its_commands_do_what_it_says(tmp_path: Path) -> None:
    with Fleet(1) as fleet:
        (tmp_path / "other").mkdir()
        Controller(fleet, tmp_path / "other").on(1, "load")
        folder = tmp_path / "clone"
        folder.mkdir()
        settle(fleet, folder)
        for line in lines():
            done = subprocess.run(
                ["bash", "-euc", line],
                cwd=folder,
                env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}",
                     "PYTHONPATH": str(REPOSITORY), "ANSIBLE_HOME": str(tmp_path / "ansible")},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )  # fmt: skip
            words = next((text for name, text in REFUSED.items() if name in line), "")
            assert bool(done.returncode) is bool(words), f"{line}\n{done.stdout}"
            assert words in done.stdout, f"{line}\n{done.stdout}"
