"""What the programs cost now, and by what: two looks at the counters, and what lies between them.

Run times are BPF statistics, which the kernel counts while a descriptor of
``BPF_ENABLE_STATS`` is open (5.8 and later); older kernels tell none.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aegis_tools.control.capacity import read_use
from aegis_tools.control.heartbeat import agent_cpu
from aegis_tools.control.live import Live
from aegis_tools.control.names import Names
from aegis_tools.control.settings import setting
from aegis_tools.control.sizes import AGENT_CPU, FILE_RECORD, PAUSE, ring_size
from aegis_tools.control.stats import MapUse, read_programs
from aegis_tools.kernel import syscall
from aegis_tools.kernel.layout import Stat
from aegis_tools.paths import Paths

TOP = 10
"""Rules and processes that are named."""
_RATES = {
    "matches": (Stat.BLOCKS, Stat.AUDITS),
    "refused": (Stat.BLOCKS,),
    "events": (Stat.EVENTS,),
    "dropped": (Stat.RINGBUF_DROPS,),
    "sampled_out": (Stat.SAMPLED_OUT,),
}


class Look(NamedTuple):
    """The counters at one moment.

    Attributes:
        at: Seconds of a clock that only grows.
        counters: Summed over the CPUs.
        hits: Matches by rule uid.
        programs: (runs, nanoseconds) by hook; empty where nothing is measured.
        agent_cpu: CPU seconds of the agent; None where it does not run.
    """

    at: float
    counters: Mapping[Stat, int]
    hits: Mapping[int, int]
    programs: Mapping[str, tuple[int, int]]
    agent_cpu: float | None = None


class HookCost(NamedTuple):
    """What one hook costs.

    Attributes:
        hook: Without the prefix.
        runs: A second.
        nanoseconds: A run.
        share: Of one CPU, 1 is all of it.
    """

    hook: str
    runs: float
    nanoseconds: float
    share: float


@dataclass(frozen=True)
class Costs:
    """What is between two looks.

    Attributes:
        seconds: Between them.
        rates: A second: matches, refused, events, dropped, sampled_out.
        hooks: The most expensive first.
        rules: (rule id, matches a second), most first.
        processes: (process, its part of the matches a second, by the events that were sent).
        maps: How full each is.
        ring_bytes: Size of the event ring.
        sample_rate: Share of matches that send an event.
        agent_cpu: Share of one CPU that the agent took; None where it does not run.
        measured: Whether the kernel told run times.
    """

    seconds: float
    rates: Mapping[str, float]
    hooks: tuple[HookCost, ...] = ()
    rules: tuple[tuple[str, float], ...] = ()
    processes: tuple[tuple[str, float], ...] = ()
    maps: tuple[MapUse, ...] = ()
    ring_bytes: int = 0
    sample_rate: float = 1.0
    agent_cpu: float | None = None
    measured: bool = True

    @property
    def hook_cpu(self) -> float:
        """Share of one CPU that all hooks took together."""
        return sum(hook.share for hook in self.hooks)

    @property
    def fullest(self) -> MapUse | None:
        """The map that is fullest."""
        return max(self.maps, key=lambda use: use.share) if self.maps else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as the record has it."""
        return {
            "seconds": round(self.seconds, 3),
            "rates": {name: round(rate, 2) for name, rate in self.rates.items()},
            "hook_cpu": round(self.hook_cpu, 6),
            "hooks": [
                {
                    "hook": hook.hook,
                    "runs": round(hook.runs, 1),
                    "nanoseconds": round(hook.nanoseconds, 1),
                    "share": round(hook.share, 6),
                }
                for hook in self.hooks[:TOP]
            ],
            "rules": [{"rule": name, "matches": round(rate, 2)} for name, rate in self.rules],
            "processes": [{"process": n, "matches": round(rate, 2)} for n, rate in self.processes],
            "maps": [{**use._asdict(), "utilization": round(use.share, 6)} for use in self.maps],
            "ring_bytes": self.ring_bytes,
            "sample_rate": self.sample_rate,
            "agent_cpu": None if self.agent_cpu is None else round(self.agent_cpu, 4),
            "measured": self.measured,
        }


