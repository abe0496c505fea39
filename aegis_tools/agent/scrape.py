"""Reading for metrics: the maps stay open from scrape to scrape, and nothing is loaded or forked.

What costs by the number of rules is bounded: rules are named by a policy that is parsed once, and
the live maps are compared with their digest at most once a minute, and never for more than a
hundredth of the time.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from aegis_tools.agent.hostfacts import Files, HostFacts
from aegis_tools.control import manual
from aegis_tools.control.live import Live, committed_digest, live_digest
from aegis_tools.control.names import Names
from aegis_tools.control.stats import MapUse, Snapshot, read_snapshot
from aegis_tools.errors import AegisError
from aegis_tools.kernel.layout import ManualRule, uid_of
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths

TOP_RULES = 100
OTHER = "other"
CHECK_SECONDS = 60.0
CHECK_SHARE = 100
"""A check that took a second is followed by none for as many seconds."""
_SOON = 5.0
_NAMES_KEPT = 4096


class RuleHits(NamedTuple):
    """How often a rule matched."""

    rule: str
    blocks: int
    audits: int


class Drift(NamedTuple):
    """Whether the live maps are what was committed.

    Attributes:
        tampered: They hold something that no command of ours wrote.
        interrupted: An edit by hand died half-way, or is under way.
        checked: When, Unix seconds.
        cost: Seconds that it took.
    """

    tampered: bool
    interrupted: bool
    checked: float
    cost: float


class Kernel(NamedTuple):
    """What one scrape found in the kernel.

    Attributes:
        snapshot: Counters, state, policy.
        hits: The rules that match most, and OTHER.
        sizes: How full the maps are that can fill up and belong to no policy.
        drift: None where a policy was applied while the maps were read.
    """

    snapshot: Snapshot
    hits: tuple[RuleHits, ...]
    sizes: tuple[MapUse, ...]
    drift: Drift | None


class Reading(NamedTuple):
    """What one scrape found.

    Attributes:
        loaded: Programs and maps are pinned.
        kernel: None where they are not, or could not be read as a whole.
        facts: From files.
        seconds: What reading took.
    """

    loaded: bool
    kernel: Kernel | None
    facts: HostFacts
    seconds: float


class Clock(NamedTuple):
    """The clocks, as a seam."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


SYSTEM = Clock()


class Scraper:
    """Reads all there is to tell. A context manager.

    Args:
        paths: Where everything is.
        clock: For the time between two checks, and to say when.
        check_seconds: The least time between two checks of the live maps.
    """

    def __init__(
        self, paths: Paths, clock: Clock = SYSTEM, check_seconds: float = CHECK_SECONDS
    ) -> None:
        self._pins = Pins(paths.pins)
        self._paths = paths
        self._clock = clock
        self._check_seconds = check_seconds
        self._files = Files(paths)
        self._live: Live | None = None
        self._seen: object = None
        self._forget()

    def __enter__(self) -> Scraper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the maps; they are opened again when asked for."""
        if self._live is not None:
            self._live.__exit__()
        self._live, self._seen = None, None
        self._forget()

    def _forget(self) -> None:
        self._drift: Drift | None = None
        self._next_check = -1.0
        self._labels = RuleLabels(self._paths)
        self._other = Other()

    def look(self) -> None:
        """Let go of maps whose pins were removed or replaced: they are kept in memory till then."""
        if self._live is not None and self._fingerprint() != self._seen:
            self.close()

    def read(self) -> Reading:
        """Return what there is to tell now. What cannot be read is left out, and said to be."""
        start = self._clock.monotonic()
        self.look()
        kernel = self._kernel()
        facts = self._files.read(kernel.snapshot.info.bundle if kernel else bytes(32))
        took = self._clock.monotonic() - start
        return Reading(self._pins.is_loaded(), kernel, facts, took)

    def _kernel(self) -> Kernel | None:
        found = None
        with contextlib.suppress(AegisError, OSError):
            live = self._opened()
            hits = live.hits()
            sizes = sizes_of(live, hits=len(hits))
            found = Kernel(read_snapshot(live), self._named(hits, live), sizes, self._check(live))
        if found is None or self._fingerprint() != self._seen:
            self.close()  # what was there went away meanwhile: nothing of it is true
            return None
        return found

    def _opened(self) -> Live:
        if self._live is None:
            seen = self._fingerprint()
            self._live = Live(self._pins)
            self._seen = seen
        return self._live

    def _fingerprint(self) -> object:
        """Return what changes when a map's pin is removed or replaced."""
        try:
            with os.scandir(self._pins.path("maps")) as found:
                return {entry.name: entry.inode() for entry in found}
        except OSError:
            return None

    def _named(self, hits: Mapping[int, tuple[int, int, int]], live: Live) -> tuple[RuleHits, ...]:
        top = heapq.nsmallest(TOP_RULES, hits.items(), key=_rank)
        names = self._labels.names([uid for uid, _ in top], live) if top else {}
        blocks, audits = (sum(hit[i] for hit in hits.values()) for i in (0, 1))
        return self._other.complete(top_hits(dict(top), names), blocks, audits)

    def _check(self, live: Live) -> Drift | None:
        now = self._clock.monotonic()
        if now < self._next_check:
            return self._drift
        info = live.info()
        # An edit that is under way has changed the maps, and not yet said so.
        tampered = live_digest(live) != committed_digest(info) and not info.editing
        cost = self._clock.monotonic() - now
        settled = live.info() == info  # else a policy was applied while the maps were read
        self._drift = Drift(tampered, info.editing, self._clock.wall(), cost) if settled else None
        pause = self._check_seconds if settled and not info.editing else _SOON
        self._next_check = now + max(pause, CHECK_SHARE * cost)
        return self._drift


