"""What is aimed at, and what is recommended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aegis_tools.control import sizes

RATE = "event-sample-rate"


@dataclass(frozen=True)
class Aims:
    """What is to be reached.

    Attributes:
        pause: Seconds for which the ring holds what comes, with nobody reading it.
        ring_most: Its largest size in bytes, a power of two.
        agent_cpu: Share of one CPU that the agent may take.
        tight: Share from which on a map is too full.
        days: For which a map's growth is foreseen.
    """

    pause: float = sizes.PAUSE
    ring_most: int = sizes.RING_MOST
    agent_cpu: float = sizes.AGENT_CPU
    tight: float = sizes.TIGHT
    days: float = sizes.DAYS


class Item(NamedTuple):
    """One thing that can be tuned.

    Attributes:
        name: ``ring``, ``event-sample-rate`` or a map's name.
        now: What it is: bytes, a share, entries.
        wanted: What it should be; ``now`` to keep it.
        observed: What was seen, in one line.
        why: What follows from it, in one line.
        memory: Bytes of kernel memory that the change takes at once.
        memory_full: The same, with the map full.
        command: What does it; empty where nothing is to be done.
    """

    name: str
    now: float
    wanted: float
    observed: str
    why: str
    memory: int = 0
    memory_full: int = 0
    command: str = ""

    @property
    def changed(self) -> bool:
        """Whether it should be another."""
        return self.wanted != self.now

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {**self._asdict(), "changed": self.changed}


class Memory(NamedTuple):
    """Kernel memory of all maps, in bytes.

    Attributes:
        now: That they take.
        after: That they would take; as much is needed besides while one set replaces the other.
        room: That there is.
    """

    now: int
    after: int
    room: int

    @property
    def fits(self) -> bool:
        """Whether there is room for the new set beside the old one."""
        return self.after <= self.room


@dataclass(frozen=True)
class Settings:
    """Sizes and the sample rate, as far as they are to be others.

    Attributes:
        ring: Bytes of the ring; None to leave it.
        rate: Share of matches that send an event; None to leave it.
        capacities: Entries by map, for all maps that one option of ``load`` gives a size.
    """

    ring: int | None = None
    rate: float | None = None
    capacities: Mapping[str, int] = field(default_factory=dict)

    def commands(self) -> tuple[str, ...]:
        """Return the commands that set them."""
        options = {} if self.ring is None else {"--ringbuf-size": self.ring}
        for name, size in self.capacities.items():
            option = sizes.option_of(name)
            options[option] = max(size, options.get(option, 0))
        words = [f"{option}={size}" for option, size in options.items()]
        found = [f"aegisbpf load --replace {' '.join(words)}"] if words else []
        if self.rate is not None:
            found.append(f"aegisbpf config set {RATE} {self.rate:g}")
        return tuple(found)


@dataclass(frozen=True)
class Advice:
    """All that is recommended.

    Attributes:
        items: Ring, sample rate, and the maps: the fullest, or those to be larger.
        notes: What else is to be known.
        memory: Of all maps, as they are and as they would be.
        wanted: What is to be set.
        before: What brings back what was.
    """

    items: tuple[Item, ...]
    notes: tuple[str, ...]
    memory: Memory
    wanted: Settings
    before: Settings

    @property
    def changed(self) -> bool:
        """Whether anything should be another."""
        return any(item.changed for item in self.items)

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {
            "recommendations": [item.to_dict() for item in self.items],
            "notes": list(self.notes),
            "memory": {**self.memory._asdict(), "fits": self.memory.fits},
            "commands": list(self.wanted.commands()),
            "undo": list(self.before.commands()),
        }
