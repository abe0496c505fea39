"""A soak on this kernel's own maps, in the audit fallback, with an agent or without."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kernel_support import REPOSITORY

from aegis_tools.control.heartbeat import read_heartbeat
from aegis_tools.paths import Paths
from aegis_tools.soak import begin, canary, plan, reading, running
from aegis_tools.soak.folder import Folder, folder
from aegis_tools.soak.plan import Wanted
from aegis_tools.soak.reading import Soak


def until(holds: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return what a function returns as soon as that is something."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)
    return found


class Agent:
    """An agent as a process of its own."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aegis_tools", "--root", str(paths.root), "run"],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(self.is_ready)

    def is_ready(self) -> bool:
        """Return whether it has said that it is ready."""
        beat = read_heartbeat(self.paths) or {}
        return beat.get("pid") == self.process.pid and bool(beat.get("ready"))

    def kill(self) -> None:
        """Let it die."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """End it in order."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(30)


@contextmanager
def an_agent(paths: Paths) -> Iterator[Agent]:
    """Run an agent for the time of the block."""
    agent = Agent(paths)
    try:
        yield agent
    finally:
        agent.end()


class Begun:
    """A soak that has begun, whose turns the test makes."""

    def __init__(self, paths: Paths, **given: Any) -> None:
        values: dict[str, Any] = {"scenario": "shadow", "duration_s": 3600, "interval_s": 1}
        wanted = Wanted(**{**values, **given}, foreground=True)
        self.paths = paths
        self.settings = plan.plan(paths, wanted).settings
        self.first = begin.begin(paths, plan.plan(paths, wanted))
        self.id = reading.running(paths)
        self.at: Folder = folder(paths, self.id)
        self.rule = canary.rule_id(self.at.path)

    def step(self) -> running.Step:
        """Make the next turn."""
        return running.step(self.paths)

    def soak(self) -> Soak:
        """Read its files."""
        return reading.read_soak(self.paths, self.id)

    def kinds(self) -> list[str]:
        """Return what happened after the beginning."""
        return [one.kind for one in self.soak().happened[1:]]


def touch(path: Path, times: int = 1) -> None:
    """Open a file."""
    for _ in range(times):
        os.close(os.open(path, os.O_RDONLY))


def is_alive(pid: int) -> bool:
    """Return whether there is such a process, and it is no zombie."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()[0] != "Z"
    return False
