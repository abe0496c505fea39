"""Since when a rule has been live as it is now: what "no match for a week" is counted from.

The history says when which policy was applied, and the stored policies what was in them. As far
back as a rule stands in each of them alike, it was live; where either says nothing any more, the
answer is a later time than the true one, never an earlier one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from aegis_tools.control import manual
from aegis_tools.control.history import Entry, History
from aegis_tools.control.live import Live
from aegis_tools.control.source import stored_policy
from aegis_tools.control.store import Store
from aegis_tools.errors import AegisError
from aegis_tools.kernel.layout import ManualRule
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Rule

LIMIT = 2000
"""How many entries of the history are read."""
_NAMING = ("block del", "network deny del")
_UNNAMED = ("block clear", "network deny clear", "block clear-stale", "map update", "map delete")
_SURELY_WHOLE = 500  # the history cuts longer notes off


class Policies:
    """Rules of stored policies, by id; each policy is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, dict[str, Rule] | None] = {}

    def rules(self, digest: str) -> dict[str, Rule] | None:
        """Return them; None where the policy is not stored any more."""
        if digest not in self._known:
            try:
                found = stored_policy(self._store, bytes.fromhex(digest))
                self._known[digest] = {rule.id: rule for rule in found.rules}
            except (AegisError, ValueError):
                self._known[digest] = None
        return self._known[digest]


def read_steady(
    paths: Paths, rules: Iterable[Rule], *, applied_ns: int, records: Iterable[ManualRule]
) -> dict[str, float]:
    """Return since when live rules are as they are; see :func:`steady_since`.

    Args:
        paths: Where history and policies are.
        rules: Of the live policy, and made by hand.
        applied_ns: When the live policy was applied.
        records: What was made by hand.
    """
    try:
        listing = History(paths.history).read(LIMIT)
        history = () if listing.note else listing.entries  # others could have written it
    except AegisError:
        history = ()
    policies = Policies(Store(paths))
    return steady_since(
        rules, history, policies=policies, applied=applied_ns / 1e9, records=records
    )


def steady_since(
    rules: Iterable[Rule],
    history: Sequence[Entry],
    *,
    policies: Policies,
    applied: float,
    records: Iterable[ManualRule] = (),
) -> dict[str, float]:
    """Return since when each rule has been live as it is now, as far as anything tells.

    Args:
        rules: Those that are live.
        history: Newest first.
        policies: The stored ones.
        applied: When the live policy was applied, Unix seconds.
        records: What was made by hand.

    Returns:
        Unix seconds, by rule id.
    """
    wanted = tuple(rules)
    found = {rule.id: applied for rule in wanted}
    left = {rule.id: essence(rule) for rule in wanted}
    for entry in history:
        if entry.result != "ok":
            continue
        if entry.action == "block restore":  # brings rules back that were gone until then
            found.update((name, max(found[name], float(entry.time))) for name in left)
            break
        left = {name: each for name, each in left.items() if not _removed(entry, name)}
        if entry.digest and entry.action.startswith("policy"):
            then = policies.rules(entry.digest) or {}
            left = {n: e for n, e in left.items() if n in then and essence(then[n]) == e}
            found.update((name, min(found[name], float(entry.time))) for name in left)
        if not left:
            break
    return {**found, **_by_hand(found, records)}


def _removed(entry: Entry, rule: str) -> bool:
    """Return whether a change by hand may have taken a rule out."""
    if entry.action in _NAMING:
        return rule in entry.note or len(entry.note) >= _SURELY_WHOLE
    return entry.action in _UNNAMED


def _by_hand(found: dict[str, float], records: Iterable[ManualRule]) -> dict[str, float]:
    """Return since when rules made by hand, or demoted by hand, are as they are."""
    made = {record.text: record.added_ns / 1e9 for record in records}
    result = {}
    for rule, since in found.items():
        if rule.startswith(manual.PREFIX) and rule.removeprefix(manual.PREFIX) in made:
            result[rule] = made[rule.removeprefix(manual.PREFIX)]
        elif manual.MODE + rule in made:
            result[rule] = max(since, made[manual.MODE + rule])
    return result


def essence(rule: Rule) -> tuple[object, ...]:
    """Return what of a rule decides what it matches and does."""
    return rule.kind, rule.target, rule.operations, rule.mode, rule.depth


def counted_since(live: Live) -> float:
    """Return since when hits have been counted without a break, Unix seconds.

    They are forgotten with the maps, by a reboot too, and nothing counts where no hook is attached.
    """
    pinned = (live.pins.path("maps", "rule_hits"), live.pins.path("links"))
    return max(os.stat(path).st_mtime for path in pinned)  # noqa: PTH116 # bpffs
