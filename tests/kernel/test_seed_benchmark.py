"""T4.1, T4.2: sysbench, fio and iperf3 without monitors and with all of them, in turns.

How much is left of each rate is measured on an idle machine, and published in docs/performance.md;
here it is held that the measurement measures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from kernel_support import REPOSITORY

from aegis_tools.monitors.registry import MONITORS

WORK = {
    "sysbench cpu": ("cpu", 0.95),
    "sysbench fileio seqwr": ("io", 0.90),
    "fio 4k random read": ("io", 0.90),
    "iperf3 TCP, 1 Gbit/s": ("network", 0.95),
}


@pytest.fixture(scope="module")
def measured(built: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    del built
    disk = tmp_path_factory.mktemp("disk")
    words = [word for name in WORK for word in ("--work", name)]
    argv = [sys.executable, "-m", "benchmarks.monitors", "--json", "--rounds=2", "--seconds=0.2"]
    done = subprocess.run(
        [*argv, "--with=all", f"--folder={disk}", *words],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(json.loads(done.stdout))


@pytest.mark.seed("T4.1")
def test_the_work_of_the_plan_is_done_without_a_monitor(measured: dict[str, Any]) -> None:
    rows = {row["work"]: row for row in measured["results"]}
    assert set(rows) == set(WORK)
    for name, row in rows.items():
        assert (row["kind"], row["limit"]) == WORK[name]
        assert row["without"]["median"] > 0
    assert measured["environment"]["kernel"]


@pytest.mark.seed("T4.2")
def test_and_with_all_of_them_in_turns(measured: dict[str, Any]) -> None:
    for row in measured["results"]:
        ratio = row["with_to_without"]
        assert row["monitors"] == "all"
        assert 0 < ratio["low_95"] <= ratio["median"] <= ratio["high_95"]
    assert {row["monitor"] for row in measured["costs"]} == set(MONITORS)
    assert all(row["programs"] for row in measured["costs"]), "a program of each has run"
