"""memory-monitor tells of what the kernel gave a program and took back: sizes, never addresses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from memory_support import (
    ALL,
    COMM,
    KMALLOC,
    MEMORY,
    RING,
    Event,
    Watch,
    check_drops,
    check_everything,
    check_interrupts,
    totals_of,
)
from monitor_facts import run_facts
from monitor_support import Attached

from aegis_tools.monitors import layout
from aegis_tools.paths import Paths

OBJECT = "memory-monitor.bpf.o"


@pytest.fixture
def attached(paths: Paths) -> Iterator[Attached]:
    with Attached(MEMORY, OBJECT, paths.bpffs / "monitor", RING) as attached:
        yield attached


def test_every_allocation_is_told_of_once_with_its_size(paths: Paths) -> None:
    check_everything(OBJECT, paths.bpffs / "monitor")


def test_what_an_interrupt_takes_is_not_the_interrupted_program_s(paths: Paths) -> None:
    check_interrupts(OBJECT, paths.bpffs / "monitor")


def test_what_the_ring_has_no_room_for_is_counted(paths: Paths) -> None:
    check_drops(OBJECT, paths.bpffs / "monitor")


def test_without_a_smallest_size_there_are_totals_only(attached: Attached) -> None:
    Watch(attached, comms=[COMM])
    run_facts("memory_activity", COMM)
    assert attached.records() == []
    assert sum(total.count for total in totals_of(attached)) > 0


def test_only_what_is_large_enough_has_a_record_and_the_rest_is_in_the_totals(
    attached: Attached,
) -> None:
    Watch(attached, comms=[COMM], min_bytes=3000)
    run_facts("memory_activity", COMM)
    events = [Event.of(record) for record in attached.records()]
    assert min(event.bytes for event in events) >= 3000
    assert any(total.size_class == 8 and total.type == KMALLOC for total in totals_of(attached))


def test_sampling_leaves_the_totals_as_they_are(attached: Attached) -> None:
    watch = Watch(attached, comms=[COMM], min_bytes=ALL, sample=0)
    run_facts("memory_activity", COMM)
    stats = watch.stats()
    assert attached.records() == []
    assert stats["SAMPLED_OUT"] == sum(total.count for total in totals_of(attached)) > 0


def test_what_the_totals_have_no_room_for_is_counted(attached: Attached) -> None:
    watch = Watch(attached, comms=[COMM], min_bytes=ALL)
    with attached.map("MEMORY_TOTALS") as totals:
        empty = layout.MEMORY_TOTAL.pack(0, 0, b"")
        keys = [layout.MEMORY_KEY.pack(1 << 30 | pid, 1, 1) for pid in range(totals.max_entries)]
        totals.fill(dict.fromkeys(keys, empty))
    run_facts("memory_activity", COMM)
    assert watch.stats()["UNTRACKED"] == len(attached.records()) > 0
