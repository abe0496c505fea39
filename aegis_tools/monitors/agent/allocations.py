"""What processes have the kernel allocate, from memory-monitor's totals to the limits' feed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from aegis_tools.kernel.cgroups import cgroup_id
from aegis_tools.monitors.layout import MEMORY_KEY
from aegis_tools.monitors.pins import MonitorPins
from aegis_tools.monitors.profiles.decide import Process
from aegis_tools.monitors.profiles.measure import Feed
from aegis_tools.monitors.profiles.processes import look
from aegis_tools.monitors.top import ALLOCATIONS, Total, forget_ended, growth, read_totals

MONITOR, MAP = "memory-monitor", "MEMORY_TOTALS"
SELDOM = 10.0
"""Seconds between two looks where no limit is of allocations: ended processes are forgotten."""
OFTEN = 2.0
"""Seconds after which a look is no measure of a rate."""


class Allocations:
    """Looks at the totals.

    Args:
        feed: Is given what was allocated since the look before.
        proc: Where processes are.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        feed: Feed,
        *,
        proc: Path = Path("/proc"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed = feed
        self._proc = proc
        self._clock = clock
        self._before: dict[bytes, Total] | None = None
        self._at = 0.0

    def look(self, pins: MonitorPins, *, needed: bool) -> None:
        """Look, if it is time to; ``needed`` says that there is a limit of allocations.

        Raises:
            KernelError: The totals cannot be read.
        """
        since = self._clock() - self._at
        if not needed and since < SELDOM:
            return
        with pins.open_map(MAP) as opened:
            totals = read_totals(opened)
            forget_ended(opened, totals, self._proc)
        before, self._before, self._at = self._before, totals, self._at + since
        if needed and before is not None and since <= OFTEN:
            self._tell(before, totals)

    def forget(self) -> None:
        """Forget what was seen: the monitor is gone, and with it its totals."""
        self._before = None

    def _tell(self, before: dict[bytes, Total], totals: dict[bytes, Total]) -> None:
        sizes: dict[int, int] = {}
        for key, grown in growth(before, totals):
            pid, kind, _ = MEMORY_KEY.unpack(key)
            if pid and kind in ALLOCATIONS:
                sizes[pid] = sizes.get(pid, 0) + grown
        for pid, size in sizes.items():
            seen = look(pid, self._proc)
            if seen is not None and seen.process.uid is not None:
                self._feed.allocated(seen.process, self._cgroup(seen.process), size)

    def _cgroup(self, process: Process) -> int:
        """Return the id of a process's cgroup (cgroups(7)); 0 where it has ended."""
        try:
            lines = (self._proc / str(process.pid) / "cgroup").read_text(encoding="utf-8")
        except (OSError, ValueError):
            return 0
        path = next((line[3:] for line in lines.splitlines() if line.startswith("0::")), "")
        return (path and cgroup_id(path)) or 0
