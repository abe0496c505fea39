"""Intervals that hold what they promise, and growth that is told from all that only looks so."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.soak import growth as module
from aegis_tools.soak import stats
from aegis_tools.soak.growth import DAY, Growth, Section, growth
from aegis_tools.soak.stats import Interval

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("freedom", "confidence", "reach"),
    # Tables of Student's t.
    [(1, 0.99, 63.657), (2, 0.99, 9.925), (5, 0.95, 2.571), (12, 0.99, 3.055), (30, 0.95, 2.042)],
)
def test_students_t_is_that_of_the_tables(freedom: int, confidence: float, reach: float) -> None:
    assert stats.t_quantile(freedom, confidence) == pytest.approx(reach, abs=6e-4)


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    # None of n: 1 - 0.025**(1/n); the others by the sums of binomial probabilities.
    [(0, 100, 0.0, 0.03621669), (5, 100, 0.01643188, 0.11283491), (10, 10, 0.69150289, 1.0),
     (1, 1, 0.025, 1.0), (500, 1000, 0.46854925, 0.53145075)],
)  # fmt: skip
def test_a_share_has_the_interval_of_clopper_and_pearson(
    count: int, of: int, low: float, high: float
) -> None:
    found = stats.proportion(count, of, 0.95)
    assert found == pytest.approx((count / of, low, high), abs=1e-6)


@given(st.integers(1, 10**9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_share_lies_within_its_interval(pair: tuple[int, int]) -> None:
    found = stats.proportion(*pair, 0.99)
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(VALUES, st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_lies_within_its_interval_and_both_within_the_values(
    values: list[float], share: float
) -> None:
    found = stats.order_interval(values, share, 0.99)
    assert min(values) <= found.low <= found.value <= found.high <= max(values)


def test_a_quantile_s_interval_is_narrower_with_more_values_and_wider_when_they_cling() -> None:
    draw = random.Random(1)
    few, many = [draw.random() for _ in range(200)], [draw.random() for _ in range(4000)]
    clinging = [value for value in few for _ in range(20)]

    def width(values: Sequence[float]) -> float:
        found = stats.order_interval(values, 0.5, 0.99)
        return found.high - found.low

    assert width(many) < width(few) / 3
    assert width(clinging) > 2 * width(many)


def test_the_promise_of_a_quantile_s_interval_is_kept() -> None:
    draw = random.Random(2)
    missed = 0
    for _ in range(300):
        found = stats.order_interval([draw.random() for _ in range(300)], 0.95, 0.99)
        missed += not found.low <= 0.95 <= found.high
    assert missed <= 9  # 3 are expected


def test_so_many_values_count_as_are_independent() -> None:
    draw = random.Random(3)
    fresh = [draw.gauss(0, 1) for _ in range(2000)]
    assert stats.effective(fresh) > 1700
    assert stats.effective([value for value in fresh for _ in range(10)]) < 2200
    assert stats.effective([1.0] * 50) == 50
    assert stats.effective([1.0, 2.0]) == 2


def test_a_difference_of_means_is_that_of_welch() -> None:
    # By hand: variances of the means 1.46 and 1.2292, so 6.98 degrees of freedom: 6 are counted.
    found = stats.difference([1, 2, 3, 4, 8], [5, 7, 9, 10], 0.95)
    assert found.value == pytest.approx(4.15)
    assert found.low == pytest.approx(4.15 - 2.4469 * 1.6399, abs=1e-3)
    assert stats.difference([1.0, 1.0], [3.0, 3.0], 0.99) == Interval(2.0, 2.0, 2.0)


def test_what_is_the_same_of_both_of_a_pair_is_in_no_interval() -> None:
    # By hand: the mean of 1, 2, 3 with a standard error of 1 / sqrt(3), and t(2) of 95 %: 4.3027.
    found = stats.paired([10, 200, 3000], [11, 202, 3003], 0.95)
    assert found.value == pytest.approx(2)
    assert found.high == pytest.approx(2 + 4.3027 / math.sqrt(3), abs=1e-3)
    assert stats.paired([1.0, 5.0], [3.0, 7.0], 0.99) == Interval(2.0, 2.0, 2.0)


def line(
    a_day: float = 0.0,
    *,
    days: float = 7.0,
    every: float = 600.0,
    noise: float = 0.05,
    seed: int = 0,
) -> Section:
    """Return values that grow by so much a day, from 10."""
    draw = random.Random(seed)
    times = [every * at for at in range(round(days * DAY / every))]
    return Section(times, [10 + a_day * t / DAY + draw.gauss(0, noise) for t in times])


def plus(section: Section, *more: Sequence[float]) -> Section:
    return Section(section.times, [sum(parts) for parts in zip(section.values, *more, strict=True)])


def stepped(section: Section, day: float, height: float) -> list[float]:
    return [height * (time >= day * DAY) for time in section.times]


def grown(*sections: Section) -> Growth:
    found = growth(sections, 0.99)
    assert found is not None
    assert found.interval.low <= found.interval.value <= found.interval.high
    return found


@pytest.mark.parametrize("a_day", [-3.0, 0.0, 0.5, 2.0, 50.0])
def test_a_line_is_found_within_a_narrow_interval(a_day: float) -> None:
    found = grown(line(a_day))
    assert found.interval.low < a_day < found.interval.high
    assert found.interval.high - found.interval.low < 0.1
    assert found.rise == pytest.approx(7 * a_day, abs=0.3, rel=0.01)
    assert found.steps == ()


def test_what_never_changes_has_grown_by_nothing() -> None:
    assert grown(line(noise=0.0)).interval == pytest.approx((0, 0, 0), abs=1e-9)


def test_too_few_values_say_nothing() -> None:
    assert growth([], 0.99) is None
    assert growth([Section([1.0], [1.0])], 0.99) is None
    assert growth([Section([1.0] * 9, [1.0] * 9)], 0.99) is None
    assert growth([Section([0.0, 1.0, 2.0], [1.0] * 3)], 0.99) is None


def test_each_process_has_its_own_level_and_all_have_one_slope() -> None:
    parts = []
    for at, level in enumerate((0.0, 5.0, -4.0, 2.0)):
        part = line(2.0, days=1.5, seed=at)
        times = [time + at * 1.5 * DAY for time in part.times]
        parts.append(Section(times, [value + level for value in part.values]))
    found = grown(*parts)
    assert found.interval.low < 2 < found.interval.high
    assert found.interval.low > 1.5
    assert found.days == pytest.approx(6, abs=0.1)


@pytest.mark.parametrize("day", [0.7, 3.5, 6.2])
@pytest.mark.parametrize("height", [-15.0, 3.0, 15.0])
def test_a_single_step_is_taken_out_where_it_is(day: float, height: float) -> None:
    flat = line()
    found = grown(plus(flat, stepped(flat, day, height)))
    assert found.sustained == pytest.approx((0, 0, 0), abs=0.1)
    assert found.interval.high < 0.2
    (step,) = found.steps
    assert step.time == pytest.approx(day * DAY, abs=DAY / 24)
    assert step.height == pytest.approx(height, abs=0.2)


def test_two_like_steps_are_both_taken_out_and_may_be_followed_by_another() -> None:
    flat = line(noise=0.5)
    found = grown(plus(flat, stepped(flat, 1.5, 10.0), stepped(flat, 4.0, 11.0)))
    assert sorted(step.height for step in found.steps) == pytest.approx([10, 11], abs=0.5)
    assert found.interval.low < 1 < found.interval.high


def test_a_rise_hides_no_leak_and_a_fall_is_taken_from_it() -> None:
    leak = line(2.0)
    assert grown(plus(leak, stepped(leak, 3.0, 15.0))).interval.low > 1.8
    found = grown(plus(leak, stepped(leak, 3.0, -10.5)))
    assert found.interval.value == pytest.approx(0.5, abs=0.1)
    assert found.interval.high > 1.8


def test_a_staircase_is_a_leak() -> None:
    leak = line()
    stairs = [math.floor(2 * time / DAY) for time in leak.times]
    assert grown(plus(leak, stairs)).interval.low > 1.5


@pytest.mark.parametrize("hours", [1.0, 9.0, 29.0])
def test_the_teeth_of_a_saw_are_no_leak(hours: float) -> None:
    flat = line()
    found = grown(plus(flat, [5 * (time / 3600 / hours % 1) for time in flat.times]))
    assert found.interval.low < 0.5
    assert found.interval.value < 1


@pytest.mark.parametrize("phase", [0.0, 0.25, 0.5, 0.75])
def test_a_day_s_rise_and_fall_is_no_growth(phase: float) -> None:
    flat = line(days=3.0)
    day = [4 * math.sin(2 * math.pi * (time / DAY + phase)) for time in flat.times]
    assert grown(plus(flat, day)).interval == pytest.approx((0, 0, 0), abs=0.3)


def test_in_less_than_two_days_all_that_there_was_may_be_growth() -> None:
    short = line(days=0.5, noise=0.1)
    assert grown(short).interval.high > 0.5
    assert grown(line(days=0.5, noise=0.0)).interval.high == pytest.approx(0, abs=1e-6)


def test_the_promise_of_a_slope_s_interval_is_kept_when_noise_lasts() -> None:
    missed = 0
    widths = []
    for seed in range(60):
        draw, now, values = random.Random(seed), 0.0, []
        for _ in range(1008):
            values.append(now)
            now = 0.95 * now + draw.gauss(0, 0.3)  # lasts three hours
        found = grown(Section([600.0 * at for at in range(1008)], values)).plain
        widths.append(found.high - found.low)
        missed += not found.low <= 0 <= found.high
    assert missed <= 3  # 1 is expected
    assert fmean(widths) < 1.0


def test_steps_are_bounded_however_long_a_soak_is() -> None:
    draw, level, values = random.Random(5), 0.0, []
    for at in range(2000):
        level += 5 * draw.random() * (at % 100 == 0)
        values.append(level + draw.gauss(0, 0.1))
    found = grown(Section([DAY * at / 6 for at in range(2000)], values))
    assert len(found.steps) <= module._MOST_STEPS


@given(st.lists(st.tuples(st.floats(0, 1e7), st.floats(0, 1e6)), max_size=80))
def test_no_values_are_an_error(pairs: list[tuple[float, float]]) -> None:
    pairs.sort()
    found = growth([Section([t for t, _ in pairs], [v for _, v in pairs])], 0.99)
    if found is not None:
        assert not any(math.isnan(part) for part in found.interval)
