"""What ``monitor status`` says of programs is counted, or said not to be."""

from __future__ import annotations

from typing import Any

from aegis_tools.cli.monitor import _program_lines as program_lines


def program(name: str, runs: int, nanoseconds: int, missed: int = 0) -> dict[str, Any]:
    return {
        "name": name, "run_cnt": runs, "run_time_ns": nanoseconds, "recursion_misses": missed,
    }  # fmt: skip


def test_nothing_counted_is_no_run_of_nothing() -> None:
    (line,) = program_lines([program("exec", 0, 0)])
    assert "bpf_stats_enabled=1" in line
    assert "runs" not in line


def test_runs_have_a_mean_and_missed_calls_are_told_of_either_way() -> None:
    found = program_lines([program("exec", 4, 400), program("exit", 0, 0, missed=3)])
    assert found == ["  exec: 4 runs, 100 ns each", "  3 calls were missed"]
    assert program_lines([program("exec", 0, 0, missed=2)])[-1] == "  2 calls were missed"
