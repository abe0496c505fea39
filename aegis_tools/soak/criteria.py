"""The criteria of a soak: each a figure with its interval, held against a limit.

FAIL where the whole interval lies beyond the limit, PASS where all of it lies within, and
INCONCLUSIVE where the limit lies inside it, or where there is too little to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite

from aegis_tools.soak import stats
from aegis_tools.soak.figures import Change, Figures, Level
from aegis_tools.soak.growth import DAY, DAYS_OF_A_CYCLE
from aegis_tools.soak.reading import Soak
from aegis_tools.soak.stats import Interval

PASS, FAIL, INCONCLUSIVE, INFO = "PASS", "FAIL", "INCONCLUSIVE", "INFO"
"""``INFO``: a figure that is told and not judged."""
CONFIDENCE = 0.99
"""Of every interval: what is true lies below it once in 200 times, and above it as often."""

CPU_SUSTAINED, CPU_P99 = 2.0, 5.0
MEMORY, MEMORY_A_DAY = 50.0, 1.0
DROPPED, WRONG = 0.01, 0.01
SLOWER, DROPS_GROW = 10.0, 25.0
FILL, ENTRIES_A_DAY = 0.9, 1.0
COVERED, PRESENT, SAME = 95.0, 99.0, 99.0

LEAST_RISE = 4.0
"""MiB: a smaller rise in all can be the allocator's doing."""
LEAST_RISE_OF_A_DAY, LEAST_SHARE_OF_A_DAY = 8.0, 0.25
"""MiB, and share of the median: in less than two days a smaller one can be that of a day."""
SPARE = 0.5
"""So many times the reach of its interval memory must stay away from the limit: what a week's
rhythm does to seven days is not in that interval.
"""
FEW_ENTRIES = 20
FEW_UNTOLD = 5
"""Denials between the reading of two counters, of which no rule's row tells yet."""
OTHER_LOAD = 1.5
"""A load average so many times as high, or as low, explains another speed."""


@dataclass(frozen=True)
class Criterion:
    """One figure, held against its limit.

    Attributes:
        id: ``mem_growth``.
        title: For a person.
        limit: The limit as text: ``< 1 MB/day``; empty where there is none.
        unit: Of value, low and high: ``MB/day``, ``%``, empty for a plain number.
        value: The figure; None where it cannot be told.
        low: Where its confidence interval (CONFIDENCE) begins; None where there is none.
        high: Where that ends.
        samples: How many samples the figure is made of.
        status: PASS, FAIL, INCONCLUSIVE or INFO.
        why: What the status rests on, in one line.
    """

    id: str
    title: str
    limit: str
    unit: str
    value: float | None
    low: float | None
    high: float | None
    samples: int
    status: str
    why: str


@dataclass(frozen=True)
class _Kind:
    """What a criterion is, without what was found."""

    id: str
    title: str
    limit: str
    unit: str = ""

    def found(
        self, status: str, why: str, samples: int, figure: Interval | float | None = None
    ) -> Criterion:
        all_of_it = figure if isinstance(figure, Interval) else (figure, None, None)
        value, low, high = (one if one is None or isfinite(one) else None for one in all_of_it)
        return Criterion(
            self.id, self.title, self.limit, self.unit, value, low, high, samples, status, why
        )

    def within(self, figure: Interval, limit: float, samples: int, why: str = "") -> Criterion:
        """Hold an interval against a limit that the figure must stay below."""
        status = PASS if figure.high < limit else FAIL if figure.low >= limit else INCONCLUSIVE
        says = {
            PASS: "the whole interval lies below the limit",
            FAIL: "the whole interval lies beyond the limit",
            INCONCLUSIVE: "the limit lies within the interval",
        }[status]
        return self.found(status, f"{says}; {why}" if why else says, samples, figure)

    def untold(self, why: str = "no row tells it") -> Criterion:
        return self.found(INCONCLUSIVE, why, 0)


