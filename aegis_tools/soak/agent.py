"""The agent as one turn sees it, and what became of it since the last one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aegis_tools.control import starts
from aegis_tools.control.bootclock import SYSTEM, Seams
from aegis_tools.control.heartbeat import life, read_heartbeat
from aegis_tools.errors import CommandError
from aegis_tools.kernel.run import Runner
from aegis_tools.paths import Paths
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.state import Agent

UNIT = "aegisbpf.service"
PATIENCE_SECONDS = 5.0
"""For so long an agent that gives no sign of life is looked at: the host may have been asleep."""
_PAUSE = 0.5
_CPUCLOCK_SCHED = 2  # include/linux/posix-timers.h: nanoseconds that the scheduler counted
_MIB = 1 << 20
_OWN_PAGES = 2
"""Of the ring, for the two positions; its records are mapped twice in a row beside them."""


@dataclass(frozen=True)
class Seen:
    """The agent.

    Attributes:
        state: One of ``columns.AGENT``.
        pid: Of its process, dead or alive; 0 for none.
        start_s: When that began, in seconds since boot; 0 where it cannot be told.
        cpu_s: Processor time that it has taken.
        seen_s: When that was, in seconds since boot.
        rss: Bytes of it in memory; None where that cannot be told.
        anonymous: Bytes of those that no file is behind.
        ring: Id of the map that it reads events from.
    """

    state: str
    pid: int = 0
    start_s: float = 0.0
    cpu_s: float = 0.0
    seen_s: float = 0.0
    rss: int | None = None
    anonymous: int | None = None
    ring: int = 0

    @property
    def running(self) -> bool:
        """Whether it is there."""
        return self.state == "running"


def look(
    paths: Paths,
    before: Agent,
    *,
    seams: Seams = SYSTEM,
    sleep: Callable[[float], None] = time.sleep,
    proc: Path = Path("/proc"),
) -> Seen:
    """Look at the agent.

    Args:
        paths: Where its sign of life is.
        before: What the last turn of this boot saw.
        seams: The clock.
        sleep: Waits, where it gives no sign of life although it is there.
        proc: Where processes are.
    """
    end = seams.boot_ns() + int(PATIENCE_SECONDS * 1e9)
    while True:
        beat = read_heartbeat(paths)
        if beat is None:
            return Seen("stopped" if before.pid else "none")
        pid, ring = _whole(beat.get("pid")), _whole(beat.get("ring"))
        found = life(paths, beat, seams.boot_ns())
        if found.runs:
            return _process(pid, ring, seams, proc)
        if found.died or seams.boot_ns() >= end:
            return Seen("dead", pid)
        sleep(_PAUSE)


def _whole(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 31 else 0


def _process(pid: int, ring: int, seams: Seams, proc: Path) -> Seen:
    try:
        start, cpu, at = start_seconds(pid, proc), cpu_seconds(pid), seams.boot_ns() / 1e9
    except (OSError, ValueError, IndexError):  # it has died after its last sign of life
        return Seen("dead", pid)
    rss, anonymous = memory(pid, proc)
    return Seen("running", pid, start, cpu, at, rss, anonymous, ring)


def start_seconds(pid: int, proc: Path = Path("/proc")) -> float:
    """Return when a process began, in seconds since boot: field 22 of proc_pid_stat(5).

    The name in the second field may hold anything, so fields are counted from its end.

    Raises:
        OSError, ValueError, IndexError: There is none.
    """
    text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    return int(text.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process, as clock_getcpuclockid(3) finds it.

    Raises:
        OSError: There is none.
    """
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def memory(pid: int, proc: Path = Path("/proc")) -> tuple[int | None, int | None]:
    """Return the bytes of a process in memory, and those no file is behind; None for unknown."""
    try:
        text = (proc / str(pid) / "smaps_rollup").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None, None
    found = dict(line.partition(":")[::2] for line in text.splitlines() if line.endswith(" kB"))
    sizes = [found.get(name, "").split()[:1] for name in ("Rss", "Anonymous")]
    rss, anonymous = (int(s[0]) << 10 if s and s[0].isdecimal() else None for s in sizes)
    return rss, anonymous


