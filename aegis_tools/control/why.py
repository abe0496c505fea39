"""Which live rule would match: the lookups of bpf/match.h, in the same order, in Python.

A file is what the kernel would open: symbolic links are followed first. The lookups are made
through a function, so that a test needs no kernel.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from aegis_tools.control.posture import Posture
from aegis_tools.control.resolve import PROTOCOLS
from aegis_tools.kernel import layout
from aegis_tools.kernel.inode_keys import InodeId
from aegis_tools.kernel.layout import FILE_ENTRY, NET_ENTRY
from aegis_tools.policy.model import MAX_DEPTH, Op

Lookup = Callable[[str, bytes], "bytes | None"]
"""(map name, key) to the entry in the active slot."""

FILE_ORDER = (Op.READ, Op.WRITE, Op.EXEC, Op.MODIFY)
NET_ORDER = (Op.EGRESS, Op.BIND)
ACTIONS = {0: "BLOCK", 2: "INT", 9: "KILL", 15: "TERM"}
AUDIT_REASONS = {
    "auditing": "mode-audit",
    "audit-fallback": "audit-fallback",
    "deadline-passed": "deadline",
}


class Finding(NamedTuple):
    """An entry that has a rule for the operation.

    Attributes:
        operation: What would be done.
        uid: The rule.
        where: The map.
        what: What of the target matched, for a person.
        protocol: Of a network operation.
    """

    operation: Op
    uid: int
    where: str
    what: str
    protocol: str = ""


@dataclass(frozen=True)
class File:
    """A file as the hooks see it.

    Attributes:
        path: Without symbolic links.
        inode: None where there is no such file (yet).
        above: (path, inode) of the directories up to the root of the file system, nearest first.
    """

    path: str
    inode: InodeId | None
    above: Sequence[tuple[str, InodeId]] = field(default_factory=tuple)

    @property
    def name(self) -> bytes:
        """The last part of the path."""
        return self.path.rpartition("/")[2].encode("utf-8", "surrogateescape")


def file_findings(lookup: Lookup, file: File, operations: Op, walk: int) -> list[Finding]:
    """Return the entries for a file, as match_file() visits them.

    Args:
        lookup: Reads the active slot.
        file: What is opened.
        operations: What is asked for.
        walk: slot_info.walk.
    """
    found: list[Finding] = []
    for where, what, entry in _file_entries(lookup, file, walk):
        uids = FILE_ENTRY.unpack(entry)[:4]
        found += [
            Finding(op, uid, where, what)
            for op, uid in zip(FILE_ORDER, uids, strict=True)
            if uid and op & operations
        ]
    return found


def _file_entries(lookup: Lookup, file: File, walk: int) -> Iterator[tuple[str, str, bytes]]:
    if file.inode is not None:
        entry = _entry_of(lookup, "deny_inode_map", file.inode)
        if entry is not None:
            inode = file.inode
            yield "deny_inode_map", f"inode {inode.dev}:{inode.ino}", entry
    if file.above:
        directory, parent = file.above[0]
        entry = _name_entry(lookup, parent, file.name)
        if entry is not None:
            yield "deny_path_map", f"the name {_text(file.name)} in {directory}", entry
    if walk:
        yield from _dir_entries(lookup, file, min(walk, MAX_DEPTH))


def _dir_entries(lookup: Lookup, file: File, walk: int) -> Iterator[tuple[str, str, bytes]]:
    itself = file.inode if file.inode is not None and file.inode.is_dir else None
    levels = [(file.path, itself), *file.above]
    for level, (path, inode) in enumerate(levels[: walk + 1]):
        entry = _entry_of(lookup, "deny_dir_map", inode) if inode is not None else None
        if entry is not None and 0 < (depth := FILE_ENTRY.unpack(entry)[5]) >= level:
            yield "deny_dir_map", f"directory {path}, which covers {depth} levels", entry


def _entry_of(lookup: Lookup, name: str, inode: InodeId) -> bytes | None:
    entry = lookup(name, inode.key)
    if entry is None:
        return None
    generation, _, flags = FILE_ENTRY.unpack(entry)[4:]
    same = flags & layout.ANY_GENERATION or generation == inode.generation
    return entry if same else None


def _name_entry(lookup: Lookup, parent: InodeId, name: bytes) -> bytes | None:
    directory = _entry_of(lookup, "deny_dir_map", parent)
    if directory is None or not FILE_ENTRY.unpack(directory)[6] & layout.DIR_HAS_NAMES:
        return None
    return lookup("deny_path_map", layout.NAME_KEY.pack(parent.ino, parent.dev, len(name), name))


def syscall_findings(lookup: Lookup, path: str, operations: Op) -> list[Finding]:
    """Return the entries that the audit fallback finds for a path as it was typed."""
    raw = path.encode("utf-8", "surrogateescape")
    entry = lookup("audit_path_map", layout.PATH_KEY.pack(raw[: layout.NAME_MAX - 1]))
    if entry is None:
        return []
    uids = FILE_ENTRY.unpack(entry)[:3]  # no system call that it watches modifies
    return [
        Finding(op, uid, "audit_path_map", "the path as typed")
        for op, uid in zip(FILE_ORDER, uids, strict=False)
        if uid and op & operations
    ]


def net_findings(
    lookup: Lookup, address: str, port: int | None, operations: Op, protocols: Sequence[str]
) -> list[Finding]:
    """Return the entries for an address, as match_net() visits them.

    Args:
        lookup: Reads the active slot.
        address: IPv4 or IPv6, not yet as rules know it.
        port: None to leave ports out.
        operations: EGRESS, BIND or both.
        protocols: ``tcp``, ``udp``; ``any`` stands for another one.
    """
    found: list[Finding] = []
    for protocol in protocols:
        for op in (op for op in NET_ORDER if op & operations):
            packed = peer(address, egress=op is Op.EGRESS)
            for where, what, entry in _net_entries(lookup, packed, port, PROTOCOLS[protocol]):
                uid = NET_ENTRY.unpack(entry)[NET_ORDER.index(op)]
                if uid:
                    found.append(Finding(op, uid, where, what, protocol))
    return found


def peer(address: str, *, egress: bool) -> bytes:
    """Return the packed address that rules are compared with; see peer_of() in bpf/decide.h."""
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    packed = (mapped or parsed).packed
    if egress and not any(packed):
        return bytes([127, 0, 0, 1]) if len(packed) == 4 else bytes(15) + b"\1"
    return packed


def _net_entries(
    lookup: Lookup, packed: bytes, port: int | None, protocol: int
) -> Iterator[tuple[str, str, bytes]]:
    version = "v4" if len(packed) == 4 else "v6"
    shown = ipaddress.ip_address(packed)
    cidr = layout.CIDR_V4_KEY if version == "v4" else layout.CIDR_V6_KEY
    pair = layout.IP_PORT_V4_KEY if version == "v4" else layout.IP_PORT_V6_KEY
    wanted = [
        (f"deny_ip{version}_map", packed, f"address {shown}"),
        (f"deny_cidr_{version}_map", cidr.pack(len(packed) * 8, packed), f"a network of {shown}"),
    ]
    if port is not None:
        for number in dict.fromkeys((protocol, 0)):
            key = pair.pack(packed, port, number)
            wanted.append((f"deny_ip_port_{version}_map", key, f"{shown} port {port}"))
        for number in dict.fromkeys((protocol, 0)):
            key = layout.PORT_KEY.pack(port, number)
            wanted.append(("deny_port_map", key, f"port {port}"))
    for where, key, what in wanted:
        entry = lookup(where, key)
        if entry is not None:
            yield where, what, entry


class Verdict(NamedTuple):
    """What would follow.

    Attributes:
        operation: What is done.
        protocol: Of a network operation.
        finding: The entry whose rule decides.
        action: As in events: AUDIT, BLOCK, TERM, KILL, INT.
        reason: As in events; empty for a refusal.
    """

    operation: Op
    protocol: str
    finding: Finding
    action: str
    reason: str


def verdicts(
    findings: Sequence[Finding], lookup: Lookup, posture: Posture, *, survival: bool
) -> list[Verdict]:
    """Return one verdict for each operation (and protocol) that any rule matches.

    Args:
        findings: In the order in which the hooks come upon them.
        lookup: Reads the active slot.
        posture: What a match leads to.
        survival: The file is one that can always be read and run.
    """
    groups: dict[tuple[Op, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.operation, finding.protocol), []).append(finding)
    result = []
    for (operation, protocol), group in groups.items():
        known = [(f, a) for f in group if (a := _attributes(lookup, f.uid)) is not None]
        if known:
            # An audit rule never hides an enforcing one: consider() in bpf/match.h.
            finding, (enforce, signal) = next((k for k in known if k[1][0]), known[0])
            spared = survival and operation in (Op.READ, Op.EXEC)  # spared() of bpf/decide.h
            action, reason = _outcome(posture, enforce, signal, survival=spared)
            result.append(Verdict(operation, protocol, finding, action, reason))
    return result


def _attributes(lookup: Lookup, uid: int) -> tuple[int, int] | None:
    value = lookup("rules", uid.to_bytes(8, "little"))
    if value is None:
        return None
    enforce, signal = layout.RULE_ATTR.unpack(value)
    return enforce, signal


def _outcome(posture: Posture, enforce: int, signal: int, *, survival: bool) -> tuple[str, str]:
    """decide() of bpf/decide.h, but for the cgroup, which only a process has."""
    if posture.state in ("detached", "disabled"):
        return "NONE", posture.state
    if posture.state == "audit-fallback":
        return "AUDIT", "audit-fallback"
    if survival:
        return "AUDIT", "survival"
    if not enforce:
        return "AUDIT", "rule-audit"
    if posture.enforcing:
        return ACTIONS.get(signal, "BLOCK"), ""
    return "AUDIT", AUDIT_REASONS[posture.state]


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
