"""The canary: a file of the soak's own that a rule denies, tried by every turn.

Where the host enforces, opening it must be refused; where it audits, it must be let through. In
both the rule's counter must grow; and while the agent runs, the event must be sent, and the agent
must take it. Anything else is a miss.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from aegis_tools.control.heartbeat import STALE_SECONDS
from aegis_tools.control.live import Live
from aegis_tools.control.lock import is_held
from aegis_tools.errors import NotLoadedError
from aegis_tools.kernel.layout import RULE_HITS, SAMPLE_ALL, Config, Stat, uid_key
from aegis_tools.kernel.pins import Pins
from aegis_tools.kernel.ringbuf import open_ring
from aegis_tools.paths import Paths
from aegis_tools.soak.loaded import mode_of

EVENT_SECONDS = STALE_SECONDS
"""For so long the event is waited for: an agent that does nothing for longer counts as hung."""
_POLLS = (0.002, 0.05)
_KILLED = 256


class Tried(NamedTuple):
    """How a try ended.

    Attributes:
        result: One of ``columns.CANARY``.
        text: Why it is a miss; empty otherwise.
    """

    result: str
    text: str = ""


NONE = Tried("none")


class _Facts(NamedTuple):
    mode: str
    maps: int
    hits: int
    counters: dict[Stat, int]


def path_of(folder: Path) -> Path:
    """Return where the canary of a soak is."""
    return folder / "canary"


def rule_id(folder: Path) -> str:
    """Return the id of the rule that denies it; ``placing`` makes it."""
    return f"manual:path:{path_of(folder)}"


def is_placed(live: Live, identifier: str) -> bool:
    """Return whether a rule is among the live ones."""
    inner = live.inner("rules")
    if inner is None:
        return False
    with inner:
        return inner.get(uid_key(identifier)) is not None


def attempt(
    paths: Paths,
    folder: Path,
    *,
    reader: int,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Tried:
    """Try it once.

    What changes meanwhile, a mode or a load, makes it no try.

    Args:
        paths: The host.
        folder: Of the soak.
        reader: Id of the map that the running agent reads events from; 0 where none runs.
        sleep: Waits for the event.
        clock: Seconds that only grow.

    Raises:
        AegisError: What is loaded is damaged.
    """
    try:
        with Live(Pins(paths.pins)) as live:
            before = _facts(live, paths, folder)
            whole = live.config(Config.SAMPLE) == SAMPLE_ALL
            refused = open_in_child(path_of(folder))
            after = _facts(live, paths, folder)
            told = whole and reader == live.map("events").id
            if before.mode == "none" or before[:2] != after[:2] or not _same(paths, after):
                return NONE
            why = judge(before.mode, refused, after.hits - before.hits)
            if not why and told:
                why = _event(live, before.counters, after.counters, sleep, clock)
            if why and told and not is_held(paths.events_lock):
                return Tried("ok")  # the agent has died meanwhile, which the next turn tells
            return Tried("miss", why) if why else Tried("ok")
    except NotLoadedError:
        return NONE


def judge(mode: str, refused: int, hits: int) -> str:
    """Return why it is a miss; empty where all is as it must be.

    Args:
        mode: Of the host, one of ``columns.MODES``.
        refused: The number of the error that opening it ended with; 0 for none.
        hits: By how much the rule's counter grew.
    """
    if mode == "enforce" and refused != errno.EPERM:
        return "it was opened" if not refused else f"it was refused otherwise: {_name(refused)}"
    if mode != "enforce" and refused:
        return f"it was refused although nothing is: {_name(refused)}"
    return "its rule has not matched" if hits < 1 else ""


def open_in_child(path: Path) -> int:
    """Open a file in a process of its own; return the number of the error, 0 for none."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.WEXITSTATUS(status) if os.WIFEXITED(status) else _KILLED
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        number = 0
    except OSError as error:
        number = min(error.errno or 255, 255)
    except BaseException:
        number = 255
    os._exit(number)


def _name(number: int) -> str:
    if number == _KILLED:
        return "who opened it was killed"
    return os.strerror(number).lower()


def _facts(live: Live, paths: Paths, folder: Path) -> _Facts:
    value = live.map("rule_hits").get(uid_key(rule_id(folder)))
    blocks, audits, _ = RULE_HITS.unpack(value) if value else (0, 0, 0)
    return _Facts(mode_of(live, paths), live.map("block_stats").id, blocks + audits, live.stats())


def _same(paths: Paths, facts: _Facts) -> bool:
    """Return whether the maps that were looked at are still the pinned ones."""
    with Live(Pins(paths.pins)) as live:
        return live.map("block_stats").id == facts.maps


def _event(
    live: Live,
    before: dict[Stat, int],
    after: dict[Stat, int],
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> str:
    """Return why the event is missing; empty where the agent has taken it.

    Where the ring was full meanwhile nobody knows whose event it had no room for: that is
    counted, and judged, as drops.
    """
    if after[Stat.RINGBUF_DROPS] > before[Stat.RINGBUF_DROPS]:
        return ""
    if after[Stat.EVENTS] <= before[Stat.EVENTS]:
        return "no event was sent"
    try:
        ring = open_ring(live.pins.path("maps", "events"))
    except OSError:  # removed meanwhile
        return ""
    with ring:
        sent, end, pause = ring.consumed + ring.pending, clock() + EVENT_SECONDS, _POLLS[0]
        while ring.consumed < sent:
            if clock() >= end:
                return f"the agent has not taken its event within {EVENT_SECONDS:.0f} s"
            sleep(pause)
            pause = min(2 * pause, _POLLS[1])
    return ""
