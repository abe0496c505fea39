"""The rings that the agent reads: taken as they can be, let go when their monitor goes."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

from aegis_tools.errors import AegisError, KernelError
from aegis_tools.monitors import reading
from aegis_tools.monitors.agent.saying import Saying
from aegis_tools.monitors.follow import Follower, Record
from aegis_tools.monitors.pins import MonitorPins
from aegis_tools.monitors.reading import Taken
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.paths import Paths


class Rings:
    """The rings of some monitors, read as one.

    Args:
        paths: Of which host.
        saying: What goes wrong is said there.
        stop: Something to poll as well, that ends a wait.
    """

    def __init__(self, paths: Paths, saying: Saying, stop: Any) -> None:
        self._paths = paths
        self._saying = saying
        self._held: dict[str, tuple[Taken, contextlib.ExitStack]] = {}
        self._follower = Follower([], stop)

    def batch(self, seconds: float) -> list[Record]:
        """Return what has come, in order; waits up to so many seconds where nothing has."""
        try:
            return self._follower.batch(seconds)
        except KernelError as error:
            self._saying.trouble("rings", error)
            self.close()
            return []

    @property
    def names(self) -> list[str]:
        """The monitors that are read."""
        return sorted(self._held)

    def look(self, wanted: Collection[str]) -> None:
        """Let go of what is gone or not wanted any more, and take what is there."""
        for name in self.names:
            gone = self._number(name) != self._held[name][0].number
            if gone and name in wanted:
                self._saying.trouble(name, f"{name} was unloaded by another command")
            if gone or name not in wanted:
                self._release(name)
        for name in wanted:
            if name not in self._held and self._number(name):
                self._take(name)

    def renew(self, name: str) -> None:
        """Let go of what the agent itself has put another load in the place of."""
        if name in self._held and self._number(name) != self._held[name][0].number:
            self._release(name)

    def close(self) -> None:
        """Let go of all."""
        for name in self.names:
            self._release(name)

    def _number(self, name: str) -> int:
        return reading.number_of(MonitorPins(self._paths.monitor_pins, name))

    def _take(self, name: str) -> None:
        with contextlib.ExitStack() as stack:
            monitor = MONITORS[name]
            try:
                taken = stack.enter_context(
                    reading.take(self._paths, monitor, reading.AGENT, timeout=0)
                )
            except AegisError as error:
                self._saying.trouble(name, error)
                return
            except OSError as error:
                self._saying.trouble(name, f"{name} cannot be read: {error.strerror}")
                return
            self._held[name] = taken, stack.pop_all()
        self._saying.fine(name, f"{name} is followed again")
        self._follow()

    def _release(self, name: str) -> None:
        _, stack = self._held.pop(name)
        self._follow()
        with contextlib.suppress(AegisError, OSError):
            stack.close()

    def _follow(self) -> None:
        self._follower.rings = [(taken.monitor, taken.ring) for taken, _ in self._held.values()]
