"""Two soaks beside each other: a difference only where the intervals say so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from soak_story import criterion, report_of

from aegis_tools.errors import UsageError
from aegis_tools.soak import brief
from aegis_tools.soak.compare import compare, difference, told, verdict
from aegis_tools.soak.report import to_json


def soak(name: str) -> brief.Brief:
    return brief.brief(json.loads(to_json(report_of(name))))


@pytest.mark.parametrize(
    ("first", "second", "how"),
    [((1.0, 0.9, 1.1), (1.15, 1.05, 1.2), "none"), ((1.0, 0.9, 1.1), (2.0, 1.9, 2.1), "higher"),
     ((2.0, 1.9, 2.1), (1.0, 0.9, 1.1), "lower"), ((0, None, None), (0, None, None), "none"),
     ((0, None, None), (1, None, None), "higher"), ((1.0, 0.9, 1.1), (1.1, 1.1, 1.3), "none"),
     ((None, None, None), (1, None, None), "unknown")],
)  # fmt: skip
def test_figures_differ_where_their_intervals_do_not_touch(
    first: tuple[Any, ...], second: tuple[Any, ...], how: str
) -> None:
    one, other = (
        criterion("cpu_p99", value=value, low=low, high=high)
        for value, low, high in (first, second)
    )
    assert difference(one, other) == how


@given(*[st.tuples(*[st.floats(0, 100)] * 3).map(sorted)] * 2)
def test_a_comparison_turned_around_says_the_opposite(
    first: list[float], second: list[float]
) -> None:
    one, other = (
        criterion("cpu_p99", value=found[1], low=found[0], high=found[2])
        for found in (first, second)
    )
    opposite = {"higher": "lower", "lower": "higher", "none": "none"}
    assert difference(other, one) == opposite[difference(one, other)]


def test_a_leak_is_worse_and_what_was_not_the_same_is_said() -> None:
    first, second = soak("passed"), replace(soak("leaked"), kernel="6.12.0", version="0.2.0")
    found = compare(first, second)
    by_id = {one["id"]: one for one in found["criteria"]}
    assert verdict(by_id["mem_growth"]) == "B is higher: worse"
    assert told(by_id["mem_growth"], "a") == "0.01 MB/day (-0.02 to 0.05)"
    assert verdict(by_id["cpu_p99"]) == "no difference"
    assert [one["what"] for one in found["conditions"]] == ["kernel", "version"]
    back = compare(second, first)
    assert {one["id"]: verdict(one) for one in back["criteria"]}["crashes"] == "B is lower: better"


def test_more_of_what_there_should_be_is_better() -> None:
    first, second = soak("gaps"), soak("passed")
    by_id = {one["id"]: one for one in compare(first, second)["criteria"]}
    assert verdict(by_id["coverage"]) == "B is higher: better"


def test_a_criterion_that_one_does_not_have_is_not_compared() -> None:
    first = soak("passed")
    second = replace(first, criteria=first.criteria[:2])
    last = compare(first, second)["criteria"][-1]
    assert (last["b"], verdict(last), told(last, "b")) == (None, "not comparable", "-")


def test_a_report_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(to_json(report_of("short")))
    assert brief.read(path).workload == "git"
    for content in (b"", b"{}", b"[]", b"null", b'{"format": 2}', b"\xff", b'{"format": 1}',
                    b'{"format": 1, "soak": 3}'):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(UsageError, match="is no report of a soak"):
            brief.read(path)
    with pytest.raises(UsageError, match="does not exist"):
        brief.read(tmp_path / "none.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "1"])
def test_a_figure_that_is_no_number_is_no_report(value: object) -> None:
    report = json.loads(json.dumps(WHOLE))
    report["criteria"][0]["value"] = value
    with pytest.raises(ValueError, match="a number expected"):
        brief.brief(report)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
PATHS = [
    ("format",), ("soak",), ("soak", "id"), ("soak", "length_s"), ("verdict", "status"), ("host",),
    ("host", "cpus"), ("policy",), ("criteria",), ("criteria", 0), ("criteria", 0, "value"),
    ("figures", "cpu"), ("figures", "cpu", "p99"), ("figures", "blocks"), ("figures", "restarts"),
    ("recommendation",),
]  # fmt: skip
WHOLE = json.loads(to_json(report_of("short")))


@given(st.sampled_from(PATHS), JSON)
def test_a_report_with_anything_in_it_is_one_or_an_error(
    path: tuple[Any, ...], value: object
) -> None:
    report = json.loads(json.dumps(WHOLE))
    at = report
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    try:
        found = brief.brief(report)
    except ValueError:
        return
    assert compare(found, found)["conditions"] == []
