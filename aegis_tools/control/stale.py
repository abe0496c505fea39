"""Find what can be removed because it matches nothing any more, and put it back.

A rule names a path; its entries name inodes. An entry goes when its inode does; the rule
goes when none of its entries is left, when it duplicates another, or, if asked for, when it
was not hit for long. A rule for a file that does not exist yet is not stale: it waits.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aegis_tools.control.live import Entries, Live, boot_to_wall_ns, uids_of, without
from aegis_tools.control.manual import PREFIX
from aegis_tools.control.merge import inode_text
from aegis_tools.control.names import Names
from aegis_tools.control.resolve import Identify
from aegis_tools.kernel.inode_keys import InodeId
from aegis_tools.kernel.layout import ANY_GENERATION, FILE_ENTRY, RULE_ATTR
from aegis_tools.policy.model import Kind, Rule
from aegis_tools.policy.targets import FILE_KINDS

INODE_MAPS = ("deny_inode_map", "deny_dir_map", "deny_path_map")


class Finding(NamedTuple):
    """Something stale.

    Attributes:
        why: One of ``stale_classes.CLASSES``.
        uid: The rule.
        rule: Its id, ``unknown`` where it has no name.
        target: What it names; ``dev:ino`` where it has no name.
        map: The map of the entry that goes; empty where the whole rule goes.
        key: The entry's key; empty where the whole rule goes.
    """

    why: str
    uid: int
    rule: str
    target: str
    map: str = ""
    key: bytes = b""

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as ``--json`` prints it."""
        values = {**self._asdict(), "uid": f"{self.uid:016x}", "key": self.key.hex()}
        return {**values, "whole_rule": not self.map}


class Survey(NamedTuple):
    """What a search found: what is stale, and targets of which nobody can tell."""

    findings: tuple[Finding, ...]
    unsure: tuple[str, ...]


class _Here(NamedTuple):
    """What a rule's path leads to now: inodes of the file, and of folders for its name."""

    files: tuple[InodeId, ...]
    folders: tuple[InodeId, ...]


def mounted_devices(mountinfo: str) -> set[int]:
    """Return the s_dev, (major << 20) | minor, of every mounted file system.

    Args:
        mountinfo: Text of /proc/self/mountinfo; its third field is major:minor of s_dev.
    """
    found = set()
    for line in mountinfo.splitlines():
        fields = line.split()
        major, colon, minor = fields[2].partition(":") if len(fields) > 2 else ("", "", "")
        if colon and major.isdecimal() and minor.isdecimal():
            found.add(int(major) << 20 | int(minor))
    return found


def survey(
    live: Live,
    names: Names,
    identify: Identify,
    *,
    mounted: set[int],
    now: float,
    older_than: float = 0,
) -> Survey:
    """Search the file rules that are live.

    Args:
        live: The loaded maps.
        names: Says what rules are called.
        identify: Says what the kernel calls files.
        mounted: See :func:`mounted_devices`.
        now: Unix seconds.
        older_than: Seconds without a match after which a rule counts as stale; 0 = any.
    """
    maps = live.all_entries()
    named = {u: r for u, r in names.all().items() if r.kind in FILE_KINDS}
    places = _places(maps, set(named))
    here = _look_up(named, identify)
    findings: list[Finding] = []
    unsure: list[str] = []
    for uid, entries in places.items():
        rule = named.get(uid)
        found = list(_stale_entries(uid, rule, entries, here=here.get(uid), mounted=mounted))
        if rule is None or rule.kind is Kind.INODE:
            stale_keys = {finding.key for finding in found}
            unsure += [_target(rule, key) for _, key, _ in entries if key not in stale_keys]
        if found and len(found) == len(entries):
            found = [found[0]._replace(map="", key=b"")]
        findings += found
    gone = {finding.uid for finding in findings if not finding.map}
    findings += _duplicates(named, maps, gone)
    if older_than:
        gone = {finding.uid for finding in findings if not finding.map}
        findings += _not_hit(live, named, gone, now - older_than)
    return Survey(tuple(findings), tuple(sorted(set(unsure))))


_Place = tuple[str, bytes, "int | None"]  # map, key, generation (None: any)


def _places(maps: Mapping[str, Entries], named: set[int]) -> dict[int, list[_Place]]:
    """Return where each file rule stands."""
    attributes = {int.from_bytes(uid, "little") for uid in maps["rules"]}
    found: dict[int, list[_Place]] = defaultdict(list)
    for name in INODE_MAPS:
        for key, entry in maps[name].items():
            generation = _generation(maps, name, key, entry)
            for uid in set(uids_of(entry)):
                if uid in named or uid in attributes:
                    found[uid].append((name, key, generation))
    return found


def _generation(maps: Mapping[str, Entries], name: str, key: bytes, entry: bytes) -> int | None:
    """Return the generation that is asked for; a name's is that of its directory."""
    if name == "deny_path_map":
        entry = maps["deny_dir_map"].get(key[:12] + bytes(4), entry)
    *_, generation, _, flags = FILE_ENTRY.unpack(entry)
    return None if flags & ANY_GENERATION else int(generation)