@contextmanager
def measuring() -> Iterator[bool]:
    """Have the kernel count runs meanwhile; yield whether it does."""
    counting = -1
    with suppress(OSError):
        counting = syscall.enable_run_stats()
    try:
        yield counting >= 0
    finally:
        if counting >= 0:
            os.close(counting)


def look(paths: Paths, live: Live, *, clock: Callable[[], float] = time.monotonic) -> Look:
    """Read the counters once."""
    programs = {use.name: (use.runs, use.nanoseconds) for use in read_programs(live.pins)}
    hits = {uid: blocks + audits for uid, (blocks, audits, _) in live.hits().items()}
    return Look(clock(), live.stats(), hits, programs, agent_cpu(paths))


def between(first: Look, second: Look, *, names: Callable[[int], str] = str) -> Costs:
    """Return what lies between two looks; counters that went back are none of them.

    Args:
        first: Earlier.
        second: Later.
        names: Rule ids by uid.
    """
    seconds = max(second.at - first.at, 1e-9)
    rates = {
        name: sum(_rise(first.counters, second.counters, stat) for stat in stats) / seconds
        for name, stats in _RATES.items()
    }
    rules = Counter({uid: _rise(first.hits, second.hits, uid) for uid in second.hits})
    busiest = [(names(uid), n / seconds) for uid, n in rules.most_common(TOP) if n]
    cpu = None
    if first.agent_cpu is not None and second.agent_cpu is not None:
        cpu = max(0.0, second.agent_cpu - first.agent_cpu) / seconds
    return Costs(
        seconds, rates, tuple(_hooks(first, second, seconds)), tuple(busiest), agent_cpu=cpu
    )


def _rise(first: Mapping[Any, int], second: Mapping[Any, int], key: object) -> int:
    return max(0, second.get(key, 0) - first.get(key, 0))


def _hooks(first: Look, second: Look, seconds: float) -> Iterable[HookCost]:
    found = []
    for name, (runs, spent) in second.programs.items():
        before = first.programs.get(name, (0, 0))
        more, time_ns = runs - before[0], spent - before[1]
        if more > 0 and time_ns >= 0:
            cost = HookCost(
                name.removeprefix("aegis_"), more / seconds, time_ns / more, time_ns / 1e9 / seconds
            )
            found.append(cost)
    return sorted(found, key=lambda hook: -hook.share)


def measure(
    paths: Paths,
    live: Live,
    *,
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    processes: Callable[[], Sequence[tuple[str, int]]] = tuple,
) -> Costs:
    """Look twice, ``seconds`` apart, while the kernel counts runs.

    Args:
        paths: Where things are.
        live: The loaded maps.
        seconds: Between the looks.
        sleep: Waits.
        clock: Seconds that only grow.
        processes: Returns events by process, most first, asked after the second look.
    """
    with measuring() as measured:
        first = look(paths, live, clock=clock)
        sleep(seconds)
        second = look(paths, live, clock=clock)
    found = between(first, second, names=Names(live, paths).name)
    counted = processes()
    share = found.rates["matches"] / max(sum(count for _, count in counted), 1)
    named = tuple((name, count * share) for name, count in counted[:TOP])
    return Costs(
        found.seconds,
        found.rates,
        found.hooks if measured else (),
        found.rules,
        named,
        tuple(read_use(live)),
        live.map("events").max_entries,
        setting("event-sample-rate").get(live),
        found.agent_cpu,
        measured,
    )


@dataclass(frozen=True)
class Limits:
    """What is still taken for well.

    Attributes:
        dropped: Events a second.
        hook_cpu: Share of one CPU of all hooks together, of the machine's CPUs.
        agent_cpu: Share of one CPU.
        events: A second.
        map_share: Of the fullest map.
    """

    dropped: float = 0.0
    hook_cpu: float = 0.10
    agent_cpu: float = AGENT_CPU
    events: float = 5000.0
    map_share: float = 0.90


