"""What lies between two looks, what of it is too much, and what would help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.control.heartbeat import agent_cpu
from aegis_tools.control.sizes import RING_MOST
from aegis_tools.control.stats import MapUse
from aegis_tools.incident.costs import (
    ByProcess,
    Costs,
    HookCost,
    Limits,
    Look,
    between,
    causes,
    compare,
    in_a_line,
    ring_for,
)
from aegis_tools.kernel.layout import Stat
from aegis_tools.paths import Paths

NONE = dict.fromkeys(Stat, 0)
QUIET = Costs(5.0, {"matches": 0, "refused": 0, "events": 0, "dropped": 0, "sampled_out": 0})
FULL = replace(
    QUIET,
    rates={"matches": 9000, "refused": 9000, "events": 4000, "dropped": 5000, "sampled_out": 0},
    rules=(("path:/etc/x", 8999.0),),
    processes=(("backup (backup.service)", 8000.0),),
    ring_bytes=1 << 16,
)


def names(found: Costs, **limits: float) -> list[str]:
    return [cause.name for cause in causes(found, Limits(**limits))]


def test_rates_are_what_lies_between_two_looks() -> None:
    first = Look(10.0, {**NONE, Stat.BLOCKS: 100}, {7: 90}, {"aegis_file_open": (10, 1000)}, 1.0)
    counters = {**NONE, Stat.BLOCKS: 300, Stat.AUDITS: 100, Stat.RINGBUF_DROPS: 20}
    programs = {"aegis_file_open": (1010, 101_000), "aegis_new": (0, 0)}
    second = Look(12.0, counters, {7: 190, 8: 40}, programs, 1.5)
    found = between(first, second, names=lambda uid: f"rule{uid}")
    assert (found.rates["matches"], found.rates["refused"], found.rates["dropped"]) == (
        150,
        100,
        10,
    )
    assert found.rules == (("rule7", 50.0), ("rule8", 20.0))
    assert found.hooks == (HookCost("file_open", 500.0, 100.0, 100_000 / 1e9 / 2),)
    assert found.agent_cpu == 0.25


def test_counters_that_went_back_are_no_rate() -> None:
    first = Look(0.0, {**NONE, Stat.EVENTS: 50}, {1: 50}, {"aegis_x": (50, 50)}, 9.0)
    second = Look(1.0, NONE, {1: 3}, {"aegis_x": (5, 5)}, 1.0)
    found = between(first, second)
    assert set(found.rates.values()) == {0.0}
    assert (found.rules, found.hooks, found.agent_cpu) == ((), (), 0.0)


def test_a_host_that_is_well_has_no_cause_however_full_a_map_is() -> None:
    assert names(QUIET) == []
    assert names(replace(QUIET, maps=(MapUse("rules", 99, 100),))) == []


def test_every_cause_is_named_with_what_would_help() -> None:
    hooks = (HookCost("file_open", 1e5, 2000.0, 0.2),)
    bad = replace(FULL, hooks=hooks, agent_cpu=0.9, maps=(MapUse("rules", 99, 100),))
    assert names(bad, events=1000.0) == ["ring", "hooks", "agent", "events", "maps"]
    ring, *_ = causes(bad, Limits())
    assert "5000 events a second are dropped" in ring.text
    assert ring.proposals[0] == f"aegisbpf load --replace --ringbuf-size={ring_for(bad)}"
    assert "path:/etc/x" in ring.proposals[1]
    assert "backup (backup.service)" in ring.proposals[1]


def test_hooks_are_judged_by_the_cpus_there_are() -> None:
    busy = replace(QUIET, hooks=(HookCost("file_open", 1e5, 3000.0, 0.3),))
    assert [cause.name for cause in causes(busy, Limits(), cpus=2)] == ["hooks"]
    assert causes(busy, Limits(), cpus=4) == ()


@given(
    events=st.floats(0, 1e9), dropped=st.floats(0, 1e9), power=st.integers(12, 30),
    sample=st.floats(0, 1),
)  # fmt: skip
def test_a_proposed_ring_is_a_power_of_two_and_never_smaller(
    events: float, dropped: float, power: int, sample: float
) -> None:
    rates = {**FULL.rates, "events": events, "dropped": dropped}
    size = ring_for(replace(FULL, rates=rates, ring_bytes=1 << power, sample_rate=sample))
    assert size & (size - 1) == 0
    assert 1 << power <= size <= max(RING_MOST, 1 << power)


def test_a_ring_holds_what_comes_while_the_agent_pauses() -> None:
    assert ring_for(FULL) == 1 << 24  # 9,000 a second, 2 s, 648 bytes each
    sampled = replace(FULL, sample_rate=0.5)
    assert ring_for(sampled) == 1 << 25


def test_before_and_after_stand_side_by_side_whatever_one_lacks() -> None:
    sides = compare(FULL.to_dict(), replace(QUIET, agent_cpu=0.1).to_dict())
    assert sides["dropped_per_second"] == {"before": 5000, "after": 0}
    assert "agent_cpu" not in sides
    assert "dropped 5000 -> 0" in in_a_line(sides)
    assert compare({}, {"rates": 3}) == {}


def test_events_are_counted_by_process_and_unit() -> None:
    counted = ByProcess()
    event: dict[str, Any] = {"comm": "grep", "unit": "", "count": 3}
    for one in (event, {**event, "unit": "a.service"}, event):
        counted.add(one)
    assert counted.counts.most_common() == [("grep", 6), ("grep (a.service)", 3)]


def test_cpu_of_an_agent_whose_name_holds_anything(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    assert agent_cpu(paths, tmp_path) is None
    paths.run.mkdir(parents=True)
    paths.agent_status.write_text('{"format": 1, "updated_boot_ns": 1, "pid": 7}')
    assert agent_cpu(paths, tmp_path) is None
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_text(f"7 (a) b) R {' '.join(['1'] * 10)} 150 50 0\n")
    assert agent_cpu(paths, tmp_path) == 2.0
