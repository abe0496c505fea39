"""200,000 refusals as fast as they come: each refused, each told of or counted, in flat memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from battery import Host, Stat, file_rule

from aegis_tools.paths import Paths
from benchmarks.process import resident

REPOSITORY = Path(__file__).resolve().parent.parent.parent
FILES = 1000
OPENS = 200_000
FLAT_KIB = 3072


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Paths]:
    """Return a root of our own over the machine's pins."""
    paths = Paths(tmp_path / "root")
    paths.bpffs.mkdir(parents=True)
    subprocess.run(["mount", "--bind", "/sys/fs/bpf", paths.bpffs], check=True)
    yield paths
    subprocess.run(["umount", paths.bpffs], check=True)


def storm(files: list[Path], opens: int) -> int:
    """Open files in turn; return how many opens were refused."""
    refused = 0
    for at in range(opens):
        try:
            os.close(os.open(files[at % len(files)], os.O_RDONLY))
        except PermissionError:
            refused += 1
    return refused


def test_a_flood_is_refused_counted_and_told_in_flat_memory(
    host: Host, root: Paths, tmp_path: Path
) -> None:
    files = [tmp_path / f"f{number}" for number in range(FILES)]
    for path in files:
        path.touch()
    host.apply(*map(file_rule, files))
    out = tmp_path / "out"
    with out.open("wb") as lines:
        agent = subprocess.Popen(
            [sys.executable, "-m", "aegis_tools", "--root", str(root.root), "run"],
            cwd=REPOSITORY, stdout=lines, stderr=subprocess.PIPE,
        )  # fmt: skip
    assert agent.stderr is not None
    assert any(b"events follow" in line for line in agent.stderr)
    with host.counted() as rose:
        refused = storm(files, OPENS // 10)
        early = resident(agent.pid).own
        highest = early
        for _ in range(9):
            refused += storm(files, OPENS // 10)
            highest = max(highest, resident(agent.pid).own)
        time.sleep(0.1)
        agent.terminate()
        agent.communicate(timeout=120)
    assert agent.returncode == 0
    assert refused == rose[Stat.BLOCKS] == OPENS
    assert rose[Stat.EVENTS] + rose.get(Stat.RINGBUF_DROPS, 0) == OPENS
    with out.open("rb") as lines:
        assert sum(json.loads(line)["count"] for line in lines) == rose[Stat.EVENTS]
    assert highest < early + FLAT_KIB
