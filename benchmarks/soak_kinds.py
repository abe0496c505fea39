"""Simulated hosts for soaks: what memory and the other figures of an agent do, leak or no leak.

Every kind is made of parts, each with sizes drawn from a range; the ranges are wider than what an
agent should ever show. The same seed makes the same soak.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from aegis_tools.soak.columns import Sample
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.reading import Soak
from aegis_tools.soak.settings import PolicyFacts, Result, Settings, new_id

STARTED = 1_800_000_000.0
DAY, HOUR = 86400.0, 3600.0
_DIGEST = "0123456789ab" + "0" * 52
_PAGE = 256  # pages of a MiB


@dataclass
class Draft:
    """A soak that is being made up, a value a row.

    Attributes:
        draw: Where chance comes from.
        leak: MiB a day that each process loses.
        times: Seconds since the beginning, by the boot clock.
        memory: MiB.
        wall: By how much the wall clock is wrong, in seconds.
        process: Which process of the agent it is, counted from 0.
        boot: Which boot.
        since: Rows since the kernel's counters began at 0.
        kept: Whether the row is there at all.
        cpu: Mean processor time, in %.
        slower: How much longer a file takes to open, as a factor.
        lost: Share of events that are lost.
        entries: Entries of the maps.
        starting: Seconds that most of a process's beginning takes.
    """

    draw: random.Random
    leak: float
    times: list[float]
    memory: list[float]
    wall: list[float] = field(default_factory=list)
    process: list[int] = field(default_factory=list)
    boot: list[int] = field(default_factory=list)
    since: list[int] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    cpu: float = 0.5
    slower: list[float] = field(default_factory=list)
    lost: float = 0.0
    entries: list[int] = field(default_factory=list)
    starting: float = 180.0

    @property
    def rows(self) -> range:
        """The numbers of the rows."""
        return range(len(self.times))

    def row(self) -> int:
        """Return a row that is neither among the first nor among the last."""
        return round(self.draw.uniform(0.08, 0.92) * len(self.times))


Part = Callable[[Draft], None]


def quiet(made: Draft) -> None:
    """0.2 MB of noise that lasts half an hour."""
    _noise(made, 0.2, HOUR / 2)


def noise(made: Draft) -> None:
    """0.5 to 2 MB of noise that lasts half an hour to three hours, and peaks of some MB."""
    _noise(made, made.draw.uniform(0.5, 2.0), made.draw.uniform(0.5, 3.0) * HOUR)
    for at in made.rows:
        if made.draw.random() < 0.03:
            made.memory[at] += made.draw.expovariate(1 / 3)


def step(made: Draft) -> None:
    """A single rise or fall of 1 to 20 MB."""
    _raise(made, made.draw.choice((-1, 1, 1)) * made.draw.uniform(1, 20))


def rise(made: Draft) -> None:
    """A single rise of 1 to 20 MB."""
    _raise(made, made.draw.uniform(1, 20))


def fall(made: Draft) -> None:
    """A single fall of 1 to 10 MB."""
    _raise(made, -made.draw.uniform(1, 10))


def two_steps(made: Draft) -> None:
    """Two rises or falls of 1 to 12 MB."""
    for _ in range(2):
        _raise(made, made.draw.choice((-1, 1, 1)) * made.draw.uniform(1, 12))


def saw(made: Draft) -> None:
    """Teeth of 1 to 6 MB, each of half an hour to 30 hours."""
    usual = math.exp(made.draw.uniform(math.log(HOUR / 2), math.log(30 * HOUR)))
    height, at, length = made.draw.uniform(1, 6), made.draw.random(), usual
    for row in made.rows:
        made.memory[row] += height * at
        at += (made.times[row] - made.times[row - 1] if row else 0.0) / length
        if at >= 1:
            at, length = at % 1, usual * made.draw.uniform(0.8, 1.2)


def day(made: Draft) -> None:
    """1 to 5 MB more in the hours of work; in half of the soaks not at the weekend."""
    height, phase = made.draw.uniform(1, 5), made.draw.random()
    weekend, first = made.draw.random() < 0.5, made.draw.randrange(7)
    for at in made.rows:
        days = made.times[at] / DAY + phase
        if not (weekend and (int(days) + first) % 7 >= 5):
            made.memory[at] += height * math.exp(-((((days % 1) - 0.55) / 0.17) ** 4))


def log_rotation(made: Draft) -> None:
    """0.5 to 3 MB that grow over a day and are gone at once when the log is rotated."""
    height, phase = made.draw.uniform(0.5, 3), made.draw.random()
    for at in made.rows:
        made.memory[at] += height * ((made.times[at] / DAY + phase) % 1)


def cache(made: Draft) -> None:
    """1 to 8 MB that fill up within hours."""
    height, takes = made.draw.uniform(1, 8), made.draw.uniform(1, 12) * HOUR
    for at in made.rows:
        made.memory[at] += height * (1 - math.exp(-made.times[at] / takes))


def restarts(made: Draft) -> None:
    """1 to 10 restarts of the agent."""
    for at in {made.draw.randrange(1, len(made.times)) for _ in range(made.draw.randint(1, 10))}:
        for row in range(at, len(made.times)):
            made.process[row] += 1


def reboots(made: Draft) -> None:
    """1 to 3 reboots, each of minutes to an hour."""
    for _ in range(made.draw.randint(1, 3)):
        at, off = made.row(), made.draw.uniform(60, HOUR)
        for row in range(at, len(made.times)):
            made.process[row] += 1
            made.boot[row] += 1
            made.since[row] = row - at
            made.times[row] += off


def gap(made: Draft) -> None:
    """1 to 3 gaps of 1 to 24 hours."""
    for _ in range(made.draw.randint(1, 3)):
        at, long = made.row(), made.draw.uniform(1, 24) * HOUR
        for row in range(at, len(made.times)):
            made.kept[row] = made.kept[row] and made.times[row] > made.times[at] + long


def reset(made: Draft) -> None:
    """1 to 5 times the kernel's counters begin again at 0."""
    for _ in range(made.draw.randint(1, 5)):
        at = made.row()
        for row in range(at, len(made.times)):
            made.since[row] = min(made.since[row], row - at)