def criteria(soak: Soak, figures: Figures) -> tuple[Criterion, ...]:
    """Return all criteria of a soak's scenario, in the order in which they are told."""
    judged: list[Callable[[Soak, Figures], Criterion]] = [
        _crashes, _panics, _kernel_errors, _oom, _cpu_sustained, _cpu_p99, _mem_level,
        _mem_growth, _drops, _maps, _canary, _slowness,
    ]  # fmt: skip
    if soak.settings.scenario == "enforce":
        judged.append(_false_positives)
    return tuple(judge(soak, figures) for judge in (*judged, _same, _agent_present, _coverage))


def span(seconds: float) -> str:
    """Return a time as ``45 s``, ``10 min``, ``5 h`` or ``7 d``: in the largest unit of which it
    has two, or one whole; rounded down.
    """
    whole = int(seconds + 0.5)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if whole >= 2 * length or whole == length:
            return f"{whole // length} {unit}"
    return f"{whole} s"


def _none_of(kind: _Kind, count: int, soak: Soak, what: str) -> Criterion:
    rows = len(soak.samples)
    if count:
        return kind.found(FAIL, f"{count} {what}", rows, float(count))
    if not rows:
        return kind.untold("no row was made")
    if any("what happened" in problem for problem in soak.problems):
        return kind.found(INCONCLUSIVE, "the list of what happened is damaged", rows, 0.0)
    return kind.found(PASS, "none", rows, 0.0)


def _kernel_lines(soak: Soak, *classes: str) -> int:
    return sum(one.kind == "kernel" and one.class_ in classes for one in soak.happened)


def _crashes(soak: Soak, figures: Figures) -> Criterion:
    told = sum(one.kind == "crash" for one in soak.happened)
    kind = _Kind("crashes", "Crashes of the agent", "0")
    return _none_of(kind, max(told, figures.cover.dead), soak, "times the agent died")


def _panics(soak: Soak, figures: Figures) -> Criterion:
    del figures
    kind = _Kind("panics", "Kernel panics and bugs", "0")
    return _none_of(kind, _kernel_lines(soak, "panic", "bug"), soak, "in the kernel's log")


def _kernel_errors(soak: Soak, figures: Figures) -> Criterion:
    del figures
    kind = _Kind("kernel_errors", "BPF errors of the kernel", "0")
    return _none_of(kind, _kernel_lines(soak, "bpf"), soak, "in the kernel's log")


def _oom(soak: Soak, figures: Figures) -> Criterion:
    del figures
    kind = _Kind("oom", "Processes killed for want of memory", "0")
    return _none_of(kind, _kernel_lines(soak, "oom"), soak, "in the kernel's log")


def _cpu_sustained(soak: Soak, figures: Figures) -> Criterion:
    kind = _Kind("cpu_sustained", "Processor time, sustained", f"< {CPU_SUSTAINED:g} %", "%")
    if figures.cpu is None:
        return kind.untold()
    middle = kind.within(figures.cpu.median, CPU_SUSTAINED, figures.cpu.samples)
    return _cpu(soak, middle, figures.cpu)


def _cpu_p99(soak: Soak, figures: Figures) -> Criterion:
    kind = _Kind("cpu_p99", "Processor time, 99th percentile", f"< {CPU_P99:g} %", "%")
    if figures.cpu is None:
        return kind.untold()
    return _cpu(soak, kind.within(figures.cpu.p99, CPU_P99, figures.cpu.samples), figures.cpu)


def _cpu(soak: Soak, found: Criterion, cpu: Level) -> Criterion:
    more = f"mean {cpu.mean:.2f} %, p95 {cpu.p95.value:.2f} %, highest {cpu.highest:.2f} %"
    if soak.settings.scenario == "stress":
        return replace(found, status=INFO, limit="", why=f"not judged under stress; {more}")
    return replace(found, why=f"{found.why}; {more}")


def _mem_level(soak: Soak, figures: Figures) -> Criterion:
    del soak
    kind = _Kind("mem_level", "Memory, 99th percentile", f"< {MEMORY:g} MB", "MB")
    if figures.memory is None:
        return kind.untold()
    level = figures.memory
    more = f"mean {level.mean:.1f} MB, highest {level.highest:.1f} MB"
    return kind.within(level.p99, MEMORY, level.samples, more)


