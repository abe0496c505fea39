"""What the agent looks after once a second, beside passing events on.

Is what it reads from still loaded? Was something dropped, did the state change? Is a change
overdue that nobody confirmed, are refusals too many? And it says that it lives: to the service
manager, and in its heartbeat. Nothing here may end the agent but the pins being gone.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aegis_tools import __version__
from aegis_tools.agent.denyrate import DenyRate, busiest
from aegis_tools.agent.names import RuleIds
from aegis_tools.agent.notify import Notifier
from aegis_tools.agent.stream import Stop
from aegis_tools.agent.tell import DEBUG, ERROR, NOTICE, WARNING, Tell
from aegis_tools.control import fallback
from aegis_tools.control.confirm import revert_if_overdue
from aegis_tools.control.health import hook_runs
from aegis_tools.control.heartbeat import remove_heartbeat, write_heartbeat
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.control.posture import read_posture
from aegis_tools.errors import AegisError
from aegis_tools.kernel.layout import Stat
from aegis_tools.kernel.maps import Map
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths


@dataclass(frozen=True)
class Agent:
    """What this process is: for its heartbeat.

    Attributes:
        pid: Its number.
        started: Unix seconds.
        starts: Starts within the window of the crash loop, this one among them.
    """

    pid: int
    started: float
    starts: int


class Watch:
    """Looks about once a second.

    Args:
        paths: Where things are.
        live: What is loaded.
        stop: Asked when there is nothing left to read from.
        tell: Says something to a person.
        notifier: The service manager.
        agent: Whose heartbeat it is.
        guard: The deny-rate guard.
        status: The pipeline's counts; see ``Pipeline.status``.

    Attributes:
        replaced: Other maps have taken the place of those that are read, as when a map is
            enlarged: there is more to read, from them.
    """

    def __init__(
        self,
        paths: Paths,
        live: Live,
        stop: Stop,
        *,
        tell: Tell,
        notifier: Notifier,
        agent: Agent,
        guard: DenyRate,
        status: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._paths = paths
        self._live = live
        self._stop = stop
        self._tell = tell
        self._notifier = notifier
        self._agent = agent
        self._guard = guard
        self.status = status
        self._ring = live.map("events").id  # now: when the pins are gone it cannot be opened
        self._first = self._last = live.stats()[Stat.RINGBUF_DROPS]
        self._hits = self._refused()
        self._meaning = read_posture(live, paths).state
        self._said: dict[str, str] = {}
        self.ready = False
        self.replaced = False

    @property
    def dropped(self) -> int:
        """Events dropped since the start."""
        return self._last - self._first

    def look(self) -> None:
        """Look at everything once."""
        if not self._stop:
            self._look_at_pins()
        counters = self._live.stats()
        self._tell_drops(counters[Stat.RINGBUF_DROPS])
        self._trying("revert", self._revert)
        if self._guard.look(time.monotonic(), counters[Stat.BLOCKS]):
            self._trying("deny-rate", self._hold)
        self._tell_state()
        self._become_ready()
        self._trying("heartbeat", self._beat)
        self._notifier.alive()

    def _look_at_pins(self) -> None:
        pins = self._live.pins
        found = _id_of(pins)
        if found == self._ring or pins.upgrade.base.is_dir():
            return  # in the middle of a replacement: its maps are moved one by one
        if found is not None:
            self._tell(NOTICE, "aegisbpf: the maps were replaced: reading from the new ones")
            self.replaced = True
            self._stop.ask(signal.SIGHUP)
            return
        # No failure: whoever removed it must not find it loaded again by a service manager.
        self._tell(NOTICE, "aegisbpf: the pins were removed, so there is nothing to tell; ending")
        self._stop.ask()

    def begin(self) -> None:
        """Begin, or begin anew: ready is said when the probe says that the hooks work."""
        self.ready = False
        self._become_ready()

    def _become_ready(self) -> None:
        if not self.ready and self._works():
            self.ready = True
            self._notifier.ready()
            self._notifier.status(self._summary())

    def close(self) -> None:
        """Take the sign of life away, unless another one goes on."""
        if self.replaced and not self._stop:
            return
        self._notifier.stopping()
        with contextlib.suppress(OSError):
            remove_heartbeat(self._paths)

    def _works(self) -> bool:
        try:
            works = self._live.pins.is_attached() and hook_runs(self._live.pins)
        except OSError as error:  # the kernel does not measure: attached must do
            self._tell(DEBUG, f"the probe cannot measure: {error}")
            works = self._live.pins.is_attached()
        if not works:
            self._notifier.status("waiting: the hooks do not run; aegisbpf health")
        return works

    def _tell_drops(self, now: int) -> None:
        if now > self._last:
            self._tell(
                WARNING,
                f"warning: {now - self._last} events dropped, {now - self._first} since the start "
                "(the ring was full; what was denied was denied); "
                "how large it should be: aegisbpf tune",
            )
            self._last = now

    def _tell_state(self) -> None:
        posture = read_posture(self._live, self._paths)
        if posture.state != self._meaning and not self._stop:
            self._meaning = posture.state
            self._tell(NOTICE, f"aegisbpf: {self._summary()}")
        if self.ready:
            self._notifier.status(self._summary())

    def _summary(self) -> str:
        posture = read_posture(self._live, self._paths)
        return f"mode {posture.mode}, {posture.meaning}"

    def _revert(self) -> None:
        reverted = revert_if_overdue(self._paths, timeout=1)
        if reverted is not None:
            word = "finished" if reverted.finished else "reverted"
            self._tell(WARNING, f"aegisbpf: {word} {reverted.pending.action}: {reverted.why}")

    def _hold(self) -> None:
        """Fall back to audit, and say which rules it was."""
        now = self._refused()
        rules = busiest(self._hits, now, RuleIds(self._paths, self._live).read())
        detail = f"{self._guard.rate:.0f} refusals a second" + (f": {rules}" if rules else "")
        with locked(self._paths.lock, command="run", timeout=1):
            if fallback.enter(self._paths, self._live, "deny-rate", detail):
                self._tell(ERROR, f"aegisbpf: *** HELD IN AUDIT *** deny-rate: {detail}")
                self._tell(ERROR, "  next: find out why, then: aegisbpf resume")

    def _refused(self) -> dict[int, int]:
        return {uid: blocks for uid, (blocks, _, _) in self._live.hits().items()}

    def _beat(self) -> None:
        write_heartbeat(
            self._paths,
            {
                "pid": self._agent.pid,
                "version": __version__,
                "started": self._agent.started,
                "updated": time.time(),
                "updated_boot_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
                "ready": self.ready,
                "ring": self._ring,
                "starts_in_window": self._agent.starts,
                "deny_rate": round(self._guard.rate, 3),
                **self.status(),
            },
        )

    def _trying(self, what: str, act: Callable[[], None]) -> None:
        """Do it; what fails is said once, until it works again or fails otherwise."""
        message = ""
        try:
            act()
        except AegisError as error:
            message = error.message
            self._tell(DEBUG, error.detail)
        except OSError as error:
            message = f"{what}: {error.strerror}"
        if message and self._said.get(what) != message:
            self._tell(WARNING, f"warning: {message}")
        self._said[what] = message


def _id_of(pins: Pins) -> int | None:
    """Return which map of events is pinned; None for none."""
    try:
        with Map.pinned(pins.path("maps", "events")) as pinned:
            return pinned.id
    except OSError:
        return None
