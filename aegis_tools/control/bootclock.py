"""Time since boot, and which boot: what neither a set clock nor a suspend can fool.

CLOCK_BOOTTIME is the clock of ``bpf_ktime_get_boot_ns()``, by which the hooks judge the deadline.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aegis_tools.kernel.run import Runner, run
from aegis_tools.paths import Paths

BOOT_ID = "proc/sys/kernel/random/boot_id"
_SHAPE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def boot_ns() -> int:
    """Return nanoseconds since boot, suspend included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot_id(paths: Paths) -> str:
    """Return the random id of this boot; empty where nothing tells.

    A test puts the file below its root; elsewhere it is the kernel's own.
    """
    for root in (paths.root, Path("/")):
        with contextlib.suppress(OSError, ValueError):
            text = (root / BOOT_ID).read_text(encoding="ascii").strip()
            if _SHAPE.fullmatch(text):
                return text
    return ""


@dataclass(frozen=True)
class Seams:
    """Time and other programs: what a test puts something else in the place of.

    Attributes:
        boot_ns: Nanoseconds since boot.
        wall: Unix seconds.
        run: Starts systemd-run and systemctl.
    """

    boot_ns: Callable[[], int] = boot_ns
    wall: Callable[[], float] = time.time
    run: Runner = run


SYSTEM = Seams()