def _look_up(named: Mapping[int, Rule], identify: Identify) -> dict[int, _Here]:
    """Return what every path leads to now, asking in bulk by directory."""
    result: dict[int, _Here] = {}
    by_folder: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for uid, rule in named.items():
        if rule.kind is Kind.PATH:
            folder, _, name = rule.target.rpartition("/")
            by_folder[folder or "/"].append((name, uid))
    folders = identify.identify(by_folder)
    for folder, members in by_folder.items():
        found = identify.identify_in(folder, [name for name, _ in members])
        parent = folders[folder]
        for name, uid in members:
            inode = found[name]
            files, parents = [inode] if inode else [], [parent] if parent else []
            if inode is not None and inode.is_link:
                real = posixpath.realpath(named[uid].target)
                above = posixpath.dirname(real)
                both = identify.identify([real, above])
                files += [both[real]] if both[real] else []  # type: ignore[list-item]
                parents += [both[above]] if both[above] else []  # type: ignore[list-item]
            result[uid] = _Here(tuple(files), tuple(parents))
    directories = {u: r.target for u, r in named.items() if r.kind is Kind.DIRECTORY}
    known = identify.identify(directories.values())
    for uid, target in directories.items():
        inode = known[target]
        result[uid] = _Here((inode,) if inode else (), ())
    return result


def _stale_entries(
    uid: int,
    rule: Rule | None,
    places: Iterable[_Place],
    *,
    here: _Here | None,
    mounted: set[int],
) -> Iterator[Finding]:
    for name, key, generation in places:
        inodes: tuple[InodeId, ...] = ()
        if here is not None:
            inodes = here.folders if name == "deny_path_map" else here.files
        dev = int.from_bytes(key[8:12], "little")
        why = ""
        if dev not in mounted and all(inode.key[:12] != key[:12] for inode in inodes):
            why = "unmounted"
        elif here is not None:
            why = classify(inodes, key, generation)
        if why:
            yield Finding(why, uid, rule.id if rule else "unknown", _target(rule, key), name, key)


def _target(rule: Rule | None, key: bytes) -> str:
    return rule.target if rule else inode_text(key)


def classify(inodes: Iterable[InodeId], key: bytes, generation: int | None) -> str:
    """Return why an entry is stale; empty where it is not.

    Args:
        inodes: What the rule's path leads to now; nothing where it does not exist.
        key: struct inode_key or name_key: both begin with inode number and device.
        generation: Of the entry; None = any.
    """
    found = tuple(inodes)
    if not found:
        return "inode-gone"
    same = [inode for inode in found if inode.key[:12] == key[:12]]
    if not same:
        return "path-moved"
    reused = generation is not None and all(inode.generation != generation for inode in same)
    return "inode-reused" if reused else ""


def _duplicates(
    named: Mapping[int, Rule], maps: Mapping[str, Entries], gone: set[int]
) -> Iterator[Finding]:
    by_target: dict[tuple[Kind, str], list[tuple[int, Rule]]] = defaultdict(list)
    for uid, rule in named.items():
        if uid not in gone:
            by_target[rule.kind, rule.target].append((uid, rule))
    for rules in by_target.values():
        for uid, rule in rules:
            others = [other for other, _ in rules if other != uid]
            if rule.id.startswith(PREFIX) and any(
                _does_as_much(maps, named, other, uid) for other in others
            ):
                yield Finding("duplicate", uid, rule.id, rule.target)


def _does_as_much(
    maps: Mapping[str, Entries], named: Mapping[int, Rule], other: int, uid: int
) -> bool:
    a, b = named[other], named[uid]
    return (
        not int(b.operations) & ~int(a.operations)
        and (a.depth or 99) >= (b.depth or 99)
        and _attribute(maps, other) == _attribute(maps, uid)
    )


def _attribute(maps: Mapping[str, Entries], uid: int) -> tuple[int, ...]:
    return RULE_ATTR.unpack(maps["rules"].get(uid.to_bytes(8, "little"), bytes(8)))


def _not_hit(
    live: Live, named: Mapping[int, Rule], gone: set[int], before: float
) -> Iterator[Finding]:
    hits, records = live.hits(), live.manual_rules()
    wall, applied = boot_to_wall_ns(), live.info().applied_ns
    for uid, rule in named.items():
        last = hits.get(uid, (0, 0, 0))[2]
        start = records[uid].added_ns if uid in records else applied
        if uid not in gone and (last + wall if last else start) < before * 1e9:
            yield Finding("not-hit", uid, rule.id, rule.target)


def take_out(maps: Mapping[str, Entries], findings: Iterable[Finding]) -> None:
    """Remove stale entries (not whole rules) from maps."""
    for finding in findings:
        if finding.map:
            left = without(maps[finding.map].get(finding.key, b"") or _EMPTY, {finding.uid})
            if left is None:
                maps[finding.map].pop(finding.key, None)
            else:
                maps[finding.map][finding.key] = left


_EMPTY = bytes(FILE_ENTRY.size)


def read_mounts(proc: Path = Path("/proc")) -> set[int]:
    """Return the devices of the file systems mounted in any mount namespace."""
    found: set[int] = set()
    seen: set[str] = set()
    for process in [proc / "self", *proc.glob("[0-9]*")]:
        try:
            namespace = str((process / "ns/mnt").readlink())
            if namespace in seen:
                continue
            text = (process / "mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        seen.add(namespace)
        found |= mounted_devices(text)
    return found


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """Return how many findings there are of each class."""
    found: dict[str, int] = {}
    for finding in findings:
        found[finding.why] = found.get(finding.why, 0) + 1
    return found
