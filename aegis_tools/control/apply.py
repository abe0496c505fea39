"""Apply a policy: read it, resolve it, plan, commit, remember.

Order of the effects, and what a death after each leaves:
  bundle stored      the old policy; one more file that a later apply prunes
  serials saved      the old policy; the same bundle is accepted again
  slot flipped       the new policy, live; after a reboot the old one, until applied again
  current recorded   the new policy, live and at boot
  history written    all of it
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from aegis_tools.control import bootstate, capacity, manual
from aegis_tools.control.commit import commit
from aegis_tools.control.history import History
from aegis_tools.control.keystore import KeyStore
from aegis_tools.control.live import Live
from aegis_tools.control.lockout import check
from aegis_tools.control.lockout.model import Refusal
from aegis_tools.control.mode import check_can_enforce, read_mode, set_mode
from aegis_tools.control.names import Names
from aegis_tools.control.plan import Plan, make_plan
from aegis_tools.control.remember import remember
from aegis_tools.control.resolve import Rules, resolve
from aegis_tools.control.room import check_capacity
from aegis_tools.control.source import Source, read_stored
from aegis_tools.control.store import Record, Store
from aegis_tools.errors import PolicyError, StateError
from aegis_tools.kernel.cgroups import cgroup_ids
from aegis_tools.kernel.inode_keys import Identifier
from aegis_tools.kernel.layout import Config, ManualRule
from aegis_tools.kernel.mounts import ambiguous_devices, read_mounts
from aegis_tools.paths import Paths
from aegis_tools.policy.lint import dangers
from aegis_tools.policy.model import Mode, Policy


@dataclass(frozen=True)
class Prepared:
    """A plan and what it needs to be carried out.

    Attributes:
        source: The policy.
        rules: It, resolved.
        plan: What carrying it out changes.
        forced: Rules that a person forced past the lockout proof.
    """

    source: Source
    rules: Rules
    plan: Plan
    forced: tuple[str, ...] = ()


def prepare(
    live: Live,
    source: Source,
    store: Store,
    *,
    now: float,
    paths: Paths | None = None,
    drop_manual: bool = False,
    mode: Mode | None = None,
    demoted: Sequence[str] = (),
) -> Prepared:
    """Resolve a policy against this host and compare it with what is live.

    Args:
        live: The loaded maps.
        source: The policy.
        store: Where the live policy is kept.
        now: Unix seconds.
        paths: Where the lockout proof remembers what recovery needs; None to leave it out.
        drop_manual: Leave rules made by hand behind instead of carrying them over.
        mode: The host's mode afterwards; None to leave it.
        demoted: Rules that are to only audit, as somebody has said before a reboot.

    Raises:
        PolicyError: It does not fit the maps.
        CommandError: The lockout proof could not search the host.
    """
    records = {} if drop_manual else live.manual_rules()
    records = {**_demotions(demoted, now), **records}
    rules = resolve_all(live, source.policy, records, now=now)
    check_capacity(live, rules)
    kept = rules.maps["manual_rules"]
    plan = make_plan(
        live,
        rules,
        name_of=Names(live, store.paths).name,
        kept=[manual.label(r) for r in records.values() if manual.key_of(r) in kept],
        problems=(*source.problems, *dangers(source.policy)),
        after=source.record.digest,
        refusals=_lockouts(live, rules, paths) if paths is not None else (),
    )
    was = read_mode(live)
    if mode is not None and mode is not was:
        plan = replace(plan, mode=f"{was.value} → {mode.value}")
    return Prepared(source, rules, plan)


def _demotions(rules: Sequence[str], now: float) -> dict[int, ManualRule]:
    made = (manual.mode_record(r, enforce=False, now_ns=int(now * 1e9), uid=0) for r in rules)
    return {int.from_bytes(manual.key_of(record), "little"): record for record in made}


def _lockouts(live: Live, rules: Rules, paths: Paths) -> tuple[Refusal, ...]:
    with Identifier(live.pins) as identify:
        return tuple(check.check_rules(paths, rules, identify))


def resolve_all(
    live: Live, policy: Policy, records: Mapping[int, ManualRule], *, now: float
) -> Rules:
    """Resolve a policy together with rules made by hand, and keep their records."""
    modes = manual.modes_of(records.values())
    by_hand = [rule for rule in map(manual.to_rule, records.values()) if rule is not None]
    texts = (*policy.allow_cgroups, *manual.cgroups_of(records.values()))
    whole = Policy((*manual.with_modes(policy.rules, modes), *by_hand), texts, policy.version)
    with Identifier(live.pins) as identifier:
        rules = resolve(
            whole,
            identifier,
            cgroup_ids(texts),
            now=now,
            fallback=live.pins.is_fallback(),
            ambiguous=ambiguous_devices(read_mounts()),
        )
    said = {rule.id: rule.mode for rule in policy.rules} if modes else {}
    for record in records.values():
        rule = record.text.removeprefix(manual.MODE)
        if rule == record.text or said.get(rule, modes[rule]) is not modes[rule]:
            rules.maps["manual_rules"][manual.key_of(record)] = record.pack()
    return rules


def accept(paths: Paths, prepared: Prepared) -> Record:
    """Store a policy and its serial, before the kernel changes. The caller holds the lock.

    Raises:
        StateError: Something could not be written, or the history is not ours alone.
    """
    source, store = prepared.source, Store(paths)
    store.prepare()
    History(paths.history).check()
    record = replace(source.record, applied=int(time.time()))
    store.add(source.data, signed=record.signed, digest=record.digest)
    if source.accept is not None:
        store.save_serials(source.accept)
    return record


def make_live(live: Live, prepared: Prepared, mode: Mode | None) -> None:
    """Commit and set the mode. In between it is the milder of the two modes.

    Raises:
        PolicyError, KernelError: The old policy is still live, in its mode.
    """
    was, record = read_mode(live), prepared.source.record
    if mode is Mode.ENFORCE:
        check_can_enforce(live)
    if mode is Mode.AUDIT:
        set_mode(live, mode)
    try:
        if prepared.plan.policy_changed:
            commit(live, prepared.rules, bundle=bytes.fromhex(record.digest), serial=record.serial)
    except BaseException:
        if live.info().bundle.hex() != record.digest:
            live.set_config(Config.MODE, int(was is Mode.ENFORCE))
        raise
    if mode is Mode.ENFORCE:
        set_mode(live, mode)


def carry_out(
    paths: Paths, live: Live, prepared: Prepared, *, action: str, mode: Mode | None = None
) -> Record:
    """Do what was planned, for good. The caller holds the lock.

    Args:
        paths: Where things are.
        live: The loaded maps.
        prepared: What is to be live.
        action: The command, for the history.
        mode: The host's mode, now and at boot; None to leave it.

    Returns:
        What is current now.

    Raises:
        PolicyError, KernelError: The old policy is still live.
        StateError: Something could not be written, or the history is not ours alone; the message
            says what is live.
    """
    record, store = accept(paths, prepared), Store(paths)
    make_live(live, prepared, mode)
    try:
        store.set_current(record)
        bootstate.keep(paths, live, mode, forced=())
        counts = prepared.plan.counts()
        remember(paths, action, record=record, counts=counts, note=prepared.source.note)
        capacity.note(paths, now=time.time())
        store.prune(live=[record.digest])
    except StateError as error:
        raise StateError(
            "the policy is live, but could not be recorded: a reboot would bring the old one "
            f"({error.message})",
            hint=error.hint,
            detail=error.detail,
        ) from error
    return record


def check_strict(prepared: Prepared) -> None:
    """Raise PolicyError where the plan has warnings, for ``--strict``."""
    if prepared.plan.problems:
        first = prepared.plan.problems[0]
        raise PolicyError(
            f"--strict: {len(prepared.plan.problems)} warnings, the first: {first.message}",
            hint="see them all: aegisbpf policy plan FILE",
            data={"problems": [problem._asdict() for problem in prepared.plan.problems]},
        )


def previous_source(paths: Paths, *, now: int, allow_unsigned: bool = False) -> Source:
    """Return the policy that was current before the present one.

    Args:
        paths: Where it is.
        now: Unix seconds.
        allow_unsigned: Take an unsigned one though this host asks for signatures.

    Raises:
        StateError: There is none.
        TrustError: It is not acceptable any more; see ``read_stored``.
    """
    store = Store(paths)
    _, previous = store.records()
    if previous is None:
        raise StateError(
            "there is no previous policy to roll back to",
            hint="apply a policy file: aegisbpf policy apply FILE",
        )
    return read_stored(
        store.load(previous.digest),
        previous,
        KeyStore(paths),
        store,
        now=now,
        allow_unsigned=allow_unsigned,
    )
