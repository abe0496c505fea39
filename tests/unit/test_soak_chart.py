"""The geometry of plots: thinned without losing a peak, broken at gaps, with round axes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.soak import chart, svg
from aegis_tools.soak.chart import Bin, Limit, Line, Mark, Panel

HOUR, DAY = 3600, 86400
START = 1_768_471_200.0  # 2026-01-15 10:00 UTC
POINTS = st.lists(
    st.tuples(st.floats(0, 1e6), st.floats(-1e9, 1e9)), max_size=300
).map(sorted)  # fmt: skip


def panel(**given: object) -> Panel:
    values: dict[str, object] = {
        "id": "x",
        "title": "X",
        "words": "x",
        "start": START,
        "span": 100.0,
    }
    return Panel(**{**values, **given})  # type: ignore[arg-type]


@given(POINTS, st.integers(1, 50))
def test_thinning_keeps_every_extreme_and_the_order(
    points: list[tuple[float, float]], bins: int
) -> None:
    found = chart.thin(points, 1e6, bins)
    assert len(found) <= bins + 1
    assert [one.at for one in found] == sorted(one.at for one in found)
    if points:
        assert min(one.low for one in found) == min(value for _, value in points)
        assert max(one.high for one in found) == max(value for _, value in points)
        assert all(one.low <= one.mid + 1e-3 and one.mid <= one.high + 1e-3 for one in found)


def test_few_points_stay_as_they_are() -> None:
    assert chart.thin([(0, 1), (50, 3)], 100) == [Bin(0, 1, 1, 1), Bin(50, 3, 3, 3)]


def test_a_line_is_broken_at_a_gap_and_at_a_break_of_its_own() -> None:
    bins = [Bin(at, 1, 1, 1) for at in (0, 10, 60, 70, 80)]
    line = Line("x", "c1", bins, breaks=[75])
    pieces = [[one.at for one in run] for run in chart.runs(line, [(10, 60)])]
    assert pieces == [[0, 10], [60, 70], [80]]
    limit = Line("x", "c1", bins, measured=False)
    assert len(chart.runs(limit, [(10, 60)])) == 1


@given(st.floats(1e-6, 1e12), st.integers(2, 10))
def test_ticks_are_few_round_and_within(top: float, most: int) -> None:
    found = chart.ticks(top, most=most)
    assert found[0].at == 0
    assert 2 <= len(found) <= most + 1
    assert found[-1].at <= top * (1 + 1e-9)
    labels = [float(one.label.replace(",", "")) for one in found]
    assert all(
        math.isclose(one.at, label, rel_tol=1e-6) for one, label in zip(found, labels, strict=True)
    )
    assert len(set(labels)) == len(labels)


def test_ticks_of_counts_are_whole() -> None:
    assert [one.label for one in chart.ticks(2.0, whole=True)] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("span", "first", "last"),
    [(600, "10:00", "10:10"), (60, "10:00:00", "10:01:00"), (14 * DAY, "01-17", "01-29"),
     (10 * HOUR, "10:00", "20:00"), (36 * HOUR, "12:00", "18:00"), (366 * DAY, "01-22", "10-22")],
)  # fmt: skip
def test_times_are_round(span: float, first: str, last: str) -> None:
    found = chart.time_ticks(START, span)
    assert (found[0].label, found[-1].label) == (first, last)
    assert 2 <= len(found) <= 10


def test_midnight_among_hours_is_named_by_its_day() -> None:
    labels = [one.label for one in chart.time_ticks(START, 30 * HOUR)]
    assert "01-16" in labels
    assert "06:00" in labels


def test_marks_that_lie_close_are_gathered() -> None:
    marks = [Mark(at, "R", "warn", "x") for at in (0, 1, 2, 50)]
    assert [len(group) for group in chart.gather(marks, 10)] == [3, 1]


def test_a_sparkline_shows_gaps_as_gaps() -> None:
    line = chart.sparkline([(0, 1, 1, 1), (50, 8, 8, 8), (99, 4, 4, 4)], 100, width=10)
    assert line == "▂    █   ▅"
    assert chart.sparkline([], 100, width=3) == "   "
    assert chart.sparkline([(0, 0, 0, 0)], 100, width=2) == "▁ "


@given(POINTS, st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=5))
def test_whatever_is_drawn_lies_in_the_picture(
    points: list[tuple[float, float]], gaps: list[tuple[float, float]]
) -> None:
    points = [(at, abs(value)) for at, value in points]
    line = Line("x", "c1", chart.thin(points, 1e6), band=True)
    ordered = [(min(pair), max(pair)) for pair in gaps]
    root = svg.draw(panel(span=1e6, lines=[line], gaps=ordered, limits=[Limit(3, "limit")]))
    [inside] = root.findall("svg")
    for path in inside.findall("path[@class='line c1']"):
        for pair in path.attrib["d"][1:].split("L"):
            x, y = map(float, pair.split())
            assert 0 <= x <= svg.INNER
            assert -1 <= y <= svg.HEIGHT + 1


def test_nothing_is_said_and_not_drawn() -> None:
    root = svg.draw(panel(none="no sample tells it", words="CPU: no sample tells it."))
    assert root.attrib["aria-label"] == "CPU: no sample tells it."
    assert [one.text for one in root.iter("text")] == ["no sample tells it"]


def test_a_single_sample_is_a_dot() -> None:
    root = svg.draw(panel(lines=[Line("x", "c1", [Bin(10, 1, 1, 1)])]))
    assert [one.attrib["class"] for one in root.iter("circle")] == ["dot c1"]


def test_marks_are_signed_by_the_worst_of_their_group() -> None:
    marks = [
        Mark(10, "R", "warn", "again"),
        Mark(10.1, "X", "bad", "died"),
        Mark(90, "R", "warn", "r"),
    ]
    root = svg.draw(panel(lines=[Line("x", "c1", [Bin(1, 1, 1, 1)])], marks=marks))
    found = [
        (one.attrib["class"], one.findtext("text"), one.findtext("title")) for one in root.iter("g")
    ]
    assert found == [("mark bad", "+", "again; died"), ("mark warn", "R", "r")]
