"""Memory by formula: what can be known without a kernel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.control.footprint import (
    entries_of_counts,
    entries_of_rules,
    estimate,
    hash_memory,
    round8,
    slab,
)
from aegis_tools.kernel.layout import SPECS
from aegis_tools.policy.load import require_policy


def test_a_map_of_no_entries_takes_its_buckets() -> None:
    spec = SPECS["deny_inode_map"]
    assert hash_memory(spec, 0, 65536).counted == 65536 * 16
    assert hash_memory(spec, 0, 65537).counted == 131072 * 16
    assert hash_memory(spec, 0, 1).counted == 16


@pytest.mark.parametrize(("size", "room"), [(1, 16), (96, 96), (97, 128), (129, 192), (9000, 9000)])
def test_objects_come_from_slabs(size: int, room: int) -> None:
    assert slab(size) == room


def test_the_seed_s_example_is_estimated() -> None:
    entries = entries_of_counts(inodes=10000, paths=5000, ips=1000, cidrs=500, ports=100)
    found = estimate(entries, ringbuf_bytes=524288, cpus=2)
    by_name = {memory.name: memory for memory in found.maps}
    assert by_name["events"].bytes > 524288
    assert by_name["deny_inode_map"].entries == 15000
    assert found.total == sum(memory.bytes for memory in found.maps)
    assert found.total < found.peak < 2 * found.total


def test_an_empty_policy_takes_the_shared_maps_only() -> None:
    found = estimate({}, ringbuf_bytes=4096, cpus=1)
    assert {memory.name for memory in found.maps if memory.bytes} == {
        "rule_hits", "survival_allowlist", "block_stats", "events",
    }  # fmt: skip
    assert found.peak == found.total


@given(st.integers(0, 100000), st.integers(0, 100000), st.integers(1, 1 << 20))
def test_more_entries_never_take_less(fewer: int, more: int, capacity: int) -> None:
    low, high = sorted((fewer, more))
    spec = SPECS["deny_path_map"]
    assert hash_memory(spec, low, capacity).bytes <= hash_memory(spec, high, capacity).bytes


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
