"""What the kernel says of what is loaded, as one turn sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aegis_tools.control import files
from aegis_tools.control.live import Live
from aegis_tools.control.posture import read_posture
from aegis_tools.control.stats import RUN_STATS, read_programs
from aegis_tools.errors import AegisError, NotLoadedError
from aegis_tools.kernel.layout import POLICY_MAPS, SAMPLE_ALL, Config, SlotInfo, Stat, uid_of
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths
from aegis_tools.soak.hits import MAX_A_TURN, Hit


@dataclass(frozen=True)
class Loaded:
    """What is loaded.

    Attributes:
        mode: One of ``columns.MODES``: what a match of an enforcing rule leads to.
        policy: The live policy's digest, 64 hex digits; empty for none.
        maps: Id of a map, which names this load.
        ring: Id of the map of events.
        ring_bytes: Its size.
        counters: Summed over the CPUs.
        entries: By policy map.
        fill: The highest share of its capacity that any map holds.
        runs: Of our programs; None while the kernel does not count them.
        run_ns: Nanoseconds that they took.
        hits: (blocks, audits, last hit in ns since boot) by rule.
        every_event: Every match sends an event.
    """

    mode: str = "none"
    policy: str = ""
    maps: int = 0
    ring: int = 0
    ring_bytes: int = 0
    counters: Mapping[Stat, int] = field(default_factory=dict)
    entries: Mapping[str, int] = field(default_factory=dict)
    fill: float = 0.0
    runs: int | None = None
    run_ns: int | None = None
    hits: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)
    every_event: bool = True

    @property
    def there(self) -> bool:
        """Whether anything is loaded."""
        return bool(self.maps)


NOTHING = Loaded()


def look(paths: Paths) -> Loaded:
    """Look at what is loaded; NOTHING where nothing is.

    Raises:
        AegisError: What is loaded is damaged, or not ours.
    """
    try:
        with Live(Pins(paths.pins)) as live:
            return read(live, paths)
    except NotLoadedError:
        return NOTHING


def read(live: Live, paths: Paths) -> Loaded:
    """Read what is loaded.

    Raises:
        AegisError: It is damaged, or not ours.
    """
    info, hits = live.info(), live.hits()
    ring = live.map("events")
    runs, run_ns = _costs(live)
    return Loaded(
        mode=mode_of(live, paths),
        policy=info.bundle.hex() if any(info.bundle) else "",
        maps=live.map("block_stats").id,
        ring=ring.id,
        ring_bytes=ring.max_entries,
        counters=live.stats(),
        entries={spec.name: info.count(spec.name) for spec in POLICY_MAPS},
        fill=_fill(live, info, len(hits)),
        runs=runs,
        run_ns=run_ns,
        hits=hits,
        every_event=live.config(Config.SAMPLE) == SAMPLE_ALL,
    )


def mode_of(live: Live, paths: Paths) -> str:
    """Return what a match of an enforcing rule leads to now, as one of ``columns.MODES``."""
    # Why it is held is not asked where nothing holds it: that brings as much as all of a turn.
    posture = read_posture(live, paths if files.exists(paths.fallback) else None)
    if posture.state in ("detached", "disabled"):
        return "none"
    if posture.held:
        return "held"
    return "enforce" if posture.enforcing else "audit"


def _fill(live: Live, info: SlotInfo, hits: int) -> float:
    shares = [info.count(spec.name) / live.capacity(spec.name) for spec in POLICY_MAPS]
    shares.append(hits / max(live.map("rule_hits").max_entries, 1))
    return max(shares)


def _costs(live: Live) -> tuple[int | None, int | None]:
    try:
        if RUN_STATS.read_text(encoding="ascii").strip() != "1":
            return None, None
    except OSError:
        return None, None
    programs = read_programs(live.pins)
    return sum(one.runs for one in programs), sum(one.nanoseconds for one in programs)


def changed_hits(now: Loaded, since_ns: int, canary: str) -> dict[int, tuple[int, int]]:
    """Return (blocks, audits) of the rules that matched since, the most hit ones, by what the
    kernel calls them.

    Args:
        now: What is loaded.
        since_ns: Nanoseconds since boot; 0 for all that ever matched.
        canary: The id of the canary's rule, which is not told: nobody else's file it is.
    """
    own = uid_of(canary)
    fresh = [
        (uid, blocks, audits)
        for uid, (blocks, audits, last) in now.hits.items()
        if uid != own and blocks + audits and last > since_ns
    ]
    fresh.sort(key=lambda one: (-one[1] - one[2], one[0]))
    return {uid: (blocks, audits) for uid, blocks, audits in fresh[:MAX_A_TURN]}


def named(
    paths: Paths, found: Mapping[int, tuple[int, int]], known: Mapping[str, str], when: int
) -> tuple[list[Hit], dict[str, str]]:
    """Return the rows of rules that matched, and the names that are known now.

    The stored policy is read only for a rule that is not known yet: that takes long.

    Args:
        paths: Where policies are.
        found: What they matched.
        known: Their ids, by what the kernel calls them, in hex.
        when: Unix seconds.
    """
    names = dict(known)
    if any(f"{uid:016x}" not in names for uid in found):
        names |= _read_names(paths, found)
    rows = [Hit(when, names[f"{uid:016x}"], *counts) for uid, counts in found.items()]
    return rows, names


def _read_names(paths: Paths, uids: Mapping[int, object]) -> dict[str, str]:
    from aegis_tools.control.names import Names

    found = {uid: f"unknown:{uid:016x}" for uid in uids}
    try:
        with Live(Pins(paths.pins)) as live:
            names = Names(live, paths)
            found = {uid: names.name(uid) for uid in uids}
    except (AegisError, OSError):  # removed meanwhile: numbers must do
        pass
    return {f"{uid:016x}": name for uid, name in found.items()}
