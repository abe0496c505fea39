"""network-monitor tells of what a program sent and received: everything, and as it was.

Here by tracepoints: this kernel may not let its functions be watched, the machines' do.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from monitor_facts import run_facts
from monitor_support import Attached
from network_support import (
    COMM,
    NETWORK,
    check_drops,
    check_everything,
    events_of,
    expected,
)

from aegis_tools.paths import Paths

VARIANT = "tracepoints"
OBJECT = "network-monitor.tracepoints.bpf.o"


@pytest.fixture
def attached(paths: Paths) -> Iterator[Attached]:
    with Attached(NETWORK, OBJECT, paths.bpffs / "monitor") as attached:
        yield attached


def test_what_was_really_moved_is_told_of_between_whom(attached: Attached) -> None:
    check_everything(attached, VARIANT)


def test_no_connection_is_left_behind(attached: Attached) -> None:
    attached.let_through(comms=[COMM])
    run_facts("network_activity", COMM)
    with attached.map("CONNECTING") as connecting:
        assert connecting.count() == 0


def test_what_the_ring_has_no_room_for_is_counted(paths: Paths) -> None:
    check_drops(OBJECT, paths.bpffs / "monitor", VARIANT)


def test_a_smallest_size_is_about_bytes_and_leaves_connections(attached: Attached) -> None:
    attached.let_through(comms=[COMM], min_bytes=500)
    facts = run_facts("network_activity", COMM)
    told = [event.fact for event in events_of(attached)]
    everything = expected(facts, VARIANT)
    assert told == [f for f in everything if f["event"] == "connect" or f["bytes"] >= 500]
    assert len(told) < len(everything)


def test_what_is_not_sampled_is_counted(attached: Attached) -> None:
    attached.let_through(comms=[COMM], sample=0)
    before = attached.stats()["SAMPLED_OUT"]
    facts = run_facts("network_activity", COMM)
    assert attached.records() == []
    assert attached.stats()["SAMPLED_OUT"] - before == len(expected(facts, VARIANT))
