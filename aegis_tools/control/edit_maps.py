"""Maps before and after an edit: what differs, what is missing, what they come to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from aegis_tools.control.live import Entries, content_digest, strip
from aegis_tools.control.manual import MODE
from aegis_tools.control.merge import ENTRY_MAPS, NETWORK_MAPS, merge, usage
from aegis_tools.control.resolve import Rules
from aegis_tools.errors import PolicyError
from aegis_tools.kernel.layout import FILE_ENTRY, POLICY_MAPS, RULE_ATTR, ManualRule, uid_key
from aegis_tools.policy.model import Kind, Mode, Problem, Rule

_HOMES = {
    Kind.PATH: ("deny_inode_map", "deny_path_map"),
    Kind.INODE: ("deny_inode_map",),
    Kind.DIRECTORY: ("deny_dir_map",),
}

Write = tuple[str, bytes, bytes]  # map, key, value


def difference(
    old: Mapping[str, Entries], new: Mapping[str, Entries]
) -> tuple[list[Write], list[Write]]:
    """Return what to write and what to delete, in the order of POLICY_MAPS: rules come first."""
    writes, deletions = [], []
    for spec in POLICY_MAPS:
        was, now = old[spec.name], new[spec.name]
        writes += [(spec.name, key, now[key]) for key in now if was.get(key) != now[key]]
        deletions += [(spec.name, key, was[key]) for key in was if key not in now]
    return writes, deletions


def digest_at(applied_ns: int, maps: Mapping[str, Entries]) -> bytes:
    """Return the digest of maps without what was added by hand since; see live.live_digest."""
    added = {
        int.from_bytes(uid, "little")
        for uid, value in maps["manual_rules"].items()
        if ManualRule.unpack(value).added_ns > applied_ns
    }
    return content_digest(strip(maps, added))


def missing_rules(rules: Rules, named: dict[int, Rule], *, fallback: bool) -> Iterator[Rule]:
    """Yield the rules that stand in the maps for less than they deny."""
    standing = usage(rules.maps)
    groups: dict[tuple[Kind, int], set[int]] = {}
    for uid, rule in named.items():
        groups.setdefault((rule.kind, int(rule.operations)), set()).add(uid)
    for (kind, operations), uids in groups.items():
        homes = _HOMES.get(kind, ())
        if fallback and kind is Kind.PATH:
            homes = (*homes, "audit_path_map")
        there = [standing.complete(name, operations) for name in homes]
        if not homes:
            in_each = (standing.complete(name, operations) for name in NETWORK_MAPS)
            there = [set[int]().union(*in_each)]
        for uid in uids.difference(there[0].intersection(*there[1:])):
            yield named[uid]


def set_modes(rules: Rules, wanted: Iterable[Rule]) -> None:
    """Give those rules that are in the maps the mode they are to have."""
    attributes = rules.maps["rules"]
    for rule in wanted:
        uid = uid_key(rule.id)
        if uid in attributes:
            signal = RULE_ATTR.unpack(attributes[uid])[1]
            attributes[uid] = RULE_ATTR.pack(rule.mode is Mode.ENFORCE, signal)


def drop_modes(maps: Mapping[str, Entries]) -> None:
    """Drop the modes that were set by hand of rules that are no more."""
    records = maps["manual_rules"]
    for key, value in list(records.items()):
        kind, _, rule = ManualRule.unpack(value).text.partition(":")
        if kind + ":" == MODE and uid_key(rule) not in maps["rules"]:
            del records[key]


def as_they_are(rules: Iterable[Rule], attributes: Entries) -> Iterator[Rule]:
    """Yield rules with the mode that the maps give them, which is not always the policy's."""
    for rule in rules:
        attribute = attributes.get(uid_key(rule.id))
        mode = Mode.ENFORCE if attribute and attribute[0] else Mode.AUDIT
        yield rule._replace(mode=mode) if attribute else rule


def join(rules: Rules, wanted: Rules) -> None:
    """Merge resolved rules into maps."""
    rules.maps["rules"].update(wanted.maps["rules"])
    attributes = rules.maps["rules"]

    def mode_of(uid: int) -> int | None:
        found = attributes.get(uid.to_bytes(8, "little"))
        return found[0] if found else None

    for name in ENTRY_MAPS:
        entries = rules.maps[name]
        for key, entry in wanted.maps[name].items():
            entries[key] = merge(entries.get(key), entry, mode_of).entry


def uids_in_entry(entry: bytes) -> set[bytes]:
    """Return the uids that an entry holds, as bytes; eight zeros where there is none."""
    size = 32 if len(entry) == FILE_ENTRY.size else 16
    return {entry[i : i + 8] for i in range(0, size, 8)}


def deepest(entries: Entries) -> int:
    """Return the levels that the deepest directory rule covers."""
    return max((FILE_ENTRY.unpack(entry)[5] for entry in entries.values()), default=0)


def check_matches(rule: Rule, wanted: Rules) -> None:
    """Add what is probably not meant to the problems; raise for a rule that can match nothing.

    Raises:
        PolicyError: It cannot match.
    """
    if any(wanted.maps[name] for name in ENTRY_MAPS if name != "audit_path_map"):
        if rule.kind is Kind.PATH and Path(rule.target).is_dir():
            message = f"a directory: to deny what is in it as well, write {rule.target}/"
            wanted.problems.append(Problem(0, message, False, rule.id))
        return
    if rule.kind is Kind.DIRECTORY:
        message = f"there is no directory {rule.target}"
    else:
        message = f"the directory {rule.target.rpartition('/')[0] or '/'} does not exist"
    raise PolicyError(
        message,
        hint="make it first; a rule for a file that does not exist yet needs its directory",
        data={"rule": rule.id},
    )
