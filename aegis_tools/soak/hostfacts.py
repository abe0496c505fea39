"""What is written down of the host and the live policy when a soak begins."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from aegis_tools import __version__
from aegis_tools.control.files import printable
from aegis_tools.errors import AegisError
from aegis_tools.kernel.run import Runner, run
from aegis_tools.paths import Paths
from aegis_tools.soak.settings import Host, PolicyFacts

_LONGEST = 200


def read_host(runner: Runner = run, proc: Path = Path("/proc")) -> Host:
    """Return what the host is; what cannot be told is empty or 0."""
    return Host(
        name=printable(socket.gethostname())[:_LONGEST],
        kernel=printable(os.uname().release)[:_LONGEST],
        cpus=os.cpu_count() or 0,
        cpu_model=printable(_field(proc / "cpuinfo", "model name"))[:_LONGEST],
        memory_mb=_kib(_field(proc / "meminfo", "MemTotal")) >> 10,
        virtualised=printable(_virtualised(runner))[:_LONGEST],
        version=__version__,
    )


def _field(path: Path, name: str) -> str:
    """Return the first value of that name in lines of ``name: value``."""
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            found = (line.partition(":") for line in lines)
            return next((value.strip() for key, _, value in found if key.strip() == name), "")
    except OSError:
        return ""


def _kib(text: str) -> int:
    number = text.split(" ", 1)[0]
    return int(number) if number.isascii() and number.isdecimal() and len(number) < 16 else 0


def _virtualised(runner: Runner) -> str:
    try:
        return runner(["systemd-detect-virt"], timeout=20).strip()
    except AegisError:  # it also ends so on a host that is not
        return ""


def read_policy(paths: Paths, digest: str) -> PolicyFacts | None:
    """Return the live policy.

    Args:
        paths: Where stored policies are.
        digest: What the kernel says is live; empty for none.
    """
    if not digest:
        return None
    from aegis_tools.control.pending import known_records
    from aegis_tools.control.store import Store

    try:
        record = next((one for one in known_records(Store(paths)) if one.digest == digest), None)
    except AegisError:
        record = None
    if record is None:
        return PolicyFacts(digest)
    signers = tuple(printable(one)[:_LONGEST] for one in record.signers)
    return PolicyFacts(digest, record.serial, signers)
