"""A policy to the contents of the kernel maps.

Pure but for the identifier it is given, which asks the kernel what it calls a file.
"""

from __future__ import annotations

import posixpath
import struct
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from aegis_tools.errors import PolicyError
from aegis_tools.kernel import layout
from aegis_tools.kernel.inode_keys import InodeId
from aegis_tools.kernel.layout import FILE_ENTRY, NET_ENTRY, POLICY_MAPS, uid_key
from aegis_tools.policy.model import (
    MAX_DEPTH,
    OPEN_OPS,
    Kind,
    Mode,
    Op,
    Policy,
    Problem,
    Rule,
    Signal,
)

SIGNALS = {Signal.NONE: 0, Signal.INT: 2, Signal.KILL: 9, Signal.TERM: 15}
PROTOCOLS = {"any": 0, "tcp": 6, "udp": 17}

Entries = dict[bytes, bytes]
Named = tuple[bytes, Rule]  # uid, rule


class Identify(Protocol):
    """Says what the kernel calls files; see kernel.inode_keys.Identifier."""

    def identify(self, paths: Iterable[str]) -> dict[str, InodeId | None]:
        """Follow symbolic links."""

    def identify_in(self, directory: str, names: Iterable[str]) -> dict[str, InodeId | None]:
        """Do not follow symbolic links."""


