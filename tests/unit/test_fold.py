"""Repetitions become one line, and every event is in some line's count."""

from __future__ import annotations

from event_records import file_record, head, net_record
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.agent.fold import Fold, Told


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make(room: int = 100) -> tuple[Fold, Clock]:
    clock = Clock()
    return Fold(clock, interval=10, room=room), clock


def test_the_first_is_told_at_once_and_the_rest_in_one_line() -> None:
    fold, clock = make()
    storm = [file_record(at=n, pid=n) for n in range(1, 1001)]
    assert fold.take(storm[:600]) == [Told(storm[0])]
    assert fold.take(storm[600:]) == []
    assert fold.held == 999
    clock.now = 9.9
    assert fold.tick() == []
    clock.now = 10
    assert fold.tick() == [Told(storm[-1], 999, 2)]
    assert fold.held == 0


def test_a_storm_that_goes_on_has_one_line_an_interval() -> None:
    fold, clock = make()
    fold.take([file_record(at=1)])
    told = []
    for second in range(1, 31):
        clock.now = second
        fold.take([file_record(at=second)] * 5)
        told += fold.tick()
    assert [line.events for line in told] == [50, 50, 50]


def test_after_a_quiet_interval_the_next_is_told_at_once() -> None:
    fold, clock = make()
    fold.take([file_record(at=1)])
    clock.now = 10
    assert fold.tick() == []
    assert fold.take([file_record(at=2)]) == [Told(file_record(at=2))]


def test_what_differs_in_more_than_time_and_process_is_no_repetition() -> None:
    fold, _ = make()
    different = [
        file_record(), file_record(b"passwd\0etc\0"), file_record(comm=b"dd"), file_record(uid=0),
        file_record(action=1), file_record(reason=2), file_record(op=1), file_record(rule=5),
        file_record(cgroup=5), file_record(bundle=5), file_record(hook=2), file_record(cut=1),
        head(), net_record(), net_record(port=80), net_record(bytes(16)),
    ]  # fmt: skip
    assert len(fold.take(different)) == len(different)
    assert fold.take(different) == []


def test_what_follows_the_path_in_a_record_is_no_difference() -> None:
    fold, _ = make()
    one = file_record()
    other = one[:-100] + b"rubbish".ljust(100, b"\1")
    assert len(fold.take([one, other])) == 1


def test_a_full_table_tells_the_oldest_and_loses_none() -> None:
    fold, _ = make(room=2)
    records = [file_record(rule=n, at=n) for n in (1, 2)]
    fold.take([*records, *records])
    assert fold.take([file_record(rule=3)]) == [
        Told(records[0], 1, 1), Told(file_record(rule=3)),
    ]  # fmt: skip
    assert [line.events for line in fold.close()] == [1]


def test_without_an_interval_every_event_is_told() -> None:
    fold = Fold(Clock(), interval=0)
    assert len(fold.take([file_record()] * 5)) == 5


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=20), st.integers(0, 15)), max_size=30),
    st.integers(1, 6),
)
def test_events_taken_are_the_sum_of_the_counts(
    batches: list[tuple[list[int], int]], room: int
) -> None:
    fold, clock = make(room)
    told: list[Told] = []
    for kinds, seconds in batches:
        told += fold.take([file_record(rule=kind + 1) for kind in kinds])
        clock.now += seconds
        told += fold.tick()
    told += fold.close()
    assert sum(line.events for line in told) == sum(len(kinds) for kinds, _ in batches)
    assert fold.held == 0
