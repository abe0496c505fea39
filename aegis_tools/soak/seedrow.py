"""A row of the seed's sampler, without a soak: its eight columns, added to a CSV of its own."""

from __future__ import annotations

import stat
from contextlib import suppress
from pathlib import Path

from aegis_tools.control.bootclock import SYSTEM, Seams
from aegis_tools.control.files import named
from aegis_tools.errors import StateError
from aegis_tools.kernel.layout import Stat
from aegis_tools.paths import Paths
from aegis_tools.soak import agent, loaded
from aegis_tools.soak.append import append
from aegis_tools.soak.columns import SEED, Sample, format_row
from aegis_tools.soak.state import Agent

HEADER = ",".join(SEED) + "\n"


def look(paths: Paths, *, seams: Seams = SYSTEM) -> Sample:
    """Return what is known now; processor time as ps(1) has it, over the life of the agent.

    Raises:
        AegisError: What is loaded is damaged.
    """
    seen, kernel = agent.look(paths, Agent(), seams=seams), loaded.look(paths)
    lived = seen.seen_s - seen.start_s
    return Sample(
        timestamp=max(int(seams.wall()), 0),
        cpu_pct=100 * seen.cpu_s / lived if seen.running and lived > 0 else 0.0,
        mem_mb=(agent.resident(seen, kernel.ring, kernel.ring_bytes) or 0) / (1 << 20),
        blocks=kernel.counters.get(Stat.BLOCKS, 0),
        ringbuf_drops=kernel.counters.get(Stat.RINGBUF_DROPS, 0),
        map_deny_path=kernel.entries.get("deny_path_map", 0),
        map_deny_inode=kernel.entries.get("deny_inode_map", 0),
        map_allow_cgroup=kernel.entries.get("allow_cgroup_map", 0),
        agent="running" if seen.running else "dead",
    )


def check(path: Path) -> None:
    """Raise StateError for a file that has other rows than these; a new one may become one.

    Whatever is no file is left to ``add`` to refuse.
    """
    with suppress(OSError):
        if not stat.S_ISREG(path.lstat().st_mode):
            return
        with path.open("rb") as file:
            first = file.read(len(HEADER) + 1)
        if first and first.replace(b"\r\n", b"\n")[: len(HEADER)] != HEADER.encode():
            raise StateError(
                f"{named(path)} has other rows: its first line is not {HEADER.rstrip()}",
                hint="name another file, or a new one",
            )


def add(path: Path, sample: Sample) -> str:
    """Add the row to a file, with the header where that is new; return it.

    Raises:
        StateError: It has other rows, or cannot be written.
    """
    check(path)
    row = ",".join(format_row(sample).rstrip("\n").split(",")[: len(SEED)])
    append(path, row + "\n", what=f"file {named(path)}", header=HEADER)
    return row
