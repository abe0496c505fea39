"""Every command that a document shows is run as it stands, in order, in one machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aegis_tools.kernel.pins import Pins

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = {
    "seed-conformance.md": "6.12",
    "operating.md": "7.2",
    "runbook.md": "5.10",
    "events.md": "6.1",
    "metrics.md": "6.1",
}
"""Where each is run: an emulated machine takes minutes for one."""
POLICY = (
    "version=1\n[deny_path]\n/srv/app/secret\n/srv/app/not there yet\n[deny_inode]\n1234:5678\n"
)

pytestmark = pytest.mark.timeout(1500)


def lines_of(name: str) -> list[str]:
    """Return the lines of the document's ``sh`` blocks, comments left out."""
    text = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    found = [line for block in blocks for line in block.splitlines()]
    return [line for line in found if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Return an environment in which ``aegisbpf`` and ``sudo`` are programs, and a host's files."""
    programs = Path("/run/documents")
    programs.mkdir()
    command = f'cd "{REPOSITORY}" && exec "{sys.executable}" -m aegis_tools "$@"'
    (programs / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    (programs / "aegisbpf").write_text(f"#!/bin/sh\n{command}\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    subprocess.run(["mount", "-t", "tmpfs", "srv", "/srv"], check=True)
    for path in ("/srv/app", "/srv/incorrectly/blocked", "/etc/aegisbpf", "/var/log"):
        Path(path).mkdir(parents=True, exist_ok=True)
    for path in ("/srv/app/secret", "/srv/incorrectly/blocked/file"):
        Path(path).write_text("secret\n")
    policy = Path("/etc/aegisbpf/policy.conf")
    policy.write_text(POLICY)
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    "document",
    [pytest.param(name, marks=pytest.mark.once(kernel)) for name, kernel in DOCUMENTS.items()],
)
def test_every_line_of_a_document_runs_as_written(
    document: str, environment: dict[str, str]
) -> None:
    subprocess.run(["aegisbpf", "load"], env=environment, check=True)
    if document == "runbook.md":  # a host in trouble has a policy
        apply = ["aegisbpf", "policy", "apply", "/etc/aegisbpf/policy.conf"]
        subprocess.run(apply, env=environment, check=True)
    failed = []
    try:
        for line in lines_of(document):
            done = subprocess.run(
                ["bash", "-c", line],
                env=environment,
                cwd="/run",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            told = done.stdout + done.stderr
            if done.returncode not in allowed(line) or "Traceback" in told:
                failed.append(f"{line}\n  status {done.returncode}\n  {told[-500:]}")
    finally:
        Pins(Path("/sys/fs/bpf/aegis")).remove_all()
    assert not failed, "\n".join(failed)


def allowed(line: str) -> set[int]:
    """Return the statuses a line may end with: searching in vain is no failure of ours, and the
    machine may well be in one of the scenarios.
    """
    if line.startswith("aegisbpf diagnose"):
        return {0, 20, 21, 22, 23}
    return {0, 1} if "grep" in line else {0}


@pytest.mark.once
def test_numbers_that_a_monitor_takes_out_of_the_output_are_numbers(
    environment: dict[str, str],
) -> None:
    subprocess.run(["aegisbpf", "load"], env=environment, check=True)
    try:
        for line in lines_of("seed-conformance.md"):
            if "awk" in line:
                done = subprocess.run(
                    ["bash", "-c", line],
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                assert re.fullmatch(r"\d+(\.\d+)?\n", done.stdout), (line, done.stdout)
    finally:
        Pins(Path("/sys/fs/bpf/aegis")).remove_all()
