"""Kernel memory that the maps take: formulas, checked on every kernel of the matrix by tests.

Sources: kernel/bpf/hashtab.c (htab_map_mem_usage; htab_map_alloc up to 5.10), lpm_trie.c
(trie_mem_usage, lpm_trie_node_alloc), arraymap.c, ringbuf.c, memalloc.c, and
bpf_map_memory_footprint in syscall.c (5.11 to 6.3); struct sizes on 64 bits.

    hash, not preallocated   roundup_pow2(max_entries) buckets of 16 bytes, and by entry
                             48 + round8(key) + round8(value), and 8 from 6.1 on (memalloc)
    LPM trie                 40 + (key - 4) + value by node, 24 instead of 40 from 6.13 on; and
                             inner nodes, one less than entries, up to 6.12 without the value
    array                    312 + round8(value) by element
    per-CPU array            312 + (round8(value) by CPU, and a pointer) by element
    ring                     its bytes and 3 pages, and a pointer to every page (data twice)

``counted`` is what the running kernel reports (memlock in fdinfo), ``bytes`` what its
allocators take: objects come from slabs of fixed sizes, which do not fill their pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from aegis_tools.kernel.accounting import BY_CGROUP, Kernel
from aegis_tools.kernel.layout import (
    CONFIG_VALUE,
    POLICY_MAPS,
    SLOT_INFO,
    SLOTS,
    SPECS,
    Config,
    MapSpec,
    Stat,
)
from aegis_tools.policy.model import Kind, Rule

PAGE = 4096
POINTER = 8
BUCKET = 16
HASH_HEADER = 48
HASH_STRUCT = 896
ARRAY_STRUCT = 312
RING_STRUCT = 304
TRIE_STRUCT = 256
MEMALLOC = (6, 1)
TRIE_MEMALLOC = (6, 13)
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


class Sizes(NamedTuple):
    """What is fixed at load.

    Attributes:
        ringbuf_bytes: Size of the ring.
        capacities: max_entries by policy map, where not the default.
        max_hits: max_entries of rule_hits.
    """

    ringbuf_bytes: int
    capacities: Mapping[str, int] = {}
    max_hits: int = HITS.capacity


def round8(size: int) -> int:
    """Return the next multiple of 8."""
    return (size + 7) & ~7


def pages(size: int) -> int:
    """Return the next multiple of a page."""
    return (size + PAGE - 1) & -PAGE


def slab(size: int) -> int:
    """Return the size of the slab objects that one of this size comes from."""
    return next((room for room in SLABS if room >= size), size)


def objects(size: int, count: int, kernel: Kernel) -> int:
    """Return what so many objects take: whole pages of slabs, and a pointer to the cgroup each."""
    room = slab(size)
    taken = -(-count // (PAGE // room)) * PAGE if room <= PAGE else count * pages(room)
    return taken + (count * POINTER if kernel.charged else 0)


def counted_full(spec: MapSpec, capacity: int, kernel: Kernel) -> int:
    """Return what kernels before 6.4 count for a policy map: what it would take when full."""
    if kernel.version >= BY_CGROUP:
        return pages(capacity * round8(spec.key_size + spec.value_size))
    if spec.lpm:
        return pages(capacity * _node(spec, kernel) + TRIE_STRUCT)
    element = HASH_HEADER + round8(spec.key_size) + round8(spec.value_size)
    return pages(buckets(capacity) + element * capacity + HASH_STRUCT)


def buckets(capacity: int) -> int:
    """Return the bytes of a hash's table."""
    return BUCKET * (1 << max(capacity - 1, 0).bit_length())


def hash_memory(spec: MapSpec, entries: int, capacity: int, kernel: Kernel) -> MapMemory:
    """Return what a hash without preallocation takes."""
    table, element = buckets(capacity), HASH_HEADER + round8(spec.key_size)
    element += round8(spec.value_size) + (POINTER if kernel.version >= MEMALLOC else 0)
    counted = table + HASH_STRUCT + element * entries
    if not kernel.tells_use:
        counted = counted_full(spec, capacity, kernel)
    taken = pages(table) + HASH_STRUCT + objects(element, entries, kernel)
    return MapMemory(spec.name, entries, capacity, counted, taken)


