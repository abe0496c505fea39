"""The role's promises agree: argument specs, defaults, README, modules and playbooks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import REPOSITORY

ROLE = REPOSITORY / "roles" / "aegisbpf"
MODULES = sorted(path.stem for path in (ROLE / "library").glob("*.py"))


def specs() -> dict[str, Any]:
    found = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())
    return dict(found["argument_specs"])


def test_every_variable_is_described_and_has_the_default_that_is_described() -> None:
    described: dict[str, Any] = {}
    for entry in specs().values():
        for name, facts in entry["options"].items():
            assert name.startswith("aegisbpf_")
            if "default" in facts:
                assert described.setdefault(name, facts["default"]) == facts["default"]
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    required = {n for e in specs().values() for n, f in e["options"].items() if f.get("required")}
    assert {name: value for name, value in defaults.items() if name in described} == described
    assert set(defaults) - set(described) <= required


def test_every_entry_point_is_there() -> None:
    for name in specs():
        assert (ROLE / "tasks" / f"{name}.yml").is_file()


def test_the_readme_is_what_the_argument_specs_say() -> None:
    command = [sys.executable, "scripts/role-readme", "--check"]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 0


@pytest.mark.parametrize("name", MODULES)
def test_a_module_documents_itself(name: str) -> None:
    text = (ROLE / "library" / f"{name}.py").read_text()
    parts = dict(re.findall(r'^([A-Z]+) = r"""\n(.*?)^"""', text, re.MULTILINE | re.DOTALL))
    assert set(parts) == {"DOCUMENTATION", "EXAMPLES", "RETURN"}
    documentation = yaml.safe_load(parts["DOCUMENTATION"])
    assert documentation["module"] == name
    assert set(documentation["attributes"]) == {"check_mode", "diff_mode"}
    options = set(re.findall(r'^        "(\w+)": \{', text.partition("def main")[2], re.MULTILINE))
    if "**ARGUMENTS" in text or "dict(ARGUMENTS)" in text:
        options.add("program")
    options |= set(re.findall(r'spec = \{"(\w+)"', text))
    assert set(documentation["options"]) == options
    for task in yaml.safe_load(parts["EXAMPLES"]):
        assert set(task) & {*MODULES, "ansible.builtin.meta", "ansible.builtin.reboot"}
    assert yaml.safe_load(parts["RETURN"])


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "playbooks").glob("*.yml")), ids=lambda path: str(path.name)
)
def test_a_playbook_says_how_it_is_called(path: Path) -> None:
    text = path.read_text()
    head = text.partition("\n- ")[0]
    assert f"#   ansible-playbook -i inventories/staging playbooks/{path.name}" in head
    assert len(text.splitlines()) <= 120
