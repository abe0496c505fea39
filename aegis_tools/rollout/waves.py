"""Waves: which one this is, how often its hosts are looked at, and how long that takes.

Pure. The sizes of waves are those of Ansible's ``serial``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

ROUNDS = 3
"""What comes on top of the watch, each on every host once: apply, the last look, confirm."""


@dataclass(frozen=True)
class Watch:
    """How a wave is watched.

    Attributes:
        looks: How often each host is looked at, the first time at once.
        interval: Seconds between two looks.
        round_seconds: How long one look at every host of the wave may take.
        needed: Seconds from the first host's change until the last host's confirmation.
    """

    looks: int
    interval: float
    round_seconds: float
    needed: float


def plan_watch(
    hosts: int, *, forks: int, soak: float, interval: float, look_seconds: float
) -> Watch:
    """Return how to watch a wave; looks that take longer than the interval stretch it.

    Args:
        hosts: In the wave.
        forks: How many are asked at once.
        soak: Seconds to watch.
        interval: Seconds between two looks that are wished for.
        look_seconds: What one look at one host takes at most.
    """
    round_seconds = math.ceil(hosts / max(forks, 1)) * look_seconds
    every = max(interval, round_seconds, 0.001)
    steps = max(1, int(soak // every)) if soak > 0 else 0
    watched = max(soak, steps * round_seconds)
    return Watch(
        looks=steps + 1,
        interval=watched / steps if steps else 0.0,
        round_seconds=round_seconds,
        needed=watched + ROUNDS * round_seconds,
    )


def parse_sizes(value: object) -> list[int | str]:
    """Return the sizes of waves that a person wrote: a list, or one text with commas.

    Raises:
        ValueError: One is neither a number of hosts nor a percentage, from 1 on.
    """
    given = value.split(",") if isinstance(value, str) else value
    texts = [str(one).strip() for one in (given if isinstance(given, list | tuple) else [given])]
    for text in texts:
        if not re.fullmatch("[1-9][0-9]{0,5}%?", text):
            raise ValueError(f"{text!r} is no size of a wave; write them like 1,10%,50%,100%")
    if not texts:
        raise ValueError("no wave is named; write them like 1,10%,50%,100%")
    return [text if text.endswith("%") else int(text) for text in texts]


def wave_sizes(hosts: int, serial: Sequence[int | str]) -> list[int]:
    """Return how many hosts are in each wave: numbers or percentages, the last one repeated.

    Raises:
        ValueError: A size is no number.
    """
    sizes: list[int] = []
    while sum(sizes) < hosts:
        text = str(serial[min(len(sizes), len(serial) - 1)]) if serial else "100%"
        # As Ansible has it: rounded down, and at least one.
        size = int(hosts * float(text[:-1]) / 100) or 1 if text.endswith("%") else int(text)
        sizes.append(min(size, hosts - sum(sizes)) if size > 0 else hosts - sum(sizes))
    return sizes


def wave_number(done: int, hosts: int, serial: Sequence[int | str]) -> tuple[int, int]:
    """Return which wave comes after ``done`` hosts, counted from 1, and how many there are."""
    sizes = wave_sizes(hosts, serial)
    before = sum(end <= done for end in accumulate(sizes))
    return before + 1, len(sizes)


def pauses(number: int, of: int, after: Sequence[str]) -> bool:
    """Return whether a person is to be asked after a wave: never after the last one.

    Args:
        number: Of the wave.
        of: How many there are.
        after: Numbers of waves, or ``each``.
    """
    return number < of and ("each" in after or str(number) in after)
