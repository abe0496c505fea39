"""What belongs together in the rows of a soak, whatever happens to clocks, agent and counters."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from soak_support import DAY, sample, settings

from aegis_tools.soak import segments
from aegis_tools.soak.columns import Sample

SETTINGS = settings(interval_s=60)
ROWS = [sample(SETTINGS, at + 1) for at in range(40)]


def memory(row: Sample) -> float | None:
    return row.mem_mb


def test_time_begins_with_the_soak() -> None:
    found = segments.clock(SETTINGS, ROWS)
    assert found.times == tuple(60.0 * at for at in range(1, 41))
    assert set(found.gaps) == {0.0}
    assert segments.clock(SETTINGS, []) == segments.Clock((), ())


@pytest.mark.parametrize("by", [-400 * DAY, -30, 30, 3 * DAY, 400 * DAY])
def test_a_wall_clock_that_is_set_moves_nothing(by: int) -> None:
    rows = ROWS[:20] + [replace(row, timestamp=row.timestamp + by) for row in ROWS[20:]]
    assert segments.clock(SETTINGS, rows) == segments.clock(SETTINGS, ROWS)


@pytest.mark.parametrize("by", [-400 * DAY, -DAY, 30 * DAY])
def test_without_a_boot_clock_a_jump_counts_as_one_interval(by: int) -> None:
    rows = [replace(row, boot=None, boot_s=None) for row in ROWS]
    moved = rows[:20] + [replace(row, timestamp=row.timestamp + by) for row in rows[20:]]
    assert segments.clock(SETTINGS, moved) == segments.clock(SETTINGS, rows)


def test_between_two_boots_the_wall_clock_counts() -> None:
    later = [
        replace(row, boot="1" * 8, boot_s=30.0 + 60 * at, timestamp=row.timestamp + 600)
        for at, row in enumerate(ROWS[20:])
    ]
    found = segments.clock(SETTINGS, ROWS[:20] + later)
    assert found.times[20] - found.times[19] == 660
    assert found.gaps[20] == 600
    assert sum(found.gaps) == 600


def test_rows_that_come_late_are_no_gap_and_missing_ones_are() -> None:
    late = [replace(row, boot_s=(row.boot_s or 0) + 110) for row in ROWS[10:]]
    assert set(segments.clock(SETTINGS, ROWS[:10] + late).gaps) == {0.0}
    assert sum(segments.clock(SETTINGS, ROWS[:10] + ROWS[15:]).gaps) == 300


@given(st.lists(st.tuples(st.integers(0, 2**40), st.none() | st.floats(0, 1e9),
                          st.sampled_from(["0" * 8, "1" * 8, None])), max_size=30))  # fmt: skip
def test_time_never_falls(rows: list[tuple[int, float | None, str | None]]) -> None:
    samples = [Sample(when, boot=boot, boot_s=seconds) for when, seconds, boot in rows]
    found = segments.clock(SETTINGS, samples)
    assert list(found.times) == sorted(found.times)
    assert all(gap >= 0 for gap in found.gaps)


def lengths(rows: list[Sample]) -> list[int]:
    found = segments.processes(segments.clock(SETTINGS, rows), rows, memory)
    return [len(part.times) for part in found]


def test_the_first_minutes_of_a_process_are_left_out() -> None:
    assert lengths(ROWS) == [32]  # a fifth of 39 minutes
    many = [sample(SETTINGS, at + 1) for at in range(200)]
    assert lengths(many) == [190]  # no more than 10 minutes


@pytest.mark.parametrize(
    "change",
    [{"agent_pid": 51}, {"agent_start_s": 999.0}, {"boot": "1" * 8}],
    ids=["pid", "start", "boot"],
)
def test_another_process_has_a_level_of_its_own(change: dict[str, object]) -> None:
    rows = ROWS[:20] + [replace(row, **change) for row in ROWS[20:]]  # type: ignore[arg-type]
    assert lengths(rows) == [16, 16]


def test_a_start_that_is_told_a_little_differently_is_the_same_process() -> None:
    assert lengths([replace(row, agent_start_s=5.0 + at % 2) for at, row in enumerate(ROWS)]) == [
        32
    ]


def test_a_gap_ends_no_process_that_is_known_to_be_the_same() -> None:
    assert len(lengths(ROWS[:10] + ROWS[30:])) == 1


def test_without_a_process_id_a_gap_or_an_absence_may_have_been_a_restart() -> None:
    rows = [replace(row, agent_pid=None, agent_start_s=None) for row in ROWS]
    assert len(lengths(rows)) == 1
    assert len(lengths(rows[:15] + rows[25:])) == 2
    assert len(lengths([*rows[:15], replace(rows[15], agent="dead"), *rows[16:]])) == 2


def test_rows_without_an_agent_are_of_no_process() -> None:
    assert lengths([replace(row, agent="dead") for row in ROWS]) == []


def test_entries_belong_to_one_policy_of_one_boot() -> None:
    rows = ROWS[:20] + [replace(row, policy="f" * 12) for row in ROWS[20:]]
    found = segments.policies(segments.clock(SETTINGS, rows), rows, memory)
    assert [len(part.times) for part in found] == [20, 20]


@pytest.mark.parametrize(
    ("values", "grown"),
    [
        ([], []),
        ([5, 5, 7], [0, 0, 2]),
        ([5, 7, 3, 4], [0, 2, 3, 1]),
        ([5, None, 9], [0, 4]),
        ([None, 5, 6], [0, 1]),
    ],
)
def test_a_counter_that_fell_began_again(values: list[int | None], grown: list[int]) -> None:
    rows = [replace(ROWS[at], blocks=value) for at, value in enumerate(values)]
    assert segments.deltas(rows, lambda row: row.blocks) == grown


def test_a_counter_of_another_boot_began_again_even_if_it_is_higher() -> None:
    rows = [replace(ROWS[0], blocks=5), replace(ROWS[1], blocks=8, boot="1" * 8)]
    assert segments.deltas(rows, lambda row: row.blocks) == [0, 8]


@given(st.lists(st.none() | st.integers(0, 2**64 - 1), max_size=40))
def test_a_counter_never_grows_by_less_than_nothing(values: list[int | None]) -> None:
    rows = [Sample(at, blocks=value) for at, value in enumerate(values)]
    assert all(grown >= 0 for grown in segments.deltas(rows, lambda row: row.blocks))
