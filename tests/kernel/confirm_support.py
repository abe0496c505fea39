"""What the tests of unconfirmed changes share."""

from __future__ import annotations

from pathlib import Path

from apply_support import Host

from aegis_tools.control.bootclock import Seams, boot_ns
from aegis_tools.control.live import Live
from aegis_tools.kernel.layout import Config
from aegis_tools.kernel.pins import Pins

LATER = Seams(boot_ns=lambda: boot_ns() + 10**15)
"""Every window is over."""


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
