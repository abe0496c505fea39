"""Bring back what was live before: the stored policy, as it stood, with the rules made by hand."""

from __future__ import annotations

import contextlib

from aegis_tools.control import manual
from aegis_tools.control.apply import resolve_all
from aegis_tools.control.commit import commit
from aegis_tools.control.live import Live
from aegis_tools.control.pending import Side
from aegis_tools.control.plan import make_plan
from aegis_tools.control.room import check_capacity
from aegis_tools.control.source import stored_policy
from aegis_tools.control.store import Store
from aegis_tools.errors import AegisError
from aegis_tools.kernel.layout import uid_of
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Policy


def removed_by_hand(live: Live, store: Store) -> set[int]:
    """Return the uids of the live policy's rules that are not live; none where it is not known."""
    digest = live.info().bundle
    if not any(digest):
        return set()
    with contextlib.suppress(AegisError):
        alive = {int.from_bytes(uid, "little") for uid in live.entries("rules")}
        return {uid_of(rule.id) for rule in stored_policy(store, digest).rules} - alive
    return set()


def restore(paths: Paths, live: Live, was: Side, *, now: float) -> bool:
    """Make what was live before live again. The caller holds the lock.

    What was done by hand meanwhile stays done: rules that were added are kept, rules that were
    removed stay away, but for those that the change itself removed. Signatures are not judged
    again: it is what this host enforced a moment ago, and its digest proves that it is the same;
    the next boot judges.

    Args:
        paths: Where policies are stored.
        live: The loaded maps.
        was: What was live.
        now: Unix seconds.

    Returns:
        Whether anything had to be changed.

    Raises:
        StateError, PolicyError, TrustError: The policy is not stored any more, or damaged.
        PolicyError: It does not fit.
        KernelError: The kernel refused; what was live still is.
    """
    store = Store(paths)
    digest = bytes.fromhex(was.digest or "00" * 32)
    policy = stored_policy(store, digest) if was.digest else Policy(())
    gone = was.removed | (removed_by_hand(live, store) - was.back)
    left = tuple(rule for rule in policy.rules if uid_of(rule.id) not in gone)
    policy = Policy(left, policy.allow_cgroups, policy.version)
    records = {uid_of(manual.id_of(record)): record for record in was.manual}
    records.update((uid, r) for uid, r in live.manual_rules().items() if uid not in was.absent)
    rules = resolve_all(live, policy, records, now=now)
    check_capacity(live, rules)
    plan = make_plan(live, rules, name_of=str, after=was.digest)
    if plan.policy_changed:
        commit(live, rules, bundle=digest, serial=was.serial)
    return plan.policy_changed
