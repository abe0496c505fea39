"""What a host does, watched for a while: the events, who reads them, how full the maps are.

The counters are read four times a second, so that a burst is seen as one. How many of the events
are of files follows from the bytes that were written to the ring: a record of either kind has a
size of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from aegis_tools.control import capacity
from aegis_tools.control.accounted import sizes_of
from aegis_tools.control.bootclock import boot_ns
from aegis_tools.control.capacity import Outlook
from aegis_tools.control.footprint import Sizes
from aegis_tools.control.heartbeat import agent_cpu, read_heartbeat
from aegis_tools.control.live import Live
from aegis_tools.control.lock import is_held
from aegis_tools.control.settings import setting
from aegis_tools.control.tune.rates import Look, Rates, between, busiest, peak
from aegis_tools.kernel import accounting
from aegis_tools.kernel.accounting import Kernel, Room
from aegis_tools.kernel.cgroups import mount_point
from aegis_tools.kernel.layout import POLICY_MAPS, Stat
from aegis_tools.kernel.ringbuf import RingBuffer, open_ring
from aegis_tools.paths import Paths

EVERY = 0.25
"""Seconds from one look to the next."""


class AgentUse(NamedTuple):
    """What the agent did meanwhile.

    Attributes:
        cpu: Share of one CPU.
        events: That it took.
        lines: That it wrote; repetitions of an event are folded into one.
    """

    cpu: float
    events: int
    lines: int


@dataclass(frozen=True)
class Observed:
    """What was seen.

    Attributes:
        mean: Over all of the time.
        busiest: Over the stretch, as long as asked for, in which most matched.
        peak: What matched a second in the busiest quarter of a second.
        sent: Events since it was loaded, what was brought along by a replacement included.
        dropped: The same, of those without room.
        uptime: Seconds since this boot, so at least as long as it is loaded.
        sample_rate: Share of matches that send an event.
        reader: Somebody reads the events, and takes some if there are any.
        stuck: Somebody has the ring, and took none of what was in it all the time.
        agent: What it did; None where none says that it lives.
        maps: How full they are and will be.
        entries: By policy map.
        survival: Files on the survival list.
        sizes: Of the ring and the maps.
        kernel: What a map's memory depends on.
        room: Memory that there is for maps.
    """

    mean: Rates
    busiest: Rates
    peak: float
    sent: int
    dropped: int
    uptime: float
    sample_rate: float
    reader: bool
    stuck: bool
    agent: AgentUse | None
    maps: tuple[Outlook, ...]
    entries: Mapping[str, int]
    survival: int
    sizes: Sizes
    kernel: Kernel
    room: Room

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it; all rates are by second."""
        return {
            "seconds": round(self.mean.seconds, 3),
            "mean": _rates(self.mean),
            "busiest": {"seconds": round(self.busiest.seconds, 3), **_rates(self.busiest)},
            "peak": round(self.peak, 2),
            "record_bytes": self.mean.record,
            "files": round(self.mean.files, 4),
            "since_load": {
                "sent": self.sent,
                "dropped": self.dropped,
                "mean_at_least": round(self.sent / max(self.uptime, 1.0), 3),
            },
            "sample_rate": self.sample_rate,
            "ringbuf_bytes": self.sizes.ringbuf_bytes,
            "reader": self.reader,
            "reader_stuck": self.stuck,
            "agent": self.agent and {**self.agent._asdict(), "cpu": round(self.agent.cpu, 4)},
            "maps": [each.to_dict() for each in self.maps],
            "room_bytes": self.room.bytes,
        }


def _rates(found: Rates) -> dict[str, float]:
    names = ("sent", "dropped", "sampled_out")
    return {name: round(float(getattr(found, name)), 2) for name in names}


def observe(
    paths: Paths,
    live: Live,
    *,
    seconds: float,
    stretch: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Observed:
    """Watch for so many seconds.

    Args:
        paths: Where things are.
        live: What is loaded.
        seconds: How long.
        stretch: Seconds of the busiest stretch that is looked for.
        clock: Seconds that only grow.
        sleep: Waits.

    Raises:
        KernelError: The ring cannot be read.
    """
    agent = _agent(paths)
    with open_ring(live.pins.path("maps", "events")) as ring:
        looks, waiting, taken = [_look(live, ring, clock)], ring.pending, ring.consumed
        began = looks[0].at
        for number in range(1, max(1, round(seconds / EVERY)) + 1):
            sleep(max(0.0, min(began + number * EVERY, began + seconds) - clock()))
            looks.append(_look(live, ring, clock))
        stuck = waiting > 0 and ring.consumed == taken
    held = bool(is_held(paths.events_lock))
    last, mean = looks[-1], between(looks[0], looks[-1])
    return Observed(
        mean=mean,
        busiest=busiest(looks, stretch),
        peak=peak(looks),
        sent=last.sent,
        dropped=last.dropped,
        uptime=boot_ns() / 1e9,
        sample_rate=setting("event-sample-rate").get(live),
        reader=held and not stuck,
        stuck=held and stuck,
        agent=_meanwhile(agent, _agent(paths), mean.seconds),
        maps=tuple(
            capacity.outlook(capacity.read_use(live), capacity.read_samples(paths.capacity_log))
        ),
        entries=_entries(live),
        survival=live.map("survival_allowlist").count(),
        sizes=sizes_of(live),
        kernel=accounting.read_kernel(),
        room=accounting.read_room(cgroups=mount_point()),
    )


def _look(live: Live, ring: RingBuffer, clock: Callable[[], float]) -> Look:
    found = live.stats()
    sent, dropped = found[Stat.EVENTS], found[Stat.RINGBUF_DROPS]
    return Look(clock(), sent, dropped, found[Stat.SAMPLED_OUT], ring.produced)


def _entries(live: Live) -> dict[str, int]:
    info = live.info()
    return {spec.name: info.count(spec.name) for spec in POLICY_MAPS}


class _Agent(NamedTuple):
    pid: int
    cpu: float
    events: int
    lines: int


def _agent(paths: Paths) -> _Agent | None:
    cpu, found = agent_cpu(paths), read_heartbeat(paths) or {}
    values = [found.get(name) for name in ("pid", "events", "written")]
    if cpu is None or not all(type(value) is int for value in values):
        return None
    pid, events, lines = values
    return _Agent(int(pid or 0), cpu, int(events or 0), int(lines or 0))


def _meanwhile(first: _Agent | None, second: _Agent | None, seconds: float) -> AgentUse | None:
    if first is None or second is None or first.pid != second.pid:
        return None
    events, lines = (max(0, b - a) for a, b in zip(first[2:], second[2:], strict=True))
    return AgentUse(max(0.0, second.cpu - first.cpu) / seconds, events, lines)