def _mem_growth(soak: Soak, figures: Figures) -> Criterion:
    del soak
    kind = _Kind("mem_growth", "Memory growth", f"< {MEMORY_A_DAY:g} MB/day", "MB/day")
    growth, level = figures.growth, figures.memory
    if growth is None or level is None:
        return kind.untold("there are too few rows of one process")
    high = sorted(growth.steps, key=lambda step: -abs(step.height))
    steps = ", ".join(f"{step.height:+.1f}" for step in high if abs(step.height) >= 0.1)
    more = f"single steps of {steps} MB are no growth" if steps else ""
    found = kind.within(growth.interval, MEMORY_A_DAY, growth.samples, more)
    least = LEAST_RISE
    if growth.days < DAYS_OF_A_CYCLE:
        least = max(LEAST_RISE_OF_A_DAY, LEAST_SHARE_OF_A_DAY * level.median.value)
    if found.status == FAIL and growth.rise < least:
        why = f"a rise of {growth.rise:.1f} MB in {span(growth.days * DAY)} is too little to tell"
        return replace(found, status=INCONCLUSIVE, why=why)
    spare = SPARE * (growth.sustained.high - growth.sustained.value)
    if found.status == PASS and growth.interval.high + spare >= MEMORY_A_DAY:
        return replace(found, status=INCONCLUSIVE, why="the limit is too near to the interval")
    return found


def _drops(soak: Soak, figures: Figures) -> Criterion:
    drops = figures.drops
    if soak.settings.scenario == "stress":
        return _drops_grow(figures)
    kind = _Kind("drops", "Events lost", f"< {DROPPED:g} % of events", "%")
    if drops.dropped is None:
        return kind.untold()
    if drops.events == 0:
        return kind.found(INCONCLUSIVE, "there was no event to lose", drops.samples)
    if drops.dropped == 0:
        of = "" if drops.events is None else f" of {drops.events}"
        return kind.found(PASS, f"not one{of} was lost", drops.samples, 0.0)
    if drops.events is None or drops.events < drops.dropped:
        return kind.found(INCONCLUSIVE, f"{drops.dropped} were lost of nobody knows how many",
                          drops.samples)  # fmt: skip
    share = _percent(stats.proportion(drops.dropped, drops.events, CONFIDENCE))
    why = f"{drops.dropped} of {drops.events} were lost"
    return kind.within(share, DROPPED, drops.samples, why)


def _drops_grow(figures: Figures) -> Criterion:
    kind = _Kind("drops", "Events lost, second half against first", f"< {DROPS_GROW:g} % more", "%")
    drops = figures.drops
    if drops.dropped == 0:
        return kind.found(PASS, "not one was lost", drops.samples, 0.0)
    if drops.dropped is None or drops.rate is None:
        return kind.untold("there are too few rows that tell it")
    why = f"{drops.dropped} were lost in all"
    return kind.within(drops.rate.grown, DROPS_GROW, drops.samples, why)


def _maps(soak: Soak, figures: Figures) -> Criterion:
    del soak
    limit = f"< {FEW_ENTRIES} entries or {ENTRIES_A_DAY:g} % a day, < {100 * FILL:g} % full"
    kind = _Kind("maps_stable", "Entries of the maps", limit, "entries/day")
    maps = figures.maps
    if maps.fill is not None and maps.fill >= FILL:
        return kind.found(FAIL, f"a map was {100 * maps.fill:.1f} % full", maps.samples,
                          None if maps.entries is None else maps.entries.interval)  # fmt: skip
    if maps.entries is None:
        return kind.untold("there are too few rows of one policy")
    full = "" if maps.fill is None else f"at most {100 * maps.fill:.1f} % full"
    few = max(FEW_ENTRIES, ENTRIES_A_DAY / 100 * maps.highest)
    if maps.entries.range < few:
        changed = f"entries differ by {maps.entries.range:.0f} at most"
        why = f"{changed}; {full}" if full else changed
        return kind.found(PASS, why, maps.samples, maps.entries.interval)
    found = kind.within(maps.entries.interval, few, maps.samples, full)
    if found.status == FAIL and maps.entries.rise < few:
        return replace(found, status=INCONCLUSIVE, why="it grew by too little to tell")
    return found


