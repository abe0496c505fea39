"""What the tests of this folder share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from aegis_tools.kernel.features import Features

REPOSITORY = Path(__file__).resolve().parent.parent.parent
TEST_OBJECTS = REPOSITORY / "build" / "bpf-tests"
NO_LSM = Features(release="", lsms=(), btf=True, disabled=False)
"""Whatever this kernel can, what is loaded here is the audit fallback: nothing is denied."""


def start_python(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Start a Python program of its own, with this folder's modules at hand."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{Path(__file__).parent}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )


def kill_after(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for the program's first line, then kill it; True where it had not ended by itself."""
    assert process.stdout is not None
    assert process.stdout.readline(), "the program never got to work"
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    return process.wait(timeout=30) == -signal.SIGKILL
