"""A monitor that tells of nothing, or of less than there is: why, and what to do."""

from __future__ import annotations

import os
import re

import pytest
from edit_support import Host
from traffic_support import cgroup

from aegis_tools.cli.main import run
from aegis_tools.monitors.load import unload
from aegis_tools.monitors.pins import MonitorPins
from aegis_tools.paths import Paths

pytestmark = pytest.mark.kernel
NAME = "process-monitor"


def test_what_keeps_a_monitor_from_telling_is_said_with_the_way_out(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    host, pins = Host(paths, capsys), MonitorPins(paths.monitor_pins, NAME)
    with cgroup(f"aegis-gone-{os.getpid()}") as folder:
        host("monitor", "load", "process", "--only-cgroup", f"/{folder.name}",
             "--only-command", "a\nb\x1b[2J")  # fmt: skip
    pins.path("links", "sched_process_exit").unlink()
    again = f"aegisbpf monitor unload {NAME} && aegisbpf monitor load {NAME}"
    lines = host.text("monitor", "status", "process")
    assert f"  NOT all of its programs are attached: {again}" in lines
    [told] = [line for line in lines if line.startswith("  filter:")]
    assert re.fullmatch(r"  filter: cgroups cgid:\d+ \(is gone\); commands a\\nb\\x1b\[2J", told)
    capsys.readouterr()
    arguments = ["--root", str(paths.root), "monitor", "events", "process", "--for", "1s"]
    assert run(arguments) == 0
    assert f"not all programs of {NAME} are attached; run: {again}" in capsys.readouterr().err
    unload(paths.monitor_pins, NAME)
