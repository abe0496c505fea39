"""The loop: events to the store and the limits, limits every half second, a look every second.

Nothing that goes wrong with one of the parts keeps the others from their work.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aegis_tools.agent.notify import Notifier as ServiceManager
from aegis_tools.agent.stream import Stop
from aegis_tools.agent.tell import Tell
from aegis_tools.errors import AegisError, KernelError, StateError
from aegis_tools.kernel.features import read_host_features
from aegis_tools.monitors import follow, reading
from aegis_tools.monitors.agent import allocations, heartbeat, settings
from aegis_tools.monitors.agent.allocations import Allocations
from aegis_tools.monitors.agent.heartbeat import Self
from aegis_tools.monitors.agent.loads import Loads
from aegis_tools.monitors.agent.notifying import Notifying
from aegis_tools.monitors.agent.rings import Rings
from aegis_tools.monitors.agent.saying import Saying
from aegis_tools.monitors.agent.settings import Settings
from aegis_tools.monitors.agent.storing import Storing
from aegis_tools.monitors.agent.tally import Tally
from aegis_tools.monitors.follow import Told
from aegis_tools.monitors.notify import settings as notify_settings
from aegis_tools.monitors.pins import MonitorPins
from aegis_tools.monitors.profiles.model import ALLOCATION, DISK_LATENCY
from aegis_tools.monitors.profiles.watcher import Watcher
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.paths import Paths

STEP, LOOK = 0.5, 1.0
"""Seconds between two measures of limits, and between two looks at everything else."""
SOON, LATER = 5.0, 60.0
"""Seconds until a monitor is tried again: one that waits for something, one that was refused."""
STORE_PATIENCE, LOCK_PATIENCE, DRAIN = 5.0, 5.0, 2.0
"""Seconds that the end may take for each of these."""

_MEASURED_BY = {DISK_LATENCY.name: "disk-io-monitor", ALLOCATION.name: allocations.MONITOR}


class Agent:
    """The monitors' agent.

    Args:
        paths: Of which host.
        wanted: What is asked for.
        stop: Ends it; a SIGHUP has it read its settings anew.
        tell: Says something to a person.
        manager: The service manager.
        who: This process.

    Raises:
        StateError: The settings of notifications are damaged.
    """

    def __init__(
        self,
        paths: Paths,
        wanted: Settings,
        stop: Stop,
        *,
        tell: Tell,
        manager: ServiceManager,
        who: Self,
    ) -> None:
        self._paths = paths
        self._wanted = wanted
        self._stop = stop
        self._manager = manager
        self._who = who
        self._saying = Saying(tell)
        self._notifying = Notifying(notify_settings.load(paths))
        self._watcher = Watcher(paths, self._notifying.tell)
        self._allocations = Allocations(self._watcher.feed)
        self._loads = Loads(paths)
        self._rings = Rings(paths, self._saying, stop)
        self._storing = Storing(paths, self._saying, self._profile_of)
        self._decoder = reading.new_decoder()
        self._tally, self._told = Tally(), Told()
        self._to_load: dict[str, float] = {}
        self._cgroups: dict[str, dict[str, int]] = {}
        self._step_at = self._look_at = 0.0
        self._ready = False

    def run(self) -> None:
        """Work until asked to stop; then end cleanly."""
        self._ask_for(self._wanted)
        while True:
            while not self._stop:
                self._turn()
            if not self._stop.reload:
                break
            self._manager.reloading()
            self._stop.clear()
            self._reload()
        self._end()

    def _turn(self) -> None:
        now = time.monotonic()
        due = min(self._step_at, self._look_at, *self._to_load.values())
        self._pass_on(self._rings.batch(max(0.0, due - now)))
        now = time.monotonic()
        if now >= self._step_at:
            self._step_at = now + STEP
            self._trying("limits", self._step)
        if now >= self._look_at:
            self._look_at = now + LOOK
            self._look()
        name = next((name for name, at in self._to_load.items() if now >= at), None)
        if name is not None:
            self._load(name)

    def _pass_on(self, batch: list[follow.Record]) -> None:
        feed = self._watcher.feed
        for event in follow.events(batch, self._decoder, self._told, follow.boot_offset):
            if event["pid"] == self._who.pid:  # from a load until its ring is taken
                continue
            self._tally.add(event)
            feed.event(event)
            profile = self._member(event)
            if profile is not None:
                event["profile"] = profile
            self._storing.offer(event)

    def _member(self, event: dict[str, Any]) -> str | None:
        """Return which profile an event belongs to: the first of several."""
        return min(self._watcher.feed.profiles(event["uid"], event["cgroup"]), default=None)

    def _profile_of(self, event: dict[str, Any]) -> str | None:
        """Return it when the event is stored: a cgroup may be new, or gone already by then."""
        return event.get("profile") or self._member(event)

    def _step(self) -> None:
        if allocations.MONITOR in self._rings.names:
            pins = MonitorPins(self._paths.monitor_pins, allocations.MONITOR)
            needed = any(kind == ALLOCATION.name for _, kind in self._watcher.levels)
            self._trying("totals", lambda: self._allocations.look(pins, needed=needed))
        else:
            self._allocations.forget()
        self._watcher.step()
        self._notifying.tick()

    def _look(self) -> None:
        if read_host_features(self._paths.root).disabled:
            self._saying.note("the glass was broken: ending")
            self._stop.ask()
        self._rings.look(self._wanted.monitors)
        self._look_at_cgroups()
        self._look_at_limits()
        self._storing.look()
        self._trying("heartbeat", self._beat)
        self._become_ready()
        self._manager.status(self._summary())
        self._manager.alive()

    def _look_at_cgroups(self) -> None:
        """Load anew where a cgroup is another one: that of a unit is, each time it is started."""
        for name, options in self._wanted.monitors.items():
            if not options.only_cgroup or name in self._to_load:
                continue
            there = options.cgroups()
            missing = ", ".join(one for one in options.only_cgroup if one not in there)
            what = f"cgroups of {name}"
            if missing:
                self._saying.trouble(
                    what, f"{name}: not there now, so nothing is told of: {missing}"
                )
            else:
                self._saying.fine(what, f"{name}: all of its cgroups are there again")
            if there and there != self._cgroups.get(name):
                self._to_load[name] = time.monotonic()

    def _look_at_limits(self) -> None:
        """Say which limits nothing measures: those of a monitor that the agent does not read."""
        for kind, name in _MEASURED_BY.items():
            whose = sorted(profile for profile, one in self._watcher.levels if one == kind)
            what = f"limits of {kind}"
            if not whose or name in self._rings.names:
                self._saying.fine(what, f"limits of {kind} are measured again" if whose else "")
            elif name not in self._wanted.monitors:
                self._saying.trouble(what, _unmeasured(kind, whose, name))

    def _become_ready(self) -> None:
        """Say so when each monitor is loaded, or has been tried."""
        if not self._ready and all(at > self._look_at for at in self._to_load.values()):
            self._ready = True
            self._manager.ready()

    def _load(self, name: str) -> None:
        """Load a monitor, or say why not and try it again later."""
        options = self._wanted.monitors[name]
        self._cgroups[name] = options.cgroups()
        try:
            done = self._loads.load(name, options)
        except AegisError as error:
            self._saying.trouble(f"load {name}", error)
            refused = isinstance(error, KernelError)
            self._to_load[name] = time.monotonic() + (LATER if refused else SOON)
            return
        del self._to_load[name]
        self._saying.fine(f"load {name}")
        if done:
            self._saying.note(done)
        self._rings.renew(name)
        self._rings.look(self._wanted.monitors)

    def _ask_for(self, wanted: Settings) -> None:
        """Do from now on what these settings say."""
        self._wanted, now = wanted, time.monotonic()
        for name in self._loads.own():
            if name not in wanted.monitors:
                self._trying(f"unload {name}", lambda name=name: self._unload(name))  # type: ignore[misc]
        for name in MONITORS.keys() - wanted.monitors.keys():
            for what in (name, f"load {name}", f"cgroups of {name}"):
                self._saying.fine(what)
        self._to_load = dict.fromkeys(wanted.monitors, now)
        self._ready = False
        self._storing.want(wanted.store if wanted.monitors else None)
        self._rings.look(wanted.monitors)

    def _unload(self, name: str, patience: float | None = None) -> None:
        if self._loads.unload(name, patience):
            self._saying.note(f"{name} is unloaded")

    def _reload(self) -> None:
        try:
            wanted, telling = settings.load(self._paths), notify_settings.load(self._paths)
        except AegisError as error:
            self._saying.trouble("settings", error)
            self._saying.note("the settings stay as they were")
            self._manager.ready()
            return
        self._saying.fine("settings")
        self._saying.note("the settings were read anew")
        self._notifying.change(telling)
        self._ask_for(wanted)

    def _beat(self) -> None:
        heartbeat.write(self._paths, self._who, self.facts())

    def facts(self) -> dict[str, Any]:
        """Return what the heartbeat says of all since the start."""
        limits: dict[str, dict[str, Any]] = {}
        for (profile, kind), level in self._watcher.levels.items():
            limits.setdefault(profile, {})[kind] = {
                "threshold": level.limit.threshold, "value": level.value,
                "unit": level.limit.kind.dimension.base,
                "over": level.over, "actions": level.actions,
            }  # fmt: skip
        return {
            "monitors": self._tally.to_dict(self._wanted.monitors, self._told.whose),
            "store": self._storing.facts(),
            "notifications": self._notifying.counts(),
            "limits": limits,
            "troubles": self._saying.troubles,
        }

    def _summary(self) -> str:
        read = ", ".join(self._rings.names) or "no monitor"
        watched = len({profile for profile, _ in self._watcher.levels})
        store = self._storing.facts()
        failing = f"; {store['failing']}" if store and store["failing"] else ""
        return f"follows {read}; limits of {watched} profiles{failing}"

    def _end(self) -> None:
        """Unload what is its own, then store and send what has come until then."""
        self._manager.stopping()
        for name in self._loads.own():
            self._trying(f"unload {name}", lambda name=name: self._unload(name, LOCK_PATIENCE))  # type: ignore[misc]
        until = time.monotonic() + DRAIN
        while (batch := self._rings.batch(0)) and time.monotonic() < until:
            self._pass_on(batch)
        self._pass_on(batch)
        self._rings.close()
        self._storing.close(STORE_PATIENCE)
        self._notifying.close()
        self._trying("heartbeat", lambda: heartbeat.remove(self._paths))

    def _trying(self, what: str, act: Callable[[], None]) -> None:
        """Do it; what fails is said once, until it works again or fails otherwise."""
        try:
            act()
        except AegisError as error:
            self._saying.trouble(what, error)
        except OSError as error:
            self._saying.trouble(what, f"{what}: {error.strerror}")
        else:
            self._saying.fine(what)


def _unmeasured(kind: str, profiles: list[str], name: str) -> StateError:
    return StateError(
        f"nothing measures the limit of {kind} of {', '.join(profiles)}: it needs {name}",
        hint=f'add "{name}": {{}} to the monitors in monitors.json (docs/monitors.md), then: '
        "systemctl reload aegis-monitors",
    )