def clock_ahead(made: Draft) -> None:
    """The wall clock is put ahead by a minute to 400 days, and in some soaks back again."""
    _set_clock(made, 1)


def clock_back(made: Draft) -> None:
    """The wall clock is put back by a minute to 400 days, and in some soaks ahead again."""
    _set_clock(made, -1)


def slow_disk(made: Draft) -> None:
    """One row in ten comes up to two intervals late."""
    late, interval = 0.0, made.times[1] - made.times[0]
    for at in made.rows:
        if made.draw.random() < 0.1:
            late += made.draw.uniform(0, 1.9) * interval
        made.times[at] += late


def arenas(made: Draft) -> None:
    """What leaks is taken from the system 0.25 to 2 MB at a time."""
    height, phase = made.draw.choice((0.25, 1.0, 1.0, 2.0)), made.draw.random()
    for at in made.rows:
        leaked = made.leak * made.times[at] / DAY
        made.memory[at] += height * math.floor(leaked / height + phase) - leaked


def start_up(made: Draft) -> None:
    """5 to 20 MB in the first minute, and now and then 0.1 to 0.5 MB up or down afterwards."""
    height, more = made.draw.uniform(5, 20), 0.0
    made.starting = 15.0
    for at in made.rows:
        if made.draw.random() < 0.08:
            more += made.draw.choice((1, 1, -1)) * made.draw.uniform(0.1, 0.5)
        made.memory[at] += height * (1 - math.exp(-made.times[at] / 15)) + more


def flat(made: Draft) -> None:
    """5 to 20 MB in the first minute, and the same from then on."""
    height = made.draw.uniform(5, 20)
    made.starting = 1.0
    for at in made.rows:
        made.memory[at] += height * min(1.0, made.times[at] / 60)


def busy(made: Draft) -> None:
    """3 % of a core instead of 0.5."""
    made.cpu = 3.0


def slower(made: Draft) -> None:
    """Opening a file takes 25 % longer from some day on."""
    at = round(made.draw.uniform(0.3, 0.7) * len(made.times))
    for row in range(at, len(made.times)):
        made.slower[row] *= 1.25


