"""The benchmarks' statistics: what is published must at least be computed right."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.monitors.registry import MONITORS
from benchmarks import agent, environment, fleet, measure, monitors, process, programs, workloads

TIMES = st.lists(st.floats(min_value=1e-6, max_value=1e3), min_size=1, max_size=30)


def test_a_spread_is_median_and_ends() -> None:
    assert measure.spread([3.0, 1.0, 9.0]) == measure.Spread(3.0, 1.0, 9.0, 3)


def test_an_empty_measurement_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        measure.spread([])


def test_ratios_are_taken_round_by_round() -> None:
    # The second round was disturbed as a whole: both doubled, and the ratio is the same.
    assert measure.ratios([2.0, 4.0], [1.0, 2.0]) == measure.Spread(2.0, 2.0, 2.0, 2)


def test_ratios_need_both_figures_of_every_round() -> None:
    with pytest.raises(ValueError, match="every round"):
        measure.ratios([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="positive"):
        measure.ratios([1.0], [0.0])


@given(TIMES)
def test_the_interval_lies_within_the_values_and_does_not_change(times: list[float]) -> None:
    low, high = measure.interval(times, draws=200)
    assert min(times) <= low <= high <= max(times)
    assert measure.interval(times, draws=200) == (low, high)


def test_the_interval_is_narrower_than_the_spread_of_many_values() -> None:
    low, high = measure.interval([float(n) for n in range(100)])
    assert 30 < low < 49.5 < high < 70


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_slope_is_the_power_of_growth(power: float) -> None:
    sizes = [1024.0, 8192.0, 65536.0]
    assert measure.slope(sizes, [3 * n**power for n in sizes]) == pytest.approx(power)


def test_cases_run_in_turns_and_the_warm_up_does_not_count() -> None:
    calls: list[str] = []

    def case(name: str) -> int:
        calls.append(name)
        return len(calls)

    found = measure.in_turns(2, {"a": lambda: case("a"), "b": lambda: case("b")}, warm_up=1)
    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert found == {"a": [3, 6], "b": [4, 5]}


def test_json_has_every_figure_and_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"rules": "inode", "ratio": measure.spread([1.0]).to_dict(), "text": {"shown": "1"}}
    measure.report([row], ("rules", "shown"), ["a note"], as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["results"] == [{"rules": "inode", "ratio": row["ratio"]}]
    assert found["notes"] == ["a note"]
    assert {"kernel", "cpu", "python", "load_average", "virtualised", "date"} <= set(
        found["environment"]
    )


def test_the_table_shows_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"rules": "inode", "ratio": {}, "text": {"ratio": "1.00"}}
    measure.report([row], ("rules", "ratio", "other"), [], as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["rules", "ratio", "other"]
    assert lines[2].split() == ["inode", "1.00", "-"]


SMAPS = """\
55d0c0a00000-55d0c0c00000 r-xp 00000000 fe:00 1234                       /usr/bin/python3.11
Size:               2048 kB
Rss:                1000 kB
Pss:                 500 kB
7f0000000000-7f0000200000 rw-p 00000000 00:00 0 
Rss:                 300 kB
7f0000200000-7f0000301000 r--s 00001000 00:0e 9                          anon_inode:bpf-map
Rss:                1028 kB
VmFlags: rd sh mr
7f0000301000-7f0000302000 rw-s 00000000 00:0e 9                          anon_inode:bpf-map
Rss:                   4 kB
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
Rss:                  40 kB
"""


def test_the_ring_s_pages_are_told_apart() -> None:
    assert process.parse_smaps(SMAPS.splitlines(keepends=True)) == process.Resident(1340, 1032)


def test_the_processor_time_of_a_process_is_its_own() -> None:
    before = process.cpu_seconds(os.getpid())
    while time.process_time() - before < 0.01:
        pass
    assert process.cpu_seconds(os.getpid()) == pytest.approx(time.process_time(), abs=0.005)


def test_memory_and_time_of_a_process_that_is_gone_are_an_error() -> None:
    with pytest.raises(OSError, match=r"\[Errno"):
        process.resident(2**22 + 1)
    with pytest.raises(OSError, match=r"\[Errno"):
        process.cpu_seconds(2**22 + 1)


def test_opens_come_at_the_pace_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.touch()
    assert 1 <= agent.touch_evenly([path], 100, 0.2) <= 20
    assert agent.touch_evenly([path], 0, 0.0) == 0


def test_the_agent_s_row_has_its_ratio_round_by_round() -> None:
    used = [agent.Used(0.02, 20480, 1028, 1000.0), agent.Used(0.01, 20480, 1028, 1000.0)]
    base = [agent.Used(0.01, 9000, 1028, 1000.0), agent.Used(0.005, 9000, 1028, 1000.0)]
    row = agent.load_row("x", 1000, used, base)
    assert row["to_bare"] == {"median": 2.0, "min": 2.0, "max": 2.0, "rounds": 2}
    assert row["met"]
    assert not agent.load_row("x", 1000, [used[0]._replace(own=40 << 10)], base[:1])["met"]
    assert not agent.load_row("x", 1000, [used[0]], base[:1])["met"]


def test_two_fleets_tell_what_a_third_takes() -> None:
    # 3 s whatever is done, 2 s for every five hosts.
    costs = fleet.costs((5, 5.0), (20, 11.0), forks=5)
    assert costs == fleet.Costs(start=3.0, turn=2.0)
    assert costs.seconds(100, forks=5) == 43.0
    assert costs.seconds(100, forks=50) == 7.0


def test_more_forks_do_not_help_once_the_first_process_is_the_slowest() -> None:
    costs = fleet.Costs(start=3.0, turn=2.0, first=0.1)
    assert costs.seconds(1000, forks=10) == 203.0
    assert costs.seconds(1000, forks=50) == costs.seconds(1000, forks=200) == 103.0


NOTHING = workloads.Workload("fio", "io", "requests/s", lambda _: workloads.Done(0))


def monitor_row(rates: list[float], *, cpu: float = 0.0) -> measure.Row:
    bases = [monitors.Rate(100.0, cpu) for _ in rates]
    return monitors.row_of(NOTHING, "all", [monitors.Rate(rate, cpu / 2) for rate in rates], bases)


def test_what_monitors_leave_of_a_rate_is_held_against_the_limit() -> None:
    assert monitor_row([95.0, 93.0, 94.0])["met"] is True
    lost = monitor_row([80.0, 85.0, 82.0])
    assert (lost["met"], lost["with_to_without"]["median"]) == (False, 0.82)
    assert lost["text"]["met"] == "NO"
    assert monitor_row([80.0, 95.0, 91.0])["text"]["met"] == "yes, within the spread"


def test_processor_time_is_compared_where_it_is_known() -> None:
    assert monitor_row([1.0])["cpu_with_to_without"] is None
    assert monitor_row([1.0], cpu=10.0)["cpu_with_to_without"]["median"] == 0.5


def test_cases_are_all_each_or_what_is_wanted() -> None:
    every = list(MONITORS.values())
    assert [len(which) for which in monitors.cases_of(every, []).values()] == [5, 1, 1, 1, 1, 1, 5]
    assert monitors.cases_of(every, ["memory"]) == {"memory-monitor": [MONITORS["memory-monitor"]]}
    with pytest.raises(SystemExit, match="one of: all, process"):
        monitors.cases_of(every, ["disk"])


def monitor_facts(runs: int, spent: int) -> measure.Row:
    return {
        "monitor": "process-monitor", "variant": "portable", "memory_bytes": 300 << 10,
        "ring": {"bytes": 100 << 10}, "counters": {"seen": runs},
        "programs": [{"name": "exec", "run_cnt": runs, "run_time_ns": spent},
                     {"name": "exit", "run_cnt": 7, "run_time_ns": 7}],
    }  # fmt: skip


def test_a_monitor_s_cost_is_what_its_programs_took_meanwhile() -> None:
    cost = monitors.cost_of(monitor_facts(10, 1000), monitor_facts(30, 9000), 2.0)
    assert cost["programs"] == {"exec": {"runs": 20, "ns_a_run": 400.0}}
    assert (cost["memory_bytes"], cost["cores"]) == (200 << 10, 4e-6)
    assert cost["counters"] == {"seen": 20}


def test_saved_results_become_tables() -> None:
    cost = monitors.cost_of(monitor_facts(10, 1000), monitor_facts(30, 9000), 2.0)
    document = {"environment": environment.environment(), "results": [monitor_row([97.0])],
                "costs": [cost]}  # fmt: skip
    lines = monitors.markdown([json.loads(json.dumps(document))]).splitlines()
    assert (
        "| fio | all | 100 requests/s | 0.970 (0.97-0.97) | 0.970-0.970 |  | > 0.90 | yes |"
        in lines
    )
    assert "| process-monitor | portable | 200 + 100 | 0.0 | 0.00 | `exec` 400 |" in lines


def test_a_figure_that_is_not_said_is_an_error() -> None:
    assert workloads.figure("  events per second:   12.50\n", "events per second") == 12.5
    with pytest.raises(programs.ProgramError, match="did not say"):
        workloads.figure("", "events per second")
