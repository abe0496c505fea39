"""What of a monitor is loaded, what it has seen and lost, and what it takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from aegis_tools.errors import AegisError
from aegis_tools.kernel import accounting, syscall
from aegis_tools.kernel.maps import Map, possible_cpus
from aegis_tools.kernel.ringbuf import RingBuffer
from aegis_tools.monitors import filters
from aegis_tools.monitors.layout import Stat
from aegis_tools.monitors.load import digest_of
from aegis_tools.monitors.pins import MonitorPins
from aegis_tools.monitors.registry import Monitor

PER_CPU = {5, 6, 10}
"""BPF_MAP_TYPE_PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH."""
_COUNTED = ("PENDING_IO", "QUEUED_IO", "MEMORY_TOTALS")
"""Maps that grow and shrink."""


def counters(pins: MonitorPins) -> dict[str, int]:
    """Return the counters of a monitor over all processors, by name. Raises KernelError."""
    with pins.open_map("stats") as opened:
        return {
            stat.name.lower(): sum(
                int.from_bytes(value, "little")
                for value in opened.get_per_cpu(int(stat).to_bytes(4, "little"))
            )
            for stat in Stat
        }


def facts(base: Path, monitor: Monitor) -> dict[str, Any]:
    """Return what there is to know of one monitor, as ``monitor status --json`` prints it.

    Raises:
        KernelError: Its pins cannot be read.
    """
    pins = MonitorPins(base, monitor.name)
    head = {"monitor": monitor.name, "title": monitor.title, "loaded": pins.is_loaded()}
    if not head["loaded"]:
        return head
    about = pins.about()
    counted = counters(pins)
    programs = [_program(pins, name) for name in pins.names("progs")]
    return {
        **head,
        "attached": pins.is_attached(),
        "variant": about.variant,
        "refused": [{"variant": one.variant, "reason": one.reason} for one in about.refused],
        "current": is_current(monitor, about.variant, about.digest),
        "filter": filters.read(pins).to_dict(),
        "programs": programs,
        "counters": counted,
        "lost": lost(counted),
        "ring": ring(pins, monitor),
        "entries": {name: _entries(pins, name) for name in monitor.maps if name in _COUNTED},
        "memory_bytes": memory(pins),
    }


def lost(counted: dict[str, int]) -> int:
    """Return how many events were to be told and were not."""
    return counted["dropped"] + counted["busy"]


def is_current(monitor: Monitor, variant: str, digest: str) -> bool:
    """Return whether what is loaded is what this version would load as that variant."""
    found = next((one for one in monitor.variants if one.name == variant), None)
    try:
        return found is not None and digest_of(found) == digest
    except AegisError:
        return False


def ring(pins: MonitorPins, monitor: Monitor) -> dict[str, Any]:
    """Return size and fill of the ring: what nobody has read yet. Raises KernelError."""
    with pins.open_map(monitor.events) as events, RingBuffer(events) as opened:
        waiting = min(opened.pending, opened.size)
        share = round(100 * waiting / opened.size, 1)
        return {"bytes": opened.size, "pending_bytes": waiting, "percent": share}


def memory(pins: MonitorPins) -> int:
    """Return the bytes of kernel memory that maps and programs take. Raises KernelError."""
    kernel = accounting.read_kernel()
    total = 0
    for name in pins.names("maps"):
        with pins.open_map(name) as opened:
            total += map_bytes(opened, accounting.memlock(opened.fd), kernel.tells_use)
    for name in pins.names("progs"):
        fd = pins.open_program(name)
        try:
            code = accounting.code_of(name, fd)
            total += code.instructions + code.machine
        finally:
            os.close(fd)
    return total


def map_bytes(opened: Map, told: int, tells_use: bool) -> int:
    """Return what a map takes.

    Args:
        opened: The map.
        told: What the kernel says.
        tells_use: Whether that is what it takes. Before Linux 6.4 it leaves out the room of a ring,
            and all processors' values but one.
    """
    if tells_use:
        return told
    if opened.type == syscall.MAP_TYPE_RINGBUF:
        return max(told, opened.max_entries)
    if opened.type in PER_CPU:
        value = (opened.value_size + 7) & ~7
        return max(told, value * possible_cpus() * opened.max_entries)
    return told


def _program(pins: MonitorPins, name: str) -> dict[str, Any]:
    fd = pins.open_program(name)
    try:
        info = syscall.program_info(fd)
    finally:
        os.close(fd)
    linked = pins.path("links", name).exists()
    return {
        "name": name, "id": info["id"], "attached": linked,
        "run_cnt": info["run_cnt"], "run_time_ns": info["run_time_ns"],
        "recursion_misses": info["recursion_misses"],
    }  # fmt: skip


def _entries(pins: MonitorPins, name: str) -> int:
    if name not in pins.names("maps"):
        return 0
    with pins.open_map(name) as opened:
        if opened.type in PER_CPU:  # values of all processors do not fit where count() reads them
            return sum(1 for _ in syscall.keys(opened.fd, opened.key_size))
        return opened.count()
