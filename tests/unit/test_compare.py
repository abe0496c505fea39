"""Whether two things differ: two runs of the same code agree, and a change is found."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import compare, environment, measure, noise

STEADY = [1.0] * 15
FIGURES = st.lists(st.floats(min_value=0.1, max_value=10), min_size=15, max_size=15)


def test_what_is_the_same_does_not_differ() -> None:
    found = compare.compare(STEADY, STEADY, STEADY)
    assert (found.ratio, found.low, found.high, found.verdict) == (1, 1, 1, "no difference")


def test_what_is_counted_differs_by_whatever_it_differs() -> None:
    more = compare.compare([1.001] * 15, STEADY, STEADY)
    assert (more.ratio, more.verdict) == (1.001, "slower")
    assert compare.compare([0.999] * 15, STEADY, STEADY).verdict == "faster"


def test_few_rounds_have_no_verdict() -> None:
    few = compare.FEWEST - 1
    found = compare.compare([2.0] * few, STEADY[:few], STEADY[:few])
    assert (found.differs, found.verdict) == (False, "fewer than 11 rounds")
    assert found.ratio == 2


def test_a_control_that_is_off_widens_the_interval_both_ways() -> None:
    found = compare.compare([1.05] * 15, STEADY, [1.06] * 15)
    assert found.low < 1 < found.high == pytest.approx(1.05 * 1.06)
    assert found.verdict == "no difference"
    assert compare.compare([1.05] * 15, STEADY, [0.94] * 15).verdict == "no difference"


def test_a_round_that_was_disturbed_as_a_whole_changes_nothing() -> None:
    rounds = [1.0, 9.0, 1.0, 4.0] * 4
    assert compare.compare([2 * each for each in rounds], rounds, rounds).ratio == 2


@given(FIGURES, FIGURES, FIGURES)
def test_the_interval_holds_the_ratio(b: list[float], a: list[float], again: list[float]) -> None:
    found = compare.compare(b, a, again, draws=50)
    assert found.low <= found.ratio <= found.high


def test_figures_of_other_rounds_cannot_be_compared() -> None:
    for values, bases in (([], []), ([1.0], [1.0, 1.0])):
        with pytest.raises(ValueError, match="every round"):
            compare.compare(values, bases, bases)
    with pytest.raises(ValueError, match="positive"):
        compare.compare([1.0], [0.0], [1.0])


@pytest.mark.parametrize("kind", noise.KINDS)
def test_two_runs_of_the_same_code_agree_that_nothing_changed(kind: str) -> None:
    differ, _ = noise.rates(kind, 1.0, 15, 2000, draws=200)
    assert differ < 0.01


def test_two_runs_of_a_real_call_agree_on_a_machine_that_others_use() -> None:
    work = "import time; end = time.monotonic() + 120\nwhile time.monotonic() < end: pass"
    busy = [subprocess.Popen([sys.executable, "-c", work]) for _ in range(2)]
    try:
        assert noise.here(15, 10) <= 0.2
    finally:
        for one in busy:
            one.kill()
            one.wait()


def test_a_change_of_5_percent_is_found_where_figures_are_off_by_1_percent() -> None:
    assert noise.rates("quiet", 1.05, 15, 100, draws=200) == (1, 1)
    assert noise.rates("quiet", 0.95, 15, 100, draws=200) == (1, 1)


def test_the_base_is_measured_twice_a_round_and_the_second_time_is_the_control() -> None:
    base: Iterator[float] = iter([1.0, 2.0] * 2 * compare.FEWEST)
    bases, found, compared = compare.against(
        compare.FEWEST, lambda: next(base), {"case": lambda: 3.0}, warm_up=0
    )
    assert len(bases) == compare.FEWEST
    assert found == {"case": [3.0] * compare.FEWEST}
    assert compared["case"].control != 1


def test_a_measurement_stays_on_one_processor() -> None:
    before = os.sched_getaffinity(0)
    with measure.pinned() as cpu:
        assert os.sched_getaffinity(0) == {cpu}
    assert os.sched_getaffinity(0) == before


def made_root(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


CPU = "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu hypervisor\n"
WEAK = "sys/devices/system/cpu/vulnerabilities"


def test_the_environment_says_how_bpf_runs_and_what_mitigates(tmp_path: Path) -> None:
    root = made_root(tmp_path, {
        "proc/cpuinfo": CPU, "proc/sys/net/core/bpf_jit_enable": "1\n",
        f"{WEAK}/spectre_v2": "Mitigation: Retpolines\n", f"{WEAK}/meltdown": "Not affected\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    })  # fmt: skip
    found = environment.environment(root)
    assert (found["cpu"], found["virtualised"], found["emulated"]) == ("A CPU", True, False)
    assert (found["bpf_jit"], found["governor"]) == ("on", "performance")
    assert found["mitigations"] == {"spectre_v2": "Mitigation: Retpolines"}


def test_what_the_kernel_does_not_tell_is_none(tmp_path: Path) -> None:
    found = environment.environment(made_root(tmp_path, {"proc/cpuinfo": CPU}))
    assert (found["bpf_jit"], found["governor"], found["mitigations"]) == (None, None, {})


def test_a_clock_of_instructions_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.environment()["clock"] == "time"
    monkeypatch.setenv(environment.COUNTED, "instructions")
    found = environment.environment()
    assert (found["clock"], environment.counts_instructions()) == ("instructions", True)
    assert "instructions counted by the emulator" in environment.head(found)
