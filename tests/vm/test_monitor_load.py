"""Every monitor by command on each kernel: the best variant that it takes, and nothing left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_monitor_all import VALID, busy

from aegis_tools.cli.main import run
from aegis_tools.monitors.registry import MONITORS

BPFFS = Path("/sys/fs/bpf")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a root whose BPF file system is the machine's."""
    (tmp_path / "sys/fs").mkdir(parents=True)
    (tmp_path / "sys/fs/bpf").symlink_to(BPFFS)
    return tmp_path


@pytest.mark.parametrize("name", MONITORS)
def test_a_monitor_is_loaded_tells_and_is_gone(
    name: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(BPFFS.iterdir())

    def told(*words: str) -> str:
        capsys.readouterr()
        assert run(["--root", str(root), "--json", "monitor", *words]) == 0
        return capsys.readouterr().out

    [loaded] = json.loads(told("load", name, "--min-bytes", "1"))["monitors"]
    assert loaded["loaded"]
    # Better ways are passed over for what the kernel has not, never for what it refuses.
    assert all("the kernel has" in one["reason"] for one in loaded["refused"]), loaded
    # The machine's files are in memory, so its disks have nothing to do.
    quiet = name == "disk-io-monitor"
    with busy(tmp_path):
        lines = told(
            "events", name, "--for", "1s" if quiet else "60s", "--count", "20"
        ).splitlines()
    assert len(lines) == 20 or quiet
    for event in map(json.loads, lines):
        VALID.validate(event)
    [status] = json.loads(told("status", name))["monitors"]
    assert (status["attached"], status["current"]) == (True, True)
    told("unload", name)
    assert sorted(BPFFS.iterdir()) == before
