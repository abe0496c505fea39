"""What the tests of floods share: the agent at work, its memory meanwhile, what it told."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from kernel_support import REPOSITORY

from benchmarks.process import resident

Process = subprocess.Popen[bytes]


@contextlib.contextmanager
def running_agent(out: Path, *argv: str) -> Iterator[Process]:
    """Run the agent until the block ends, its events going to the file ``out``."""
    with out.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "aegis_tools", *argv],
            cwd=REPOSITORY, stdout=file, stderr=subprocess.PIPE,
        )  # fmt: skip
    try:
        assert process.stderr is not None
        assert any(b"events follow" in line for line in process.stderr)
        yield process
    finally:
        process.kill()
        process.communicate()


def endure(flood: Process, agent: Process) -> int:
    """Wait for a flood's end; return the highest memory of the agent meanwhile, in KiB."""
    highest = 0
    while flood.poll() is None:
        highest = max(highest, resident(agent.pid).own)
        time.sleep(0.05)
    return max(highest, resident(agent.pid).own)


def end(agent: Process) -> bytes:
    """End the agent as a service manager does; return what it said of that."""
    agent.terminate()
    _, err = agent.communicate(timeout=120)
    assert agent.returncode == 0
    return err


def told(out: Path) -> int:
    """Return how many events the lines stand for."""
    with out.open("rb") as lines:
        return sum(json.loads(line)["count"] for line in lines)
