"""Bursts of matches: too many for a small ring, few enough for a larger one; and who reads them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kernel_support import REPOSITORY, start_python

from aegis_tools.control.heartbeat import read_heartbeat
from aegis_tools.paths import Paths

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
READY_SECONDS = 120


def policy_of(folder: Path) -> Path:
    """Make the files, and a policy that denies all of them."""
    folder.mkdir()
    names = [folder / f"f{number}" for number in range(FILES)]
    for name in names:
        name.touch()
    policy = folder.with_suffix(".conf")
    policy.write_text("version=1\n[deny_path]\n" + "\n".join(map(str, names)) + "\n")
    return policy


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


@contextmanager
def ready_agent(paths: Paths, events: Path) -> Iterator[None]:
    """Run the agent as above, from when it says that it is ready."""
    with agent_again_and_again(paths.root, events):
        end = time.monotonic() + READY_SECONDS
        while not (read_heartbeat(paths) or {}).get("ready"):
            assert time.monotonic() < end, Path(f"{events}.said").read_text()
            time.sleep(0.05)
        yield
