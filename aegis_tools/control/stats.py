"""Counters and how full the maps are, as one snapshot; no map of entries is read for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from aegis_tools.control.live import Live
from aegis_tools.control.posture import Posture, read_posture
from aegis_tools.kernel import syscall
from aegis_tools.kernel.layout import POLICY_MAPS, SAMPLE_ALL, Config, SlotInfo, Stat
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths

RUN_STATS = Path("/proc/sys/kernel/bpf_stats_enabled")


class MapUse(NamedTuple):
    """How full a map is."""

    name: str
    entries: int
    capacity: int

    @property
    def share(self) -> float:
        """Full is 1."""
        return self.entries / self.capacity if self.capacity else 0.0

    def line(self) -> str:
        """Return ``deny_inode_map: 65536/65536 entries (100% full)``; 100% is full, not nearly."""
        percent = 100 * self.entries // max(self.capacity, 1)
        return f"{self.name}: {self.entries}/{self.capacity} entries ({percent}% full)"


class ProgramUse(NamedTuple):
    """What a hook cost since it was loaded, while the kernel was told to measure."""

    name: str
    runs: int
    nanoseconds: int


class Snapshot(NamedTuple):
    """The state of what is loaded.

    Attributes:
        posture: Mode and effect.
        info: The active slot.
        counters: Summed over all CPUs.
        maps: Policy maps of the active slot, in the order of layout.py.
        programs: By hook.
        measuring: The kernel measures programs now (kernel.bpf_stats_enabled).
        sample_rate: Share of matches that send an event.
        ring_bytes: Size of the event ring.
    """

    posture: Posture
    info: SlotInfo
    counters: dict[Stat, int]
    maps: tuple[MapUse, ...]
    programs: tuple[ProgramUse, ...]
    measuring: bool
    sample_rate: float
    ring_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {
            **self.posture.to_dict(),
            "policy": {
                "digest": self.info.bundle.hex() if any(self.info.bundle) else "",
                "content": self.info.content.hex() if any(self.info.content) else "",
                "serial": self.info.serial,
                "applied_ns": self.info.applied_ns,
            },
            "counters": {stat.name.lower(): number for stat, number in self.counters.items()},
            "maps": [{**use._asdict(), "utilization": round(use.share, 6)} for use in self.maps],
            "hooks": [program._asdict() for program in self.programs],
            "measuring": self.measuring,
            "event_sample_rate": self.sample_rate,
            "ringbuf_bytes": self.ring_bytes,
        }

    def cpu_line(self) -> str:
        """Return what the hooks cost, or how to find out."""
        runs = sum(program.runs for program in self.programs)
        spent = sum(program.nanoseconds for program in self.programs)
        if not runs:
            return "CPU in hooks: not measured; start it with: sysctl kernel.bpf_stats_enabled=1"
        text = f"CPU in hooks: {spent / 1e9:.3f} s in {runs} runs, {spent / runs:.0f} ns each"
        return text if self.measuring else text + " (not measured at present)"


def read_snapshot(live: Live, paths: Paths | None = None) -> Snapshot:
    """Read everything once; with ``paths`` also whether the host is held in audit."""
    info = live.info()
    capacities = _capacities(live)
    return Snapshot(
        posture=read_posture(live, paths),
        info=info,
        counters=live.stats(),
        maps=tuple(
            MapUse(spec.name, info.entries[i], capacities[i]) for i, spec in enumerate(POLICY_MAPS)
        ),
        programs=read_programs(live.pins),
        measuring=_measuring(),
        sample_rate=live.config(Config.SAMPLE) / SAMPLE_ALL,
        ring_bytes=live.map("events").max_entries,
    )


def _capacities(live: Live) -> list[int]:
    return [live.capacity(spec.name) for spec in POLICY_MAPS]


def read_programs(pins: Pins) -> tuple[ProgramUse, ...]:
    """Return runs and time of every hook's program."""
    found = []
    for name in pins.names("progs"):
        if name.startswith("aegis_"):
            fd = pins.open_program(name)
            try:
                info = syscall.program_info(fd)
            finally:
                os.close(fd)
            found.append(ProgramUse(name, info["run_cnt"], info["run_time_ns"]))
    return tuple(found)


def _measuring() -> bool:
    try:
        return RUN_STATS.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False