def resident(seen: Seen, ring: int, ring_bytes: int) -> int | None:
    """Return the agent's own bytes in memory; None where they cannot be told.

    Args:
        seen: The agent.
        ring: Id of the ring that is loaded, which counts only where the agent reads that one.
        ring_bytes: Its size.
    """
    if seen.rss is None or seen.ring != ring:
        return seen.rss
    return without_ring(seen.rss, ring_bytes)


def without_ring(rss: int, ring_bytes: int) -> int:
    """Return memory without the event ring: its pages are the kernel's, and count twice."""
    ring = 2 * ring_bytes + _OWN_PAGES * os.sysconf("SC_PAGE_SIZE")
    return rss - ring if rss > ring else rss


def changed(before: Agent, now: Seen) -> bool:
    """Return whether it is another process than before."""
    return now.running and (now.pid, now.start_s) != (before.pid, before.start_s)


def read_restarts(runner: Runner, pid: int) -> int | None:
    """Return how often systemd has restarted the agent; None where this one is not systemd's."""
    words = ["systemctl", "show", "--property=MainPID,NRestarts", UNIT]
    try:
        text = runner(words, timeout=30)
    except CommandError:
        return None
    facts = dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)
    number = facts.get("NRestarts", "")
    mine = facts.get("MainPID") == str(pid)
    return int(number) if mine and number.isdecimal() and len(number) < 10 else None


def ended_badly(paths: Paths, before: Agent, now: Seen) -> bool:
    """Return whether the agent of before left a start without an orderly end behind.

    Such starts are kept for some minutes (``control.starts``): of an agent that had run for
    longer this tells nothing.
    """
    recorded = (at / 1e9 for at in starts.read_starts(paths))
    return any(before.start_s <= at < now.start_s for at in recorded)


def cpu_percent(before: Agent, now: Seen) -> float | None:
    """Return what it took since the last turn, in % of one core; None where that is unknown."""
    passed = now.seen_s - before.seen_s
    if not now.running or changed(before, now) or passed <= 0:
        return None
    return 100 * max(now.cpu_s - before.cpu_s, 0.0) / passed


def remembered(before: Agent, now: Seen, restarts: int | None) -> Agent:
    """Return what the next turn must know."""
    if now.running:
        return Agent(now.pid, now.start_s, now.cpu_s, now.seen_s, restarts)
    return before._replace(pid=now.pid, mourned=True) if now.state == "dead" else before


def told(
    before: Agent, now: Seen, restarts: int | None, *, badly: bool, when: tuple[float, float]
) -> list[Happened]:
    """Return what happened to it.

    Args:
        before: What the last turn of this boot saw.
        now: What this one sees.
        restarts: How often systemd has restarted it; None where it is not systemd's.
        badly: The one of before did not end in order.
        when: Unix seconds, and seconds since boot.
    """
    wall, boot_s = when

    def happened(kind: str, text: str, class_: str = "") -> Happened:
        return Happened(wall, kind, text, boot_s=boot_s, class_=class_)

    if now.state == "dead":
        known = before.mourned and before.pid == now.pid
        return [] if known else [happened("crash", f"the agent died or hangs (process {now.pid})")]
    if not changed(before, now):
        return []
    deaths = (restarts or 0) - (before.restarts or 0) if before.pid else restarts or 0
    if deaths <= 0 and not before.pid:
        return []
    new = f"process {before.pid} gave way to {now.pid}" if before.pid else f"process {now.pid}"
    by, class_ = ("systemd started", "systemd") if deaths > 0 else ("somebody started", "ordered")
    again = happened("restart", f"{by} the agent again: {new}", class_)
    if deaths <= 0:
        deaths = int(badly)
    untold = deaths - before.mourned
    if untold <= 0:
        return [again]
    text = "the agent died" if untold == 1 else f"the agent died {untold} times"
    return [happened("crash", text), again]
