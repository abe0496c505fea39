"""Quantities: exact, both ways, and nothing else is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.errors import UsageError
from aegis_tools.monitors.profiles.units import (
    COUNT,
    MOST,
    RATE,
    SIZE,
    TIME,
    Dimension,
    about,
    parse,
    show,
)

DIMENSIONS = st.sampled_from([SIZE, RATE, TIME, COUNT])


@pytest.mark.parametrize(
    ("text", "dimension", "amount"),
    [
        ("500MB", SIZE, 500_000_000),
        ("500mb", SIZE, 500_000_000),
        ("512MiB", SIZE, 512 << 20),
        ("1.5GB", SIZE, 1_500_000_000),
        ("1.5 GiB", SIZE, 3 << 29),
        ("64kB", SIZE, 64_000),
        ("64KiB", SIZE, 65_536),
        ("7B", SIZE, 7),
        ("10Mbps", RATE, 10_000_000),
        ("10Mbit", RATE, 10_000_000),
        ("10Mbit/s", RATE, 10_000_000),
        ("1.5Gbit", RATE, 1_500_000_000),
        ("10MBps", RATE, 80_000_000),
        ("1MiB/s", RATE, 8 << 20),
        ("56kbps", RATE, 56_000),
        ("56Kbps", RATE, 56_000),
        ("1Mibit", RATE, 1 << 20),
        ("9bps", RATE, 9),
        ("100ms", TIME, 100_000_000),
        ("0.1s", TIME, 100_000_000),
        ("250us", TIME, 250_000),
        ("100", COUNT, 100),
        ("0.1KiB", SIZE, 102),
    ],
)
def test_what_people_write_is_what_they_mean(text: str, dimension: Dimension, amount: int) -> None:
    assert parse(text, dimension) == amount


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("500", SIZE), ("500M", SIZE), ("500Mbps", SIZE), ("-5MB", SIZE), ("", SIZE), ("MB", SIZE),
        ("1e3MB", SIZE), ("0MB", SIZE), ("0.1B", SIZE), ("5  MB", SIZE), ("5MB ", SIZE),
        ("\u0665MB", SIZE), ("9" * 20 + "TB", SIZE), ("5MB\n", SIZE), ("1.MB", SIZE),
        ("10", RATE), ("10M", RATE), ("10mbps", RATE), ("10MB", RATE), ("10ms", RATE),
        ("100", TIME), ("100m", TIME), ("100MS", TIME), ("1h", TIME),
        ("100ms", COUNT), ("0", COUNT), ("1.2.3", COUNT),
    ],
)  # fmt: skip
def test_what_could_mean_something_else_is_refused(text: str, dimension: Dimension) -> None:
    with pytest.raises(UsageError) as refused:
        parse(text, dimension)
    assert dimension.example in refused.value.hint


def test_a_number_alone_is_told_to_have_no_unit() -> None:
    with pytest.raises(UsageError, match="has no unit"):
        parse("500", SIZE)


@given(st.integers(1, MOST), DIMENSIONS)
def test_what_is_shown_can_be_read_back_without_loss(amount: int, dimension: Dimension) -> None:
    assert parse(show(amount, dimension), dimension) == amount


@given(st.integers(1, 10**6), DIMENSIONS, st.data())
def test_an_amount_of_a_unit_is_so_many_times_the_unit(
    number: int, dimension: Dimension, data: st.DataObject
) -> None:
    unit, times = data.draw(st.sampled_from(sorted(dimension.units.items())))
    assert parse(f"{number}{unit}", dimension) == number * times
    assert parse(f"{number}.0 {unit}", dimension) == number * times


@given(st.text(max_size=30), DIMENSIONS)
def test_any_text_is_an_amount_or_a_usage_error(text: str, dimension: Dimension) -> None:
    try:
        amount = parse(text, dimension)
    except UsageError:
        return
    assert 1 <= amount <= MOST


@given(st.integers(0, MOST), DIMENSIONS)
def test_a_measure_is_short(amount: int, dimension: Dimension) -> None:
    assert len(about(amount, dimension)) <= 24
