"""A host that refuses goes on refusing at every instant while its ring becomes larger."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from battery import can_read, opened_without_end
from storm_support import policy_of, ready_agent, storm

from aegis_tools.control.live import Live
from aegis_tools.kernel import loader
from aegis_tools.kernel.features import read_features
from aegis_tools.kernel.layout import Stat
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths

FOLDER = Path("/sys/fs/bpf/tune-test")
BURST = 1000
SMALL_RING = 1 << 15

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    """Return a root of its own that refuses ``tmp_path/files``, with a small ring."""
    FOLDER.mkdir()
    paths = Paths(tmp_path / "root")
    paths.bpffs.parent.mkdir(parents=True)
    paths.bpffs.symlink_to(FOLDER)
    options = loader.LoadOptions(ringbuf_bytes=SMALL_RING)
    loader.load(Pins(paths.pins), read_features(), options, require_lsm=True)
    policy = policy_of(tmp_path / "files")
    aegis(paths, "policy", "apply", str(policy), "--mode", "enforce")
    yield paths
    Pins(paths.pins).remove_all()
    FOLDER.rmdir()


def aegis(paths: Paths, *words: str) -> dict[str, Any]:
    """Run a command as a process of its own, as an operator does; return its document."""
    done = subprocess.run(
        [sys.executable, "-m", "aegis_tools", "--json", "--root", str(paths.root), *words],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def dropped(paths: Paths) -> int:
    with Live(Pins(paths.pins)) as live:
        return live.stats()[Stat.RINGBUF_DROPS]


@pytest.mark.once("6.12")
def test_no_open_succeeds_while_the_ring_is_made_larger_and_then_nothing_is_dropped(
    paths: Paths, tmp_path: Path
) -> None:
    secret = tmp_path / "files/f0"
    tune = ("tune", "--seconds", "4", "--apply")
    with ready_agent(paths, tmp_path / "events"), storm(tmp_path / "files", BURST):
        with opened_without_end(secret) as counts:
            done = aegis(paths, *tune)
        before = dropped(paths)
        after = aegis(paths, *tune)
        lost = dropped(paths) - before
    print(f"{counts=} {done['recommendations'][0]=} {after['observed']=}")
    assert done["applied"] == ["replaced"]
    assert done["observed"]["mean"]["dropped"] > 0
    assert (counts[0], counts[1] > 1000) == (0, True)
    assert (after["changed"], after["observed"]["mean"]["dropped"], lost) == (False, 0, 0)
    assert not can_read(secret)
