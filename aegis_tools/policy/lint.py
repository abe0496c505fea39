"""What is probably not meant: found in the policy alone, without looking at the host.

Every finding is a warning, but for a rule that denies nothing. Whether a policy locks its
author out is proven at apply, on the host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from itertools import takewhile

from aegis_tools.policy import targets
from aegis_tools.policy.model import MAX_DEPTH, Kind, Mode, Policy, Problem, Rule, Signal
from aegis_tools.policy.source import visible

SYSTEM_FOLDERS = frozenset(
    [
        *("/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/proc", "/root"),
        *("/run", "/sbin", "/sys", "/tmp", "/usr", "/usr/bin", "/usr/lib"),  # noqa: S108
        *("/usr/lib64", "/usr/sbin", "/usr/share", "/var", "/var/lib", "/var/run"),
    ]
)
SYSTEM_FILES = frozenset(
    [
        *("/bin/sh", "/usr/bin/sh", "/bin/bash", "/usr/bin/bash", "/etc/ld.so.cache"),
        *("/dev/console", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero"),
        *("/etc/group", "/etc/nsswitch.conf", "/etc/passwd", "/lib64/ld-linux-x86-64.so.2"),
    ]
)
_FOLDERS = SYSTEM_FOLDERS | {f"{folder.rstrip('/')}/" for folder in SYSTEM_FOLDERS}
_LOOPBACK = ("::1", "::1/128")
_ADDRESSES = (Kind.IP, Kind.CIDR)
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_NetworkKey = tuple[int, int, int]


def lint(policy: Policy, *, now: float = 0) -> list[Problem]:
    """Return what is probably not meant.

    Args:
        policy: A parsed policy.
        now: Unix seconds, to find expired rules; 0 finds none.

    Returns:
        The findings, by line.
    """
    found = [
        *(problem for rule in policy.rules for problem in _one_rule(rule, now)),
        *dangers(policy),
        *_covered_files(policy),
        *_covered_networks(policy),
    ]
    return sorted(found, key=lambda problem: problem.line)


def dangers(policy: Policy) -> list[Problem]:
    """Return what can make a host unusable; cheap enough for every apply.

    Args:
        policy: A parsed policy, or rules made by hand.
    """
    found = [*_cgroups(policy)]
    for rule in policy.rules:
        # An inode rule never is one, and a large policy has very many: it costs no call.
        if rule.kind is not Kind.INODE and rule.mode is Mode.ENFORCE and (what := _danger(rule)):
            found.append(_warn(rule, what))
    return found


def _danger(rule: Rule) -> str:
    kind, target = rule.kind, rule.target
    if kind is Kind.PATH or kind is Kind.DIRECTORY:
        if target in _FOLDERS:
            return "denies a folder that the whole system needs"
        return "denies a file that the whole system needs" if target in SYSTEM_FILES else ""
    if kind is Kind.CIDR and target.endswith("/0"):
        return "denies every address of its family"
    if kind in _ADDRESSES and (target.startswith("127.") or target in _LOOPBACK):
        return "denies this host to itself: programs that talk over loopback stop working"
    if kind is Kind.PORT and target.startswith("22:"):
        return "denies the port of SSH: nobody may be able to log in"
    return ""


def _one_rule(rule: Rule, now: float) -> Iterator[Problem]:
    if not rule.operations:
        yield Problem(rule.line, f"{visible(rule.id)} denies no operation at all", True, rule.id)
    if rule.expires and rule.expires <= now:
        yield _warn(rule, "has expired: it is left out at apply")
    if rule.mode is Mode.AUDIT and rule.signal is not Signal.NONE:
        yield _warn(rule, "only audits: its signal is never sent")
    if rule.kind in {Kind.PATH, Kind.DIRECTORY}:
        yield from _one_path(rule)


def _one_path(rule: Rule) -> Iterator[Problem]:
    if any(character in rule.target for character in "*?"):
        yield _warn(rule, "holds '*' or '?': there are no patterns, a name with that sign is meant")
    if " #" in rule.target:
        yield _warn(rule, "holds ' #': a comment stands on a line of its own")
    if not rule.target.isprintable():
        yield _warn(rule, "holds characters that cannot be seen")


def _cgroups(policy: Policy) -> Iterator[Problem]:
    for name in policy.allow_cgroups:
        if name == "/":
            yield Problem(0, "the root cgroup is allowed: no rule holds for anyone", False)
        elif not name.startswith(("/", "cgid:")):
            yield Problem(0, f"cgroup {name!r} is relative: write it from the cgroup root", False)


def _warn(rule: Rule, what: str) -> Problem:
    return Problem(rule.line, f"{visible(rule.id)} {what}", False, rule.id)


def _needless(rule: Rule, wider: Rule) -> Problem:
    line = f" (line {wider.line})" if wider.line else ""
    return _warn(rule, f"adds nothing: {visible(wider.id)}{line} covers it")


def _does_all_of(wider: Rule, rule: Rule) -> bool:
    """Whether a rule whose target takes in the other's also denies as much, as hard, as long."""
    return (
        wider is not rule
        and not rule.operations & ~wider.operations
        and (wider.mode is Mode.ENFORCE or rule.mode is Mode.AUDIT)
        and rule.signal in {Signal.NONE, wider.signal}
        and (not wider.expires or 0 < rule.expires <= wider.expires)
    )


