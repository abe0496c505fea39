"""From measures to actions: told once, acted on each time, ended only after calm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.monitors.profiles.decide import (
    CALM,
    REMIND,
    Change,
    Decision,
    Measure,
    State,
    decide,
)
from aegis_tools.monitors.profiles.model import MEMORY, Action, Limit

ALERT = Limit(MEMORY, 1000, Action.ALERT)
KILL = Limit(MEMORY, 1000, Action.TERMINATE)


def follow(
    limit: Limit, steps: list[tuple[float, Measure]], *, by_kernel: bool = False
) -> list[tuple[float, Decision]]:
    """Return what was decided at which time, without the times of nothing."""
    state, found = State(), []
    for now, measure in steps:
        state, decision = decide(limit, measure, state, now, by_kernel=by_kernel)
        if decision != Decision():
            found.append((now, decision))
    return found


def measures(*pairs: tuple[float, int]) -> list[tuple[float, Measure]]:
    return [(now, Measure(value)) for now, value in pairs]


@pytest.mark.parametrize("value", [0, 999, 1000])
def test_a_limit_that_is_reached_is_not_exceeded(value: int) -> None:
    assert follow(ALERT, measures((1, value))) == []


def test_a_limit_that_is_exceeded_is_told_of_once_and_again_after_a_while() -> None:
    steps = measures(*((now, 1001) for now in range(int(REMIND) + 2)))
    assert follow(ALERT, steps) == [
        (0, Decision(Change.EXCEEDED)),
        (REMIND, Decision(Change.CONTINUES)),
    ]


def test_it_has_ended_only_after_calm_well_below() -> None:
    shaky = measures((0, 1001), (1, 990), (2, 1001), (3, 901), (4, 1000), (60 - 1, 950))
    assert follow(ALERT, shaky) == [(0, Decision(Change.EXCEEDED))]
    calm = measures((0, 1001), (1, 900), (2, 901), (3, 900), (3 + CALM - 0.1, 0), (3 + CALM, 900))
    assert follow(ALERT, calm) == [
        (0, Decision(Change.EXCEEDED)),
        (3 + CALM, Decision(Change.ENDED)),
    ]


def test_somebody_is_ended_each_time_it_is_above_and_at_no_other() -> None:
    steps = measures((0, 2000), (1, 1500), (2, 1000), (3, 1001))
    assert follow(KILL, steps) == [
        (0, Decision(Change.EXCEEDED, terminate=True)),
        (1, Decision(Change.CONTINUES, terminate=True)),
        (3, Decision(Change.CONTINUES, terminate=True)),
    ]


def test_nobody_is_ended_where_the_kernel_does_it() -> None:
    steps = [(0.0, Measure(900, held=3)), (1.0, Measure(900, killed=1)), (2.0, Measure(1100))]
    assert follow(KILL, steps, by_kernel=True) == [
        (0, Decision(Change.EXCEEDED)),
        (1, Decision(Change.CONTINUES)),
    ]


def test_what_the_kernel_had_to_hold_counts_as_exceeded() -> None:
    assert follow(ALERT, [(0, Measure(1, held=1))]) == [(0, Decision(Change.EXCEEDED))]


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 1)), max_size=60))
def test_events_alternate_and_nobody_is_ended_below_the_limit(
    found: list[tuple[int, int]],
) -> None:
    state, active = State(), False
    for now, (value, held) in enumerate(found):
        state, decision = decide(
            KILL, Measure(value, held=held), state, float(now), by_kernel=False
        )
        if decision.change is Change.EXCEEDED:
            assert not active
            active = True
        elif decision.change is Change.ENDED:
            assert active
            assert value <= 900
            active = False
        elif decision.change is Change.CONTINUES:
            assert active
        assert decision.terminate == (value > 1000)
        assert state.active == active