def rhythm(made: Draft) -> None:
    """Opening a file takes 1.5 to 4 times as long in the hours of work, each day by 3 % other."""
    height, phase = made.draw.uniform(0.5, 3), made.draw.random()
    days = [made.draw.gauss(1, 0.03) for _ in range(math.ceil(made.times[-1] / DAY) + 2)]
    for at in made.rows:
        now = made.times[at] / DAY + phase
        more = height * days[int(now)] * math.exp(-((((now % 1) - 0.55) / 0.17) ** 4))
        made.slower[at] *= 1 + more


def losing(made: Draft) -> None:
    """0.05 % of the events are lost."""
    made.lost = 0.0005


def filling(made: Draft) -> None:
    """The maps grow by 5 % a day."""
    for at in made.rows:
        made.entries[at] = round(2000 * (1 + 0.05 * made.times[at] / DAY))


@dataclass(frozen=True)
class Kind:
    """A kind of simulated soak.

    Attributes:
        name: For the table.
        parts: What happens in it.
        leak: MiB a day that each process loses.
        days: How long it is.
        interval: Seconds between rows.
        criterion: Which criterion is to fail; empty where all is well.
    """

    name: str
    parts: tuple[Part, ...]
    leak: float = 0.0
    days: float = 7.0
    interval: float = 300.0
    criterion: str = ""


HEALTHY = (
    Kind("steady", (quiet,)),
    Kind("noise", (noise,)),
    Kind("a step", (quiet, step)),
    Kind("two steps", (quiet, two_steps)),
    Kind("a step in noise", (noise, step)),
    Kind("saw-tooth", (quiet, saw)),
    Kind("saw-tooth in noise", (noise, saw)),
    Kind("restarts", (quiet, restarts)),
    Kind("reboots", (quiet, reboots)),
    Kind("gaps", (quiet, gap)),
    Kind("counter resets", (quiet, reset)),
    Kind("clock put ahead", (quiet, clock_ahead)),
    Kind("clock put back", (quiet, clock_back)),
    Kind("slow disk", (quiet, slow_disk)),
    Kind("day cycle", (quiet, day)),
    Kind("slower in the hours of work", (quiet, rhythm)),
    Kind("log rotation", (quiet, log_rotation)),
    Kind("caches that fill", (quiet, cache)),
    Kind("10 minutes, 5 s apart", (start_up,), days=600 / DAY, interval=5.0),
    Kind("10 minutes, and flat", (flat,), days=600 / DAY, interval=5.0),
)


def _leak(name: str, *parts: Part, a_day: float = 2.0) -> Kind:
    return Kind(name, parts, a_day, criterion="mem_growth")


LEAKS = (
    _leak("leak", quiet),
    _leak("leak in noise", noise),
    _leak("leak in noise and day cycle", noise, day),
    _leak("leak and restarts", quiet, restarts),
    _leak("leak and reboots", quiet, reboots),
    _leak("leak and day cycle", quiet, day),
    _leak("leak and saw-tooth", quiet, saw),
    _leak("leak in arenas", quiet, arenas),
    _leak("leak and a rise", quiet, rise),
    _leak("leak and gaps", quiet, gap),
    _leak("leak and log rotation", quiet, log_rotation),
    _leak("leak and clock put back", quiet, clock_back),
    Kind("1 MB every 5 s for 10 minutes", (start_up,), 17280.0, 600 / DAY, 5.0, "mem_growth"),
)
"""2 MB a day, twice the limit."""
HIDDEN = (_leak("leak and a fall", quiet, fall),)
"""The fall may hide the leak, or be that of a slow saw-tooth: it need not fail, but not pass."""
AT_THE_LIMIT = (
    _leak("1 MB a day", quiet, a_day=1.0),
    _leak("1 MB a day in noise", noise, a_day=1.0),
    _leak("1 MB a day and day cycle", quiet, day, a_day=1.0),
    _leak("1 MB a day and saw-tooth", quiet, saw, a_day=1.0),
    _leak("1 MB a day in arenas", quiet, arenas, a_day=1.0),
)
"""It must not pass; that it fails cannot be asked."""
FAULTS = (
    Kind("3 % of a core", (quiet, busy), criterion="cpu_sustained"),
    Kind("25 % slower from some day on", (quiet, slower), criterion="slowness"),
    Kind(
        "25 % slower, and slower in the hours of work",
        (quiet, rhythm, slower),
        criterion="slowness",
    ),
    Kind("0.05 % of events lost", (quiet, losing), criterion="drops"),
    Kind("maps grow by 5 % a day", (quiet, filling), criterion="maps_stable"),
)