@dataclass
class Rules:
    """What a slot is to hold.

    Attributes:
        maps: Entries by policy map name; every policy map is present.
        names: Rule id by the uid's bytes, for every rule that did not expire.
        problems: Rules that match nothing now, or less than they say.
        ambiguous: Devices whose inode numbers do not identify a file.
    """

    maps: dict[str, Entries] = field(
        default_factory=lambda: {spec.name: {} for spec in POLICY_MAPS}
    )
    names: dict[bytes, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    ambiguous: frozenset[int] = frozenset()

    @property
    def kinds(self) -> int:
        """The slot_info.kinds of these maps."""
        return sum(spec.kind for spec in POLICY_MAPS if self.maps[spec.name])

    @property
    def walk(self) -> int:
        """The levels a lookup has to climb: the deepest directory rule's depth."""
        entries = self.maps["deny_dir_map"].values()
        return max((FILE_ENTRY.unpack(entry)[5] for entry in entries), default=0)

    @property
    def ids(self) -> dict[int, str]:
        """Rule id by uid as a number."""
        return {int.from_bytes(uid, "little"): name for uid, name in self.names.items()}

    def enforces(self, uid: int) -> bool:
        """Return whether the rule with this uid enforces."""
        return self.maps["rules"].get(uid.to_bytes(8, "little"), b"\0")[0] == 1

    def add_rule(self, rule: Rule) -> bytes:
        """Add the rule's attributes and return its uid's bytes."""
        uid = uid_key(rule.id)
        known = self.names.setdefault(uid, rule.id)
        if known != rule.id:
            raise PolicyError(
                f"rules {known} and {rule.id} cannot be told apart by the kernel",
                hint="rename one of them",
            )
        plain = rule.mode is Mode.ENFORCE and rule.signal is Signal.NONE  # hashing an enum is slow
        self.maps["rules"][uid] = _PLAIN if plain else _ATTRS[rule.mode, rule.signal]
        return uid

    def add(self, name: str, key: bytes, entry: bytes) -> None:
        """Add an entry; on a key that is taken the stricter rule of each operation stays."""
        entries = self.maps[name]
        if key in entries:
            entry = self.stricter(entries[key], entry)
        entries[key] = entry

    def stricter(self, old: bytes, new: bytes) -> bytes:
        """Merge two entries of one key: of each operation's two rules the stricter stays."""
        shape = NET_ENTRY if len(old) == NET_ENTRY.size else FILE_ENTRY
        if len(old) == 8:
            return new
        count = 2 if shape is NET_ENTRY else 4
        a, b = shape.unpack(old), shape.unpack(new)
        uids = [
            y if y and (not x or (self.enforces(y) and not self.enforces(x))) else x
            for x, y in zip(a[:count], b[:count], strict=True)
        ]
        if shape is NET_ENTRY:
            return shape.pack(*uids)
        return shape.pack(*uids, b[4] or a[4], max(a[5], b[5]), a[6] | b[6])


_ATTRS = {
    (mode, signal): layout.RULE_ATTR.pack(mode is Mode.ENFORCE, number)
    for mode in Mode
    for signal, number in SIGNALS.items()
}
_PLAIN = _ATTRS[Mode.ENFORCE, Signal.NONE]
_NONE = bytes(8)
_TAIL = struct.Struct("IHH")
_LINK, _TYPE = 0o120000, 0o170000


def file_entry(uid: bytes, ops: int, generation: int = 0, depth: int = 0, flags: int = 0) -> bytes:
    """Return a struct file_entry with one rule for all of ``ops``."""
    return _uids(uid, ops) + _TAIL.pack(generation, depth, flags)


def _uids(uid: bytes, ops: int) -> bytes:
    if ops is OPEN_OPS:  # what nearly every rule has, in half the time
        return uid * 3 + _NONE
    ops = int(ops)  # masking an IntFlag makes an IntFlag, slowly
    return (
        (uid if ops & 1 else _NONE)
        + (uid if ops & 2 else _NONE)
        + (uid if ops & 4 else _NONE)
        + (uid if ops & 8 else _NONE)
    )


def net_entry(uid: bytes, ops: int) -> bytes:
    """Return a struct net_entry with one rule for all of ``ops``."""
    return (uid if ops & Op.EGRESS else _NONE) + (uid if ops & Op.BIND else _NONE)


def resolve(
    policy: Policy,
    identify: Identify,
    cgroups: Mapping[str, int],
    *,
    now: float,
    fallback: bool = False,
    ambiguous: Collection[int] = (),
) -> Rules:
    """Compile a policy.

    Args:
        policy: What is wanted.
        identify: Names files as the kernel does.
        cgroups: cgroup id by the text of ``policy.allow_cgroups``; absent ones do not exist.
        now: Unix seconds; rules that expired before are left out.
        fallback: Also fill the map that the audit fallback compares paths with.
        ambiguous: Devices (s_dev) on which an inode number does not tell one file from
            another: there a rule holds by name only.

    Returns:
        The maps. Rules that match nothing now are in ``problems`` as warnings.

    Raises:
        PolicyError: Two rule ids have the same uid.
    """
    rules = Rules()
    inodes: list[Named] = []
    paths: list[Named] = []
    directories: list[Named] = []
    for rule in policy.rules:
        if rule.expires and rule.expires <= now:
            rules.problems.append(Problem(rule.line, "expired: left out", False, rule.id))
            continue
        uid, kind = rules.add_rule(rule), rule.kind
        if kind is Kind.PATH:  # comparing, because hashing an enum is slow
            paths.append((uid, rule))
        elif kind is Kind.INODE:
            inodes.append((uid, rule))
        elif kind is Kind.DIRECTORY:
            directories.append((uid, rule))
        else:
            add_network(rules, uid, rule)
    _add_inodes(rules, inodes)
    rules.ambiguous = frozenset(ambiguous)
    _add_paths(rules, paths, identify)
    _add_directories(rules, directories, identify)
    if fallback:
        _add_audit_paths(rules, paths)
    _add_cgroups(rules, policy.allow_cgroups, cgroups)
    inherit_cidrs(rules)
    return rules


def _add_inodes(rules: Rules, named: list[Named]) -> None:
    pack, tail = layout.INODE_KEY.pack, _TAIL.pack(0, 0, layout.ANY_GENERATION)
    inodes = rules.maps["deny_inode_map"]
    for uid, rule in named:
        dev, _, ino = rule.target.partition(":")
        key, entry = pack(int(ino), int(dev), 0), _uids(uid, rule.operations) + tail
        inodes[key] = entry if key not in inodes else rules.stricter(inodes[key], entry)


def _add_paths(rules: Rules, named: list[Named], identify: Identify) -> None:
    by_directory: dict[str, list[tuple[str, Named]]] = defaultdict(list)
    for item in named:
        directory, _, name = item[1].target.rpartition("/")
        by_directory[directory or "/"].append((name, item))
    parents = identify.identify(by_directory)
    links: list[Named] = []
    for directory, members in by_directory.items():
        parent = parents[directory]
        if parent is None or not parent.is_dir:
            message = f"{directory} does not exist: the rule matches nothing until it is applied"
            rules.problems += [
                Problem(rule.line, f"{message} again", False, rule.id) for _, (_, rule) in members
            ]
            continue
        found = identify.identify_in(directory, [name for name, _ in members])
        _add_directory_of_names(rules, parent)
        links += _add_members(rules, parent, members, found)
    _add_links(rules, links, identify)


def _add_members(
    rules: Rules,
    parent: InodeId,
    members: list[tuple[str, Named]],
    found: Mapping[str, InodeId | None],
) -> list[Named]:
    """Add the rules for files of one directory, and return those for symbolic links.

    The hot loop of a large policy: what _add_name and _add_found do, without the calls.
    """
    names, inodes = rules.maps["deny_path_map"], rules.maps["deny_inode_map"]
    name_key, inode_key, tail = layout.NAME_KEY.pack, layout.INODE_KEY.pack, _TAIL.pack
    ino, dev, ambiguous = parent.ino, parent.dev, rules.ambiguous
    links: list[Named] = []
    for name, item in members:
        raw = name.encode("utf-8", "surrogateescape")
        uids = _uids(item[0], item[1].operations)
        key, entry = name_key(ino, dev, len(raw), raw), uids + _NONE
        names[key] = entry if key not in names else rules.stricter(names[key], entry)
        inode = found[name]
        if inode is None:
            rule = item[1]
            message = f"{rule.target} does not exist yet"
            rules.problems.append(Problem(rule.line, message, False, rule.id))
        elif inode.mode & _TYPE == _LINK:
            links.append(item)
        elif inode.dev in ambiguous:
            _add_found(rules, item, inode)
        else:
            key, entry = inode_key(inode.ino, inode.dev, 0), uids + tail(inode.generation, 0, 0)
            inodes[key] = entry if key not in inodes else rules.stricter(inodes[key], entry)
    return links


def _add_directory_of_names(rules: Rules, parent: InodeId) -> None:
    entry = file_entry(_NONE, 0, parent.generation, 0, layout.DIR_HAS_NAMES)
    rules.add("deny_dir_map", parent.key, entry)


def _add_name(rules: Rules, item: Named, parent: InodeId, name: str) -> None:
    raw = name.encode("utf-8", "surrogateescape")
    key = layout.NAME_KEY.pack(parent.ino, parent.dev, len(raw), raw)
    rules.add("deny_path_map", key, file_entry(item[0], item[1].operations))


def _add_found(rules: Rules, item: Named, inode: InodeId) -> None:
    if inode.dev in rules.ambiguous and not inode.is_dir:
        message = "inode numbers are not unique on this overlay: the rule holds by name only"
        rules.problems.append(Problem(item[1].line, message, False, item[1].id))
        return
    entry = file_entry(item[0], item[1].operations, inode.generation)
    rules.add("deny_inode_map", inode.key, entry)


def _add_links(rules: Rules, links: list[Named], identify: Identify) -> None:
    """A rule for a symbolic link also holds for the file it leads to, and that file's name."""
    for item in links:
        rule = item[1]
        real = posixpath.realpath(rule.target)
        directory, _, name = real.rpartition("/")
        parent = identify.identify([directory or "/"])[directory or "/"]
        inode = identify.identify([real])[real]
        if inode is not None:
            _add_found(rules, item, inode)
        if parent is not None and parent.is_dir and name:
            _add_directory_of_names(rules, parent)
            _add_name(rules, item, parent, name)
        if inode is None:
            what = "is a loop of symbolic links" if posixpath.islink(real) else "leads nowhere yet"
            problem = Problem(rule.line, f"{rule.target} {what}", False, rule.id)
            rules.problems.append(problem)


def _add_directories(rules: Rules, named: list[Named], identify: Identify) -> None:
    found = identify.identify([rule.target for _, rule in named])
    for uid, rule in named:
        inode = found[rule.target]
        if inode is None or not inode.is_dir:
            message = f"{rule.target} is no directory: the rule matches nothing until it is"
            rules.problems.append(Problem(rule.line, f"{message} applied again", False, rule.id))
            continue
        depth = rule.depth or MAX_DEPTH
        entry = file_entry(uid, rule.operations, inode.generation, depth)
        rules.add("deny_dir_map", inode.key, entry)


def _add_audit_paths(rules: Rules, named: list[Named]) -> None:
    for uid, rule in named:
        raw = rule.target.encode("utf-8", "surrogateescape")
        if len(raw) < layout.NAME_MAX:
            entry = file_entry(uid, rule.operations)
            rules.add("audit_path_map", layout.PATH_KEY.pack(raw), entry)


def _add_cgroups(rules: Rules, wanted: Iterable[str], cgroups: Mapping[str, int]) -> None:
    for text in wanted:
        if text in cgroups:
            key = cgroups[text].to_bytes(8, "little")
            rules.maps["allow_cgroup_map"][key] = (1).to_bytes(8, "little")
        else:
            message = f"cgroup {text} does not exist: nothing is allowed by it"
            rules.problems.append(Problem(0, message, False))


def add_network(rules: Rules, uid: bytes, rule: Rule) -> None:
    """Add the entry of an IP, CIDR, PORT or IP_PORT rule."""
    name, key = network_key(rule.kind, rule.target)
    rules.add(name, key, net_entry(uid, int(rule.operations)))


def network_key(kind: Kind, target: str) -> tuple[str, bytes]:
    """Return the map and the key of a canonical network target."""
    if kind is Kind.PORT:
        port, _, protocol = target.partition(":")
        return "deny_port_map", layout.PORT_KEY.pack(int(port), PROTOCOLS[protocol])
    if kind is Kind.IP:
        address = _packed(target)
        return ("deny_ipv4_map" if len(address) == 4 else "deny_ipv6_map"), address
    if kind is Kind.CIDR:
        text, _, length = target.partition("/")
        address = _packed(text)
        if len(address) == 4:
            return "deny_cidr_v4_map", layout.CIDR_V4_KEY.pack(int(length), address)
        return "deny_cidr_v6_map", layout.CIDR_V6_KEY.pack(int(length), address)
    text, port, protocol = target.rsplit(":", 2)
    address = _packed(text.strip("[]"))
    if len(address) == 4:
        key = layout.IP_PORT_V4_KEY.pack(address, int(port), PROTOCOLS[protocol])
        return "deny_ip_port_v4_map", key
    key = layout.IP_PORT_V6_KEY.pack(address, int(port), PROTOCOLS[protocol])
    return "deny_ip_port_v6_map", key


def _packed(address: str) -> bytes:
    import socket

    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def inherit_cidrs(rules: Rules) -> None:
    """Let a network inside another be denied at least what the outer one is.

    The kernel's trie answers with the longest prefix only, so a narrow audit rule would
    otherwise hide a wide enforcing one.
    """
    for name, size in (("deny_cidr_v4_map", 4), ("deny_cidr_v6_map", 16)):
        entries = rules.maps[name]
        lengths = sorted({int.from_bytes(key[:4], "little") for key in entries})
        for key in sorted(entries, key=lambda k: int.from_bytes(k[:4], "little")):
            length = int.from_bytes(key[:4], "little")
            address = int.from_bytes(key[4:], "big")
            for outer in (n for n in lengths if n < length):
                mask = (1 << (size * 8)) - (1 << (size * 8 - outer))
                wide = outer.to_bytes(4, "little") + (address & mask).to_bytes(size, "big")
                if wide in entries:
                    entries[key] = rules.stricter(entries[key], entries[wide])


def describe_network(name: str, key: bytes) -> tuple[Kind, str]:
    """Return the kind and canonical target of a network map's key: network_key backwards."""
    import ipaddress

    names = {number: text for text, number in PROTOCOLS.items()}
    if name == "deny_port_map":
        port, protocol = layout.PORT_KEY.unpack(key)
        return Kind.PORT, f"{port}:{names.get(protocol, protocol)}"
    if name in ("deny_ipv4_map", "deny_ipv6_map"):
        return Kind.IP, str(ipaddress.ip_address(key))
    if name.startswith("deny_cidr"):
        length = int.from_bytes(key[:4], "little")
        return Kind.CIDR, f"{ipaddress.ip_address(key[4:])}/{length}"
    shape = layout.IP_PORT_V4_KEY if len(key) == 8 else layout.IP_PORT_V6_KEY
    raw, port, protocol = shape.unpack(key)
    address = ipaddress.ip_address(raw)
    text = f"[{address}]" if address.version == 6 else str(address)
    return Kind.IP_PORT, f"{text}:{port}:{names.get(protocol, protocol)}"
