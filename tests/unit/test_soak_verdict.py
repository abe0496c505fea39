"""The verdict: each criterion fails for what it is for, and for nothing else."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from soak_support import BEGUN, DAY, criterion, each, settings, soak
from test_soak_columns import SAMPLES

from aegis_tools.soak.happened import Happened
from aegis_tools.soak.hits import Hit
from aegis_tools.soak.reading import Soak
from aegis_tools.soak.settings import Result
from aegis_tools.soak.verdict import FAIL, INCONCLUSIVE, INFO, PASS, judge, span

IDS = ["crashes", "panics", "kernel_errors", "oom", "cpu_sustained", "cpu_p99", "mem_level",
       "mem_growth", "drops", "maps_stable", "canary", "slowness", "same_policy", "agent_present",
       "coverage"]  # fmt: skip


def statuses(found: Soak) -> dict[str, str]:
    return {one.id: one.status for one in judge(found).criteria if one.status != PASS}


def test_a_soak_with_nothing_the_matter_passes() -> None:
    verdict = judge(soak())
    assert [one.id for one in verdict.criteria] == IDS
    assert {one.status for one in verdict.criteria} == {PASS}
    assert (verdict.text, verdict.short, verdict.running) == ("PASS", False, False)
    assert all(one.why and one.samples for one in verdict.criteria)


def test_an_enforcement_soak_has_one_criterion_more() -> None:
    assert [one.id for one in judge(soak("enforce")).criteria] == [
        *IDS[:12], "false_positives", *IDS[12:]
    ]  # fmt: skip
    assert statuses(soak("enforce")) == {}


def test_a_short_soak_says_so_beside_its_verdict() -> None:
    of = settings(duration_s=600, interval_s=5)
    verdict = judge(soak(of=of, rows=120))
    assert verdict.text == "PASS, short: 10 min of 7 d"
    assert judge(soak("stress", rows=864)).text == "PASS"  # three days


def test_a_soak_without_a_row_is_inconclusive() -> None:
    verdict = judge(Soak(settings(), now=BEGUN + 3600))
    assert verdict.status == INCONCLUSIVE
    assert {one.status for one in verdict.criteria} == {INCONCLUSIVE}
    assert verdict.text == "INCONCLUSIVE, short: 1 h of 7 d"
    assert verdict.running


@pytest.mark.parametrize(
    ("event", "criterion_of_it"),
    [
        (Happened(BEGUN + 9, "crash"), "crashes"),
        (Happened(BEGUN + 9, "kernel", class_="panic"), "panics"),
        (Happened(BEGUN + 9, "kernel", class_="bug"), "panics"),
        (Happened(BEGUN + 9, "kernel", class_="bpf"), "kernel_errors"),
        (Happened(BEGUN + 9, "kernel", class_="oom"), "oom"),
        (Happened(BEGUN + 9, "canary-miss"), "canary"),
    ],
)
def test_one_that_happened_is_enough(event: Happened, criterion_of_it: str) -> None:
    verdict = judge(soak(happened=(event,)))
    assert {one.id for one in verdict.criteria if one.status != PASS} == {criterion_of_it}
    assert criterion(verdict, criterion_of_it).value == 1
    assert verdict.status == FAIL


@pytest.mark.parametrize(
    "event",
    [Happened(BEGUN + 9, "kernel", class_="warning"), Happened(BEGUN + 9, "reboot"),
     Happened(BEGUN + 9, "restart", class_="ordered"), Happened(BEGUN + 9, "clock", value=3600)],
)  # fmt: skip
def test_what_is_no_fault_fails_nothing(event: Happened) -> None:
    assert statuses(soak(happened=(event,))) == {}


def test_a_list_of_what_happened_that_is_damaged_proves_nothing() -> None:
    found = soak(problems=("3 lines of what happened cannot be read",))
    assert statuses(found) == dict.fromkeys(IDS[:4], INCONCLUSIVE)


def test_an_agent_found_dead_has_crashed_once_however_long_it_was_so() -> None:
    dead = each(lambda at, _: {"agent": "dead"} if 100 <= at < 103 else {})
    verdict = judge(soak(change=dead))
    assert criterion(verdict, "crashes").value == 1
    assert criterion(verdict, "crashes").status == FAIL


def test_an_agent_that_was_stopped_for_long_proves_nothing() -> None:
    assert statuses(soak(change=each(lambda at, _: {"agent": "stopped"} if at < 19 else {}))) == {}
    found = soak(change=each(lambda at, _: {"agent": "stopped"} if at < 40 else {}))
    assert statuses(found) == {"agent_present": INCONCLUSIVE}


def noisy(middle: float, seed: int = 1) -> Any:
    draw = random.Random(seed)
    return each(lambda *_: {"cpu_pct": middle * math.exp(draw.gauss(0, 0.3))})


def test_processor_time_is_held_against_both_limits() -> None:
    assert statuses(soak(change=noisy(1.0))) == {}
    assert statuses(soak(change=noisy(3.5))) == {"cpu_sustained": FAIL, "cpu_p99": FAIL}
    assert statuses(soak(change=noisy(2.0)))["cpu_sustained"] == INCONCLUSIVE


def test_a_peak_now_and_then_is_none_of_the_99th_percentile() -> None:
    peak = each(lambda at, _: {"cpu_pct": 40.0} if at % 400 == 0 else {})
    assert statuses(soak(change=peak)) == {}
    peak = each(lambda at, _: {"cpu_pct": 40.0} if at % 40 == 0 else {})
    assert statuses(soak(change=peak)) == {"cpu_p99": FAIL}


def test_under_stress_processor_time_is_told_and_not_judged() -> None:
    verdict = judge(soak("stress", change=noisy(30.0)))
    assert verdict.status == PASS
    assert criterion(verdict, "cpu_p99").status == INFO
    assert criterion(verdict, "cpu_p99").limit == ""


def test_memory_above_its_limit_fails() -> None:
    assert statuses(soak(change=each(lambda *_: {"mem_mb": 50.5}))) == {"mem_level": FAIL}
    assert statuses(soak(change=each(lambda *_: {"mem_mb": 49.5}))) == {}


def leak(a_day: float, noise: float = 0.2) -> Any:
    draw = random.Random(1)
    return each(lambda at, _: {"mem_mb": 10 + a_day * at / 288 + draw.gauss(0, noise)})


def test_memory_that_grows_by_twice_the_limit_fails_and_by_half_passes() -> None:
    verdict = judge(soak(change=leak(2.0)))
    assert {one.id for one in verdict.criteria if one.status != PASS} == {"mem_growth"}
    found = criterion(verdict, "mem_growth")
    assert found.value == pytest.approx(2, abs=0.05)
    assert (found.low or 0) < 2 < (found.high or 0)
    assert statuses(soak(change=leak(0.5))) == {}
    assert statuses(soak(change=leak(1.0))) == {"mem_growth": INCONCLUSIVE}


def test_a_little_too_near_to_the_limit_does_not_pass() -> None:
    found = criterion(judge(soak(change=leak(0.88, noise=2.0))), "mem_growth")
    assert (found.high or 9) < 1
    assert found.status == INCONCLUSIVE


def short(memory: Any) -> Soak:
    of = settings(duration_s=600, interval_s=5)
    return soak(of=of, rows=120, change=each(lambda at, _: {"mem_mb": memory(at)}))


def test_in_ten_minutes_a_heavy_leak_fails_and_what_little_there_is_does_not() -> None:
    draw = random.Random(1)
    assert statuses(short(lambda at: 12.0 + at)) == {"mem_level": FAIL, "mem_growth": FAIL}
    assert statuses(short(lambda at: 12.0 + 0.25 * at))["mem_growth"] == FAIL
    assert statuses(short(lambda at: 12.0 + 0.02 * at)) == {"mem_growth": INCONCLUSIVE}
    assert statuses(short(lambda _: 12.0 + draw.gauss(0, 0.1))) == {"mem_growth": INCONCLUSIVE}
    assert statuses(short(lambda at: 12.0 + min(20, 2 * at))) == {}  # all in the first minute


def lost(every: int) -> Any:
    return each(lambda at, _: {"ringbuf_drops": at // every, "events": 100 * at, "audits": None})


def test_events_lost_are_a_share_of_all() -> None:
    assert statuses(soak(change=lost(10))) == {"drops": FAIL}  # 0.1 %
    assert statuses(soak(change=lost(100))) == {"drops": INCONCLUSIVE}  # 0.01 %
    assert statuses(soak(change=lost(1000))) == {}  # 0.001 %, two


def test_counters_that_begin_again_lose_no_event() -> None:
    again = each(lambda at, _: {"events": 10 * (at % 500), "audits": 10 * (at % 500)})
    assert statuses(soak(change=again)) == {}


def test_no_event_at_all_shows_nothing_about_losing_them() -> None:
    assert statuses(soak(change=each(lambda *_: {"events": 0}))) == {"drops": INCONCLUSIVE}


def test_under_stress_events_may_be_lost_but_not_ever_more() -> None:
    draw = random.Random(1)
    steady = [draw.randrange(5, 15) for _ in range(2016)]
    even = each(lambda at, _: {"ringbuf_drops": sum(steady[:at]), "events": 1000 * at})
    more = each(lambda at, _: {"ringbuf_drops": at * at // 100, "events": 1000 * at})
    assert statuses(soak("stress", change=even)) == {
        "cpu_sustained": INFO, "cpu_p99": INFO
    }  # fmt: skip
    assert statuses(soak("stress", change=more))["drops"] == FAIL


def test_maps_that_fill_up_fail() -> None:
    assert statuses(soak(change=each(lambda at, _: {"map_fill": 0.91} if at == 7 else {}))) == {
        "maps_stable": FAIL
    }
    growing = each(lambda at, _: {"map_deny_inode": 100 + at // 4})
    assert statuses(soak(change=growing)) == {"maps_stable": FAIL}


def test_maps_that_change_with_the_policy_are_stable() -> None:
    other = each(lambda at, _: {"map_deny_path": 900, "policy": "f" * 12} if at > 2000 else {})
    assert statuses(soak(change=other)) == {}
    assert statuses(soak(change=each(lambda at, _: {"map_deny_path": 100 + at // 200}))) == {}
    once = each(lambda at, _: {"map_deny_path": 100 + 60 * (at > 900)})
    assert statuses(soak(change=once)) == {}


def test_a_canary_that_was_never_tried_proves_nothing() -> None:
    assert statuses(soak(change=each(lambda *_: {"canary": "none"}))) == {"canary": INCONCLUSIVE}
    assert statuses(soak(change=each(lambda at, _: {"canary": "miss"} if at == 9 else {}))) == {
        "canary": FAIL
    }


def test_a_host_that_becomes_slower_fails_unless_its_load_explains_it() -> None:
    draw = random.Random(1)

    def probe(more: float) -> dict[str, Any]:
        return {"probe_us": 20 * more * math.exp(draw.gauss(0, 0.1))}

    assert statuses(soak(change=each(lambda *_: probe(1)))) == {}
    slower = each(lambda at, _: probe(1.3 if at > 900 else 1))
    assert statuses(soak(change=slower)) == {"slowness": FAIL}
    loaded = each(lambda at, _: {**probe(1.3 if at > 900 else 1), "load1": 3.0 * (at > 900)})
    assert statuses(soak(change=loaded)) == {"slowness": INCONCLUSIVE}


def test_hours_that_are_slow_every_day_hide_no_change_and_are_none() -> None:
    draw = random.Random(2)

    def probe(at: int, more: float) -> dict[str, Any]:
        day = 2 + math.sin(2 * math.pi * at / 288)  # rows of five minutes in a day
        return {"probe_us": 20 * day * more * math.exp(draw.gauss(0, 0.1))}

    assert statuses(soak(change=each(lambda at, _: probe(at, 1)))) == {}
    slower = each(lambda at, _: probe(at, 1.3 if at > 900 else 1))
    assert statuses(soak(change=slower)) == {"slowness": FAIL}


def hit(after: int, rule: str, blocks: int) -> Hit:
    return Hit(int(BEGUN) + after, rule, blocks, 0)


def enforced(*hits: Hit, denials: int = 0) -> Soak:
    """Return a soak with so many denials besides those of the canary, one a turn."""
    of = settings("enforce", expected=("known",))
    after = each(lambda at, _: {"blocks": at + 1000 + (denials if at > 300 else 0)})
    return soak(of=of, change=after, hits=hits)


def test_what_only_the_canary_met_is_no_denial() -> None:
    assert criterion(judge(enforced()), "false_positives").why == "nothing was denied"
    assert statuses(enforced()) == {}


def test_denials_that_were_expected_are_no_false_positives() -> None:
    found = enforced(hit(300, "known", 985), hit(300, "old", 500), hit(90_300, "known", 1185),
                     denials=200)  # fmt: skip
    assert statuses(found) == {}


def test_denials_that_nobody_expected_fail_and_are_named() -> None:
    hits = (hit(90_300, "known", 1900), hit(90_300, "web,1", 100))
    verdict = judge(enforced(*hits, denials=2000))
    found = criterion(verdict, "false_positives")
    assert found.status == FAIL
    assert found.value == pytest.approx(5)
    assert "web,1 (100)" in found.why


def test_denials_of_which_no_rule_is_known_prove_nothing() -> None:
    found = enforced(hit(90_300, "known", 1900), denials=2000)
    assert statuses(found) == {"false_positives": INCONCLUSIVE}
    assert statuses(enforced(hit(90_300, "known", 1997), denials=2000)) == {}


def test_a_rule_s_counter_may_begin_again_and_the_wall_clock_be_set_back() -> None:
    hits = (hit(300, "known", 50), hit(400, "known", 1050), hit(-90_000, "known", 1000))
    assert statuses(enforced(*hits, denials=2000)) == {}


def test_another_policy_or_mode_for_long_proves_nothing() -> None:
    for change in ({"policy": "f" * 12}, {"mode": "held"}, {"policy": None}):
        found = soak(change=each(lambda at, _, change=change: change if at < 100 else {}))
        assert statuses(found) == {"same_policy": INCONCLUSIVE}


def test_gaps_of_more_than_a_twentieth_prove_nothing() -> None:
    assert statuses(soak(change=lambda _, rows: rows[:500] + rows[580:])) == {}
    found = judge(soak(change=lambda _, rows: rows[:500] + rows[700:]))
    assert criterion(found, "coverage").status == INCONCLUSIVE
    assert criterion(found, "coverage").value == pytest.approx(100 * (1 - 200 / 2016), abs=0.1)


def test_a_host_that_never_came_back_was_not_watched() -> None:
    of = settings()
    found = replace(soak(of=of, rows=200), now=BEGUN + 3 * DAY, result=None)
    assert criterion(judge(found), "coverage").status == INCONCLUSIVE
    assert judge(found).length_s == pytest.approx(3 * DAY)


@pytest.mark.parametrize("by", [-300 * DAY, -3600, 3600, 300 * DAY])
def test_a_wall_clock_that_is_set_changes_no_verdict(by: int) -> None:
    found = soak(change=lambda _, rows: rows[:900] + [
        replace(row, timestamp=row.timestamp + by) for row in rows[900:]
    ])  # fmt: skip
    assert statuses(found) == {}
    assert judge(found).length_s == pytest.approx(7 * DAY, abs=2)


def test_reading_that_failed_often_proves_nothing() -> None:
    failed = (Happened(BEGUN + 9, "reading-failed"),)
    assert statuses(soak(happened=failed * 100)) == {}
    assert statuses(soak(happened=failed * 110)) == {"coverage": INCONCLUSIVE}


def test_rows_of_the_seeds_own_sampler_are_judged_as_far_as_they_go() -> None:
    ours = ("boot", "boot_s", "agent", "agent_pid", "agent_start_s", "mode", "policy", "audits",
            "events", "map_fill", "canary", "probe_us", "load1")  # fmt: skip
    verdict = judge(soak(change=each(lambda *_: dict.fromkeys(ours))))
    assert {one.id for one in verdict.criteria if one.status != PASS} == {"canary", "slowness"}
    assert verdict.status == INCONCLUSIVE


def test_the_verdict_is_json_without_numbers_that_json_lacks() -> None:
    for found in (soak(), soak("enforce", rows=3), Soak(settings("stress"), now=BEGUN)):
        text = json.dumps(judge(found).to_dict(), allow_nan=False)
        assert json.loads(text)["confidence"] == 0.99


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(SAMPLES, max_size=60), st.sampled_from(["shadow", "enforce", "stress"]),
       st.floats(0, 2**40))  # fmt: skip
def test_no_rows_are_an_error(rows: list[Any], scenario: str, now: float) -> None:
    found = Soak(settings(scenario), tuple(rows), now=now, result=Result("done", now))
    verdict = judge(found)
    json.dumps(verdict.to_dict(), allow_nan=False)
    assert verdict.length_s >= 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (45, "45 s"), (60, "1 min"), (90, "90 s"), (599.7, "10 min"), (3600, "1 h"),
     (5400, "90 min"), (86400, "1 d"), (100000, "27 h"), (7 * 86400, "7 d")],
)  # fmt: skip
def test_a_time_is_told_in_words(seconds: float, text: str) -> None:
    assert span(seconds) == text
