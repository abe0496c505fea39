"""Rules made by hand: how they are kept in the kernel, and how they come back as rules.

A rule of the policy that was promoted or demoted by hand is kept as ``mode:ID``, with the mode
it has now. Their ids are ``manual:KIND:TARGET``; an allowed cgroup is kept as ``cgroup:PATH``. They
live in the kernel beside their entries, so an apply can carry them over and no file can
disagree with the kernel about them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from aegis_tools.control.resolve import SIGNALS
from aegis_tools.errors import PolicyError
from aegis_tools.kernel.layout import MANUAL_TEXT, ManualRule, uid_key
from aegis_tools.policy.model import MAX_DEPTH, Kind, Mode, Op, Rule, Signal
from aegis_tools.policy.targets import allowed_operations, canonical

PREFIX = "manual:"
CGROUP = "cgroup:"
MODE = "mode:"
SIGNAL_NAMES = {number: signal for signal, number in SIGNALS.items()}


def manual_rule(kind: Kind, target: str, operations: Op) -> Rule:
    """Return an enforcing rule for something denied by hand; ``target`` is canonical."""
    return Rule(f"{PREFIX}{kind.value}:{target}", kind, target, operations)


def to_record(rule: Rule, *, now_ns: int, uid: int) -> ManualRule:
    """Return what the kernel keeps of a manual rule.

    Raises:
        PolicyError: The target is too long to be kept.
    """
    text = rule.id.removeprefix(PREFIX)
    _check_length(text)
    enforce = rule.mode is Mode.ENFORCE
    signal = SIGNALS[rule.signal]
    return ManualRule(now_ns, uid, int(rule.operations), enforce, signal, rule.depth, text)


def cgroup_record(path: str, *, now_ns: int, uid: int) -> ManualRule:
    """Return what the kernel keeps of a cgroup allowed by hand."""
    _check_length(CGROUP + path)
    return ManualRule(now_ns, uid, 0, 0, 0, 0, CGROUP + path)


def mode_record(rule_id: str, *, enforce: bool, now_ns: int, uid: int) -> ManualRule:
    """Return what the kernel keeps of a policy's rule that has another mode than the policy says.

    Raises:
        PolicyError: The id is too long to be kept.
    """
    _check_length(MODE + rule_id)
    return ManualRule(now_ns, uid, 0, int(enforce), 0, 0, MODE + rule_id)


def mode_key(rule_id: str) -> bytes:
    """Return the key of a rule's mode record."""
    return uid_key(PREFIX + MODE + rule_id)


def modes_of(records: Iterable[ManualRule]) -> dict[str, Mode]:
    """Return the modes that were set by hand, by rule id."""
    return {
        record.text.removeprefix(MODE): Mode.ENFORCE if record.enforce else Mode.AUDIT
        for record in records
        if record.text.startswith(MODE)
    }


def label(record: ManualRule) -> str:
    """Return what a person calls a record: a rule's id, or ``mode:ID=enforce``."""
    if not record.text.startswith(MODE):
        return id_of(record)
    return f"{record.text}={'enforce' if record.enforce else 'audit'}"


class ByHand(NamedTuple):
    """What was done by hand, as ids of rules.

    Attributes:
        made: Rules and allowed cgroups that no policy has.
        promoted: Rules of the policy that were let refuse.
        demoted: Rules of the policy that were let only audit.
    """

    made: tuple[str, ...]
    promoted: tuple[str, ...]
    demoted: tuple[str, ...]


def sort_out(records: Iterable[ManualRule]) -> ByHand:
    """Tell rules made by hand from rules that only have another mode than the policy says."""
    found = list(records)
    modes = modes_of(found)
    made = (id_of(record) for record in found if not record.text.startswith(MODE))
    promoted = (rule for rule, mode in modes.items() if mode is Mode.ENFORCE)
    demoted = (rule for rule, mode in modes.items() if mode is Mode.AUDIT)
    return ByHand(*(tuple(sorted(ids)) for ids in (made, promoted, demoted)))


def label_text(shown: str) -> str:
    """Return a label (see :func:`label`) in words: ``r1  (demoted by hand``, without the end."""
    rule, _, mode = shown.removeprefix(MODE).rpartition("=")
    if not shown.startswith(MODE):
        return f"{shown}  (made by hand"
    return f"{rule}  ({'promoted' if mode == 'enforce' else 'demoted'} by hand"


def with_modes(rules: Iterable[Rule], modes: Mapping[str, Mode]) -> tuple[Rule, ...]:
    """Return a policy's rules with the modes that were set by hand."""
    if not modes:
        return tuple(rules)
    return tuple(r._replace(mode=modes[r.id]) if r.id in modes else r for r in rules)


def id_of(record: ManualRule) -> str:
    """Return the id of a record's rule, from which its uid follows."""
    return PREFIX + record.text


def key_of(record: ManualRule) -> bytes:
    """Return the key under which the kernel keeps a record."""
    return uid_key(id_of(record))


def to_rule(record: ManualRule) -> Rule | None:
    """Return the rule a record means; None for an allowed cgroup or damaged text."""
    name, _, target = record.text.partition(":")
    try:
        kind = Kind(name)
        operations = Op(record.operations) & allowed_operations(kind)
        if not operations or canonical(kind, target) != target:
            return None
    except ValueError:
        return None
    return Rule(
        id_of(record),
        kind,
        target,
        operations,
        Mode.ENFORCE if record.enforce else Mode.AUDIT,
        SIGNAL_NAMES.get(record.signal, Signal.NONE),
        min(record.depth, MAX_DEPTH),
    )


def cgroups_of(records: Iterable[ManualRule]) -> list[str]:
    """Return the cgroups that were allowed by hand."""
    return [
        record.text.removeprefix(CGROUP) for record in records if record.text.startswith(CGROUP)
    ]


def _check_length(text: str) -> None:
    if len(text.encode("utf-8", "surrogateescape")) > MANUAL_TEXT:
        raise PolicyError(
            "the path is too long for a rule made by hand",
            hint="put it into a policy file instead",
        )
