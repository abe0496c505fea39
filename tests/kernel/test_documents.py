"""Every command that a document shows is run as it stands, in order, on a light host.

Such a host has real maps and no BPF LSM: it refuses to enforce, and is held to that here; the
blocks that enforce are also run in a machine (tests/vm/test_documents.py).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

import pytest
from fleet_support import Controller
from fleetsim.fleet import Fleet
from testrun.documents import FILES, allowed, blocks_of

CANNOT_ENFORCE = {
    "aegisbpf mode enforce": 6,
    "--mode enforce": 6,
    "run --enforce": 1,
    "aegisbpf health$": 5,
    "incident kernel-upgrade": 5,
}
"""What a host without BPF LSM refuses, and how."""
NUMBER = re.compile(r"\d+(\.\d+)?\n")
HAS_A_POLICY = ("runbook.md",)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Controller]:
    """Return a way to a host with the files that documents take to be there, loaded."""
    with Fleet(1) as fleet:
        controller = Controller(fleet, tmp_path)
        controller.shell(
            1,
            "mkdir /run/documents; printf '#!/bin/sh\\nexec \"$@\"\\n' > /run/documents/sudo\n"
            "chmod 755 /run/documents/sudo; mount -t tmpfs srv /srv\n"
            + "".join(
                f"mkdir -p {quote(str(Path(path).parent))}; printf %s {quote(text)} > {path}\n"
                for path, text in FILES.items()
            ),
        )
        controller.on(1, "load")
        yield controller


def typed(host: Controller, line: str) -> tuple[int, str]:
    """Return status and output of a line, as root's shell runs it."""
    path = "export PATH=/run/documents:/opt/aegisbpf/current/bin:$PATH; cd /run; "
    done = subprocess.run(
        [*host.reach(1), "bash", "-c", quote(path + line)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "document",
    [
        "seed-conformance.md",
        "operating.md",
        "runbook.md",
        "events.md",
        "metrics.md",
        "monitors.md",
        "capacity-planning.md",
        "tuning.md",
    ],
)
def test_every_line_of_a_document_runs_as_written(document: str, host: Controller) -> None:
    if document in HAS_A_POLICY:
        host.on(1, "policy", "apply", "/etc/aegisbpf/policy.conf")
    failed = []
    for line in (line for block in blocks_of(document) for line in block):
        status, told = typed(host, line)
        refusals = [code for words, code in CANNOT_ENFORCE.items() if re.search(words, line)]
        # What a monitor takes out of the output is a number.
        strange = "Traceback" in told or ("awk" in line and not NUMBER.fullmatch(told))
        # To change to audit what is in audit needs no confirmation.
        nothing_waits = "policy confirm" in line and status == 8
        if strange or not (nothing_waits or status in (refusals or allowed(line))):
            failed.append(f"{line}\n  status {status}\n  {told[-500:]}")
    assert not failed, "\n".join(failed)
