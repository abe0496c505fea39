"""The YAML form: everything a rule can say.

::

    version: 1
    defaults: {mode: audit, signal: none, operations: [read, write, egress]}
    allow_cgroups: [/system.slice/backup.service]
    rules:
      - id: customer-data        # if left out: KIND:TARGET
        directory: /srv/data/    # or path, inode, ip, cidr, port, ip_port
        operations: [read, write]
        mode: enforce            # audit: this rule never refuses
        signal: kill
        depth: 4
        owner: data-team@example.com
        reason: GDPR
        expires: 2027-01-31      # its first second, UTC; or a time: 2027-01-31T18:00:00Z

Aliases, anchors, tags, merge keys and duplicate keys are errors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from aegis_tools.policy import fields, targets
from aegis_tools.policy.model import MAX_DEPTH, Kind, Mode, Op, Policy, Problem, Rule, Signal
from aegis_tools.policy.source import (
    MAX_RULES,
    Problems,
    Stop,
    add_cgroup,
    decode,
    quoted,
    suggestion,
    visible,
)
from aegis_tools.policy.tree import Entry, Node, read

TOP_KEYS = ("version", "defaults", "allow_cgroups", "rules")
DEFAULT_KEYS = ("mode", "signal", "operations")
KIND_KEYS = tuple(kind.value for kind in Kind)
RULE_KEYS = (
    *("id", *KIND_KEYS, "operations", "mode", "signal"),
    *("depth", "owner", "reason", "expires"),
)

_E = TypeVar("_E", bound=Enum)
_T = TypeVar("_T")


class _Defaults(NamedTuple):
    mode: Mode = Mode.ENFORCE
    signal: Signal = Signal.NONE
    operations: Op = Op(0)


def parse_yaml(data: bytes) -> tuple[Policy | None, list[Problem]]:
    """Parse a policy in YAML.

    Returns:
        The policy, None if there is any error; and all problems, by line.
    """
    problems = Problems()
    policy = None
    with contextlib.suppress(Stop):
        policy = _Parser(problems).run(read(decode(data, problems), problems))
    return (None if problems.failed else policy), problems.all()


class _Parser:
    """Turns the tree into a policy; a ValueError of a value becomes a problem of its line."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.defaults = _Defaults()
        self.ids: dict[str, int] = {}
        self.denied: dict[tuple[Kind, str], list[tuple[Op, int]]] = {}

    def run(self, root: Node) -> Policy:
        top = self.mapping(root, TOP_KEYS)
        version = 1
        if "version" in top:
            version = self.value(top["version"].node, fields.version, 1)
        else:
            self.problems.error(root.line, "version is missing: begin the file with 'version: 1'")
        self.defaults = self.read_defaults(top)
        cgroups = self.read_cgroups(self.sequence(top.get("allow_cgroups"), "allow_cgroups"))
        items = self.sequence(top.get("rules"), "rules")
        if len(items) > MAX_RULES:
            raise self.problems.fatal(items[0].line, f"there are more than {MAX_RULES:,} rules")
        rules = [rule for item in items if (rule := self.rule(item))]
        return Policy(tuple(rules), cgroups, version)

    def mapping(self, node: Node, known: tuple[str, ...]) -> dict[str, Entry]:
        if not isinstance(node.value, dict):
            raise self.problems.fatal(node.line, f"expected keys: {', '.join(known)}")
        for key, entry in node.value.items():
            if key not in known:
                near = suggestion(key, known) or f"; known are {', '.join(known)}"
                self.problems.error(entry.line, f"unknown key {quoted(key)}{near}")
        return node.value

    def sequence(self, entry: Entry | None, name: str) -> list[Node]:
        if entry is None:
            return []
        if isinstance(entry.node.value, list):
            return entry.node.value
        self.problems.error(entry.line, f"{name} must be a list")
        return []

    def value(self, node: Node, parse: Callable[[str], _T], fallback: _T) -> _T:
        """Return a parsed scalar, or note why not and return the fallback."""
        try:
            return parse(_word(node))
        except ValueError as error:
            shown = f"{quoted(node.value)}: " if isinstance(node.value, str) else ""
            self.problems.error(node.line, f"{shown}{error}")
            return fallback

    def read_defaults(self, top: dict[str, Entry]) -> _Defaults:
        if "defaults" not in top:
            return _Defaults()
        given = self.mapping(top["defaults"].node, DEFAULT_KEYS)
        operations = self.operations(given["operations"]) if "operations" in given else Op(0)
        return _Defaults(
            self.enum(given, "mode", Mode.ENFORCE),
            self.enum(given, "signal", Signal.NONE),
            operations,
        )

    def enum(self, given: dict[str, Entry], key: str, fallback: _E) -> _E:
        if key not in given:
            return fallback
        return self.value(given[key].node, fields.one_of(type(fallback)), fallback)

    def operations(self, entry: Entry) -> Op:
        operations = Op(0)
        words = self.sequence(entry, "operations")
        if words == entry.node.value == []:
            self.problems.error(entry.line, "operations is empty: the rule would deny nothing")
        for word in words:
            operations |= self.value(word, fields.operation, Op(0))
        return operations

    def read_cgroups(self, items: list[Node]) -> tuple[str, ...]:
        found: dict[str, int] = {}
        for item in items:
            if text := self.value(item, str, ""):
                add_cgroup(text, item.line, found, self.problems)
        return tuple(found)

    def rule(self, item: Node) -> Rule | None:
        if not isinstance(item.value, dict):
            self.problems.error(item.line, f"a rule has keys: {', '.join(RULE_KEYS)}")
            return None
        given = self.mapping(item, RULE_KEYS)
        kinds = [key for key in KIND_KEYS if key in given]
        if len(kinds) != 1:
            what = f"this one has {' and '.join(kinds)}" if kinds else "this one has none"
            message = f"a rule needs one of {', '.join(KIND_KEYS)}; {what}"
            self.problems.error(item.line, message)
            self.details(given)
            return None
        kind = Kind(kinds[0])
        target, implied = self.value(given[kinds[0]].node, _target_parser(kind), ("", Op(0)))
        operations = self.rule_operations(kind, given, implied)
        details = self.details(given)
        depth = self.depth(kind, given)
        if not target or not operations:
            return None
        rule = Rule(
            id=self.rule_id(item.line, kind, target, operations, given),
            kind=kind,
            target=target,
            operations=operations,
            depth=depth,
            line=item.line,
            **details,
        )
        self.refuse_twice(rule)
        return rule

    def rule_operations(self, kind: Kind, given: dict[str, Entry], implied: Op) -> Op:
        allowed = targets.allowed_operations(kind)
        if "operations" not in given:
            return implied or self.defaults.operations & allowed or targets.default_operations(kind)
        entry = given["operations"]
        operations = self.operations(entry)
        if implied and operations:
            self.problems.error(entry.line, "the port already names a direction: leave one out")
        if operations & ~allowed:
            wrong = ", ".join(targets.operation_names(operations & ~allowed))
            right = ", ".join(targets.operation_names(allowed))
            message = f"a rule of kind {kind.value} cannot deny {wrong}, only {right}"
            self.problems.error(entry.line, message)
        return operations & allowed

    def details(self, given: dict[str, Entry]) -> dict[str, Any]:
        """Return what any rule may say, noting every mistake, also where the rule has others."""
        return {
            "mode": self.enum(given, "mode", self.defaults.mode),
            "signal": self.enum(given, "signal", self.defaults.signal),
            "owner": self.optional(given, "owner", fields.free_text, ""),
            "reason": self.optional(given, "reason", fields.free_text, ""),
            "expires": self.optional(given, "expires", fields.expiry, 0),
        }

    def optional(
        self, given: dict[str, Entry], key: str, parse: Callable[[str], _T], fallback: _T
    ) -> _T:
        return self.value(given[key].node, parse, fallback) if key in given else fallback

    def depth(self, kind: Kind, given: dict[str, Entry]) -> int:
        if kind is Kind.DIRECTORY:
            return self.optional(given, "depth", fields.depth, MAX_DEPTH)
        if "depth" in given:
            self.problems.error(given["depth"].line, "only a directory rule has a depth")
        return 0

    def rule_id(
        self, line: int, kind: Kind, target: str, operations: Op, given: dict[str, Entry]
    ) -> str:
        if "id" in given:
            name = self.value(given["id"].node, fields.rule_id, "")
        else:
            name = targets.implied_id(kind, target, operations, self.ids)
        if name and name in self.ids:
            message = f"id {quoted(name)} is on line {self.ids[name]} already"
            self.problems.error(line, message, name)
        self.ids.setdefault(name, line)
        return name

    def refuse_twice(self, rule: Rule) -> None:
        rules = self.denied.setdefault((rule.kind, rule.target), [])
        for operations, line in rules:
            if operations & rule.operations:
                again = ", ".join(targets.operation_names(operations & rule.operations))
                message = f"{visible(rule.target)} is denied {again} on line {line} already"
                self.problems.error(rule.line, message, rule.id)
        rules.append((rule.operations, rule.line))


def _word(node: Node) -> str:
    if not isinstance(node.value, str):
        raise ValueError("a single value must stand here, not a list or keys")
    if not node.value:
        raise ValueError("the value is missing")
    return node.value


def _target_parser(kind: Kind) -> Callable[[str], tuple[str, Op]]:
    if kind is not Kind.PORT:
        return lambda text: (targets.canonical(kind, text), Op(0))
    return lambda text: (
        targets.port_rule(text)
        if text.count(":") > 1
        else (targets.canonical(Kind.PORT, text), Op(0))
    )
