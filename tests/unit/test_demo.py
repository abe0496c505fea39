"""The demo shows what happened or says that it did not, and the README shows what the demo does."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from demonstration.place import controller
from demonstration.show import Show
from demonstration.story import Story

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Script(Show):
    """Writes down what would be run."""

    commands: list[str] = field(default_factory=list)

    def run(self, command: str, *, status: int | None = 0, says: str = "") -> str:
        del status, says
        self.commands.append(command)
        return ""

    def check(self, held: object, otherwise: str) -> None:
        del held, otherwise


def commands(folder: Path) -> list[str]:
    script = Script(colour=False, directory=folder)
    story = Story(script)
    story.sign()
    story.on_the_host()
    return script.commands


def test_the_readme_shows_commands_of_the_demo_in_their_order(tmp_path: Path) -> None:
    text = (REPOSITORY / "README.md").read_text()
    [block] = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    shown = re.findall(r"^\$ (.*)$", block, re.MULTILINE)
    told = [line for command in commands(tmp_path) for line in command.splitlines()[:1]]
    assert len(shown) >= 5
    assert [line for line in told if line in shown] == shown


def test_the_playbooks_of_a_fleet_are_what_is_run(tmp_path: Path) -> None:
    played = re.findall(r"playbooks/(\w+)\.yml", "\n".join(commands(tmp_path)))
    assert played == ["site", "rollout", "rollout", "status", "uninstall"]


@pytest.mark.parametrize(
    ("command", "status", "says", "failed"),
    [
        ("echo yes", 0, "yes", 0),
        ("echo yes", 0, "no", 1),
        ("false", 0, "", 1),
        ("false", 1, "", 0),
        ("echo refused; exit 1", None, "refused", 0),
        ("true", None, "", 1),
    ],
)
def test_a_step_that_is_not_as_told_is_counted(
    tmp_path: Path, command: str, status: int | None, says: str, failed: int
) -> None:
    show = Show(colour=False, directory=tmp_path)
    show.run(command, status=status, says=says)
    assert show.failed == failed


def test_what_is_for_the_host_is_not_expanded_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\nprintf '[%s]' \"$@\"\n[ -t 0 ] || cat\n")
    (tmp_path / "ssh").chmod(0o755)
    # Where the demo looks for programs first.
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    story = Story(Show(colour=False, directory=tmp_path))
    assert story.there("echo $HOME 'it''s' `id`").endswith("[echo $HOME 'it''s' `id`]")
    assert story.there_as_root("kill -9 $agent\n").endswith("kill -9 $agent\n")
    capsys.readouterr()


def test_a_controller_has_all_that_a_playbook_needs_and_nothing_of_before(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    controller(folder)
    (folder / "keys" / "old.key").write_text("old")
    controller(folder)
    assert list((folder / "keys").iterdir()) == []
    assert (folder / "roles" / "aegisbpf" / "tasks" / "rollout.yml").is_file()
    assert (folder / "playbooks" / "site.yml").is_file()
    assert not (folder / "playbooks").is_symlink()
