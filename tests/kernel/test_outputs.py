"""What a person named as output, and what is missing when a command starts."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from edit_support import Host

from aegis_tools.kernel import layout
from aegis_tools.kernel.pins import Pins

REPOSITORY = Path(__file__).resolve().parents[2]


def program(host: Host, *argv: str | Path, shell: str = "") -> subprocess.CompletedProcess[str]:
    """Run the program as a shell does, with redirections."""
    command = [sys.executable, "-m", "aegis_tools", "--root", str(host.paths.root)]
    return subprocess.run(
        ["bash", "-c", f'"$@" {shell}', "bash", *command, *map(str, argv)],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_device_is_written_to_and_never_replaced(host: Host, tmp_path: Path) -> None:
    null = tmp_path / "null"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    host("policy", "export", null)
    host("metrics", "--out", null)
    assert stat.S_ISCHR(null.stat().st_mode)
    full = tmp_path / "full"
    os.mknod(full, stat.S_IFCHR | 0o666, os.makedev(1, 7))
    assert "cannot be written" in host("policy", "export", full, code=8)["message"]
    assert stat.S_ISCHR(full.stat().st_mode)


def test_the_reader_of_a_pipe_gets_it(host: Host, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    host("policy", "export", pipe)
    reader.join(10)
    assert read
    assert "version" in read[0]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_link_stays_one_and_a_file_keeps_its_permissions(host: Host, tmp_path: Path) -> None:
    file, link = tmp_path / "real.conf", tmp_path / "link.conf"
    file.write_text("old")
    file.chmod(0o600)
    link.symlink_to("real.conf")
    host("policy", "export", link)
    assert link.is_symlink()
    assert file.read_text().startswith("version")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert host("policy", "export", tmp_path, code=2)["error"] == "usage"


def test_signing_never_overwrites_a_key_a_policy_or_anything_but_a_bundle(
    host: Host, tmp_path: Path
) -> None:
    policy = tmp_path / "p.conf"
    policy.write_text("version=1\n[deny_port]\n4444:tcp\n")
    host("keys", "generate", tmp_path / "k")
    key, other = tmp_path / "k.key", tmp_path / "notes"
    other.write_text("notes")
    sign = ("policy", "sign", policy, "--key", key, "--output")
    for victim in (key, policy, other):
        before = victim.read_bytes()
        assert host(*sign, victim, code=2)["error"] == "usage"
        assert victim.read_bytes() == before
    host(*sign, tmp_path / "b")
    with policy.open("a") as file:
        file.write("# a bundle of more than a MiB\n" * 40_000)
    host(*sign, tmp_path / "b")
    host(*sign, tmp_path / "b")
    assert host("policy", "convert", policy, "--to", "yaml", "--output", policy, code=2)


@pytest.mark.parametrize("name", [*layout.SPECS, *layout.GLOBAL_MAPS])
def test_a_missing_pin_is_told_of_with_the_way_out(host: Host, name: str) -> None:
    Pins(host.paths.pins).remove("maps", name)
    for command in (("load",), ("policy", "verify-live"), ("stats",), ("block", "list")):
        answer = host.any(*command)
        if command[0] == "load" or answer.get("error"):
            assert answer["error"] == "kernel", (command, answer)
            assert "reset" in answer["hint"]
    checks = {check["name"]: check for check in host("health", code=6)["checks"]}
    assert checks["loaded"]["ok"] is False
    assert host("reset")["programs_left"] == 0


def test_with_its_output_closed_a_command_still_does_its_work(host: Host, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("secret")
    for shell in (">&-", "2>&-", "<&- >&- 2>&-"):
        done = program(host, "block", "add", file, shell=shell)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
        done = program(host, "block", "del", file, shell=shell)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    wrong = program(host, "mode", "foo", shell="2>&-")
    assert (wrong.returncode, wrong.stdout) == (2, "")


def test_output_that_cannot_be_written_is_not_taken_for_a_failed_change(
    host: Host, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("secret")
    done = program(host, "block", "add", file, shell=">/dev/full")
    assert done.returncode == 8
    assert "done, but its output" in done.stderr
    assert [str(file)] == host.paths_listed()


def test_json_errors_are_one_document(host: Host) -> None:
    done = program(host, "--json", "policy", "lint", "/nowhere")
    assert json.loads(done.stdout)["exit_code"] == done.returncode