def trie_memory(spec: MapSpec, entries: int, capacity: int, kernel: Kernel) -> MapMemory:
    """Return what an LPM trie takes, with one inner node less than entries: the most."""
    node = _node(spec, kernel)
    counted = node * entries if kernel.tells_use else counted_full(spec, capacity, kernel)
    inner = max(entries - 1, 0)
    if kernel.version >= TRIE_MEMALLOC:
        taken = objects(node + POINTER, entries + inner, kernel)
    else:
        taken = objects(node, entries, kernel) + objects(node - spec.value_size, inner, kernel)
    return MapMemory(spec.name, entries, capacity, counted, taken)


def _node(spec: MapSpec, kernel: Kernel) -> int:
    header = 24 if kernel.version >= TRIE_MEMALLOC else 40
    return header + spec.key_size - 4 + spec.value_size


def policy_memory(spec: MapSpec, entries: int, capacity: int, kernel: Kernel) -> MapMemory:
    """Return what one slot's inner map takes."""
    if not entries:
        return MapMemory(spec.name, 0, capacity, 0, 0)
    return (trie_memory if spec.lpm else hash_memory)(spec, entries, capacity, kernel)


def ring_memory(size: int, kernel: Kernel) -> MapMemory:
    """Return what the event ring takes."""
    data = size // PAGE
    taken = (3 + data) * PAGE + (3 + 2 * data) * POINTER + RING_STRUCT
    counted = taken
    if not kernel.tells_use:  # 5.11 to 6.3 go by key and value, which a ring has not
        counted = 0 if kernel.version >= BY_CGROUP else pages(size + 3 * PAGE + RING_STRUCT)
    return MapMemory("events", 0, size, counted, taken)


def array_memory(name: str, value: int, entries: int, kernel: Kernel, cpus: int = 0) -> MapMemory:
    """Return what an array takes; one with ``cpus`` has a value for each."""
    each = (round8(value) * cpus + POINTER) if cpus else round8(value)
    taken = counted = ARRAY_STRUCT + each * entries
    if not kernel.tells_use:
        whole = round8(4 + (round8(value) * cpus if cpus else value)) * entries
        counted = pages(whole if kernel.version >= BY_CGROUP else taken)
    return MapMemory(name, entries, entries, counted, taken)


def shared_memory(sizes: Sizes, hits: int, survival: int, kernel: Kernel) -> list[MapMemory]:
    """Return what the maps take that are there whatever the policy is."""
    outer = array_memory("slots", 4, SLOTS, kernel)
    many = len(POLICY_MAPS)
    return [
        hash_memory(HITS, min(hits, sizes.max_hits), sizes.max_hits, kernel),
        hash_memory(SURVIVAL, survival, SURVIVAL.capacity, kernel),
        ring_memory(sizes.ringbuf_bytes, kernel),
        array_memory("block_stats", 8, len(Stat), kernel, kernel.cpus),
        array_memory("config", CONFIG_VALUE.size, len(Config), kernel),
        array_memory("slot_info", SLOT_INFO.size, SLOTS, kernel),
        array_memory("capacities", 4, 16, kernel),
        outer._replace(counted=outer.counted * many, bytes=outer.bytes * many),
    ]


def slot_memory(
    entries: Mapping[str, int], capacities: Mapping[str, int], kernel: Kernel
) -> list[MapMemory]:
    """Return what one slot's maps take with these entries."""
    return [
        policy_memory(
            spec, entries.get(spec.name, 0), capacities.get(spec.name, spec.capacity), kernel
        )
        for spec in POLICY_MAPS
    ]


def estimate(
    entries: Mapping[str, int], sizes: Sizes, kernel: Kernel, *, survival: int = 0
) -> Footprint:
    """Return the memory of maps with these entries, once every rule has been hit.

    Args:
        entries: By policy map; others are empty.
        sizes: What is fixed at load.
        kernel: Which kernel.
        survival: Files on the survival list.
    """
    slot = slot_memory(entries, sizes.capacities, kernel)
    shared = shared_memory(sizes, entries.get("rules", 0), survival, kernel)
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
