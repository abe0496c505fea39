"""Programs that work for a measurement: each is short, and ended with whoever started it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from aegis_tools.errors import AegisError

LIMIT = 120  # seconds after which a program hangs


class ProgramError(AegisError):
    """A program is missing, failed, or said something that is not understood."""


def output_of(argv: Sequence[str], folder: Path | None = None, cpu: int | None = None) -> str:
    """Run a program that must succeed, on one processor if that is asked for.

    Raises:
        ProgramError: It failed; what it said last is in the message.
    """
    try:
        done = subprocess.run(
            [*on_cpu(cpu), *argv], cwd=folder, capture_output=True, text=True, check=False,
            timeout=LIMIT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProgramError(f"{argv[0]} cannot be run: {error}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise ProgramError(f"{argv[0]} failed: {' '.join(said)}")
    return done.stdout


def on_cpu(cpu: int | None) -> list[str]:
    """Return what to put before a command to keep it on a processor."""
    return [] if cpu is None else ["taskset", "--cpu-list", str(cpu)]


def last_cpu() -> int:
    """Return the last of the processors that we may use."""
    return max(os.sched_getaffinity(0))


def first_cpu() -> int:
    """Return the first of the processors that we may use."""
    return min(os.sched_getaffinity(0))
