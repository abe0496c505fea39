"""Valid policies of every shape, for property tests."""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import strategies as st

from aegis_tools.policy import targets
from aegis_tools.policy.model import MAX_DEPTH, Kind, Mode, Op, Policy, Rule, Signal

names = st.one_of(
    st.sampled_from(
        ["etc", "a b", " a", "a ", "x#y", "#", " #c", "ü", "日本", "a\tb", "\x01", "-", "no"]
    ),
    st.text(
        st.characters(exclude_characters="/\0\n\r", exclude_categories=["Cs"]),
        min_size=1,
        max_size=12,
    ),
).filter(lambda name: name not in {".", ".."})
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
directories = paths.map(lambda path: path + "/") | st.just("/")
inodes = st.builds(
    "{}:{}".format, st.integers(0, (1 << 32) - 1), st.integers(1, (1 << 64) - 1)
) | st.sampled_from(["271:12", "1:2"])
ips = st.ip_addresses().map(lambda ip: targets.ip(str(ip)))
protocols = st.sampled_from(["tcp", "udp", "any"])
port_numbers = st.sampled_from([22, 443]) | st.integers(1, 65535)
ports = st.builds("{}:{}".format, port_numbers, protocols)


def _network(ip: str, length: int) -> str:
    address = ipaddress.ip_address(ip)
    network = ipaddress.ip_network((address, min(length, address.max_prefixlen)), strict=False)
    return targets.cidr(str(network))


cidrs = st.builds(_network, ips, st.integers(0, 128))
ip_ports = st.builds(lambda ip, port: f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}", ips, ports)
TARGETS = {
    Kind.PATH: paths,
    Kind.DIRECTORY: directories,
    Kind.INODE: inodes,
    Kind.IP: ips,
    Kind.CIDR: cidrs,
    Kind.PORT: ports,
    Kind.IP_PORT: ip_ports,
}
kinds = st.sampled_from(list(Kind))
cgroups = st.lists(
    paths.filter(lambda path: path[-1] not in " \t") | st.just("cgid:42"), unique=True
)
free_text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).map(
    lambda text: text.replace("\u2028", "").replace("\u2029", "").replace("\ufeff", "")
) | st.sampled_from(["", "no", "~", "null", "12", "a: b", "- x", "two\nlines\n", "#", "'", '"\\'])
ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,20}", fullmatch=True)


@st.composite
def rules(draw: Any) -> Rule:
    """A rule by itself; its id may be empty, for the implied one."""
    kind = draw(kinds)
    allowed = list(targets.operation_names(targets.allowed_operations(kind)))
    words = draw(st.sets(st.sampled_from(allowed), min_size=1))
    operations = Op(sum(Op[word.upper()] for word in words))
    return Rule(
        id=draw(st.just("") | ids),
        kind=kind,
        target=draw(TARGETS[kind]),
        operations=draw(st.sampled_from([operations, targets.default_operations(kind)])),
        mode=draw(st.sampled_from(Mode)),
        signal=draw(st.sampled_from(Signal)),
        depth=draw(st.integers(1, MAX_DEPTH)) if kind is Kind.DIRECTORY else 0,
        owner=draw(free_text),
        reason=draw(free_text),
        expires=draw(st.just(0) | st.integers(1, 253402300799)),
    )


@st.composite
def plain_rules(draw: Any) -> Rule:
    """A rule that the line format can say."""
    kind = draw(kinds)
    operations = targets.default_operations(kind)
    if kind is Kind.PORT:
        operations = draw(st.sampled_from([Op.EGRESS, Op.BIND, Op.EGRESS | Op.BIND]))
    target = draw(TARGETS[kind].filter(lambda target: target[-1] not in " \t"))
    depth = MAX_DEPTH if kind is Kind.DIRECTORY else 0
    return Rule("", kind, target, operations, depth=depth)


def _joined(drafts: list[Rule], allowed: list[str], version: int) -> Policy:
    kept: dict[str, Rule] = {}
    denied: dict[tuple[Kind, str], Op] = {}
    for draft in drafts:
        key = (draft.kind, draft.target)
        name = draft.id or targets.implied_id(*key, draft.operations, kept)
        if name not in kept and not denied.get(key, Op(0)) & draft.operations:
            kept[name] = draft._replace(id=name)
            denied[key] = denied.get(key, Op(0)) | draft.operations
    return Policy(tuple(kept.values()), tuple(allowed), version)


versions = st.integers(1, 6)
policies = st.builds(_joined, st.lists(rules(), max_size=6), cgroups, versions)
plain_policies = st.builds(_joined, st.lists(plain_rules(), max_size=8), cgroups, versions)


def without_lines(policy: Policy | None) -> Policy | None:
    """The policy as it compares: where a rule stood in its file does not count."""
    return policy and policy._replace(rules=tuple(rule._replace(line=0) for rule in policy.rules))
