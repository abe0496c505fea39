"""Several rings read as one, and what is added up of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from monitor_records import SECOND, disk_record, exec_record, head, net_record

from aegis_tools.errors import UsageError
from aegis_tools.monitors.decode import Decoder
from aegis_tools.monitors.follow import BATCH, Follower, Query, Record, Told, events
from aegis_tools.monitors.layout import MEMORY_KEY
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.monitors.top import Total, Usage, forget_ended, resident

PROCESS, NETWORK, DISK = (
    MONITORS[f"{name}-monitor"] for name in ("process", "network", "disk-io")
)  # fmt: skip


class Fake:
    """A ring that has what it is given."""

    def __init__(self, times: list[int]) -> None:
        self._left = [time.to_bytes(8, "little") for time in times]
        self._fd = os.open(os.devnull, os.O_RDONLY)

    def fileno(self) -> int:
        return self._fd

    def read(self, limit: int) -> list[bytes]:
        found, self._left = self._left[:limit], self._left[limit:]
        return found

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def rings() -> Iterator[list[Fake]]:
    made: list[Fake] = []
    yield made
    for ring in made:
        ring.close()


def all_of(*lists: list[int]) -> tuple[list[list[int]], int]:
    """Return the batches of rings with these times, and the most that was kept back."""
    fakes = [Fake(times) for times in lists]
    follower = Follower([(PROCESS, fake) for fake in fakes])
    batches, kept, empty = [], 0, 0
    while empty < 2:
        batch = [record.time_ns for record in follower.batch(0)]
        kept = max(kept, len(follower._held))
        empty = 0 if batch else empty + 1
        batches.append(batch)
    for fake in fakes:
        fake.close()
    return batches, kept


def test_records_of_several_rings_come_in_order() -> None:
    assert all_of([1, 4, 6], [2, 3, 5])[0][0] == [1, 2, 3, 4, 5, 6]


def test_a_ring_that_has_more_holds_back_what_is_newer_in_others() -> None:
    many = list(range(0, 4 * BATCH, 2))
    batches, kept = all_of(many, [3, 2 * BATCH + 1, 10 * BATCH])
    flat = [time for batch in batches for time in batch]
    assert flat == sorted([*many, 3, 2 * BATCH + 1, 10 * BATCH])
    assert max(map(len, batches)) <= 2 * BATCH + 3
    assert 0 < kept <= 2 * BATCH


@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=50), max_size=4))
def test_nothing_is_lost_or_told_twice_whatever_the_times_are(lists: list[list[int]]) -> None:
    batches, _ = all_of(*lists)
    assert sorted(t for b in batches for t in b) == sorted(t for times in lists for t in times)


def test_times_that_are_none_do_not_pile_up() -> None:
    wild = [*range(1, BATCH), 0] * 12
    batches, kept = all_of(wild)
    assert sum(map(len, batches)) == len(wild)
    assert kept <= 2 * BATCH


def test_what_is_held_back_is_there_for_who_stops(rings: list[Fake]) -> None:
    rings += [Fake(list(range(2 * BATCH))), Fake([5 * BATCH])]
    follower = Follower([(PROCESS, fake) for fake in rings])
    assert len(follower.batch(0)) == BATCH
    assert [record.time_ns for record in follower.rest()] == [5 * BATCH]
    assert follower.rest() == []


def record(data: bytes, monitor: object = PROCESS) -> Record:
    return Record(int.from_bytes(data[:8], "little"), monitor, data)  # type: ignore[arg-type]


def test_what_is_no_record_is_counted_and_the_rest_told() -> None:
    told = Told()
    good = record(exec_record())
    found = list(events([good, record(b"short"), good], Decoder(), told, lambda: 7 * SECOND))
    assert [event["time"] for event in found] == ["1970-01-01T00:00:12.000123Z"] * 2
    assert (told.events, told.damaged) == (2, 1)
    assert told.last is not None
    assert "process-monitor" in told.last.message


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        (Query(), True),
        (Query(events=frozenset({"exec"})), True),
        (Query(events=frozenset({"exit"})), False),
        (Query(pid=10), True),
        (Query(pid=11), False),
        (Query(comm="cat"), True),
        (Query(comm="ca"), False),
        (Query(since_ns=5 * SECOND), True),
        (Query(since_ns=6 * SECOND), False),
        (Query(events=frozenset({"exec"}), pid=10, comm="cat"), True),
        (Query(events=frozenset({"exec"}), pid=10, comm="dog"), False),
    ],
)
def test_a_record_is_wanted_when_all_that_is_asked_holds(query: Query, wanted: bool) -> None:
    assert query.matches(record(exec_record())) is wanted


def test_an_event_that_no_monitor_tells_is_refused() -> None:
    with pytest.raises(UsageError, match="no event 'exce'"):
        Query(events=frozenset({"exce"}))


def usage() -> Usage:
    return Usage(lambda pid: 4096 * pid)


def test_disks_and_network_are_added_up_by_process() -> None:
    made = usage()
    made.add(
        [
            record(disk_record(operation=1, size=4096, latency=5, pid=10), DISK),
            record(disk_record(operation=0, size=512, latency=9, pid=10), DISK),
            record(disk_record(kind=1, size=4096, pid=10), DISK),  # issued, not complete
            record(net_record(2, "10.0.0.1", "10.0.0.2", moved=100, pid=11), NETWORK),
            record(net_record(3, "10.0.0.1", "10.0.0.2", moved=50, pid=11), NETWORK),
            record(net_record(1, "10.0.0.1", "10.0.0.2", pid=11), NETWORK),
            record(head(2), DISK),  # too short
            record(b"", DISK),
        ]
    )
    disk, network = made.take("io", 10)
    assert (disk.pid, disk.read, disk.written, disk.requests) == (10, 512, 4096, 2)
    assert (disk.latency_ns, disk.latency_max_ns) == (14, 9)
    assert (network.pid, network.sent, network.received) == (11, 100, 50)
    assert network.resident == 11 * 4096
    assert made.take("io", 10) == []


@pytest.mark.parametrize(("by", "first"), [("io", 1), ("latency", 2), ("bandwidth", 3)])
def test_who_uses_most_comes_first(by: str, first: int) -> None:
    made = usage()
    made.add(
        [
            record(disk_record(size=9000, latency=5, pid=1), DISK),
            record(disk_record(size=500, latency=9, pid=2), DISK),
            record(net_record(2, "10.0.0.1", "10.0.0.2", moved=100, pid=3), NETWORK),
        ]
    )
    assert [use.pid for use in made.take(by, 1)] == [first]


def total(size: int) -> Total:
    return Total(size, b"cc1".ljust(16, b"\0"))


def test_allocations_are_what_the_totals_grew_by() -> None:
    made = usage()
    pages, freed, kfree = (MEMORY_KEY.pack(10, kind, 12) for kind in (3, 4, 2))
    made.add_totals({pages: total(1000)})
    assert made.take("memory", 5) == []  # from before
    made.add_totals({pages: total(5000), freed: total(100), kfree: total(0)})
    [use] = made.take("memory", 5)
    assert (use.pid, use.comm, use.allocated, use.freed) == (10, "cc1", 4000, 100)
    made.add_totals({pages: total(70)})  # the entry was dropped meanwhile, and is new
    assert [use.allocated for use in made.take("memory", 5)] == [70]


def test_the_memory_of_a_process_is_told_while_it_lives() -> None:
    assert (resident(os.getpid()) or 0) > 1 << 20
    assert resident(0) is None


class FakeMap:
    """A hash map of a few entries."""

    max_entries = 4

    def __init__(self, keys: list[bytes]) -> None:
        self.left = list(keys)

    def delete(self, key: bytes) -> bool:
        self.left.remove(key)
        return True


def test_what_ended_processes_left_is_deleted_before_there_is_no_room(tmp_path: Path) -> None:
    (tmp_path / "10").mkdir()
    lives, ended, nobody = (MEMORY_KEY.pack(pid, 3, 12) for pid in (10, 11, 0))
    totals = {key: total(1) for key in (lives, ended, nobody)}
    full, roomy = FakeMap(list(totals)), FakeMap([ended])
    assert forget_ended(full, totals, tmp_path) == 1  # type: ignore[arg-type]
    assert full.left == [lives, nobody]
    assert forget_ended(roomy, {ended: total(1)}, tmp_path) == 0  # type: ignore[arg-type]
    assert roomy.left == [ended]