def _rank(item: tuple[int, tuple[int, int, int]]) -> tuple[int, int]:
    """Most matches first."""
    return -item[1][0] - item[1][1], item[0]


def sizes_of(live: Live, *, hits: int) -> tuple[MapUse, ...]:
    """Return how full the maps are that can fill up and belong to no policy.

    Args:
        live: The loaded maps.
        hits: Entries of ``rule_hits``, which the caller has read.
    """
    counted, survival = live.map("rule_hits"), live.map("survival_allowlist")
    return (
        MapUse("rule_hits", hits, counted.max_entries),
        MapUse("survival_allowlist", survival.count(), survival.max_entries),
    )


def top_hits(
    hits: Mapping[int, tuple[int, int, int]], names: Mapping[int, str], room: int = TOP_RULES
) -> list[RuleHits]:
    """Return the rules that matched most, at most ``room`` of them: labels must be bounded.

    A rule that is called OTHER is left to :class:`Other`: two series of one name are none.
    """
    ranked = heapq.nsmallest(room, hits.items(), key=_rank)
    named = [
        RuleHits(names.get(uid, f"unknown:{uid:016x}"), blocks, audits)
        for uid, (blocks, audits, _) in ranked
    ]
    return [hit for hit in named if hit.rule != OTHER]


class Other:
    """The hits of all rules without a series of their own, as counters that never go back.

    A rule that comes among the first takes its hits with it, so what is left over would shrink,
    and Prometheus would take it for a restart. It stands still instead until it has caught up.
    """

    def __init__(self) -> None:
        self._told = (0, 0)
        self._total = (0, 0)

    def complete(self, top: list[RuleHits], blocks: int, audits: int) -> tuple[RuleHits, ...]:
        """Return ``top`` and OTHER; ``blocks`` and ``audits`` are those of all rules."""
        if blocks < self._total[0] or audits < self._total[1]:
            self._told = (0, 0)  # the kernel's counters themselves began anew
        self._total = (blocks, audits)
        left = (blocks - sum(h.blocks for h in top), audits - sum(h.audits for h in top))
        self._told = (max(left[0], self._told[0], 0), max(left[1], self._told[1], 0))
        return (*top, RuleHits(OTHER, *self._told))


class RuleLabels:
    """Names of rules: a rule's number is made of its id, so a name that was found stays true.

    Args:
        paths: Where policies are kept.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._names: dict[int, str] = {}
        self._policy: dict[int, str] = {}
        self._bundle: bytes | None = None

    def names(self, uids: list[int], live: Live) -> Mapping[int, str]:
        """Return the names of those that have one; a policy is parsed once, at the first need."""
        unknown = [uid for uid in uids if uid not in self._names]
        if unknown:
            self._read(unknown, live)
        return self._names

    def _read(self, unknown: list[int], live: Live) -> None:
        if len(self._names) > _NAMES_KEPT:
            self._names.clear()
        if live.info().bundle != self._bundle:
            self._bundle = live.info().bundle
            policy = Names(live, self._paths).policy()
            self._policy = {uid_of(rule.id): rule.id for rule in policy.rules} if policy else {}
        self._names.update({uid: self._policy[uid] for uid in unknown if uid in self._policy})
        self._names.update(by_hand([uid for uid in unknown if uid not in self._policy], live))


def by_hand(uids: list[int], live: Live) -> dict[int, str]:
    """Return the ids of those of the rules that were made by hand."""
    inner = live.inner("manual_rules") if uids else None
    if inner is None:
        return {}
    with inner:
        found = {uid: inner.get(uid.to_bytes(8, "little")) for uid in uids}
    return {uid: manual.id_of(ManualRule.unpack(raw)) for uid, raw in found.items() if raw}


def read_once(paths: Paths) -> Reading:
    """Return what one scrape finds, for a command that ends then."""
    with Scraper(paths) as scraper:
        return scraper.read()
