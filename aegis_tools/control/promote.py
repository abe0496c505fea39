"""Staged promotion: a live rule goes from audit to enforce, or back, while all else stays.

The policy file goes on saying what it said; the mode that was set by hand is kept in the kernel
beside rules made by hand, so an apply carries it over and says so (ADR 0013).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from aegis_tools.control import manual
from aegis_tools.control.edit import Editor
from aegis_tools.control.edit_maps import set_modes
from aegis_tools.control.live import Live
from aegis_tools.control.resolve import Rules
from aegis_tools.errors import PolicyError
from aegis_tools.kernel.layout import RULE_ATTR, ManualRule, Stat, uid_key, uid_of
from aegis_tools.policy.model import Mode, Rule


class Evidence(NamedTuple):
    """What is known of a rule before it is promoted.

    Attributes:
        rule: Its id.
        mode: Its mode now.
        audits: Matches that were let through since it is live.
        blocks: Matches that were refused.
        quiet: Seconds since the last match; None for none.
        watched: Seconds since the policy was committed.
        objection: Why it should not be promoted yet; empty for no reason.
    """

    rule: str
    mode: Mode
    audits: int
    blocks: int
    quiet: float | None
    watched: float
    objection: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {**self._asdict(), "mode": self.mode.value}

    def line(self) -> str:
        """Return it for a person."""
        last = "never" if self.quiet is None else f"{_span(self.quiet)} ago"
        text = f"{self.rule}: {self.mode.value}, {self.audits} audited, {self.blocks} refused"
        return f"{text}, last match {last}, watched for {_span(self.watched)}"


def look(live: Live, rules: Iterable[str], *, now_ns: int, boot_ns: int) -> list[Evidence]:
    """Return what the kernel counted of live rules.

    Args:
        live: The loaded maps.
        rules: Ids.
        now_ns: Unix time, ns.
        boot_ns: Boot clock, ns.

    Raises:
        PolicyError: One is not live.
    """
    uids = {uid_of(rule): rule for rule in rules}
    found = {one.rule: one for one in look_all(live, uids.get, now_ns=now_ns, boot_ns=boot_ns)}
    for rule in uids.values():
        if rule not in found:
            raise no_such(rule)
    return [found[rule] for rule in uids.values()]


def look_all(
    live: Live, name: Callable[[int], str | None], *, now_ns: int, boot_ns: int
) -> list[Evidence]:
    """Return what the kernel counted of every live rule that has a name; see :func:`look`.

    Args:
        live: The loaded maps.
        name: Returns the id of a uid; None leaves the rule out.
        now_ns: Unix time, ns.
        boot_ns: Boot clock, ns.
    """
    attributes, hits = live.entries("rules"), live.hits()
    watched = max(now_ns - live.info().applied_ns, 0) / 1e9
    result = []
    for key, attribute in attributes.items():
        uid = int.from_bytes(key, "little")
        rule = name(uid)
        if rule is not None:
            blocks, audits, last = hits.get(uid, (0, 0, 0))
            quiet = max(boot_ns - last, 0) / 1e9 if last else None
            mode = Mode.ENFORCE if RULE_ATTR.unpack(attribute)[0] else Mode.AUDIT
            result.append(Evidence(rule, mode, audits, blocks, quiet, watched))
    return result


def no_such(rule: str) -> PolicyError:
    """Return the error for an id that no live rule has."""
    return PolicyError(
        f"{rule} is no live rule", hint="see the ids: aegisbpf rule list", data={"rule": rule}
    )


def judge(found: Evidence, *, clean_for: float | None, hits_lost: int) -> Evidence:
    """Return the evidence with what speaks against promoting the rule.

    Args:
        found: The evidence.
        clean_for: Seconds without a match that are asked for; None: none since it is live.
        hits_lost: Matches of rules whose hits could not be counted.
    """
    objection = ""
    if hits_lost and found.quiet is None:
        objection = f"{hits_lost} matches could not be counted, so it may have matched"
    elif clean_for is None and found.audits:
        objection = f"it matched {found.audits} times in audit; each would have been refused"
    elif clean_for is not None and found.quiet is not None and found.quiet < clean_for:
        objection = f"it matched {_span(found.quiet)} ago"
    elif clean_for is not None and found.watched < clean_for:
        objection = f"it was watched for {_span(found.watched)} only, since the last commit"
    return found._replace(objection=objection)


def check(
    live: Live, rules: Iterable[str], *, clean_for: float | None, now_ns: int, boot_ns: int
) -> list[Evidence]:
    """Return the evidence of rules that are to be promoted, by id; see :func:`look`."""
    lost = live.stats()[Stat.HITS_LOST]
    found = look(live, rules, now_ns=now_ns, boot_ns=boot_ns)
    return [judge(one, clean_for=clean_for, hits_lost=lost) for one in found]


def refuse(found: Iterable[Evidence]) -> None:
    """Raise PolicyError where anything speaks against a promotion."""
    against = [one for one in found if one.objection]
    if against:
        first = against[0]
        raise PolicyError(
            f"{first.rule} is not promoted: {first.objection}",
            hint="look at its events first; to promote it nevertheless: --force",
            data={"evidence": [one.to_dict() for one in against]},
        )


def set_rule_modes(editor: Editor, rules: Iterable[Rule]) -> None:
    """Let live rules enforce or audit, as the mode of each of ``rules`` says.

    Where no other rule is for the same things, one element of ``rules`` in the kernel is all that
    the hooks see change. Otherwise the rule that enforces takes the place, or gets it back.

    Raises:
        PolicyError: A rule's id is too long to be kept.
        KernelError: The kernel refused; what was live still is.
    """
    wanted = tuple(rules)
    policy = editor.names.policy()
    said = {rule.id: rule.mode for rule in policy.rules} if policy else {}
    made = [_record(editor, rule) for rule in wanted]

    def change(target: Rules) -> None:
        set_modes(target, wanted)
        for rule, record in zip(wanted, made, strict=True):
            _keep(target, rule, record, said.get(rule.id))

    editor.change(change)


def keys_of(rule: Rule) -> set[int]:
    """Return the keys of the records that a promotion of the rule may touch."""
    return {int.from_bytes(key, "little") for key in (uid_key(rule.id), manual.mode_key(rule.id))}


def _record(editor: Editor, rule: Rule) -> ManualRule:
    stamp = max(editor.now_ns, editor.live.info().applied_ns + 1)
    enforce = rule.mode is Mode.ENFORCE
    return manual.mode_record(rule.id, enforce=enforce, now_ns=stamp, uid=editor.by)


def _keep(target: Rules, rule: Rule, record: ManualRule, said: Mode | None) -> None:
    """Keep a record of the mode; none where the policy says the same."""
    records, own = target.maps["manual_rules"], uid_key(rule.id)
    if own in records:
        known = ManualRule.unpack(records[own])
        records[own] = known._replace(enforce=record.enforce).pack()
    elif rule.mode is said:
        records.pop(manual.mode_key(rule.id), None)
    else:
        records[manual.key_of(record)] = record.pack()


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