@dataclass(frozen=True)
class Cause:
    """One thing that costs too much.

    Attributes:
        name: ``ring``, ``hooks``, ``agent``, ``events`` or ``maps``.
        text: In one line, for a person.
        proposals: What would help, each a command or nearly one.
    """

    name: str
    text: str
    proposals: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as the record has it."""
        return {"name": self.name, "text": self.text, "proposals": list(self.proposals)}


def causes(found: Costs, limits: Limits, *, cpus: int = 1) -> tuple[Cause, ...]:
    """Return what costs too much, the worst first; none on a host that is well."""
    rates, rule = found.rates, _quiet(found)
    result = []
    if rates["dropped"] > limits.dropped:
        text = f"the event ring is full: {rates['dropped']:.0f} events a second are dropped"
        size = ring_for(found)
        result.append(
            Cause("ring", text, (f"aegisbpf load --replace --ringbuf-size={size}", *rule))
        )
    if found.hook_cpu > limits.hook_cpu * cpus:
        worst = found.hooks[0]
        text = (
            f"the hooks take {found.hook_cpu:.0%} of a CPU; {worst.hook}: {worst.runs:.0f} runs a "
            f"second, {worst.nanoseconds:.0f} ns each"
        )
        result.append(Cause("hooks", text, rule))
    if found.agent_cpu is not None and found.agent_cpu > limits.agent_cpu:
        result.append(Cause("agent", f"the agent takes {found.agent_cpu:.0%} of a CPU", rule))
    if rates["events"] > limits.events:
        result.append(Cause("events", f"{rates['events']:.0f} events a second", rule))
    if found.fullest is not None and found.fullest.share >= limits.map_share and result:
        text = f"nearly full: {found.fullest.line()}"
        result.append(Cause("maps", text, ("aegisbpf incident map-full --dry-run",)))
    return tuple(result)


def _quiet(found: Costs) -> tuple[str, ...]:
    """Return what would make the rule that matches most match less."""
    if not found.rules:
        return ()
    rule, rate = found.rules[0]
    by = f", mostly by {found.processes[0][0]}" if found.processes else ""
    command = f"aegisbpf rule list --json; narrow, demote or remove {rule}"
    return (f"{command} ({rate:.0f} matches a second{by})",)


def ring_for(found: Costs) -> int:
    """Return the ring that would hold what comes while the agent pauses: a power of two.

    At least four times the present one, at most RING_MOST.
    """
    offered = found.rates["events"] + found.rates["dropped"]
    if 0 < found.sample_rate < 1:
        offered /= found.sample_rate
    needed = max(offered * FILE_RECORD * PAUSE, 4 * found.ring_bytes)
    return ring_size(needed, present=found.ring_bytes)


_COMPARED = (
    *((f"{name}_per_second", ("rates", name)) for name in _RATES),
    ("hook_cpu", ("hook_cpu",)),
    ("agent_cpu", ("agent_cpu",)),
    ("ring_bytes", ("ring_bytes",)),
    ("sample_rate", ("sample_rate",)),
)


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return before and after side by side, for the record.

    Args:
        before: ``Costs.to_dict()``, perhaps of an earlier run.
        after: The same.
    """
    found = {}
    for name, path in _COMPARED:
        was, now = _at(before, path), _at(after, path)
        if was is not None and now is not None:
            found[name] = {"before": was, "after": now}
    return found


def _at(costs: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = costs
    for word in path:
        value = value.get(word) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) else None


def in_a_line(sides: Mapping[str, Mapping[str, float]]) -> str:
    """Return a comparison for a person."""
    texts = {
        "events_per_second": "events a second {before:.0f} -> {after:.0f}",
        "dropped_per_second": "dropped {before:.0f} -> {after:.0f}",
        "hook_cpu": "hooks {before:.1%} -> {after:.1%} of a CPU",
        "ring_bytes": "ring {before:.0f} -> {after:.0f} bytes",
    }
    return ", ".join(text.format(**sides[name]) for name, text in texts.items() if name in sides)


@dataclass
class ByProcess:
    """Events by process, as they were sent.

    Attributes:
        counts: Events by ``comm (unit)``.
    """

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, event: Mapping[str, Any]) -> None:
        """Count an event as the agent wrote it."""
        unit = event.get("unit") or ""
        self.counts[event["comm"] + (f" ({unit})" if unit else "")] += event["count"]
