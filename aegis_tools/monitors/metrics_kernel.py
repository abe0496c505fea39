"""What the kernel tells of the monitors that are loaded, as metrics need it.

Nothing stays open from scrape to scrape: a descriptor would keep a monitor's memory after its
unload. What cannot be read of one monitor is left out, and leaves the others alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from aegis_tools.agent.samples import label
from aegis_tools.errors import AegisError
from aegis_tools.kernel import syscall
from aegis_tools.monitors.pins import MonitorPins
from aegis_tools.monitors.registry import MONITORS, Monitor
from aegis_tools.monitors.status import counters, memory, ring

SIZED = ("PENDING_IO", "QUEUED_IO")
"""Maps that fill up where something leaks, and that are small enough to count at each scrape."""
_PROGRAMS = 64
_OTHER = "unknown"


class Program(NamedTuple):
    """A program; runs and seconds count while kernel.bpf_stats_enabled is 1."""

    name: str
    runs: int
    seconds: float
    missed: int


class Inside(NamedTuple):
    """What is inside a monitor.

    Attributes:
        counters: By the names of ``layout.Stat``.
        ring_bytes: Size of the ring.
        ring_waiting: Bytes of it that nobody has read yet.
        entries: Entries and capacity of maps, by name.
        memory: Bytes of kernel memory.
        programs: All of them.
    """

    counters: dict[str, int]
    ring_bytes: int
    ring_waiting: int
    entries: dict[str, tuple[int, int]]
    memory: int
    programs: tuple[Program, ...]


class Loaded(NamedTuple):
    """A monitor that is loaded; ``inside`` is None where it could not be read."""

    attached: bool
    variant: str
    inside: Inside | None


def read(base: Path) -> dict[str, Loaded]:
    """Return what is loaded, by monitor.

    Args:
        base: ``Paths.monitor_pins``.
    """
    found = {name: _loaded(MonitorPins(base, name), one) for name, one in MONITORS.items()}
    return {name: one for name, one in found.items() if one is not None}


def _loaded(pins: MonitorPins, monitor: Monitor) -> Loaded | None:
    if not pins.is_loaded():
        return None
    attached, variant = pins.is_attached(), pins.about().variant
    try:
        inside = _inside(pins, monitor)
    except (AegisError, OSError, ValueError):
        if not pins.is_loaded():
            return None  # it was unloaded meanwhile
        inside = None
    known = variant in {one.name for one in monitor.variants}
    return Loaded(attached, variant if known else _OTHER, inside)


def _inside(pins: MonitorPins, monitor: Monitor) -> Inside:
    told = ring(pins, monitor)
    return Inside(
        counters=counters(pins),
        ring_bytes=told["bytes"],
        ring_waiting=told["pending_bytes"],
        entries={name: _entries(pins, name) for name in monitor.maps if name in SIZED},
        memory=memory(pins),
        programs=tuple(_program(pins, name) for name in pins.names("progs")[:_PROGRAMS]),
    )


def _entries(pins: MonitorPins, name: str) -> tuple[int, int]:
    with pins.open_map(name) as opened:
        return opened.count(), opened.max_entries


def _program(pins: MonitorPins, name: str) -> Program:
    fd = pins.open_program(name)
    try:
        info = syscall.program_info(fd)
    finally:
        os.close(fd)
    return Program(
        label(name), info["run_cnt"], info["run_time_ns"] / 1e9, info["recursion_misses"]
    )
