"""A turn: look at the host once, write down what that tells, remember it for the next.

Order of the effects, and what a death after each leaves for the next turn:
  what happened   told again by a turn that sees the same, and written down once
  row, hits       one row more than was due
  memory          nothing: the turn was made
  end             see ``soak.finish``
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from aegis_tools.control import files
from aegis_tools.control.bootclock import SYSTEM, Seams
from aegis_tools.kernel.layout import Stat
from aegis_tools.paths import Paths
from aegis_tools.soak import agent, canary, changes, columns, hits, loaded, recover, state
from aegis_tools.soak.append import append
from aegis_tools.soak.columns import Sample
from aegis_tools.soak.folder import Folder
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.look import Look
from aegis_tools.soak.settings import Settings
from aegis_tools.soak.state import State
from aegis_tools.soak.telling import is_failure, tell


@dataclass(frozen=True)
class Made:
    """A turn that was made.

    Attributes:
        sample: Its row.
        happened: What happened since the last one.
        state: What the next one must know.
    """

    sample: Sample
    happened: tuple[Happened, ...]
    state: State

    @property
    def failed(self) -> bool:
        """Whether something happened that fails a soak."""
        return any(map(is_failure, self.happened))

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        row = {name: getattr(self.sample, name) for name in columns.COLUMNS}
        return {
            "turn": self.state.turn,
            "elapsed_seconds": round(self.state.elapsed_s, 3),
            "sample": row,
            "happened": [one.to_dict() for one in self.happened],
        }


def make(
    paths: Paths,
    at: Folder,
    settings: Settings,
    *,
    seams: Seams = SYSTEM,
    sleep: Callable[[float], None] = time.sleep,
    calls: files.Calls = files.SYSTEM,
) -> Made:
    """Make one turn. The caller holds the soak's lock.

    Raises:
        StateError: What it saw could not be written down.
    """
    begun = seams.boot_ns()
    before, lost = recover.remembered(at, settings)
    look = Look(paths, at.path, before, not before.turn or bool(lost), seams, sleep)
    sample = _sample(look)
    last = changes.up_to(before, recover.newest_row(at.samples), look.now)
    changed = changes.told(last, look.now, settings.interval_s, fresh=look.fresh)
    found = [*changed, *lost, *look.of_agent(), *look.of_kernel(), *look.happened]
    names, rows = _hits(look)
    after = tell(paths, settings.id, before, found, calls=calls)
    sample = replace(sample, turn_ms=(seams.boot_ns() - begun) / 1e6)
    row = columns.format_row(sample)
    append(at.samples, row, what="samples", header=columns.HEADER, calls=calls)
    if rows:
        append(at.hits, rows, what="list of hits", header=hits.HEADER, calls=calls)
    after = _after(after, look, names)
    state.write(at.state, after, calls=calls)
    return Made(sample, tuple(found), after)


def _sample(look: Look) -> Sample:
    tried = look.canary.result  # first: it may change what is loaded
    seen, kernel = look.agent, look.loaded
    counters, there = kernel.counters, kernel.there
    sent = counters[Stat.EVENTS] + counters[Stat.RINGBUF_DROPS] if there else None
    rss = agent.resident(seen, kernel.ring, kernel.ring_bytes)
    return Sample(
        timestamp=max(int(look.wall), 0),
        cpu_pct=agent.cpu_percent(look.agent_before, seen),
        mem_mb=None if rss is None else rss / (1 << 20),
        blocks=counters[Stat.BLOCKS] if there else None,
        ringbuf_drops=counters[Stat.RINGBUF_DROPS] if there else None,
        map_deny_path=kernel.entries.get("deny_path_map"),
        map_deny_inode=kernel.entries.get("deny_inode_map"),
        map_allow_cgroup=kernel.entries.get("allow_cgroup_map"),
        boot=look.boot or None,
        boot_s=look.boot_s,
        agent=seen.state,
        agent_pid=seen.pid or None,
        agent_start_s=seen.start_s or None,
        restarts=look.restarts,
        mode=kernel.mode,
        policy=kernel.policy[:12] or None,
        audits=counters[Stat.AUDITS] if there else None,
        events=sent,
        map_fill=kernel.fill if there else None,
        canary=tried,
        probe_us=look.probe_us,
        bpf_runs=kernel.runs,
        bpf_ns=kernel.run_ns,
        mem_agent_anon_mb=None if seen.anonymous is None else seen.anonymous / (1 << 20),
        load1=load_average(),
    )


def load_average() -> float | None:
    """Return the load average of a minute."""
    import os

    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _hits(look: Look) -> tuple[dict[str, str], str]:
    """Return the names of rules that are known now, and the rows of those that matched."""
    before = look.before
    known = dict(before.names)
    if before.policy != look.now.policy:  # what had no name may have one now
        known = {uid: name for uid, name in known.items() if not name.startswith("unknown:")}
    same = not look.again and look.loaded.maps == before.maps
    since = int(before.boot_s * 1e9) if same else 0
    own = canary.rule_id(look.folder)
    found = loaded.changed_hits(look.loaded, since, own)
    rows, names = loaded.named(look.paths, found, known, max(int(look.wall), 0))
    return names, "".join(map(hits.format_row, rows))


def _after(told: State, look: Look, names: dict[str, str]) -> State:
    now = look.now
    return replace(
        told,
        turn=told.turn + 1,
        elapsed_s=changes.elapsed(look.before, now) if told.turn else 0.0,
        wall=max(now.wall, 0.0),
        boot=now.boot,
        boot_s=now.boot_s,
        kmsg=look.kernel.last,
        pstore=look.crashes,
        mode=now.mode,
        policy=now.policy,
        maps=look.loaded.maps,
        placed=look.placed,
        agent=agent.remembered(look.agent_before, look.agent, look.restarts),
        names=names,
        failing=tuple(look.failing),
    )
