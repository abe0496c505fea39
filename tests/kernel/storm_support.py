"""Bursts of matches: too many for a small ring, few enough for a larger one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kernel_support import REPOSITORY, start_python

BURSTS = """
import contextlib, os, sys, time
path, number = sys.argv[1].encode(), int(sys.argv[2])
while True:
    for at in range(number):
        with contextlib.suppress(PermissionError):
            os.close(os.open(path + b"/f%d" % (at % 50), os.O_RDONLY))
    if at:
        print("burst", flush=True)
    time.sleep(0.5)
"""
FILES = 50


@contextmanager
def storm(folder: Path, number: int) -> Iterator[None]:
    """Open files of ``folder``, a burst of ``number`` twice a second, while the block runs."""
    process = start_python(BURSTS, folder, number)
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), "no storm"
        yield
    finally:
        process.kill()
        process.communicate()


@contextmanager
def agent_again_and_again(root: Path, events: Path) -> Iterator[None]:
    """Run the agent, and start it again when it ends, as a service manager would."""
    command = f"{sys.executable} -m aegis_tools --root {root} run --events-file {events}"
    script = (
        "trap 'kill $agent; wait $agent; exit 0' TERM\n"
        f"while :; do {command} >/dev/null 2>>{events}.said & agent=$!; wait $agent; done"
    )
    process = subprocess.Popen(["sh", "-c", script], cwd=REPOSITORY)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)
