"""Map keys and values: what is shown can be read back."""

from __future__ import annotations

import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.control import codec
from aegis_tools.kernel.layout import (
    CIDR_V4_KEY,
    FILE_ENTRY,
    INODE_KEY,
    IP_PORT_V6_KEY,
    NAME_KEY,
    NET_ENTRY,
    PATH_KEY,
    PORT_KEY,
    RULE_ATTR,
)

u64 = st.integers(0, 2**64 - 1)
u32 = st.integers(0, 2**32 - 1)
names = st.binary(min_size=1, max_size=255).filter(lambda raw: b"\0" not in raw)
v4 = st.integers(0, 2**32 - 1).map(lambda n: n.to_bytes(4, "big"))
# A mapped IPv4 address is written as IPv4, whose map is another.
v6 = (
    st.integers(0, 2**128 - 1)
    .map(lambda n: n.to_bytes(16, "big"))
    .filter(lambda raw: ipaddress.IPv6Address(raw).ipv4_mapped is None)
)
ports = st.integers(1, 65535)
protocols = st.sampled_from([0, 6, 17])


def name_key(ino: int, dev: int, raw: bytes) -> bytes:
    return NAME_KEY.pack(ino, dev, len(raw), raw)


def network(address: bytes, length: int) -> bytes:
    whole = ipaddress.ip_network((address, length), strict=False)
    return CIDR_V4_KEY.pack(length, whole.network_address.packed)


keys = st.one_of(
    st.tuples(st.just("rules"), st.binary(min_size=8, max_size=8)),
    st.tuples(st.just("allow_cgroup_map"), st.binary(min_size=8, max_size=8)),
    st.tuples(st.just("deny_inode_map"), st.builds(INODE_KEY.pack, u64, u32, st.just(0))),
    st.tuples(st.just("deny_path_map"), st.builds(name_key, u64, u32, names)),
    st.tuples(st.just("audit_path_map"), names.map(PATH_KEY.pack)),
    st.tuples(st.just("deny_ipv4_map"), v4),
    st.tuples(st.just("deny_ipv6_map"), v6),
    st.tuples(st.just("deny_cidr_v4_map"), st.builds(network, v4, st.integers(0, 32))),
    st.tuples(st.just("deny_port_map"), st.builds(PORT_KEY.pack, ports, protocols)),
    st.tuples(st.just("deny_ip_port_v6_map"), st.builds(IP_PORT_V6_KEY.pack, v6, ports, protocols)),
    st.tuples(st.just("config"), st.integers(0, 5).map(lambda n: n.to_bytes(4, "little"))),
    st.tuples(st.just("strange"), st.binary(max_size=20)),
)
values = st.one_of(
    st.tuples(
        st.just("deny_dir_map"),
        st.builds(
            FILE_ENTRY.pack, u64, u64, u64, u64, u32, st.integers(0, 65535), st.integers(0, 3)
        ),
    ),
    st.tuples(st.just("deny_port_map"), st.builds(NET_ENTRY.pack, u64, u64)),
    st.tuples(
        st.just("rules"),
        st.builds(RULE_ATTR.pack, st.integers(0, 1), st.sampled_from([0, 2, 9, 15])),
    ),
    st.tuples(st.just("config"), st.binary(min_size=8, max_size=8)),
    st.tuples(st.just("survival_allowlist"), st.binary(min_size=4, max_size=4)),
    st.tuples(st.just("strange"), st.binary(min_size=1, max_size=20).filter(
        lambda raw: len(raw) not in (4, 8))),
)  # fmt: skip


@given(keys)
def test_a_key_that_is_shown_is_read_back(case: tuple[str, bytes]) -> None:
    name, key = case
    shown = json.loads(json.dumps(codec.decode_key(name, key)))
    assert codec.encode_key(name, shown) == key


@given(values)
def test_a_value_that_is_shown_is_read_back(case: tuple[str, bytes]) -> None:
    name, value = case
    shown = json.loads(json.dumps(codec.decode_value(name, value)))
    assert codec.encode_value(name, shown) == value


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["dev", "ino", "name", "hex", "uid", "ip", "port", "read", "mode"]),
        inner, max_size=3,
    ),
    max_leaves=6,
)  # fmt: skip


@given(st.sampled_from([*codec.KEYS, "deny_ipv4_map", "deny_port_map"]), json_values)
def test_nonsense_is_refused_in_a_way_the_command_expects(name: str, value: object) -> None:
    for encode in (codec.encode_key, codec.encode_value):
        try:
            assert isinstance(encode(name, value), bytes)
        except codec.MISMATCHES:
            continue


def test_a_key_of_another_map_is_refused() -> None:
    with pytest.raises(ValueError, match="belongs to deny_ipv6_map"):
        codec.encode_key("deny_ipv4_map", {"ip": "::1"})
