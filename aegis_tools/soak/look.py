"""Looking at the host: all that a turn needs to know of it, and the canary's try."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from aegis_tools.control import files
from aegis_tools.control.bootclock import SYSTEM, Seams, boot_id
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.errors import AegisError
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths
from aegis_tools.soak import agent, canary, changes, kernellog, loaded
from aegis_tools.soak.canary import NONE, Tried
from aegis_tools.soak.changes import Now
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.loaded import NOTHING, Loaded
from aegis_tools.soak.state import Agent, State
from aegis_tools.soak.telling import cut

PROBES = 200
LOCK_SECONDS = 10.0
"""For another command, before the canary is left alone until the next turn."""
_PROBED = "file whose opening is measured"
_LOST = "{} messages of the kernel were overwritten before they could be read"


@dataclass
class Look:
    """One look at the host. It remembers what could not be read, and goes on.

    Args:
        paths: The host.
        folder: Of the soak.
        before: What the last turn remembered.
        fresh: Of the host it remembers nothing: what is found is how it was, and not told.
        seams: Clock and programs.
        sleep: Waits.

    Attributes:
        happened: What the look itself has met with.
        failing: What cannot be read now.
    """

    paths: Paths
    folder: Path
    before: State
    fresh: bool = False
    seams: Seams = SYSTEM
    sleep: Callable[[float], None] = time.sleep
    happened: list[Happened] = field(default_factory=list)
    failing: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wall = self.seams.wall()
        self.boot = boot_id(self.paths)[:8]
        self.boot_s = self.seams.boot_ns() / 1e9
        self.placed = self.before.placed

    @cached_property
    def loaded(self) -> Loaded:
        """What is loaded."""
        with self.trying("loaded", "what is loaded"):
            return loaded.look(self.paths)
        return NOTHING

    @cached_property
    def now(self) -> Now:
        """When it is, and what the host is like."""
        mode, policy = self.loaded.mode, self.loaded.policy
        return Now(self.wall, self.boot, self.boot_s, mode, policy)

    @cached_property
    def again(self) -> bool:
        """Whether this is another boot than the last turn's."""
        return changes.rebooted(self.before, self.now)

    @cached_property
    def agent_before(self) -> Agent:
        """What the last turn of this boot has seen of the agent."""
        return Agent() if self.again else self.before.agent

    @cached_property
    def agent(self) -> agent.Seen:
        """The agent."""
        return agent.look(self.paths, self.agent_before, seams=self.seams, sleep=self.sleep)

    @cached_property
    def restarts(self) -> int | None:
        """How often systemd has restarted it: asked only where it is another one than before."""
        if self.agent.running and agent.changed(self.agent_before, self.agent):
            return agent.read_restarts(self.seams.run, self.agent.pid)
        return self.agent_before.restarts

    def of_agent(self) -> list[Happened]:
        """Return what became of the agent."""
        if self.fresh:
            return []
        badly = agent.ended_badly(self.paths, self.agent_before, self.agent)
        when = (self.wall, self.boot_s)
        return agent.told(self.agent_before, self.agent, self.restarts, badly=badly, when=when)

    @cached_property
    def kernel(self) -> kernellog.Log:
        """What the kernel has said since the last turn."""
        after = -1 if self.again else self.before.kmsg
        with self.trying("kernel-log", "the kernel's log"):
            return kernellog.read(self.paths, after)
        return kernellog.Log((), after)

    @cached_property
    def crashes(self) -> tuple[str, ...]:
        """What crashes of the kernel have left."""
        return kernellog.crash_records(self.paths)

    def of_kernel(self) -> list[Happened]:
        """Return what the kernel has said, and what it left when it crashed."""
        log = self.kernel
        if self.fresh:
            return []
        found = [
            Happened(self.wall, "kernel", one.text, boot_s=one.boot_s, class_=one.class_)
            for one in log.found
        ]
        if log.lost and not self.again:
            found.append(self._event("reading-failed", _LOST.format(log.lost)))
        left = set(self.crashes) - set(self.before.pstore)
        if left:
            text = f"the kernel has crashed: it left {', '.join(sorted(left))}"
            found.append(
                Happened(self.wall, "kernel", cut(text), boot_s=self.boot_s, class_="panic")
            )
        return found

    @cached_property
    def canary(self) -> Tried:
        """How the try of the canary ended; afterwards it is whole again."""
        if not self.loaded.there:
            self.placed = False
            return NONE
        tried = NONE
        with self.trying("canary", "the canary"):
            tried = self._try()
        if tried.result == "miss":
            self.happened.append(self._event("canary-miss", f"the canary was missed: {tried.text}"))
            with self.trying("canary", "the canary"):
                self.place()
        return tried

    def _try(self) -> Tried:
        with Live(Pins(self.paths.pins)) as live:
            there = canary.is_placed(live, canary.rule_id(self.folder))
        self.placed = there and canary.path_of(self.folder).is_file()
        same_load = not self.again and self.loaded.maps == self.before.maps
        if not self.placed and self.before.placed and same_load:
            return Tried("miss", "it or its rule was gone")
        if not self.placed:
            self.place()
        reader = self.agent.ring if self.agent.running else 0
        return canary.attempt(self.paths, self.folder, reader=reader, sleep=self.sleep)

    def place(self) -> None:
        """Make the canary and its rule whole; tell it where the soak had them before.

        What is loaded is looked at anew afterwards.

        Raises:
            AegisError: The kernel refused, or another command takes its time.
        """
        from aegis_tools.soak import placing

        self.placed = False
        with locked(self.paths.lock, command="soak sample", timeout=LOCK_SECONDS):
            missing = placing.place(self.paths, self.folder)
        self.__dict__.pop("loaded", None)  # it has one rule more now
        if missing and self.before.turn:
            self.happened.append(self._event("rule-restored", "the canary's rule was made again"))
        self.placed = True

    @cached_property
    def probe_us(self) -> float | None:
        """Microseconds, median, to open and close a file that no rule names."""
        path = self.folder / "probe"
        with self.trying("probe", "how long an open takes"):
            if not path.is_file():
                files.write_atomic(path, b"", what=_PROBED)
            return probe(path)
        return None

    def _event(self, kind: str, text: str) -> Happened:
        return Happened(self.wall, kind, cut(text), boot_s=self.boot_s)

    @contextmanager
    def trying(self, name: str, what: str) -> Iterator[None]:
        """Remember that something cannot be read, and tell it unless that was told before."""
        try:
            yield
        except (AegisError, OSError) as error:
            self.failing.append(name)
            if name not in self.before.failing:
                why = error.message if isinstance(error, AegisError) else error.strerror
                text = f"{what} could not be read: {why}"
                self.happened.append(self._event("reading-failed", text))


def probe(path: Path, rounds: int = PROBES) -> float:
    """Return microseconds, median, to open and close a file.

    Raises:
        OSError: It cannot be opened.
    """
    name, took, clock = os.fsencode(path), [], time.perf_counter_ns
    for _ in range(rounds):
        begun = clock()
        os.close(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
        took.append(clock() - begun)
    return sorted(took)[rounds // 2] / 1000