def _covered_files(policy: Policy) -> Iterator[Problem]:
    folders: dict[str, list[Rule]] = {}
    for rule in policy.rules:
        if rule.kind is Kind.DIRECTORY:
            folders.setdefault(rule.target, []).append(rule)
    if not folders:
        return
    for rule in policy.rules:
        if rule.kind in {Kind.PATH, Kind.DIRECTORY}:
            wider = next(_folders_above(rule, folders), None)
            if wider:
                yield _needless(rule, wider)


def _folders_above(rule: Rule, folders: dict[str, list[Rule]]) -> Iterator[Rule]:
    parent, levels = rule.target.rstrip("/"), 0
    while parent:
        parent, levels = parent.rpartition("/")[0], levels + 1
        for wider in folders.get(parent + "/", ()):
            # A rule to the greatest depth counts as covering all below, as its author thinks of it.
            reach = min(levels + rule.depth, MAX_DEPTH)
            if reach <= wider.depth and levels <= wider.depth and _does_all_of(wider, rule):
                yield wider


def _covered_networks(policy: Policy) -> Iterator[Problem]:
    rules = [rule for rule in policy.rules if rule.kind not in targets.FILE_KINDS]
    networks: dict[_NetworkKey, list[Rule]] = {}
    ports: dict[str, list[Rule]] = {}
    for rule in rules:
        if rule.kind in {Kind.IP, Kind.CIDR}:
            networks.setdefault(_key(ipaddress.ip_network(rule.target)), []).append(rule)
        elif rule.kind is Kind.PORT:
            ports.setdefault(rule.target, []).append(rule)
    lengths = sorted({(version, length) for version, length, _ in networks})
    for rule in rules:
        candidates = [*_networks_around(rule, networks, lengths), *_wider_ports(rule, ports)]
        wider = next((each for each in candidates if _does_all_of(each, rule)), None)
        if wider:
            yield _needless(rule, wider)


def _key(network: _Network) -> _NetworkKey:
    return network.version, network.prefixlen, int(network.network_address)


def _networks_around(
    rule: Rule, networks: dict[_NetworkKey, list[Rule]], lengths: Iterable[tuple[int, int]]
) -> Iterator[Rule]:
    if rule.kind is Kind.PORT or not networks:
        return
    text = targets.split_ports(rule.target)[0] if rule.kind is Kind.IP_PORT else rule.target
    own = ipaddress.ip_network(text)
    address = int(own.network_address)
    for version, length in lengths:
        if version == own.version and length <= own.prefixlen:
            free = own.max_prefixlen - length
            same = networks.get((version, length, address >> free << free), ())
            # Of two rules for the very same network, only the later one is needless.
            yield from takewhile(lambda wider: wider is not rule, same)


def _wider_ports(rule: Rule, ports: dict[str, list[Rule]]) -> Iterator[Rule]:
    if not ports or rule.kind not in {Kind.PORT, Kind.IP_PORT}:
        return
    _, port, protocol = targets.split_ports(rule.target)
    for wider in (protocol, "any") if rule.kind is Kind.IP_PORT else ("any",):
        yield from ports.get(f"{port}:{wider}", ())
