"""memory-monitor against a program that knows what it took; here and in machines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from memory_activity import (
    GID,
    HEADER,
    LONG,
    MARK,
    PAGE,
    PAGES,
    PING_BYTES,
    PINGS,
    PIPED,
    SEGMENT,
    SIZES,
    UID,
)
from monitor_facts import run_facts
from monitor_support import Attached, Head

from aegis_tools.monitors import layout
from aegis_tools.monitors.registry import MONITORS

MEMORY = MONITORS["memory-monitor"]
COMM = "known-memory"
KMALLOC, KFREE, PAGE_ALLOC, PAGE_FREE = 1, 2, 3, 4
ALL = 1
"""As min_bytes: a record of each, those of no known size too."""
RING = 1 << 22


class Event(NamedTuple):
    """The decoded struct memory_event."""

    head: Head
    bytes: int
    order: int

    @classmethod
    def of(cls, record: bytes) -> Event:
        assert len(record) == layout.HEAD.size + layout.MEMORY.size
        size, order, pad = layout.MEMORY.unpack_from(record, layout.HEAD.size)
        assert pad == 0
        return cls(Head.of(record), size, order)


class Total(NamedTuple):
    """One of MEMORY_TOTALS."""

    pid: int
    type: int
    size_class: int
    count: int
    bytes: int
    comm: str


class Watch:
    """What is told of from now on: counters, and totals, begin at nothing."""

    def __init__(self, attached: Attached, **filter_: Any) -> None:
        self._attached = attached
        attached.let_through(**filter_)
        with attached.map("MEMORY_TOTALS") as totals:
            for key, _ in list(totals.items()):
                totals.delete(key)
        attached.records()
        self._before = attached.stats()

    def stats(self) -> dict[str, int]:
        return {name: n - self._before[name] for name, n in self._attached.stats().items()}


def totals_of(attached: Attached) -> list[Total]:
    with attached.map("MEMORY_TOTALS") as totals:
        return [
            Total(*layout.MEMORY_KEY.unpack(key), count, size, comm.split(b"\0")[0].decode())
            for key, value in totals.items()
            for count, size, comm in [layout.MEMORY_TOTAL.unpack(value)]
        ]


def size_class(size: int) -> int:
    return max(1, (size - 1).bit_length()) if size else 0


def windows(events: list[Event]) -> list[list[Event]]:
    """Part what was told of at the program's marks; what was before the first is left out."""
    parts: list[list[Event]] = []
    for event in events:
        if event.head.type == KMALLOC and event.bytes == HEADER + MARK + len(parts):
            parts.append([])
        elif parts:
            parts[-1].append(event)
    return parts


def sizes(window: list[Event], kind: int) -> list[int]:
    return [event.bytes for event in window if event.head.type == kind]


def check_windows(parts: list[list[Event]], faults: int) -> None:
    """Each window is what the program did in it; each begins by giving its mark back."""
    sent, taken, long, _, touched, _, filled, emptied, _ = parts
    page = PAGE - HEADER
    assert sizes(sent, KMALLOC) == [HEADER + size for size in SIZES]
    assert sizes(sent, KFREE) == [0]
    assert sizes(taken, KMALLOC) == []
    assert sizes(taken, KFREE) == [0] * (1 + len(SIZES))
    assert sizes(long, KMALLOC) == [PAGE, SEGMENT + LONG - page]
    assert sizes(touched, PAGE_ALLOC).count(PAGE) == PAGES
    assert faults == PAGES
    assert sizes(filled, PAGE_ALLOC).count(PAGE) == PIPED
    assert sizes(emptied, PAGE_FREE).count(PAGE) == PIPED


def check_totals(attached: Attached, facts: dict[str, Any], events: list[Event]) -> None:
    """What was told of one by one is in the totals, and nothing else."""
    counts: Counter[tuple[int, int]] = Counter()
    summed: Counter[tuple[int, int]] = Counter()
    for event in events:
        counts[event.head.type, size_class(event.bytes)] += 1
        summed[event.head.type, size_class(event.bytes)] += event.bytes
    totals = totals_of(attached)
    assert {total.pid for total in totals} == {facts["pid"]}
    assert {total.comm for total in totals} == {COMM}
    assert {(total.type, total.size_class): total.count for total in totals} == counts
    assert {(t.type, t.size_class): t.bytes for t in totals if t.bytes} == +summed


def check_everything(object_: str, folder: Path) -> None:
    """Every allocation is told of once, with its size; no record holds an address."""
    with Attached(MEMORY, object_, folder, RING) as attached:
        Watch(attached, comms=[COMM], min_bytes=ALL)
        facts = run_facts("memory_activity", COMM)
        records = attached.records()
        events = [Event.of(record) for record in records]
        check_totals(attached, facts, events)
    check_counters(attached)
    check_windows(windows(events), facts["faults"])
    for event in events:
        head = event.head
        assert (head.pid, head.tid, head.ppid) == (facts["pid"], facts["pid"], facts["ppid"])
        assert (head.uid, head.gid, head.comm, head.flags) == (UID, GID, COMM, 0)
        assert head.cgroup == facts["cgroup"]
        assert facts["began"] < head.time_ns < facts["ended"]
        assert event.bytes < 1 << 40
        assert event.order == 0 or event.bytes == PAGE << event.order


def check_counters(attached: Attached) -> None:
    """All that was seen is accounted for: read once nothing is watched any more."""
    stats = attached.stats()
    assert stats["SEEN"] == sum(
        stats[name] for name in ("SENT", "DROPPED", "FILTERED", "SAMPLED_OUT")
    )
    assert stats["BUSY"] == stats["UNTRACKED"] == 0


def check_interrupts(object_: str, folder: Path) -> None:
    """What answers an echo request is no process's: pid 0 in the totals, a flag in records."""
    large = PING_BYTES
    with Attached(MEMORY, object_, folder, RING) as attached:
        Watch(attached, min_bytes=large)
        facts = run_facts("memory_activity", call="pings")
        events = [Event.of(record) for record in attached.records()]
        rose = by_interrupts(attached)
        totals = [total for total in totals_of(attached) if total.pid == facts["pid"]]
    kmallocs = [event for event in events if event.head.type == KMALLOC]
    flagged = [event for event in kmallocs if event.head.flags & layout.NOT_CAUSE]
    own = [e for e in kmallocs if not e.head.flags and e.head.pid == facts["pid"]]
    assert len(flagged) >= PINGS
    assert len(own) >= PINGS
    assert rose >= PINGS
    least = size_class(large)
    counted = [t for t in totals if t.type == KMALLOC and t.size_class > least]
    told = Counter(size_class(e.bytes) for e in own if size_class(e.bytes) > least)
    assert {total.size_class: total.count for total in counted} == told


def by_interrupts(attached: Attached) -> int:
    """Return how many of at least a ping's size were made by interrupts."""
    large = size_class(PING_BYTES)
    return sum(
        total.count
        for total in totals_of(attached)
        if total.pid == 0 and total.type == KMALLOC and total.size_class >= large
    )


def check_drops(object_: str, folder: Path) -> None:
    """What the ring has no room for is counted, and in the totals all the same."""
    with Attached(MEMORY, object_, folder, 4096) as attached:
        watch = Watch(attached, comms=[COMM], min_bytes=ALL)
        run_facts("memory_activity", COMM)
        records, stats = attached.records(), watch.stats()
        counted = sum(total.count for total in totals_of(attached))
    assert stats["SENT"] == len(records) > 0
    assert stats["DROPPED"] > 0
    assert stats["SENT"] + stats["DROPPED"] == counted
    check_counters(attached)
