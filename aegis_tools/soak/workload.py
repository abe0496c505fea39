"""The workload of a soak: a process of its own, bounded, that ends with the soak.

Where systemd runs the host it is a transient unit with limits; with ``--foreground`` it is a
group of child processes. Either way ``soak.work`` is what runs, and bounds its processor time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aegis_tools.errors import UsageError
from aegis_tools.kernel.run import Runner, run
from aegis_tools.paths import Paths
from aegis_tools.soak import unit

CPU_PERCENT = 50
"""Of one core: what it may take by itself; the unit's limit stands above."""
MEMORY = "512M"
TASKS = 128
GRACE_SECONDS = 60
_END_SECONDS = 10.0


def command(paths: Paths, name: str, seconds: int, *, cpu_percent: int = CPU_PERCENT) -> list[str]:
    """Return the command that does the work for so long."""
    root = [] if paths.root == Path("/") else ["--root", str(paths.root)]
    words = [sys.executable, "-m", "aegis_tools.soak.work", *root]
    return [*words, f"--seconds={seconds}", f"--cpu-percent={cpu_percent}", name]


def limits(seconds: int) -> tuple[str, ...]:
    """Return the limits of the unit; it ends some time after the work should have."""
    return (
        f"CPUQuota={CPU_PERCENT + 10}%",
        f"MemoryMax={MEMORY}",
        "MemorySwapMax=0",
        f"TasksMax={TASKS}",
        f"RuntimeMaxSec={seconds + GRACE_SECONDS}",
        "TimeoutStopSec=20",
        "PrivateTmp=yes",
        "LimitMEMLOCK=infinity",
        "OOMScoreAdjust=500",
        "StandardOutput=null",
        "Restart=on-abnormal",
        "RestartSec=30",
    )


def start(paths: Paths, name: str, seconds: float, runner: Runner = run) -> None:
    """Run a workload as a transient unit, in the place of one that is there.

    Raises:
        CommandError: systemd refused.
    """
    whole = max(int(seconds), 1)
    unit.start_workload(command(paths, name, whole), limits(whole), runner)


def check(paths: Paths, name: str) -> None:
    """Raise UsageError where a workload would have nothing to do."""
    if name == "stress":
        from aegis_tools.soak.work import denied_files

        if not denied_files(paths):
            raise UsageError(
                "no live rule denies the reading of a file that is there, so there is no stress",
                hint="apply a policy that denies files, or choose another --workload",
            )


@contextmanager
def child(paths: Paths, name: str, seconds: float) -> Iterator[int]:
    """Run a workload as a group of child processes while the block runs; yield its id, or 0.

    It ends with this process, too, however that ends.
    """
    if name == "none":
        yield 0
        return
    process = subprocess.Popen(
        command(paths, name, max(int(seconds), 1)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process.pid
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