def make(kind: Kind, seed: int) -> Soak:
    """Return one soak of a kind."""
    draw = random.Random(f"{kind.name} {seed}")
    count = round(kind.days * DAY / kind.interval)
    made = Draft(
        draw=draw,
        leak=kind.leak,
        times=[(at + 1) * kind.interval for at in range(count)],
        memory=[draw.uniform(8, 25)] * count,
        wall=[0.0] * count,
        process=[0] * count,
        boot=[0] * count,
        since=list(range(count)),
        kept=[True] * count,
        slower=[1.0] * count,
        entries=[2000] * count,
    )
    for part in kind.parts:
        part(made)
    _processes(made)
    return _soak(kind, made)


def _noise(made: Draft, height: float, lasts: float) -> None:
    alike = math.exp(-(made.times[1] - made.times[0]) / lasts)
    fresh, now = height * math.sqrt(1 - alike * alike), made.draw.gauss(0, height)
    for at in made.rows:
        made.memory[at] += now
        now = alike * now + made.draw.gauss(0, fresh)


def _raise(made: Draft, height: float) -> None:
    for row in range(made.row(), len(made.times)):
        made.memory[row] += height


def _set_clock(made: Draft, sign: int) -> None:
    by = sign * math.exp(made.draw.uniform(math.log(60), math.log(400 * DAY)))
    first, last = sorted((made.row(), made.row()))
    last = last if made.draw.random() < 0.5 else len(made.times)
    for row in range(first, last):
        made.wall[row] += by


def _processes(made: Draft) -> None:
    """Let each process begin with less, at a level of its own, and leak."""
    begun, level, less, last = 0.0, 0.0, made.draw.uniform(0, 4), 0
    for at in made.rows:
        if made.process[at] != last:
            begun, last = made.times[at], made.process[at]
            level, less = made.draw.gauss(0, 0.3), made.draw.uniform(0, 4)
        age = made.times[at] - begun
        made.memory[at] += level - less * math.exp(-age / made.starting) + made.leak * age / DAY


def _soak(kind: Kind, made: Draft) -> Soak:
    settings = Settings(
        id=new_id("shadow", STARTED), scenario="shadow", started=STARTED,
        duration_s=max(round(kind.days * DAY), round(made.times[-1])),
        interval_s=round(kind.interval), boot="0" * 8, boot_s=1000.0,
        policy=PolicyFacts(_DIGEST),
    )  # fmt: skip
    begun = {0: -1000.0}  # when each boot was, in seconds since the soak began
    for at in made.rows:
        begun.setdefault(made.boot[at], made.times[at] - 60)
    rows = tuple(_row(made, at, begun) for at in made.rows if made.kept[at])
    return Soak(
        settings=settings,
        samples=rows,
        happened=(Happened(STARTED, "begun"),),
        now=rows[-1].timestamp + 1.0,
        result=Result("done", rows[-1].timestamp + 1.0),
    )


def _row(made: Draft, at: int, begun: dict[int, float]) -> Sample:
    draw, boot = made.draw, made.boot[at]
    events = 40 * made.since[at]
    return Sample(
        timestamp=round(STARTED + made.times[at] + made.wall[at]),
        cpu_pct=made.cpu * math.exp(draw.gauss(0, 0.4)),
        mem_mb=round(max(1.0, made.memory[at]) * _PAGE) / _PAGE,
        blocks=0,
        ringbuf_drops=round(made.lost * events),
        map_deny_path=made.entries[at],
        map_deny_inode=made.entries[at],
        map_allow_cgroup=3,
        boot=f"{boot:08x}",
        boot_s=made.times[at] - begun[boot],
        agent="running",
        agent_pid=1000 + made.process[at],
        agent_start_s=1.0 + made.process[at],
        mode="audit",
        policy=_DIGEST[:12],
        audits=events,
        events=events,
        map_fill=0.1,
        canary="ok",
        probe_us=20 * made.slower[at] * math.exp(draw.gauss(0, 0.08)),
        load1=draw.uniform(0.1, 0.6),
    )
