"""What the tests of unconfirmed changes share."""

from __future__ import annotations

import signal
from pathlib import Path

from apply_support import Host
from kernel_support import start_python

from aegis_tools.control.bootclock import Seams, boot_ns
from aegis_tools.control.live import Live
from aegis_tools.kernel.layout import Config
from aegis_tools.kernel.pins import Pins

LATER = Seams(boot_ns=lambda: boot_ns() + 10**15)
"""Every window is over."""

KILLED_AT = """
import os, signal, sys
from aegis_tools.cli.main import run
left = int(sys.argv[1])
def count(event, _):
    global left
    if event in ("ctypes.create_string_buffer", "os.rename", "os.remove"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if event == "os.remove":
            print(-left, file=sys.stderr)
sys.addaudithook(count)
run(["--root", sys.argv[2], "--json", *sys.argv[3:]])
"""
"""Ends before one of its effects: a buffer for bpf(2), a rename, a removal.

Told to end before the 0th, it does all of it, and says the number of each removal.
"""


def config(host: Host, which: Config) -> int:
    with Live(Pins(host.paths.pins)) as live:
        return live.config(which)


def put(host: Host, which: Config, value: int) -> None:
    with Live(Pins(host.paths.pins)) as live:
        live.set_config(which, value)


def staged(host: Host, files: dict[str, Path], *more: str) -> str:
    """Apply one policy for good and another until it is confirmed; return the first's digest."""
    first = host("policy", "apply", files["policy"])["digest"]
    done = host("policy", "apply", files["other"], "--confirm-within", "10m", *more)
    assert done["pending"]["was"]["digest"] == first
    assert 500 < done["unconfirmed_seconds"] <= 600
    assert not done["timer"]
    return str(first)


def killed(host: Host, instant: int, *argv: str | Path) -> bool:
    """Run a command and kill it before its ``instant``-th effect; True where it got that far."""
    process = start_python(KILLED_AT, instant, host.paths.root, *argv)
    process.communicate(timeout=60)
    return process.returncode == -signal.SIGKILL
