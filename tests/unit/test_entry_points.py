"""The benchmarks by the names they always had, without privilege."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import hotpaths, measure

SCRIPTS = Path(__file__).resolve().parent.parent.parent / "scripts"
GOOGLE = {"name", "family_index", "per_family_instance_index", "run_name", "run_type",
          "repetitions", "repetition_index", "threads", "iterations", "real_time", "cpu_time",
          "time_unit"}  # fmt: skip
CONTEXT = {"date", "host_name", "executable", "num_cpus", "cpu_scaling_enabled", "caches",
           "load_avg", "library_build_type"}  # fmt: skip


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line as it is typed in a checkout, from another folder."""
    own = Path(sys.executable).parent  # as in an activated environment
    environment = {**os.environ, "PATH": f"{own}:{SCRIPTS}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", line], cwd=folder, env=environment, text=True,
                          capture_output=True, check=False, timeout=120)  # fmt: skip


def bench(words: str, folder: Path) -> dict[str, Any]:
    done = run(f"aegisbpf_bench --benchmark_min_time=0.001 {words}", folder)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(json.loads(done.stdout))


def test_user_space_s_hot_paths_are_told_as_google_benchmark_tells_them(tmp_path: Path) -> None:
    told = bench("--benchmark_format=json", tmp_path)
    assert set(told) == {"context", "benchmarks"}
    assert set(told["context"]) >= CONTEXT
    names = [row["name"] for row in told["benchmarks"]]
    assert len(names) == len(set(names)) >= 9
    for kind in ("Parse", "Hash", "Pack", "Decode"):
        assert any(kind in name for name in names), kind
    for row in told["benchmarks"]:
        assert set(row) >= GOOGLE
        assert row["real_time"] > 0
        assert row["cpu_time"] > 0
        assert row["run_type"] == "iteration"
        assert row["time_unit"] == "ns"


def test_repetitions_come_with_what_they_come_to(tmp_path: Path) -> None:
    words = "--benchmark_format=json --benchmark_filter=PackInodeKey --benchmark_repetitions=3"
    rows = bench(f"{words} --benchmark_out=out.json", tmp_path)["benchmarks"]
    assert [row["run_type"] for row in rows] == ["iteration"] * 3 + ["aggregate"] * 3
    times = [row["real_time"] for row in rows[:3]]
    by_name = {row["aggregate_name"]: row for row in rows[3:]}
    assert by_name["median"]["real_time"] == sorted(times)[1]
    assert by_name["mean"]["name"] == "BM_PackInodeKey/1000_mean"
    assert json.loads((tmp_path / "out.json").read_text())["benchmarks"] == rows


def test_it_is_a_command_once_the_checkout_is_set_up() -> None:
    own = Path(sys.executable).with_name("aegisbpf_bench")
    assert own.resolve() == SCRIPTS / "aegisbpf_bench"


def test_a_person_gets_a_table_and_can_ask_what_there_is(tmp_path: Path) -> None:
    table = run("aegisbpf_bench --benchmark_filter=HashR --benchmark_min_time=0.001", tmp_path)
    assert table.stdout.splitlines()[1].split() == ["Benchmark", "Time", "CPU", "Iterations"]
    names = run("aegisbpf_bench --benchmark_list_tests", tmp_path).stdout.split()
    assert "BM_HashRuleId/1000" in names


def test_what_is_timed_takes_the_time_that_was_asked_for() -> None:
    count = hotpaths.iterations_for(lambda: sum(range(1000)), 0.01)
    assert 10 < count < 100_000