def _canary(soak: Soak, figures: Figures) -> Criterion:
    del soak
    kind = _Kind("canary", "Canary missed", "0")
    if figures.misses:
        why = f"{figures.misses} of {figures.tries} tries were not seen"
        return kind.found(FAIL, why, figures.tries, float(figures.misses))
    if not figures.tries:
        return kind.untold("it was never tried")
    return kind.found(PASS, f"all {figures.tries} tries were seen", figures.tries, 0.0)


def _slowness(soak: Soak, figures: Figures) -> Criterion:
    del soak
    limit = f"< {SLOWER:g} % slower"
    kind = _Kind("slowness", "Opening a file, end against beginning", limit, "%")
    slower = figures.slower
    if slower is None:
        return kind.untold("there are too few rows that tell it")
    found = kind.within(slower.grown, SLOWER, slower.samples)
    if found.status == FAIL and (load := _other_load(slower)):
        return replace(found, status=INCONCLUSIVE, why=load)
    return found


def _other_load(slower: Change) -> str:
    if slower.load is None:
        return ""
    before, after = slower.load
    low, high = sorted((before, after))
    if high <= OTHER_LOAD * low + 0.1:
        return ""
    return f"the host's load was another, too: {before:.1f}, then {after:.1f}"


def _false_positives(soak: Soak, figures: Figures) -> Criterion:
    kind = _Kind("false_positives", "Denials nobody expected", f"< {WRONG:g} % of denials", "%")
    denials, rows = figures.denials, len(soak.samples)
    if not rows:
        return kind.untold()
    if not denials.blocks:
        return kind.found(PASS, "nothing was denied", rows, 0.0)
    share = _percent(stats.proportion(denials.wrong, denials.blocks, CONFIDENCE))
    worst = ", ".join(f"{rule} ({count})" for rule, count in denials.unexpected[:3])
    why = f"{denials.wrong} of {denials.blocks}" + (f", most by {worst}" if worst else "")
    if denials.wrong == 0:
        found = kind.found(PASS, f"not one of {denials.blocks}", rows, 0.0)
    else:
        found = kind.within(share, WRONG, rows, why)
    if found.status == PASS and denials.untold > FEW_UNTOLD:
        why = f"no row tells which rules {denials.untold} of {denials.blocks} denials are of"
        return replace(found, status=INCONCLUSIVE, why=why)
    return found


def _same(soak: Soak, figures: Figures) -> Criterion:
    limit = f">= {SAME:g} % of turns"
    kind = _Kind("same_policy", "Policy and mode as in the beginning", limit, "%")
    rows = len(soak.samples)
    return _at_least(kind, rows - figures.cover.other, rows, SAME, "turns found them so")


def _agent_present(soak: Soak, figures: Figures) -> Criterion:
    kind = _Kind("agent_present", "Agent there", f">= {PRESENT:g} % of turns", "%")
    return _at_least(
        kind, figures.cover.present, len(soak.samples), PRESENT, "turns found the agent"
    )


def _coverage(soak: Soak, figures: Figures) -> Criterion:
    kind = _Kind("coverage", "Time without gaps", f">= {COVERED:g} %", "%")
    cover = figures.cover
    if not cover.rows or cover.length_s <= 0:
        return kind.untold("no row was made")
    share = 100 * cover.watched_s / cover.length_s
    failed = sum(one.kind == "reading-failed" for one in soak.happened)
    why = f"{cover.rows} turns of {cover.due} that were due"
    if failed:
        why += f", {failed} of which could not read something"
    enough = share >= COVERED and 100 * failed <= (100 - COVERED) * cover.rows
    return kind.found(PASS if enough else INCONCLUSIVE, why, cover.rows, share)


def _at_least(kind: _Kind, count: int, of: int, least: float, what: str) -> Criterion:
    if not of:
        return kind.untold("no row was made")
    share = 100 * count / of
    status = PASS if share >= least else INCONCLUSIVE
    return kind.found(status, f"{count} of {of} {what}", of, share)


def _percent(share: Interval) -> Interval:
    return Interval(100 * share.value, 100 * share.low, 100 * share.high)
