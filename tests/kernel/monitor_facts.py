"""What a test finds out by other ways, to compare a monitor's records with."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from kernel_support import start_python

from aegis_tools.monitors.registry import Monitor, Variant


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def cgroup_id(text: str) -> int:
    """Return the id of the cgroup (v2) in a process's /proc/PID/cgroup; else the root's."""
    name = next((line[3:] for line in text.splitlines() if line.startswith("0::")), "/")
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, kind = line.split(" - ")
        if kind.startswith("cgroup2 "):
            return Path(fields.split()[4] + name).stat().st_ino
    return 1


def run_facts(module: str, *arguments: object, call: str = "main") -> dict[str, Any]:
    """Run a function of a module as a program of its own; return what it says of itself."""
    began = boot_ns()
    code = f"import sys, {module}; {module}.{call}(*sys.argv[1:])"
    with start_python(code, *arguments) as process:
        out, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    facts: dict[str, Any] = json.loads(out)
    facts.update(began=began, ended=boot_ns(), cgroup=cgroup_id(facts["cgroup"]))
    assert facts["ppid"] == os.getpid()
    return facts


def fitting(monitor: Monitor) -> list[Variant]:
    """Return the variants for which this kernel has all that they need."""
    names = Path("/sys/kernel/btf/vmlinux").read_bytes()
    return [
        variant
        for variant in monitor.variants
        if all(b"\0" + need.encode() + b"\0" in names for need in variant.needs)
        and not any(b"\0" + other.encode() + b"\0" in names for other in variant.lacks)
    ]