@pytest.mark.parametrize(("script", "call"), [("open", "open"), ("connect", "connect")])
def test_the_baseline_of_a_call_needs_no_privilege(script: str, call: str, tmp_path: Path) -> None:
    done = run(f"perf_{script}_bench.sh --rounds=2 --json --out results.json", tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    told = json.loads((tmp_path / "results.json").read_text())
    [row] = told["results"]
    assert row["call"] == call
    assert 0 < row["without_ns"]["low_95"] <= row["without_ns"]["median"] < 1e9
    assert {"kernel", "bpf_jit", "mitigations", "governor", "load_average"} <= set(
        told["environment"]
    )
    assert "with_to_without" not in row


def test_the_baseline_for_a_person_is_a_line_a_call(tmp_path: Path) -> None:
    lines = run("WITH_AGENT=0 perf_open_bench.sh --rounds=1", tmp_path).stdout.splitlines()
    assert lines[1].split()[:2] == ["call", "without"]
    assert lines[2].startswith("open")


BENCH = ("bench_syscall.sh", "perf_open_bench.sh", "perf_connect_bench.sh")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bench_syscall.sh --rounds 0", "'0' is no number from 1"),
        ("perf_open_bench.sh --rounds=-1", "'-1' is no number from 1"),
        ("perf_open_bench.sh --out none/results.json", "its folder does not exist"),
        ("perf_open_bench.sh --out link", "link: it is a symbolic link"),
        ("perf_open_bench.sh --out pipe", "pipe: it is a pipe"),
        ("perf_open_bench.sh --out ''", "it is a folder"),
        ("aegisbpf_bench --benchmark_filter='('", "'(' is no regular expression"),
        ("aegisbpf_bench --benchmark_filter=nomatch", "no benchmark matches 'nomatch'"),
        ("aegisbpf_bench --benchmark_repetitions=0", "'0' is no number from 1"),
        ("aegisbpf_bench --benchmark_min_time=long", "'long' are no seconds"),
        ("aegisbpf_bench --benchmark_min_time=nan", "'nan' are no seconds"),
        ("aegisbpf_bench --benchmark_min_time=-1s", "'-1s' are no seconds"),
        ("aegisbpf_bench --benchmark_out=none/x", "cannot write the results to none/x"),
        ("aegisbpf_bench --benchmark_out=link", "link: it is a symbolic link"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line_before_anything_is(
    line: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("mine")
    (tmp_path / "link").symlink_to("kept")
    os.mkfifo(tmp_path / "pipe")
    done = run(line, tmp_path)
    [error] = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert error.startswith("error: ")
    assert said in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "link", "pipe"]
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "pipe").is_fifo()


def test_results_that_cannot_be_written_after_all_are_named_in_one_line(tmp_path: Path) -> None:
    words = "--benchmark_filter=PackInodeKey --benchmark_min_time=0.001 --benchmark_out=out.json"
    done = run(f"ulimit -f 0; aegisbpf_bench {words}", tmp_path)
    [error] = done.stderr.splitlines()
    assert done.returncode == 8
    assert error.startswith("error: cannot write the results ")
    assert "out.json: file too large; raise" in error
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_results_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("old")
    words = "--benchmark_filter=PackInodeKey --benchmark_out=out.json"
    assert run(f"aegisbpf_bench --benchmark_min_time=0.001 {words}", tmp_path).returncode == 0
    assert "benchmarks" in json.loads((tmp_path / "out.json").read_text())


@pytest.mark.parametrize(("text", "found"), [("0.01s", 0.01), ("0.01", 0.01), ("2s", 2), ("0", 0)])
def test_the_least_time_may_have_its_unit_as_in_google_benchmark(text: str, found: float) -> None:
    assert (
        hotpaths.parser().parse_args([f"--benchmark_min_time={text}"]).benchmark_min_time == found
    )


def test_a_benchmark_that_is_interrupted_says_nothing_and_ends_with_130(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        measure.run_main(interrupted)
    assert ended.value.code == 130
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("script", BENCH)
def test_help_speaks_of_the_script_that_was_called(script: str, tmp_path: Path) -> None:
    done = run(f"{script} --help", tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {script} ")
    assert "WITH_AGENT=1" in done.stdout
