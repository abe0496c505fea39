"""What belongs together in the rows of a soak: one clock, one process, one run of a counter.

The wall clock may be set while a soak runs, so time within a boot is that of the boot clock. Only
between two boots, and in rows without a boot clock, the wall clock counts, within bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aegis_tools.soak.columns import Sample
from aegis_tools.soak.growth import Section
from aegis_tools.soak.settings import Settings

LONGEST_OFF_S = 7 * 86400
"""A host is not off for longer between two rows; if the clocks say so, one was set."""
GAP = 3
"""More than so many intervals without a row are a gap."""
WARM_UP_S, WARM_UP_SHARE = 600.0, 0.2
_SAME_START_S = 2.0


@dataclass(frozen=True)
class Clock:
    """When the rows of a soak were made.

    Attributes:
        times: Seconds since it began, one a row; never falling.
        gaps: Seconds that each row came later than the interval after the one before (the first:
            after the beginning); 0 where that is no gap.
    """

    times: tuple[float, ...]
    gaps: tuple[float, ...]


def clock(settings: Settings, samples: Sequence[Sample]) -> Clock:
    """Return when rows were made."""
    times: list[float] = []
    gaps: list[float] = []
    now = 0.0
    for at, sample in enumerate(samples):
        step = _since(settings, samples[at - 1], sample) if at else _from_begin(settings, sample)
        now += step
        times.append(now)
        late = step - settings.interval_s
        gaps.append(late if step > GAP * settings.interval_s else 0.0)
    return Clock(tuple(times), tuple(gaps))


def _from_begin(settings: Settings, first: Sample) -> float:
    if first.boot is not None and first.boot == settings.boot and first.boot_s is not None:
        return max(0.0, first.boot_s - settings.boot_s)
    return _off(first.timestamp - settings.started, 0.0)


def _since(settings: Settings, before: Sample, after: Sample) -> float:
    same = before.boot is not None and before.boot == after.boot
    if same and before.boot_s is not None and after.boot_s is not None:
        return max(0.0, after.boot_s - before.boot_s)
    return _off(after.timestamp - before.timestamp, settings.interval_s)


def _off(seconds: float, otherwise: float) -> float:
    return float(seconds) if 0 <= seconds <= LONGEST_OFF_S else otherwise


def processes(
    found: Clock, samples: Sequence[Sample], value: Callable[[Sample], float | None]
) -> list[Section]:
    """Return the values of each process of the agent, without those of its first minutes."""
    return [
        warm
        for part in _runs(samples, lambda a, b: _same_process(found, samples, a, b))
        if (warm := _warm(_section(found, samples, part, value))) is not None
    ]


def policies(
    found: Clock, samples: Sequence[Sample], value: Callable[[Sample], float | None]
) -> list[Section]:
    """Return the values of each stretch of one boot and one policy."""

    def same(a: int, b: int) -> bool:
        one, other = samples[a], samples[b]
        return one.boot == other.boot and one.policy == other.policy

    parts = (_section(found, samples, part, value) for part in _runs(samples, same))
    return [part for part in parts if part.times]


def deltas(samples: Sequence[Sample], value: Callable[[Sample], int | None]) -> list[int]:
    """Return by how much a counter has grown until each row that tells it.

    A counter that fell, or is that of another boot, began again at zero. What it was in the first
    row was there before.
    """
    grown: list[int] = []
    before: tuple[str | None, int] | None = None
    for sample in samples:
        now = value(sample)
        if now is None:
            continue
        if before is None:
            grown.append(0)
        elif now < before[1] or sample.boot != before[0]:
            grown.append(now)
        else:
            grown.append(now - before[1])
        before = sample.boot, now
    return grown


def _runs(samples: Sequence[Sample], same: Callable[[int, int], bool]) -> list[list[int]]:
    """Return the indices of rows with an agent, parted where two that follow are not the same."""
    parts: list[list[int]] = []
    for at, sample in enumerate(samples):
        if not sample.present:
            continue
        if parts and same(parts[-1][-1], at):
            parts[-1].append(at)
        else:
            parts.append([at])
    return parts


def _same_process(found: Clock, samples: Sequence[Sample], a: int, b: int) -> bool:
    one, other = samples[a], samples[b]
    if one.boot != other.boot:
        return False
    if one.agent_pid is None or other.agent_pid is None:
        # Rows of another sampler: what went on in a gap, or without an agent, cannot be told.
        return b == a + 1 and not found.gaps[b]
    if one.agent_start_s is None or other.agent_start_s is None:
        return one.agent_pid == other.agent_pid
    begun = abs(one.agent_start_s - other.agent_start_s)
    return one.agent_pid == other.agent_pid and begun <= _SAME_START_S


def _section(
    found: Clock,
    samples: Sequence[Sample],
    part: Sequence[int],
    value: Callable[[Sample], float | None],
) -> Section:
    known = [(found.times[at], v) for at in part if (v := value(samples[at])) is not None]
    return Section([time for time, _ in known], [v for _, v in known])


def _warm(section: Section) -> Section | None:
    if not section.times:
        return None
    begin, end = section.times[0], section.times[-1]
    warm = begin + min(WARM_UP_S, WARM_UP_SHARE * (end - begin))
    first = next(at for at, time in enumerate(section.times) if time >= warm)
    return Section(section.times[first:], section.values[first:])
