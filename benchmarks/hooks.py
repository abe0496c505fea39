"""The hooks of a sandbox: away, attached in audit, attached in enforce; the agent beside them."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from aegis_tools.control.live import Live
from aegis_tools.kernel import loader, syscall
from aegis_tools.kernel.layout import Config
from benchmarks.loaded import run_statistics
from benchmarks.sandbox import Sandbox, expedited, sandbox

NONE, AUDIT, ENFORCE = "none", "audit", "enforce"
STATES = (NONE, AUDIT, ENFORCE)
_LOOK = 0.02
_LIMIT = 30
_SETTLE = 0.1  # seconds in which the kernel ends what attaching and detaching left to do


@dataclass
class Hooks:
    """What is loaded in a sandbox.

    Attributes:
        box: The sandbox.
        live: Its maps.
    """

    box: Sandbox
    live: Live
    _state: str = field(default="", init=False)

    @property
    def states(self) -> tuple[str, ...]:
        """What this kernel can be put into: the audit fallback refuses nothing."""
        return STATES[:2] if self.box.pins.is_fallback() else STATES

    def be(self, state: str) -> None:
        """Put the hooks into a state; whoever else changes it, such as an agent that starts."""
        if state == NONE:
            loader.detach(self.box.pins)
            self._until_nothing_runs()
        else:
            loader.attach(self.box.pins)
            self.live.set_config(Config.MODE, int(state == ENFORCE))
        if state != self._state:
            time.sleep(_SETTLE)
        self._state = state

    def _until_nothing_runs(self) -> None:
        """Wait until the kernel has let go of the links, which it does when it comes to it."""
        end = time.monotonic() + _LIMIT
        with run_statistics():
            before = None
            while before != (before := self.runs()):
                if time.monotonic() > end:
                    raise SystemExit("the hooks run on although their links are gone")
                time.sleep(_LOOK)
                _touch()

    def runs(self) -> dict[str, tuple[int, int]]:
        """Return how often each program ran, and for how many nanoseconds, until now."""
        found = {}
        for name in self.box.pins.names("progs"):
            program = self.box.pins.open_program(name)
            try:
                info = syscall.program_info(program)
            finally:
                os.close(program)
            found[name] = info["run_cnt"], info["run_time_ns"]
        return found


def _touch() -> None:
    """Do what each hook of the benchmarks looks at."""
    with socket.socket(type=socket.SOCK_DGRAM) as one, contextlib.suppress(OSError):
        one.bind(("127.0.0.1", 0))
        one.sendto(b"x", one.getsockname())
        one.connect(one.getsockname())


@contextlib.contextmanager
def hooks(options: loader.LoadOptions) -> Iterator[Hooks]:
    """Load in a sandbox; take all of it away afterwards."""
    with expedited(), sandbox(options) as box, Live(box.pins) as live:
        made = Hooks(box, live)
        made.be(AUDIT)
        try:
            yield made
        finally:
            made.be(NONE)  # else the sandbox's own files could not be removed


@contextlib.contextmanager
def spent(made: Hooks) -> Iterator[dict[str, tuple[int, float]]]:
    """Yield what is filled in at the end: runs of each program that ran, and nanoseconds of one."""
    found: dict[str, tuple[int, float]] = {}
    with run_statistics():
        before = made.runs()
        yield found
        after = made.runs()
    for name, (runs, ns) in after.items():
        new = runs - before[name][0]
        if new:
            found[name] = new, (ns - before[name][1]) / new
