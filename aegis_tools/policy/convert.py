"""A policy back to a file, in either form; and from one form to the other."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from aegis_tools.errors import PolicyError, UsageError
from aegis_tools.policy import targets
from aegis_tools.policy.model import MAX_DEPTH, Kind, Mode, Policy, Rule, Signal
from aegis_tools.policy.source import visible
from aegis_tools.policy.text import SECTION_OF


def format_text(policy: Policy) -> str:
    """Return the policy in the line format, rules in their order.

    Raises:
        PolicyError: The format cannot say all of it; ``data["losses"]`` lists, for each rule
            concerned, ``rule``, ``line`` and ``lost`` (a list of words).
    """
    losses = unsayable(policy)
    if losses:
        raise _losses_error(losses)
    lines = [f"version={policy.version}"]
    section = ""
    if policy.allow_cgroups:
        lines += ["", "[allow_cgroup]", *policy.allow_cgroups]
    for rule in policy.rules:
        if SECTION_OF[rule.kind] != section:
            section = SECTION_OF[rule.kind]
            lines += ["", f"[{section}]"]
        lines.append(_entry(rule))
    return "\n".join(lines) + "\n"


def _entry(rule: Rule) -> str:
    if rule.kind is not Kind.PORT or rule.operations == targets.default_operations(Kind.PORT):
        return rule.target
    return f"{rule.target}:{targets.direction(rule.operations)}"


def unsayable(policy: Policy) -> list[tuple[Rule, list[str]]]:
    """Return the rules of which the line format would lose something, and what."""
    taken: set[str] = set()
    found = ((rule, _lost(rule, taken)) for rule in policy.rules)
    return [(rule, lost) for rule, lost in found if lost]


def _lost(rule: Rule, taken: set[str]) -> list[str]:
    name = targets.implied_id(rule.kind, rule.target, rule.operations, taken)
    checks = {
        f"id {visible(rule.id)}": rule.id != name,
        f"operations {_operations(rule)}": not _operations_are_sayable(rule),
        f"mode {rule.mode.value}": rule.mode is not Mode.ENFORCE,
        f"signal {rule.signal.value}": rule.signal is not Signal.NONE,
        f"depth {rule.depth}": rule.depth != (MAX_DEPTH if rule.kind is Kind.DIRECTORY else 0),
        "owner": bool(rule.owner),
        "reason": bool(rule.reason),
        "expires": bool(rule.expires),
        "target (its last character is a blank)": rule.target[-1:] in {" ", "\t"},
    }
    taken.add(rule.id)
    return [what for what, is_lost in checks.items() if is_lost]


def _operations_are_sayable(rule: Rule) -> bool:
    if rule.kind is Kind.PORT:
        return bool(rule.operations)
    return rule.operations == targets.default_operations(rule.kind)


def _operations(rule: Rule) -> str:
    return "+".join(targets.operation_names(rule.operations)) or "none"


def _losses_error(losses: list[tuple[Rule, list[str]]]) -> PolicyError:
    described = [
        f"{visible(rule.id)} (line {rule.line}): {', '.join(lost)}" for rule, lost in losses
    ]
    more = f"; and {len(losses) - 3} more rules" if len(losses) > 3 else ""
    return PolicyError(
        f"the line format cannot say all of this policy: {'; '.join(described[:3])}{more}",
        hint="keep the policy in YAML, or take these out of it first",
        detail="\n".join(described),
        data={
            "losses": [{"rule": rule.id, "line": rule.line, "lost": lost} for rule, lost in losses]
        },
    )


def format_yaml(policy: Policy) -> str:
    """Return the policy in YAML; parsing it gives the same policy, but for line numbers."""
    lines = [f"version: {policy.version}"]
    if policy.allow_cgroups:
        lines += ["allow_cgroups:", *(f"  - {_scalar(name)}" for name in policy.allow_cgroups)]
    if policy.rules:
        lines.append("rules:")
    taken: set[str] = set()
    for rule in policy.rules:
        for index, (key, value) in enumerate(_fields(rule, taken)):
            lines.append(f"  {' ' if index else '-'} {key}: {value}")
        taken.add(rule.id)
    return "\n".join(lines) + "\n"


def _fields(rule: Rule, taken: set[str]) -> list[tuple[str, str]]:
    """Return the keys of a rule with their YAML text, without what parsing supplies by itself."""
    fields = [(rule.kind.value, _scalar(rule.target))]
    if rule.id != targets.implied_id(rule.kind, rule.target, rule.operations, taken):
        fields.insert(0, ("id", _scalar(rule.id)))
    if rule.operations != targets.default_operations(rule.kind):
        fields.append(("operations", f"[{', '.join(targets.operation_names(rule.operations))}]"))
    if rule.mode is not Mode.ENFORCE:
        fields.append(("mode", rule.mode.value))
    if rule.signal is not Signal.NONE:
        fields.append(("signal", rule.signal.value))
    if rule.kind is Kind.DIRECTORY and rule.depth != MAX_DEPTH:
        fields.append(("depth", str(rule.depth)))
    fields += [(key, _scalar(text)) for key in ("owner", "reason") if (text := getattr(rule, key))]
    if rule.expires:
        moment = datetime.fromtimestamp(rule.expires, timezone.utc)
        fields.append(("expires", moment.strftime("%Y-%m-%dT%H:%M:%SZ")))
    return fields


_plain = re.compile(r"[A-Za-z/](?:[\w./@+:-]| (?=\w))*(?<!:)", re.ASCII).fullmatch
_unsafe = re.compile('[\\\\"\x00-\x1f\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff]')
_OTHER_TYPES = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null"])


def _scalar(text: str) -> str:
    """Return text as a YAML scalar: plain where every reader takes it for a string, else quoted."""
    if _plain(text) and ": " not in text and text.lower() not in _OTHER_TYPES:
        return text
    return '"' + _unsafe.sub(_escape, text) + '"'


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\{match[0]}" if match[0] in '\\"' else f"\\u{code:04x}"


_FORMATS = {"text": format_text, "yaml": format_yaml}


def convert(policy: Policy, to: str) -> str:
    """Return the policy as a file of the other form. Comments of the source are not carried over.

    Args:
        policy: What to write.
        to: ``text`` (the line format) or ``yaml``.

    Raises:
        UsageError: There is no such form.
        PolicyError: As :func:`format_text`.
    """
    if to not in _FORMATS:
        raise UsageError(f"there is no policy format '{to}'", hint="use text or yaml")
    return _FORMATS[to](policy)
