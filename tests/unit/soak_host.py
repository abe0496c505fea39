"""A host with a soak, of files alone: nothing is loaded, and its clocks are set by the test."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from aegis_tools.control import files
from aegis_tools.control.bootclock import BOOT_ID, Seams
from aegis_tools.errors import CommandError
from aegis_tools.kernel import syscall
from aegis_tools.paths import Paths
from aegis_tools.soak import columns, happened, state, turn
from aegis_tools.soak.columns import Sample
from aegis_tools.soak.folder import Folder, folder
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.settings import Settings, new_id
from aegis_tools.soak.state import State
from aegis_tools.soak.turn import Made

WALL = 1_768_471_200.0
BOOT_S = 5000.0
FIRST = "0badcafe-0000-4000-8000-000000000000"
SECOND = "feedbeef-0000-4000-8000-000000000000"


def nothing_runs(argv: object, *, timeout: float = 60) -> str:
    """Be a host on which no program can be started."""
    del argv, timeout
    raise CommandError("it is not installed", hint="install it")


class Host:
    """The host.

    Args:
        root: A folder of its own.
        duration: Seconds of its soak.
        interval: Seconds between turns.
    """

    def __init__(self, root: Path, *, duration: int = 3600, interval: int = 60) -> None:
        self.paths = Paths(root)
        self.wall, self.boot_s = WALL, BOOT_S
        self.kmsg = root / "dev/kmsg"
        self.kmsg.parent.mkdir(parents=True)
        self.kmsg.write_text("")
        self.boot(FIRST)
        self.settings = Settings(
            id=new_id("shadow", WALL), scenario="shadow", started=WALL, duration_s=duration,
            interval_s=interval, boot=FIRST[:8], boot_s=BOOT_S,
        )  # fmt: skip
        self.at: Folder = folder(self.paths, self.settings.id)
        for one in (self.paths.state, self.paths.soaks, self.at.path):
            files.ensure_folder(one)
        self.at.settings.write_bytes(self.settings.to_bytes())
        self.paths.soak_running.write_text(self.settings.id + "\n")
        self.seams = Seams(lambda: int(self.boot_s * 1e9), lambda: self.wall, nothing_runs)

    def boot(self, identifier: str, at: float | None = None) -> None:
        """Be another boot from now on."""
        path = self.paths.root / BOOT_ID
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(identifier)
        if at is not None:
            self.boot_s = at
            self.kmsg.write_text("")

    def later(self, seconds: float, *, set_by: float = 0.0) -> None:
        """Let time pass, and the wall clock be set."""
        self.boot_s += seconds
        self.wall += seconds + set_by

    def says(self, text: str, level: int = 4) -> None:
        """Let the kernel say something."""
        number = len(self.kmsg.read_text().splitlines())
        with self.kmsg.open("a") as log:
            log.write(f"{level},{number},{int(self.boot_s * 1e6)},-;{text}\n")

    def turn(self, calls: files.Calls = files.SYSTEM) -> Made:
        """Make a turn."""
        return turn.make(self.paths, self.at, self.settings, seams=self.seams, calls=calls)

    def turns(self, count: int) -> None:
        """Make turns, one an interval."""
        for _ in range(count):
            self.turn()
            self.later(self.settings.interval_s)

    def rows(self) -> list[Sample]:
        """Return the rows."""
        return columns.parse(self.at.samples.read_text())[0]

    def events(self) -> list[Happened]:
        """Return what happened."""
        if not self.at.happened.exists():
            return []
        return happened.parse(self.at.happened.read_text())[0]

    def told(self, kind: str = "") -> list[str]:
        """Return the texts of what happened, of a kind."""
        return [one.text for one in self.events() if kind in ("", one.kind)]

    def state(self) -> State:
        """Return what the next turn will remember."""
        found = state.read(self.at.state)
        assert found is not None
        return found


def killing(at: int) -> files.Calls:
    """Return system calls of which the n-th, if it writes, writes half, and ends the process."""
    left = [at]

    def counted(name: str):  # type: ignore[no-untyped-def]
        real = getattr(files.SYSTEM, name)

        def call(*arguments, **named):  # type: ignore[no-untyped-def]
            left[0] -= 1
            if left[0] == 0:
                if name == "write":
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os._exit(KILLED)
            return real(*arguments, **named)

        return call

    return files.Calls(*map(counted, ("open", "write", "fsync", "replace")))


KILLED = 77
CHANGING = (os.write, os.fsync, os.replace, os.unlink, os.mkdir, os.rmdir)


def killed_at(at: int, act: Callable[[], object]) -> bool:
    """Do something in a process that ends before its n-th call that changes a file, or the kernel.

    Returns:
        Whether it came to that.
    """
    left = at

    def count(frame: FrameType, event: str, called: Any) -> None:
        nonlocal left
        of_kernel = event == "call" and frame.f_code is syscall.bpf.__code__
        if of_kernel or (event == "c_call" and called in CHANGING):
            left -= 1
            if left == 0:
                os._exit(KILLED)

    child = os.fork()
    if not child:
        try:
            sys.setprofile(count)
            act()
        finally:
            os._exit(0)
    return os.WEXITSTATUS(os.waitpid(child, 0)[1]) == KILLED


def killed_turn(host: Host, at: int) -> bool:
    """Make a turn in a process that ends at its n-th system call; return whether it came to it."""
    child = os.fork()
    if not child:
        try:
            host.turn(killing(at))
        finally:
            os._exit(0)
    return os.WEXITSTATUS(os.waitpid(child, 0)[1]) == KILLED
