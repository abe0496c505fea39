"""What the kernel counts for the maps that are loaded, beside what was predicted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from aegis_tools.control.footprint import (
    MapMemory,
    Sizes,
    hash_memory,
    shared_memory,
    slot_memory,
    trie_memory,
)
from aegis_tools.control.live import Live
from aegis_tools.kernel.accounting import BY_CGROUP, Code, Kernel, code_of, memlock
from aegis_tools.kernel.layout import POLICY_MAPS, SPECS
from aegis_tools.kernel.pins import Pins

CLOSE = 0.05
"""A prediction that is further off is wrong."""


class Compared(NamedTuple):
    """One map, or all: bytes predicted and bytes that the kernel counts."""

    name: str
    predicted: int
    accounted: int

    @property
    def error(self) -> float:
        """How far off the prediction is, of what the kernel counts; 0.05 is 5 % too much."""
        if not self.accounted:
            return 0.0 if not self.predicted else 1.0
        return self.predicted / self.accounted - 1


class Verified(NamedTuple):
    """The comparison.

    Attributes:
        maps: By map, in the order of a footprint.
        code: What the programs take; nothing was predicted for them.
        meaning: What the kernel's figures are: ``use``, ``full`` (against the limit of locked
            memory) or ``estimate``.
    """

    maps: tuple[Compared, ...]
    code: tuple[Code, ...]
    meaning: str

    @property
    def total(self) -> Compared:
        """All maps together."""
        predicted, accounted = (
            sum(column) for column in zip(*(m[1:] for m in self.maps), strict=True)
        )
        return Compared("total", predicted, accounted)

    @property
    def close(self) -> bool:
        """Whether the prediction is good enough."""
        return abs(self.total.error) <= CLOSE

    @property
    def types(self) -> int:
        """Bytes of type information, each counted once."""
        return sum({code.types_id: code.types for code in self.code}.values())

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        rows = [{**m._asdict(), "error_percent": round(100 * m.error, 3)} for m in self.maps]
        total = self.total
        return {
            "maps": rows,
            "predicted": total.predicted,
            "accounted": total.accounted,
            "error_percent": round(100 * total.error, 3),
            "within_5_percent": self.close,
            "meaning": self.meaning,
            "programs": {
                "instructions": sum(code.instructions for code in self.code),
                "machine_code": sum(code.machine for code in self.code),
                "types": self.types,
            },
        }


def sizes_of(live: Live) -> Sizes:
    """Return the sizes of what is loaded."""
    return Sizes(
        live.map("events").max_entries,
        {spec.name: live.capacity(spec.name) for spec in POLICY_MAPS},
        live.map("rule_hits").max_entries,
    )


def verify(live: Live, kernel: Kernel, entries: Mapping[str, int] | None = None) -> Verified:
    """Compare.

    Args:
        live: What is loaded.
        kernel: The running one.
        entries: By policy map, as predicted from a policy; those of the live slot by default.
            What fills by itself, hits and the survival list, is taken as it is.
    """
    sizes = sizes_of(live)
    if entries is None:
        entries = dict(zip((s.name for s in POLICY_MAPS), live.info().entries, strict=False))
    hits, survival = (live.map(name).count() for name in ("rule_hits", "survival_allowlist"))
    predicted = [
        *(_existing(live, m, kernel) for m in slot_memory(entries, sizes.capacities, kernel)),
        *shared_memory(sizes, hits, survival, kernel),
    ]
    meaning = "full" if kernel.version < BY_CGROUP else "estimate"
    return Verified(
        tuple(Compared(m.name, m.counted, _accounted(live, m)) for m in predicted),
        read_code(live.pins),
        "use" if kernel.tells_use else meaning,
    )


def _existing(live: Live, memory: MapMemory, kernel: Kernel) -> MapMemory:
    """Return what a map without entries takes where there is one: a commit of nothing leaves it."""
    inner = None if memory.entries else live.inner(memory.name)
    if inner is None:
        return memory
    with inner:
        of_kind = trie_memory if SPECS[memory.name].lpm else hash_memory
        return of_kind(SPECS[memory.name], 0, memory.capacity, kernel)


def _accounted(live: Live, memory: MapMemory) -> int:
    if memory.name == "slots":
        return sum(memlock(live.map(spec.name).fd) for spec in POLICY_MAPS)
    if all(memory.name != spec.name for spec in POLICY_MAPS):
        return memlock(live.map(memory.name).fd)
    inner = live.inner(memory.name)
    if inner is None:
        return 0
    with inner:
        return memlock(inner.fd)


def read_code(pins: Pins) -> tuple[Code, ...]:
    """Return what every program takes."""
    found = []
    for name in pins.names("progs"):
        fd = pins.open_program(name)
        try:
            found.append(code_of(name, fd))
        finally:
            os.close(fd)
    return tuple(found)
