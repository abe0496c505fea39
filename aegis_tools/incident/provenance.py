"""Where a live rule comes from: since when, by whose hand, under whose signature."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from aegis_tools.control import manual
from aegis_tools.control.history import Entry
from aegis_tools.control.steady import essence
from aegis_tools.kernel.layout import ManualRule
from aegis_tools.policy.model import Rule

RulesOf = Callable[[str], Mapping[str, Rule] | None]
"""Returns a stored policy's rules by id, from its digest; None where it is not stored any more."""


class Provenance(NamedTuple):
    """Where a rule comes from.

    Attributes:
        rule: Its id.
        source: ``policy``, ``manual`` or ``unknown``.
        since: Since when it is live as it is, Unix seconds; 0 where nothing tells.
        by: Who made it live: a name, or ``uid N``; empty where nothing tells.
        action: The command that did.
        digest: Of the policy that has it, hex.
        serial: Of that policy; 0 where it is not signed.
        signers: Key ids that have signed it.
        mode_by: Who promoted or demoted it by hand, and when; empty where nobody did.
    """

    rule: str
    source: str
    since: float = 0
    by: str = ""
    action: str = ""
    digest: str = ""
    serial: int = 0
    signers: tuple[str, ...] = ()
    mode_by: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as the record has it."""
        since = round(self.since, 3) if self.since else None
        return {**self._asdict(), "since": since, "signers": list(self.signers)}


def who(entry: Entry) -> str:
    """Return who made a change."""
    return f"{entry.sudo_user} (uid {entry.uid})" if entry.sudo_user else f"uid {entry.uid}"


def of_policy(
    rule: Rule, history: Sequence[Entry], rules_of: RulesOf, *, live: str, signers: Sequence[str]
) -> Provenance:
    """Return where a policy's rule comes from.

    Args:
        rule: It, as the policy says it.
        history: Newest first.
        rules_of: What stored policies hold.
        live: Digest of the live policy.
        signers: Key ids that have signed that.
    """
    found = Provenance(rule.id, "policy", digest=live, signers=tuple(signers))
    for entry in _applies(history):
        then = (rules_of(entry.digest) or {}).get(rule.id)
        if then is None or essence(then) != essence(rule):
            break
        found = found._replace(since=float(entry.time), by=who(entry), action=entry.action)
        if entry.digest == live:
            found = found._replace(serial=entry.serial)
            found = found._replace(signers=found.signers or entry.signers)
    return found


def _applies(history: Iterable[Entry]) -> Iterable[Entry]:
    """Yield the applies that stood, newest first; one that was undone did not."""
    undone: set[str] = set()
    for entry in history:
        if entry.result != "ok" or not entry.digest or not entry.action.startswith("policy"):
            continue
        if entry.action == "policy revert":
            undone.add(entry.digest)
        elif entry.action != "policy confirm" and entry.digest in undone:
            undone.discard(entry.digest)
        elif entry.action != "policy confirm":
            yield entry


def by_hand(rule: str, record: ManualRule, history: Iterable[Entry]) -> Provenance:
    """Return where a rule made by hand comes from: the kernel has kept it, the history says more.

    Args:
        rule: Its id.
        record: What the kernel keeps.
        history: Newest first.
    """
    found = Provenance(rule, "manual", record.added_ns / 1e9, f"uid {record.added_by}")
    for entry in history:
        if entry.result == "ok" and entry.action.endswith(" add") and _names(entry.note, rule):
            return found._replace(by=who(entry), action=entry.action)
    return found


def _names(note: str, rule: str) -> bool:
    return rule in note.rpartition("; ")[2].split(", ")


def mode_by(rule: str, records: Iterable[ManualRule], at: Callable[[float], str]) -> str:
    """Return who set a rule's mode by hand, and when; empty where nobody did.

    Args:
        rule: Its id.
        records: What was done by hand.
        at: Writes Unix seconds as a time.
    """
    for record in records:
        if record.text == manual.MODE + rule:
            verb = "promoted" if record.enforce else "demoted"
            return f"{verb} by uid {record.added_by} at {at(record.added_ns / 1e9)}"
    return ""
