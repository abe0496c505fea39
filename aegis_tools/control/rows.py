"""The live rules as a person lists them: by what they name, with their hits."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from aegis_tools.control.live import Live, boot_to_wall_ns, uids_of
from aegis_tools.control.manual import PREFIX
from aegis_tools.control.merge import (
    ENTRY_MAPS,
    FILE_MAPS,
    NETWORK_MAPS,
    inode_key,
    inode_text,
    usage,
)
from aegis_tools.control.names import Names
from aegis_tools.policy.model import FILE_OPS, Kind, Op, Rule


class Row(NamedTuple):
    """One live rule.

    Attributes:
        target: Path, ``dev:ino``, or the canonical network target.
        rule: The rule's id; ``unknown`` where nobody can name it.
        uid: By which the kernel knows it.
        kind: What the target is.
        operations: What is denied.
        mode: ``enforce`` or ``audit``, as the kernel has it.
        source: ``policy``, ``manual`` or ``unknown``.
        hits: How often it matched since it became live.
        last: When it last matched, Unix seconds; 0 = never.
    """

    target: str
    rule: str
    uid: int
    kind: Kind
    operations: int
    mode: str
    source: str
    hits: int
    last: float

    def to_dict(self) -> dict[str, Any]:
        """Return the row as ``--json`` prints it."""
        names = [op.name.lower() for op in Op if op & self.operations and op.name]
        return {
            "target": self.target,
            "rule": self.rule,
            "uid": f"{self.uid:016x}",
            "kind": self.kind.value,
            "operations": names,
            "mode": self.mode,
            "source": self.source,
            "hits": self.hits,
            "last": moment(self.last) if self.last else None,
        }


def moment(seconds: float) -> str:
    """Return a Unix time as RFC 3339, in UTC."""
    from datetime import datetime, timezone

    return datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def list_rows(
    live: Live, names: Names, kinds: Collection[Kind], targets: Collection[str] | None = None
) -> list[Row]:
    """Return live rules, by target.

    Args:
        live: The loaded maps.
        names: Says what rules are called.
        kinds: All file kinds, or all network kinds.
        targets: Canonical targets of the rules that are meant; None = of all. ``dev:ino``
            means the rules for that number, and those that came to deny it by a path.
    """
    attributes = {int.from_bytes(k, "little"): v for k, v in live.entries("rules").items()}
    named, hits = names.all(), live.hits()
    by_number = _at_inodes(live, targets or ()) if Kind.INODE in kinds else set()
    wall = boot_to_wall_ns()

    def row(uid: int, target: str, kind: Kind, operations: int, rule: Rule | None) -> Row:
        blocks, audits, last = hits.get(uid, (0, 0, 0))
        source = "unknown" if rule is None else "policy"
        if rule is not None and rule.id.startswith(PREFIX):
            source = "manual"
        mode = "enforce" if attributes.get(uid, b"\0")[0] else "audit"
        when = (last + wall) / 1e9 if last else 0.0
        name = rule.id if rule else "unknown"
        return Row(target, name, uid, kind, operations, mode, source, blocks + audits, when)

    rows = [
        row(uid, rule.target, rule.kind, int(rule.operations), rule)
        for uid, rule in named.items()
        if rule.kind in kinds and (targets is None or rule.target in targets or uid in by_number)
    ]
    nameless = set(attributes) - set(named)
    if nameless:
        maps = FILE_MAPS if Kind.PATH in kinds else NETWORK_MAPS
        found = _describe_nameless(live, nameless, maps)
        rows += [
            row(uid, *what, None)
            for uid, what in found.items()
            if targets is None or what[0] in targets or uid in by_number
        ]
    return sorted(rows, key=lambda r: (r.target, r.rule))


def _describe_nameless(
    live: Live, nameless: set[int], maps: Iterable[str]
) -> dict[int, tuple[str, Kind, int]]:
    found: dict[int, tuple[str, Kind, int]] = {}
    for name in maps:
        for key, entry in live.entries(name).items():
            if nameless.isdisjoint(uids_of(entry)):
                continue
            for uid, operations in _operations(name, key, entry).items():
                if uid not in nameless:
                    continue
                target, kind = _describe_key(name, key)
                known = found.get(uid)
                # A path says more than a number, and a file's number more than its folder's.
                if known is None or name == "audit_path_map":
                    found[uid] = (target, kind, operations)
    return found


def _operations(name: str, key: bytes, entry: bytes) -> dict[int, int]:
    """Return the operations by uid that one entry holds."""
    maps: dict[str, dict[bytes, bytes]] = {other: {} for other in ENTRY_MAPS}
    columns = usage({**maps, name: {key: entry}}).columns[name]
    found: dict[int, int] = {}
    for bit, uids in columns.items():
        for uid in uids:
            found[uid] = found.get(uid, 0) | bit
    return found


def _describe_key(name: str, key: bytes) -> tuple[str, Kind]:
    if name == "audit_path_map":
        return key.rstrip(b"\0").decode(errors="replace"), Kind.PATH
    if name in FILE_MAPS:
        return inode_text(key), Kind.INODE
    from aegis_tools.control.resolve import describe_network

    kind, target = describe_network(name, key)
    return target, kind


def _at_inodes(live: Live, targets: Iterable[str]) -> set[int]:
    """Return the uids in the entries of those targets that are ``dev:ino``."""
    uids: set[int] = set()
    keys = [inode_key(target) for target in targets if not target.startswith("/")]
    for name in ("deny_inode_map", "deny_dir_map") if keys else ():
        inner = live.inner(name)
        if inner is None:
            continue
        with inner:
            for key in keys:
                entry = inner.get(key)
                uids.update(uids_of(entry) if entry else ())
    return uids


def file_operations(text: str) -> Op:
    """Parse ``read,write``.

    Raises:
        ValueError: A word is no file operation.
    """
    operations = Op(0)
    for word in text.split(","):
        op = Op.__members__.get(word.strip().upper(), Op(0))
        if not op & FILE_OPS:
            raise ValueError("operations are read, write, exec and modify, with commas between")
        operations |= op
    return operations
