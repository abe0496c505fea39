"""Change single rules of the live policy by hand.

Adding is done in place, in the active slot, with single look-ups, so it takes as long with
65,536 rules as with one. Removing a few rules changes their entries in place as well.
Everything else copies what is live, changes the copy, and commits it, as an apply does.

A mark in slot_info stands while an edit is under way: the next edit that finds it, left by
a killed one, first puts things right (:meth:`Editor.heal`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from aegis_tools.control import manual
from aegis_tools.control.commit import commit, new_inner, wait_for_readers
from aegis_tools.control.edit_maps import (
    Write,
    as_they_are,
    check_matches,
    deepest,
    difference,
    digest_at,
    drop_modes,
    join,
    missing_rules,
    set_modes,
    uids_in_entry,
)
from aegis_tools.control.live import Entries, Live
from aegis_tools.control.lockout.check import refuse
from aegis_tools.control.merge import ENTRY_MAPS, merge, tidy, usage, want_generation
from aegis_tools.control.names import Names
from aegis_tools.control.resolve import Identify, Rules, inherit_cidrs, resolve
from aegis_tools.control.sizes import option_of
from aegis_tools.errors import KernelError
from aegis_tools.kernel.layout import (
    EDITING,
    POLICY_MAPS,
    SPECS,
    ManualRule,
    SlotInfo,
    uid_key,
    uid_of,
)
from aegis_tools.kernel.maps import Map
from aegis_tools.kernel.mounts import ambiguous_devices, read_mounts
from aegis_tools.policy.model import Kind, Policy, Problem, Rule

if TYPE_CHECKING:
    from aegis_tools.control.lockout.model import Refusal

_INDEX = {spec.name: index for index, spec in enumerate(POLICY_MAPS)}
_FEW = 256
"""Up to so many entries are changed one by one; beyond, a commit is faster."""


class Added(NamedTuple):
    """What became of one rule that was to be added.

    Attributes:
        rule: The rule.
        state: ``added``, ``changed`` (it was there with other operations, mode or files),
            ``unchanged`` (it was there), or ``covered`` (other rules deny all of it already).
        by: Ids of the rules that deny it already, where ``covered``.
        problems: What the rule does not match now.
    """

    rule: Rule
    state: str
    by: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


class _Planned(NamedTuple):
    rule: Rule
    record: ManualRule
    wanted: Rules
    writes: dict[str, Entries]
    state: str
    kept: frozenset[int]
    in_place: bool


class Editor:
    """Edits what is live. The caller holds the lock.

    Args:
        live: The loaded maps.
        names: Says what live rules are called.
        identify: Says what the kernel calls files; made when first needed.
        now_ns: Unix time in nanoseconds.
        by: User id to record.
        check: Says which rules must not be added; asked before anything is written.

    Attributes:
        refusals: What the check found of rules that a dry run would have added, or of those
            that it let pass with a warning.
        made: The ids of the rules that the last :meth:`add` made, though it failed later.
    """

    def __init__(
        self,
        live: Live,
        names: Names,
        identify: Callable[[], Identify],
        *,
        now_ns: int,
        by: int,
        check: Callable[[list[Rules], Identify], list[Refusal]] = lambda _, __: [],
    ) -> None:
        self.live, self.names = live, names
        self._make_identify = identify
        self._identify: Identify | None = None
        self.now_ns = now_ns
        self.by = by
        self._check = check
        self.refusals: list[Refusal] = []
        self.made: list[str] = []

    @property
    def identify(self) -> Identify:
        """The identifier."""
        if self._identify is None:
            self._identify = self._make_identify()
        return self._identify

    def add(self, rules: Iterable[Rule], *, dry_run: bool = False) -> list[Added]:
        """Add rules made by hand.

        Raises:
            PolicyError: A rule could match nothing; none is added.
            LockoutError: The check refuses one; none is added.
            KernelError: A map is full, or the kernel refused; those in ``made`` are added.
        """
        rules, self.made = tuple(rules), []
        if not dry_run:
            self.heal()
        first = [self._plan(rule) for rule in rules]
        self.refusals = self._check([planned.wanted for planned in first], self.identify)
        if not dry_run:
            refuse(self.refusals)
        result: list[Added] = []
        later: list[_Planned] = []
        for rule in rules:
            # Several rules can meet in one entry: each is planned on what those before it left.
            planned = self._plan(rule) if len(rules) > 1 else first[0]
            by = tuple(sorted(map(self.names.name, planned.kept)))
            shown = by if planned.state == "covered" else ()
            result.append(Added(rule, planned.state, shown, tuple(planned.wanted.problems)))
            if planned.state in ("covered", "unchanged") or dry_run:
                continue
            if planned.in_place:
                self._write(planned)
                self.made.append(rule.id)
            else:
                later.append(planned)
        if later:
            self._rebuild(
                removed=[uid_of(planned.rule.id) for planned in later],
                change=lambda rules: _join_all(rules, later),
            )
            self.made += [planned.rule.id for planned in later]
        return result

    def remove(self, uids: Collection[int]) -> None:
        """Remove rules. Rules that these had hidden take their places before they go.

        Raises:
            KernelError: The kernel refused.
        """
        self.change(lambda _: None, removed=uids)

    def change(self, change: Callable[[Rules], None], *, removed: Collection[int] = ()) -> None:
        """Remove rules and change others, entry by entry where that is few entries.

        Raises:
            KernelError: The kernel refused.
        """
        self.heal()
        before = self.live.all_entries()
        target = self._target(before, set(removed), change, refill=True)
        writes, deletions = difference(before, target.maps)
        if len(writes) + len(deletions) <= _FEW:
            # A map may have no room until what goes is gone; new maps have.
            with contextlib.suppress(KernelError):
                self._turn_into(target, writes, deletions)
                return
        self._commit(target)

    def clear(self, kinds: Collection[Kind], maps: Collection[str]) -> int:
        """Remove every rule of some kinds, which are those of some maps; return how many."""
        self.heal()
        uids = self.uids_in(kinds, maps)
        if uids:
            self._rebuild(removed=uids)
        return len(uids)

    def uids_in(self, kinds: Collection[Kind], maps: Collection[str]) -> set[int]:
        """Return the uids of the rules of some kinds, named or not."""
        found = {uid for uid, rule in self.names.all().items() if rule.kind in kinds}
        alive = {int.from_bytes(uid, "little") for uid in self.live.entries("rules")}
        standing = usage(self.live.all_entries())
        return found.union(*(standing.of(name) & alive for name in maps))

    def replace(
        self,
        change: Callable[[Rules], None],
        *,
        removed: Iterable[int] = (),
        refill: bool = False,
    ) -> SlotInfo:
        """Commit what is live, without some rules, changed by ``change``.

        With ``refill``, rules take the places that are free then and that they ask for.

        Raises:
            PolicyError: It does not fit; nothing was touched.
            KernelError: The kernel refused; what was live still is.
        """
        self.heal()
        return self._rebuild(removed=removed, change=change, refill=refill)

    def heal(self) -> bool:
        """Finish or undo what a killed edit left half done; return whether there was any."""
        if not self.live.info().editing:
            return False
        named = self.names.all()
        attributes = {int.from_bytes(uid, "little") for uid in self.live.entries("rules")}
        records = self.live.manual_rules()
        gone = {
            uid
            for uid, record in records.items()
            if uid not in attributes and manual.to_rule(record) is not None
        }
        if not self.names.problem:
            gone |= attributes - set(named)
        modes = manual.with_modes(named.values(), manual.modes_of(records.values()))
        self._rebuild(removed=gone, change=lambda rules: set_modes(rules, modes), refill=True)
        return True

    def _plan(self, rule: Rule) -> _Planned:
        wanted = self._resolve((rule,))
        check_matches(rule, wanted)
        info, uid = self.live.info(), uid_key(rule.id)
        stamp = max(self.now_ns, info.applied_ns + 1)
        record = manual.to_record(rule, now_ns=stamp, uid=self.by)
        old = self._look("manual_rules", uid)
        was = ManualRule.unpack(old) if old else None
        writes, kept, in_place = self._merge(wanted)
        if was is not None and was[2:6] == record[2:6]:
            in_place = in_place and was.added_ns > info.applied_ns
            record = was
        elif was is not None:
            in_place = False
        stands = any(uid in uids_in_entry(e) for part in writes.values() for e in part.values())
        state = "added" if was is None else "changed"
        if was is record and not self._differs(writes):
            state = "unchanged"
        elif was is None and not stands:
            state = "covered"
        return _Planned(rule, record, wanted, writes, state, kept, in_place)

    def _resolve(self, rules: tuple[Rule, ...]) -> Rules:
        return resolve(
            Policy(rules),
            self.identify,
            {},
            now=0,
            fallback=self.live.pins.is_fallback(),
            ambiguous=ambiguous_devices(read_mounts()),
        )

    def _merge(self, wanted: Rules) -> tuple[dict[str, Entries], frozenset[int], bool]:
        writes: dict[str, Entries] = {}
        kept: set[int] = set()
        in_place = True
        for name in ENTRY_MAPS:
            for key, entry in wanted.maps[name].items():
                merged = merge(self._exact(name, key), entry, lambda uid: self._mode(wanted, uid))
                writes.setdefault(name, {})[key] = merged.entry
                kept |= merged.kept
                in_place = in_place and merged.in_place and not SPECS[name].lpm
        return writes, frozenset(kept), in_place

    def _exact(self, name: str, key: bytes) -> bytes | None:
        # A look-up in a trie answers with any shorter prefix too; a commit merges exactly.
        return None if SPECS[name].lpm else self._look(name, key)

    def _mode(self, wanted: Rules, uid: int) -> int | None:
        key = uid.to_bytes(8, "little")
        attribute = wanted.maps["rules"].get(key) or self._look("rules", key)
        return attribute[0] if attribute else None

    def _look(self, name: str, key: bytes) -> bytes | None:
        inner = self.live.inner(name)
        if inner is None:
            return None
        with inner:
            return inner.get(key)

    def _differs(self, writes: dict[str, Entries]) -> bool:
        return any(
            self._exact(name, key) != entry
            for name, part in writes.items()
            for key, entry in part.items()
        )

    def _mark(self, slot: int) -> None:
        info = self.live.info(slot)
        entries = (*info.entries[:EDITING], 1)
        self.live.set_info(slot, info._replace(entries=entries))

    def _write(self, planned: _Planned) -> None:
        slot, uid = self.live.slot, uid_key(planned.rule.id)
        before = self.live.info(slot)
        self.live.set_info(
            slot,
            before._replace(
                kinds=before.kinds | sum(SPECS[name].kind for name in planned.writes
                                         if not before.kinds & SPECS[name].kind),
                walk=max(before.walk, deepest(planned.writes.get("deny_dir_map", {}))),
                entries=(*before.entries[:EDITING], 1),
            ),
        )  # fmt: skip
        writes = [("rules", uid, planned.wanted.maps["rules"][uid])]
        writes.append(("manual_rules", uid, planned.record.pack()))
        writes += [(name, k, e) for name, part in planned.writes.items() for k, e in part.items()]
        grown = self._write_all(slot, before, writes)
        counts = list(before.entries)
        for name in grown:
            counts[_INDEX[name]] += 1
        now = self.live.info(slot)
        self.live.set_info(slot, now._replace(entries=(*counts[:EDITING], 0)))

    def _write_all(self, slot: int, before: SlotInfo, writes: list[Write]) -> list[str]:
        """Write all or nothing; return the map's name for every key that is new."""
        done: list[tuple[str, bytes, bytes | None]] = []
        try:
            for name, key, value in writes:
                with self._inner(name, slot) as inner:
                    old = inner.get(key)
                    _set(inner, name, key, value)
                    done.append((name, key, old))
        except BaseException:
            for name, key, old in reversed(done):
                with self._inner(name, slot) as inner, contextlib.suppress(KernelError, OSError):
                    inner.set(key, old) if old is not None else inner.delete(key)
            self.live.set_info(slot, before)
            raise
        return [name for name, _, old in done if old is None]

    def _inner(self, name: str, slot: int) -> Map:
        inner = self.live.inner(name, slot)
        if inner is None:
            inner = new_inner(self.live, SPECS[name])
            index = slot.to_bytes(4, "little")
            self.live.map(name).set(index, inner.fd.to_bytes(4, "little"))
        return inner

    def _rebuild(
        self,
        *,
        removed: Iterable[int] = (),
        change: Callable[[Rules], None] = lambda _: None,
        refill: bool = False,
    ) -> SlotInfo:
        target = self._target(self.live.all_entries(), set(removed), change, refill=refill)
        return self._commit(target)

    def _commit(self, target: Rules) -> SlotInfo:
        info = self.live.info()
        return commit(self.live, target, bundle=info.bundle, serial=info.serial)

    def _target(
        self,
        maps: Mapping[str, Entries],
        gone: set[int],
        change: Callable[[Rules], None] = lambda _: None,
        *,
        refill: bool = False,
    ) -> Rules:
        rules = Rules(maps=tidy(maps, gone))
        drop_modes(rules.maps)
        change(rules)
        if refill:
            named = {uid: r for uid, r in self.names.all().items() if uid not in gone}
            by_path = {uid for uid, rule in named.items() if rule.kind is not Kind.INODE}
            want_generation(rules.maps["deny_inode_map"], by_path)
            self._refill(rules, named)
        inherit_cidrs(rules)
        return rules

    def _turn_into(self, target: Rules, writes: list[Write], deletions: list[Write]) -> None:
        """Make the active slot hold ``target``, which is smaller, entry by entry."""
        slot = self.live.slot
        self._mark(slot)
        for name, key, value in writes:
            with self._inner(name, slot) as inner:
                _set(inner, name, key, value)
        if writes and deletions:
            # A hook that has read an entry of before looks for its rule next.
            wait_for_readers(self.live)
        for name, key, _ in deletions:
            with self._inner(name, slot) as inner:
                inner.delete(key)
                if name == "rules":
                    self.live.map("rule_hits").delete(key)
        info = self.live.info(slot)
        self.live.set_info(
            slot,
            info._replace(
                kinds=target.kinds,
                walk=target.walk,
                content=digest_at(info.applied_ns, target.maps),
                entries=(*(len(target.maps[spec.name]) for spec in POLICY_MAPS), 0, 0),
            ),
        )

    def _refill(self, rules: Rules, named: dict[int, Rule]) -> None:
        """Let rules that do not stand in all the places they ask for have what is free now."""
        fallback = self.live.pins.is_fallback()
        found = missing_rules(rules, named, fallback=fallback)
        missing = tuple(as_they_are(found, rules.maps["rules"]))
        if missing:
            wanted = self._resolve(missing)
            join(rules, wanted)


def _join_all(rules: Rules, planned: Iterable[_Planned]) -> None:
    for one in planned:
        join(rules, one.wanted)
        rules.maps["manual_rules"][uid_key(one.rule.id)] = one.record.pack()


def _set(inner: Map, name: str, key: bytes, value: bytes) -> None:
    try:
        inner.set(key, value)
    except KernelError as error:
        if "capacity" not in error.data:
            raise
        option = option_of(name)
        raise KernelError(
            f"{name} is full: it holds {inner.max_entries} entries",
            hint="make room, live: aegisbpf incident map-full   "
            f"(by hand: aegisbpf block clear-stale; aegisbpf load --replace {option}=N)",
            data={"map": name, "capacity": inner.max_entries, "option": option},
        ) from error
