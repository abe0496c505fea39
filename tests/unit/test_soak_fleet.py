"""A fleet's report: who sticks out, and why, first."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from soak_story import DIED, UNWATCHED, criterion, hosts

from aegis_tools.soak import fleet
from aegis_tools.soak.brief import Brief


def names(report: dict[str, object]) -> list[str]:
    return [row["host"] for row in report["hosts"]]  # type: ignore[attr-defined]


def alike(count: int) -> dict[str, Brief | str]:
    """Return a fleet in which nobody sticks out."""
    found = hosts(min(count, 16))
    while len(found) < count:
        number = len(found) + 1
        found[f"h{number:03}"] = found[f"h{number - 16:03}"]
    return found


def changed(one: Brief | str, *criteria: object, **given: object) -> Brief:
    """Return a host's soak with other criteria."""
    assert isinstance(one, Brief)
    known = {c.id: c for c in one.criteria} | {c.id: c for c in criteria}  # type: ignore[attr-defined]
    return replace(one, criteria=tuple(known.values()), **given)  # type: ignore[arg-type]


def test_two_of_thirty_stick_out_and_come_first_with_the_reason() -> None:
    report = fleet.build(hosts(30))
    assert names(report)[:2] == ["h017", "h023"]
    assert [row["outlier"] for row in report["hosts"]] == [True, True] + [False] * 28
    leak, busy = report["hosts"][0]["why"], report["hosts"][1]["why"]
    assert leak[0].startswith("Memory growth: 3.1 MB/day, the hosts' median 0")
    assert "(z +6" in leak[0]
    assert leak[-1].startswith("FAIL where most hosts are better: Memory growth 3.1 MB/day")
    assert busy == ["CPU, p99: 4.2 %, the hosts' median 1.31 % (z +29)"]
    assert report["summary"]["text"] == "30 hosts: 1 FAIL, 29 PASS"
    assert report["summary"]["status"] == "FAIL"
    json.loads(fleet.to_json(report))


def test_nobody_sticks_out_of_a_fleet_that_is_alike() -> None:
    report = fleet.build(alike(30))
    summary = report["summary"]
    assert (summary["outliers"], summary["text"]) == (0, "30 hosts: 30 PASS")


def test_where_all_fail_alike_nobody_sticks_out_by_that() -> None:
    found: dict[str, Brief | str] = {
        name: changed(one, replace(DIED, value=1.0), status="FAIL")
        for name, one in alike(10).items()
    }
    report = fleet.build(found)
    assert report["summary"]["outliers"] == 0
    assert report["summary"]["status"] == "FAIL"


def test_who_sticks_out_comes_before_who_only_failed_like_the_others() -> None:
    found: dict[str, Brief | str] = {
        name: changed(one, replace(DIED, value=1.0), status="FAIL")
        for name, one in alike(10).items()
    }
    passed = changed(found["h009"], criterion("crashes"), status="PASS")
    found["h009"] = changed(passed, criterion("cpu_p99", value=4.5))
    assert names(fleet.build(found))[:2] == ["h009", "h001"]


def test_one_crash_among_many_without_sticks_out() -> None:
    found = alike(40)
    found["h007"] = changed(found["h007"], DIED, status="FAIL")
    report = fleet.build(found)
    assert names(report)[0] == "h007"
    assert report["hosts"][0]["why"][0] == "Crashes of the agent: 1, the hosts' median 0 (z +10)"


def test_less_than_usual_sticks_out_too() -> None:
    found = alike(10)
    one = found["h004"]
    assert isinstance(one, Brief)
    busy: dict[str, Brief | str] = {
        name: replace(each, figures={**each.figures, "matches_an_hour": 500.0})
        for name, each in found.items() if isinstance(each, Brief)
    }  # fmt: skip
    busy["h004"] = replace(one, figures={**one.figures, "matches_an_hour": 0.0})
    report = fleet.build(busy)
    assert report["hosts"][0]["why"] == [
        "Matches: 0 an hour, the hosts' median 500 an hour (z -20)"
    ]


def test_a_host_without_a_soak_is_a_line_and_no_pass() -> None:
    found = alike(6)
    found["gone"] = "it cannot be reached"
    report = fleet.build(found)
    assert names(report)[0] == "gone"
    assert report["hosts"][0]["why"] == ["it cannot be reached"]
    assert report["summary"]["status"] == "INCONCLUSIVE"
    assert fleet.build({})["summary"]["status"] == "INCONCLUSIVE"


def test_a_soak_that_runs_is_no_pass_yet() -> None:
    found = alike(6)
    found["h001"] = changed(found["h001"], state="running")
    summary = fleet.build(found)["summary"]
    assert (summary["status"], summary["running"]) == ("INCONCLUSIVE", 1)


def test_a_verdict_that_is_open_where_most_passed_is_said() -> None:
    found = alike(8)
    found["h002"] = changed(found["h002"], UNWATCHED, status="INCONCLUSIVE")
    row = fleet.build(found)["hosts"][0]
    assert row["host"] == "h002"
    assert "INCONCLUSIVE where most hosts are better: Turns that were made 66.1 %" in row["why"][-1]


def test_few_hosts_say_nothing_of_what_is_usual() -> None:
    found = alike(4)
    found["h001"] = changed(found["h001"], criterion("cpu_p99", value=4.9))
    assert fleet.build(found)["summary"]["outliers"] == 0


def test_scenarios_are_not_compared_with_each_other() -> None:
    found = alike(8)
    for number in range(1, 6):
        name = f"s{number}"
        found[name] = changed(found["h001"], criterion("cpu_p99", value=90.0), scenario="stress")
    report = fleet.build(found)
    assert report["summary"]["outliers"] == 0
    assert report["scenarios"] == ["shadow", "stress"]


@given(
    st.dictionaries(
        st.text(max_size=5), st.floats(-1e12, 1e12, allow_nan=False) | st.none(), max_size=12
    )
)
def test_any_figures_make_a_report(values: dict[str, float | None]) -> None:
    one = alike(1)["h001"]
    found: dict[str, Brief | str] = {
        name: changed(one, criterion("cpu_p99", value=value)) if value is not None else "none"
        for name, value in values.items()
    }
    report = fleet.build(found)
    assert sorted(names(report)) == sorted(fleet.printable(name, 300) for name in values)
    fleet.to_json(report)


NOISE: dict[str, Callable[[random.Random], float]] = {
    "normal": lambda noise: noise.gauss(1, 0.1),
    "long tail": lambda noise: noise.lognormvariate(0, 0.25),
    "even": lambda noise: noise.uniform(0.5, 1.5),
}


@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("size", [5, 10, 30])
def test_hosts_that_are_alike_stick_out_by_chance_hardly_ever(size: int, kind: str) -> None:
    noise = random.Random(7)
    far = 0
    for _ in range(1000):
        values = [NOISE[kind](noise) for _ in range(size)]
        found = fleet.usual("cpu_p99", values)
        far += sum(abs(found.z(value)) >= fleet.far(size) for value in values)
    assert far / (1000 * size) < 0.001
