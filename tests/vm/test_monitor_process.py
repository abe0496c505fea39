"""process-monitor on each kernel: what a program's children did, exactly.

Drops are counted by what all monitors share: tests/kernel, and the others' tests here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from monitor_facts import fitting
from process_support import PROCESS, check_everything

from aegis_tools.paths import Paths

# The oldest and the newest kernel; on those in between, test_monitor_load.
pytestmark = [pytest.mark.once("5.10", "7.2"), pytest.mark.seed("T2.1")]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """Return paths whose BPF file system is the machine's."""
    paths = Paths(tmp_path / "root")
    paths.bpffs.parent.mkdir(parents=True)
    paths.bpffs.symlink_to("/sys/fs/bpf")
    return paths


def test_the_kernel_has_what_the_monitor_needs() -> None:
    assert [variant.name for variant in fitting(PROCESS)] == ["portable"]


def test_everything_that_children_did_is_told_of_once_and_as_it_was(paths: Paths) -> None:
    check_everything(paths)
