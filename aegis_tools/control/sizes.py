"""How large the event ring and the maps have to be: pure formulas, the same for everything.

The ring holds what comes while nobody reads it: events a second, times the bytes that one takes,
times those seconds, rounded up to a power of two, which the kernel asks for.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from aegis_tools.control.footprint import PAGE
from aegis_tools.control.stats import MapUse
from aegis_tools.kernel.layout import EVENT, FILE_EVENT_SIZE, POLICY_MAPS
from aegis_tools.kernel.ringbuf import taken

FILE_RECORD = taken(FILE_EVENT_SIZE)
NET_RECORD = taken(EVENT.size)
"""Bytes of the ring that an event takes, of a file and of the network."""
PAUSE = 2
"""Seconds for which nobody may read: a look at everything, a slow disk, a restart."""
RING_MOST = 64 << 20
AGENT_CPU = 0.5
"""Share of one CPU that is too much for the agent."""
TIGHT = 0.8
"""Share of a map from which on it is too full."""
DAYS = 30
"""For which the growth of a map is foreseen."""
MOST_ENTRIES = 1 << 24
HITS = "rule_hits"
OPTIONS = {
    "--max-rules": ("rules",),
    "--max-deny-inodes": ("deny_inode_map",),
    "--max-deny-paths": ("deny_path_map", "audit_path_map"),
    "--max-deny-dirs": ("deny_dir_map",),
    "--max-deny-ports": ("deny_port_map",),
    "--max-allow-cgroups": ("allow_cgroup_map",),
    "--max-manual-rules": ("manual_rules",),
    "--max-network-entries": (
        "deny_ipv4_map",
        "deny_ipv6_map",
        "deny_cidr_v4_map",
        "deny_cidr_v6_map",
        "deny_ip_port_v4_map",
        "deny_ip_port_v6_map",
    ),
}
"""Options of ``load``, and the maps that each gives a size."""
SIZED = {HITS, *(spec.name for spec in POLICY_MAPS)}
"""Maps whose size can be chosen."""


def ring_size(needed: float, *, present: int = PAGE, most: int = RING_MOST) -> int:
    """Return the smallest ring that has so many bytes: a power of two.

    Args:
        needed: Bytes.
        present: Never less than this, a power of two.
        most: Never more than this, a power of two, unless ``present`` is.
    """
    enough = math.ceil(min(max(needed, PAGE), most))
    return max(min(1 << (enough - 1).bit_length(), most), present)


def events_in(ring_bytes: int, record: int = FILE_RECORD) -> int:
    """Return how many events a ring holds; its last byte stays free (kernel/bpf/ringbuf.c)."""
    return (ring_bytes - 1) // record


def option_of(name: str) -> str:
    """Return the option of ``load`` that gives a policy map its size."""
    return next(option for option, names in OPTIONS.items() if name in names)


def full(uses: Iterable[MapUse], at: float) -> list[MapUse]:
    """Return the maps that are as full as ``at`` and can be made larger, the fullest first."""
    found = [use for use in uses if use.name in SIZED and use.entries and use.share >= at]
    return sorted(found, key=lambda use: (-use.share, use.name))


def enough(uses: Collection[MapUse], wanted: Mapping[str, int], at: float) -> dict[str, int]:
    """Return the sizes of maps that are too small, so that each is half full afterwards at most.

    Args:
        uses: How full the maps are.
        wanted: Entries that are to fit, by map; maps that are missing need what they have.
        at: From this share on a map is too full.
    """
    capacities = {use.name: use.capacity for use in uses}
    found: dict[str, int] = {}
    for use in uses:
        entries = max(use.entries, wanted.get(use.name, 0))
        if use.name not in SIZED or not entries or entries < at * use.capacity:
            continue
        name, size = use.name, 1 << (2 * entries - 1).bit_length()
        if name == HITS:  # it has room for as many as there may be rules
            name, size = "rules", max(size, 2 * capacities.get("rules", 0))
        found[name] = min(max(size, found.get(name, 0)), MOST_ENTRIES)
    return {name: size for name, size in found.items() if size > capacities.get(name, 0)}
