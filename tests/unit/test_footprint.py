"""Memory by formula: what can be known without a kernel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.control.footprint import (
    HITS,
    Sizes,
    entries_of_counts,
    entries_of_rules,
    estimate,
    hash_memory,
    ring_memory,
    round8,
    slab,
    trie_memory,
)
from aegis_tools.kernel.accounting import Kernel
from aegis_tools.kernel.layout import SPECS
from aegis_tools.policy.load import require_policy

NEW, OLD = Kernel((6, 12), 2), Kernel((5, 10), 2)


def test_a_map_of_no_entries_takes_its_buckets() -> None:
    spec = SPECS["deny_inode_map"]
    assert hash_memory(spec, 0, 65536, NEW).counted == 65536 * 16 + 896
    assert hash_memory(spec, 0, 65537, NEW).counted == 131072 * 16 + 896
    assert hash_memory(spec, 0, 1, NEW).counted == 16 + 896


# What machines of the matrix said: memlock, and the growth of unreclaimable slabs and vmalloc.
@pytest.mark.parametrize(
    ("version", "name", "memlock", "taken"),
    [
        ((5, 10), "rules", 5246976, 2265088),
        ((5, 10), "deny_path_map", 24645632, 11141120),
        ((5, 10), "deny_cidr_v4_map", 3936256, 2433024),
        ((5, 10), "deny_cidr_v6_map", 4722688, 3211264),
        ((6, 1), "rules", 1048576, 2916352),
        ((6, 1), "manual_rules", 67633152, 41844736),
        ((6, 1), "deny_inode_map", 3670016, 3620864),
        ((6, 1), "deny_cidr_v4_map", 1572864, 2527232),
        ((6, 12), "rule_hits", 2809536, 2908160),
        ((6, 12), "deny_cidr_v4_map", 1200000, 2519040),
        ((7, 2), "rules", 2489472, 2904064),
        ((7, 2), "manual_rules", 22809472, 40042496),
        ((7, 2), "deny_cidr_v4_map", 880000, 2437120),
    ],
)
def test_20000_entries_take_what_they_took(
    version: tuple[int, int], name: str, memlock: int, taken: int
) -> None:
    spec = {**SPECS, HITS.name: HITS}[name]
    memory = (trie_memory if spec.lpm else hash_memory)(spec, 20000, 65536, Kernel(version, 2))
    assert memory.counted == pytest.approx(memlock, rel=0.005)
    assert memory.bytes == pytest.approx(taken, rel=0.055)


@pytest.mark.parametrize(
    ("version", "counted"), [((5, 10), 278528), ((6, 1), 0), ((6, 12), 275736), ((7, 2), 275776)]
)
def test_a_ring_is_counted_as_it_was(version: tuple[int, int], counted: int) -> None:
    assert ring_memory(262144, Kernel(version, 2)).counted == pytest.approx(counted, rel=0.001)


def test_memory_charged_to_a_cgroup_has_a_pointer_beside_each_object() -> None:
    spec = SPECS["deny_inode_map"]
    free, charged = (hash_memory(spec, 1000, 1024, NEW._replace(charged=c)) for c in (False, True))
    assert charged.bytes - free.bytes == 8000
    assert charged.counted == free.counted


@pytest.mark.parametrize(("size", "room"), [(1, 16), (96, 96), (97, 128), (129, 192), (9000, 9000)])
def test_objects_come_from_slabs(size: int, room: int) -> None:
    assert slab(size) == room


def test_the_seed_s_example_is_estimated() -> None:
    entries = entries_of_counts(inodes=10000, paths=5000, ips=1000, cidrs=500, ports=100)
    found = estimate(entries, Sizes(524288), NEW)
    by_name = {memory.name: memory for memory in found.maps}
    assert by_name["events"].bytes > 524288
    assert by_name["deny_inode_map"].entries == 15000
    assert found.total == sum(memory.bytes for memory in found.maps)
    assert found.total < found.peak < 2 * found.total


def test_an_empty_policy_takes_the_shared_maps_only() -> None:
    found = estimate({}, Sizes(4096), OLD)
    assert {memory.name for memory in found.maps if memory.bytes} == {
        "rule_hits", "survival_allowlist", "block_stats", "events", "config", "slot_info",
        "capacities", "slots",
    }  # fmt: skip
    assert found.peak == found.total


@given(st.integers(0, 100000), st.integers(0, 100000), st.integers(1, 1 << 20))
def test_more_entries_never_take_less(fewer: int, more: int, capacity: int) -> None:
    low, high = sorted((fewer, more))
    spec = SPECS["deny_path_map"]
    assert (
        hash_memory(spec, low, capacity, NEW).bytes <= hash_memory(spec, high, capacity, NEW).bytes
    )


@given(st.integers(0, 1 << 20))
def test_rounding_is_up_and_by_less_than_eight(size: int) -> None:
    assert size <= round8(size) < size + 8
    assert round8(size) % 8 == 0


def test_a_policy_s_directories_are_counted_once() -> None:
    policy, _ = require_policy(
        b"version=1\n[deny_path]\n/etc/a\n/etc/b\n/srv/c\n[deny_inode]\n1:2\n"
        b"[deny_ip]\n10.0.0.1\n2001:db8::1\n[deny_cidr]\n10.0.0.0/8\n2001:db8::/32\n"
        b"[deny_port]\n22:tcp\n[deny_ip_port]\n10.0.0.1:443:tcp\n[2001:db8::1]:443:tcp\n",
        "p.conf",
    )
    found = entries_of_rules(policy.rules)
    assert {name: count for name, count in found.items() if count} == {
        "rules": 11,
        "deny_inode_map": 4,
        "deny_path_map": 3,
        "deny_dir_map": 2,
        "deny_ipv4_map": 1,
        "deny_ipv6_map": 1,
        "deny_cidr_v4_map": 1,
        "deny_cidr_v6_map": 1,
        "deny_port_map": 1,
        "deny_ip_port_v4_map": 1,
        "deny_ip_port_v6_map": 1,
    }
    assert entries_of_rules(policy.rules, fallback=True)["audit_path_map"] == 3
