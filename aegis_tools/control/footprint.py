"""Kernel memory that the maps take: a formula, checked against the kernel's own count by a test.

Sources: kernel/bpf/hashtab.c (htab_map_mem_usage), lpm_trie.c (trie_mem_usage), arraymap.c,
ringbuf.c (ringbuf_map_mem_usage), memalloc.c; struct sizes on 64 bits.

    hash, not preallocated   roundup_pow2(max_entries) buckets of 16 bytes, and by entry
                             48 + round8(key) + round8(value) + 8, from a slab of the next size
    LPM trie                 24 + (key - 4) + value + 8 by node; up to one inner node an entry
    per-CPU array            round8(value) by element and CPU, and a pointer
    ring                     its bytes, 3 pages, and a pointer to every page (data twice)

``counted`` is what the kernel reports (memlock in fdinfo); ``bytes`` what its allocators take.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from aegis_tools.kernel.layout import POLICY_MAPS, SPECS, MapSpec, Stat
from aegis_tools.policy.model import Kind, Rule

PAGE = 4096
POINTER = 8
BUCKET = 16
HASH_HEADER = 48
LPM_HEADER = 24
LINK = 8  # llist_node in front of what bpf_mem_alloc hands out
FIXED = 4096  # struct bpf_htab with its per-CPU lock counters, slot arrays, names: less than this
SLABS = (16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192)
HITS = MapSpec("rule_hits", 8, 24, 0, 65536)
SURVIVAL = MapSpec("survival_allowlist", 16, 4, 0, 8192)


class MapMemory(NamedTuple):
    """What one map takes.

    Attributes:
        name: The map.
        entries: In it.
        capacity: max_entries.
        counted: Bytes as the kernel counts them.
        bytes: Bytes that are taken from memory.
    """

    name: str
    entries: int
    capacity: int
    counted: int
    bytes: int


class Footprint(NamedTuple):
    """What everything takes.

    Attributes:
        maps: By map; a policy map without entries does not exist and takes nothing.
        total: Bytes.
        peak: Bytes while a policy of the same size is applied: both slots are filled.
    """

    maps: tuple[MapMemory, ...]
    total: int
    peak: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {
            "maps": [memory._asdict() for memory in self.maps],
            "total_bytes": self.total,
            "peak_bytes": self.peak,
        }


def round8(size: int) -> int:
    """Return the next multiple of 8."""
    return (size + 7) & ~7


def slab(size: int) -> int:
    """Return what the allocator takes for one object of this size."""
    return next((room for room in SLABS if room >= size), size)


def hash_memory(spec: MapSpec, entries: int, capacity: int) -> MapMemory:
    """Return what a hash without preallocation takes."""
    buckets = BUCKET * (1 << max(capacity - 1, 0).bit_length())
    element = HASH_HEADER + round8(spec.key_size) + round8(spec.value_size) + LINK
    return MapMemory(
        spec.name,
        entries,
        capacity,
        buckets + element * entries,
        buckets + slab(element) * entries + FIXED,
    )


def trie_memory(spec: MapSpec, entries: int, capacity: int) -> MapMemory:
    """Return what an LPM trie takes; inner nodes are assumed at their most."""
    node = LPM_HEADER + spec.key_size - 4 + spec.value_size
    nodes = max(2 * entries - 1, 0)
    return MapMemory(spec.name, entries, capacity, node * entries, slab(node + LINK) * nodes)


def policy_memory(spec: MapSpec, entries: int, capacity: int) -> MapMemory:
    """Return what one slot's inner map takes."""
    if not entries:
        return MapMemory(spec.name, 0, capacity, 0, 0)
    return (trie_memory if spec.lpm else hash_memory)(spec, entries, capacity)


def ring_memory(size: int) -> MapMemory:
    """Return what the event ring takes."""
    data = size // PAGE
    taken = (3 + data) * PAGE + (3 + 2 * data) * POINTER
    return MapMemory("events", 0, size, taken, taken)


def stats_memory(cpus: int) -> MapMemory:
    """Return what the per-CPU counters take."""
    taken = len(Stat) * (8 * cpus + 8)
    return MapMemory("block_stats", len(Stat), len(Stat), taken, taken)


def estimate(
    entries: Mapping[str, int],
    *,
    ringbuf_bytes: int,
    capacities: Mapping[str, int] | None = None,
    max_hits: int = HITS.capacity,
    cpus: int | None = None,
) -> Footprint:
    """Return the memory of maps with these entries.

    Args:
        entries: By policy map; others are empty.
        ringbuf_bytes: Size of the ring.
        capacities: max_entries by policy map, where not the default.
        max_hits: max_entries of rule_hits.
        cpus: Possible CPUs; this host's by default.
    """
    room = {**{spec.name: spec.capacity for spec in POLICY_MAPS}, **(capacities or {})}
    slot = [policy_memory(spec, entries.get(spec.name, 0), room[spec.name]) for spec in POLICY_MAPS]
    shared = [
        hash_memory(HITS, min(entries.get("rules", 0), max_hits), max_hits),
        hash_memory(SURVIVAL, 0, SURVIVAL.capacity),
        stats_memory(cpus or os.cpu_count() or 1),
        ring_memory(ringbuf_bytes),
    ]
    in_slot = sum(memory.bytes for memory in slot)
    total = in_slot + sum(memory.bytes for memory in shared)
    return Footprint((*slot, *shared), total, total + in_slot)


def entries_of_counts(
    *, inodes: int = 0, paths: int = 0, ips: int = 0, cidrs: int = 0, ports: int = 0, dirs: int = 0
) -> dict[str, int]:
    """Return the entries that so many rules of each kind need at most.

    A path takes its name, its inode, and its directory unless another path has the same.
    IPv6 takes as much as IPv4: both fall into the same slab.
    """
    return {
        "rules": inodes + paths + ips + cidrs + ports + dirs,
        "deny_inode_map": inodes + paths,
        "deny_path_map": paths,
        "deny_dir_map": paths + dirs,
        "deny_ipv4_map": ips,
        "deny_cidr_v4_map": cidrs,
        "deny_port_map": ports,
    }


def entries_of_rules(rules: Iterable[Rule], *, fallback: bool = False) -> dict[str, int]:
    """Return the entries that a policy needs, counting each directory once."""
    names = dict.fromkeys(SPECS, 0)
    parents: set[str] = set()
    for rule in rules:
        names["rules"] += 1
        if rule.kind is Kind.PATH:
            names["deny_inode_map"] += 1
            names["deny_path_map"] += 1
            names["audit_path_map"] += int(fallback)
            parents.add(rule.target.rpartition("/")[0])
        elif rule.kind is Kind.DIRECTORY:
            parents.add(rule.target.rstrip("/"))
        elif rule.kind is Kind.INODE:
            names["deny_inode_map"] += 1
        else:
            names[_network_map(rule)] += 1
    names["deny_dir_map"] = len(parents)
    return names


def _network_map(rule: Rule) -> str:
    if rule.kind is Kind.PORT:
        return "deny_port_map"
    version = "v6" if ":" in rule.target.rsplit(":", 2)[0] else "v4"
    if rule.kind is Kind.IP_PORT:
        return f"deny_ip_port_{version}_map"
    version = "v6" if ":" in rule.target else "v4"
    return f"deny_ip{version}_map" if rule.kind is Kind.IP else f"deny_cidr_{version}_map"
