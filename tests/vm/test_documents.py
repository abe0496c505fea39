"""The blocks of documents that enforce are run as they stand, in order, in one machine.

The others, and these on a host that cannot enforce: tests/kernel/test_documents.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from testrun.documents import FILES, allowed, blocks_of

from aegis_tools.kernel.pins import Pins

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = {"seed-conformance.md": "6.12", "operating.md": "7.2", "runbook.md": "5.10"}
"""Where each is run: an emulated machine takes minutes for one."""
NEEDS_LSM = re.compile(r"enforce|aegisbpf health$")

pytestmark = pytest.mark.timeout(1500)


def lines_of(name: str) -> list[str]:
    """Return the lines of a document's blocks that need a host which can enforce."""
    blocks = (block for block in blocks_of(name) if any(map(NEEDS_LSM.search, block)))
    return [line for block in blocks for line in block]


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
    for path, text in FILES.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    "document",
    [pytest.param(name, marks=pytest.mark.once(kernel)) for name, kernel in DOCUMENTS.items()],
)
def test_what_a_document_says_of_enforcing_runs_as_written(
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
