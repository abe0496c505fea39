"""The benchmarks with hooks and agent, by the names they always had, on this kernel's fallback."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from kernel_support import REPOSITORY

LINES = {
    "scripts/bench_syscall.sh --json --out results.json": ["open", "connect"],
    "WITH_AGENT=1 scripts/perf_open_bench.sh --json --out results.json --rounds=3": ["open"],
    "WITH_AGENT=1 scripts/perf_connect_bench.sh --json --out results.json --rounds=3": ["connect"],
}


@pytest.mark.parametrize("line", LINES)
def test_what_aegis_adds_to_a_call_is_measured_in_turns(
    line: str, built: None, tmp_path: Path
) -> None:
    del built
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    told: dict[str, Any] = json.loads((tmp_path / "results.json").read_text())
    assert [row["call"] for row in told["results"]] == LINES[line]
    for row in told["results"]:
        ratio = row["with_to_without"]
        assert 0 < row["without_ns"]["low_95"] <= row["without_ns"]["median"]
        assert 0 < ratio["low_99"] <= ratio["ratio"] <= ratio["high_99"]
        assert ratio["control"] > 0
        assert (ratio["verdict"] in ("slower", "faster", "no difference")) == (
            ratio["rounds"] >= 11
        )


def test_nothing_is_left_behind(built: None) -> None:
    del built
    seen = "mount -t tmpfs shm /dev/shm; {}; ls -A /dev/shm; grep aegis-bench /proc/self/mounts"
    line = f"WITH_AGENT=1 {REPOSITORY}/scripts/perf_open_bench.sh --rounds=1 > /dev/shm/told"
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", seen.format(line)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("told\n", "")
