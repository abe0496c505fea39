"""Maps as Python sees them: what goes in comes out, in bulk or one by one."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aegis_tools.errors import KernelError
from aegis_tools.kernel import syscall
from aegis_tools.kernel.layout import POLICY_MAPS, SPECS, MapSpec
from aegis_tools.kernel.maps import Map, possible_cpus

MAP_TYPE_DEVMAP_HASH = 25
LOOPBACK = (1).to_bytes(4, "little")
"""Interface index: what a devmap holds must exist."""


def new_map(spec: MapSpec, entries: int) -> Map:
    return Map(syscall.map_create(spec.type, spec.key_size, spec.value_size, entries, spec.name))


def unbatched_map(entries: int) -> Map:
    """Return a map of a type that has no batch calls, from 4 bytes to LOOPBACK."""
    attr = struct.pack("IIIII", MAP_TYPE_DEVMAP_HASH, 4, 4, entries, 0)
    return Map(syscall.bpf(syscall.MAP_CREATE, attr))


def entries_of(spec: MapSpec, count: int) -> dict[bytes, bytes]:
    """Return entries whose keys are all different; those of tries are single addresses."""
    if not spec.lpm:
        return {
            i.to_bytes(spec.key_size, "little"): i.to_bytes(spec.value_size, "little")
            for i in range(count)
        }
    size = spec.key_size - 4
    length = (size * 8).to_bytes(4, "little")
    return {
        length + i.to_bytes(size, "big"): i.to_bytes(spec.value_size, "little")
        for i in range(count)
    }


@pytest.mark.parametrize("spec", POLICY_MAPS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("count", [0, 1, 300])
def test_every_policy_map_gives_back_what_it_was_given(spec: MapSpec, count: int) -> None:
    wanted = entries_of(spec, count)
    with new_map(spec, 300) as opened:
        opened.fill(wanted)
        assert dict(opened.items()) == wanted
        assert opened.count() == count


@pytest.mark.parametrize("name", ["deny_inode_map", "deny_cidr_v4_map"])
def test_more_entries_than_one_call_takes(name: str) -> None:
    wanted = entries_of(SPECS[name], 20_000)
    with new_map(SPECS[name], 20_000) as opened:
        opened.fill(wanted)
        assert opened.count() == 20_000
        assert dict(opened.items()) == wanted


def test_a_map_without_batch_calls_works_the_same() -> None:
    wanted = {i.to_bytes(4, "little"): LOOPBACK for i in range(300)}
    with unbatched_map(512) as opened:
        with pytest.raises(OSError, match="524"):
            syscall.update_batch(opened.fd, bytes(4), LOOPBACK, 1)
        opened.fill(wanted)
        assert dict(opened.items()) == wanted
        assert opened.count() == 300


@pytest.mark.parametrize("name", ["deny_inode_map", "deny_ipv4_map", "deny_cidr_v6_map", "rules"])
def test_a_full_map_is_told_of_with_its_size(name: str) -> None:
    with new_map(SPECS[name], 16) as opened:
        with pytest.raises(KernelError, match="full") as caught:
            opened.fill(entries_of(SPECS[name], 17))
        assert caught.value.data == {"capacity": 16}
        assert opened.count() == 16


def test_a_full_map_takes_no_single_entry_either() -> None:
    spec = SPECS["deny_inode_map"]
    entries = entries_of(spec, 5)
    with new_map(spec, 4) as opened:
        *fitting, last = entries.items()
        for key, value in fitting:
            opened.set(key, value)
        with pytest.raises(KernelError, match="full"):
            opened.set(*last)
        opened.set(*fitting[0])


def test_a_refused_key_is_an_error_of_ours() -> None:
    with (
        new_map(SPECS["deny_cidr_v4_map"], 4) as opened,
        pytest.raises(KernelError, match="refused") as caught,
    ):
        opened.set((99).to_bytes(4, "little") + bytes(4), bytes(16))  # 99 bits of 32
    assert caught.value.detail


def test_what_is_not_there_is_none() -> None:
    with new_map(SPECS["rules"], 4) as opened:
        assert opened.get(bytes(8)) is None
        assert opened.delete(bytes(8)) is False
        opened.set(bytes(8), bytes(8))
        assert opened.delete(bytes(8)) is True
        assert list(opened.items()) == []


def test_a_closed_map_stays_closed() -> None:
    opened = new_map(SPECS["rules"], 4)
    opened.close()
    opened.close()
    assert opened.fd == -1


def test_a_host_has_at_least_one_cpu() -> None:
    assert possible_cpus() >= 1


@pytest.fixture(scope="module")
def rules_map() -> Iterator[Map]:
    with new_map(SPECS["rules"], 4096) as opened:
        yield opened


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.binary(min_size=8, max_size=8), st.binary(min_size=8, max_size=8)))
def test_any_entries_come_back(rules_map: Map, wanted: dict[bytes, bytes]) -> None:
    rules_map.fill(wanted)
    assert dict(rules_map.items()) == wanted
    assert rules_map.count() == len(wanted)
    assert all(rules_map.get(key) == value for key, value in wanted.items())
    assert all(rules_map.delete(key) for key in wanted)
    assert rules_map.count() == 0


prefixes = st.tuples(st.integers(0, 32), st.integers(0, 2**32 - 1)).map(
    lambda pair: (
        pair[0].to_bytes(4, "little")
        + (pair[1] & ((1 << 32) - (1 << (32 - pair[0])))).to_bytes(4, "big")
    )
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(prefixes, st.binary(min_size=16, max_size=16), max_size=80))
def test_any_prefixes_come_back(wanted: dict[bytes, bytes]) -> None:
    with new_map(SPECS["deny_cidr_v4_map"], 128) as opened:
        opened.fill(wanted)
        assert dict(opened.items()) == wanted
        assert opened.count() == len(wanted)
