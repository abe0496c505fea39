"""What is in the place of our files and is none: commands say so, and neither hang nor crash."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from apply_support import Host
from flood_support import end, running_agent

from aegis_tools.cli.main import run
from aegis_tools.errors import StateError


def folder(path: Path) -> None:
    path.mkdir()
    (path / "kept").touch()


def pipe(path: Path) -> None:
    os.mkfifo(path, 0o600)


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def huge(path: Path) -> None:
    path.touch(0o600)
    os.truncate(path, 1 << 32)


KINDS: dict[Callable[[Path], None], str] = {
    folder: "a folder",
    pipe: "a pipe",
    link: "a symbolic link",
    huge: "larger than",
}
"""How to make one, and what it is called."""
FILES = ("pending", "current", "fallback", "boot", "serials", "history", "trust_config", "lock")
OFTEN = (folder, pipe)
"""What is tried for each file; the others are told apart in the same place."""
COMMANDS = (
    "boot",
    "mode audit",
    "policy apply OTHER --confirm-within 60s",
    "policy confirm",
    "policy revert",
    "policy revert --if-overdue",
    "policy rollback",
    "policy show",
    "history",
    "health",
    "health --check-config",
    "stats",
    "resume",
    "block add FILE",
    "block list",
    "why FILE",
    "capacity",
    "metrics",
)
NO_FAULT = ("there is nothing to confirm", "a change is not confirmed yet", "there is no previous")
"""What commands may say instead, where one before has failed or removed what is in the way."""


def words(command: str, files: dict[str, Path]) -> list[str]:
    names = {"POLICY": files["policy"], "OTHER": files["other"], "FILE": files["a"]}
    return [str(names.get(word, word)) for word in command.split()]


@pytest.mark.timeout(60)  # of a pipe that is waited for
@pytest.mark.parametrize("name", FILES)
def test_every_command_says_what_is_in_the_way_and_goes_on_without_it(
    host: Host, files: dict[str, Path], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    host("policy", "apply", files["policy"])
    path: Path = getattr(host.paths, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    for make in KINDS if name in ("pending", "current", "history") else OFTEN:
        kind = KINDS[make]
        path.unlink(missing_ok=True)
        make(path)
        for command in COMMANDS:
            argv = ["--root", str(host.paths.root), *words(command, files)]
            code, (_, err) = run(argv), capsys.readouterr()
            if command.startswith("health"):  # it has checks for that
                assert code in (0, 5, 8), (kind, command, err)
            elif code:
                assert code == StateError.exit_code, (kind, command, err)
                assert kind in err or any(text in err for text in NO_FAULT), (kind, command, err)
                assert "  next: " in err, (kind, command)
        if path.is_dir():
            assert (path / "kept").exists()  # nothing that is not ours is lost
            shutil.rmtree(path)  # as the hint says: out of the way
        run(["--root", str(host.paths.root), "policy", "revert"])
    path.unlink(missing_ok=True)
    if name == "serials":
        host("keys", "reset-serials")
    host("policy", "apply", files["policy"])


def test_a_boot_protects_the_host_and_fails_whatever_is_in_the_place_of_a_record(
    host: Host, files: dict[str, Path]
) -> None:
    host("policy", "apply", files["policy"])
    live = host.digest()
    for loaded in (True, False):
        host.paths.pending.exists() or folder(host.paths.pending)
        if not loaded:
            host("reset")
        error = host("boot", code=StateError.exit_code)
        assert "it is a folder" in error["message"]
        assert str(host.paths.pending) in error["detail"]
        assert host.digest() == live


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", OFTEN)
def test_the_agent_runs_and_ends_whatever_is_in_the_way(
    host: Host, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    host.paths.run.mkdir(mode=0o755, parents=True)
    host.paths.state.mkdir(mode=0o700, parents=True)
    for name in ("pending", "fallback", "starts", "agent_status", "history", "capacity_log"):
        make(getattr(host.paths, name))
    with running_agent(tmp_path / "out", "--root", str(host.paths.root), "run") as agent:
        assert b"Traceback" not in end(agent)
