"""Processes that use too much, and a watcher over them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from aegis_tools.monitors.profiles import model
from aegis_tools.monitors.profiles.model import Action, Profile, make_limit
from aegis_tools.monitors.profiles.store import ProfileStore
from aegis_tools.monitors.profiles.watcher import Event, Watcher
from aegis_tools.paths import Paths

_EATER = """
import os, sys, threading, time
kept = []
print("up", flush=True)
for line in sys.stdin:
    word, number = line.split()
    if word == "eat":
        kept.append(b"x" * int(number))
    elif word == "write":
        fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
        for _ in range(int(number)):
            os.pwrite(fd, b"x" * 10**6, 0)
            os.fsync(fd)
        os.close(fd)
    else:
        for _ in range(int(number)):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    print("done", flush=True)
"""


class Eater:
    """A process of a cgroup that eats memory, makes threads, or writes, when it is told to.

    Args:
        group: The cgroup.
        file: What it writes, a megabyte each time, and to the disk at once.
    """

    def __init__(self, group: Path, file: Path | None = None) -> None:
        enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        self.process = subprocess.Popen(
            ["sh", "-c", enter, "-", sys.executable, "-c", _EATER, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.hear()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def tell(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def watcher(paths: Paths, group: Path, kind: model.Kind, threshold: int, action: Action) -> Watcher:
    limit = make_limit(kind, threshold, action)
    ProfileStore(paths).save(Profile("x", cgroups=(f"/{group.name}",)).with_limit(kind, limit))
    found = Watcher(paths, lambda _: None)
    found.step()
    return found


def steps(watcher: Watcher, wanted: int = 1, at_most: int = 20) -> list[Event]:
    """Return the first events of as many steps as it takes, for at most two seconds."""
    told: list[Event] = []
    for _ in range(at_most):
        told += watcher.step()
        if len(told) >= wanted:
            break
        time.sleep(0.1)
    return told
