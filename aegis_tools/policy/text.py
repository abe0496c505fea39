"""The line format: ``version=1``, then ``[section]`` lines with one entry a line below each.

A line whose first character is ``#`` is a comment; there are no comments behind an entry, since a
path may hold any character. A section may be opened again. An entry of ``[deny_path]`` that ends
in ``/`` covers the directory and all below it. What the format cannot say (ids, owners, expiry,
operations of a file rule, audit rules) is said in YAML, see :mod:`aegis_tools.policy.yamlform`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from aegis_tools.policy import targets
from aegis_tools.policy.fields import VERSIONS
from aegis_tools.policy.model import (
    MAX_DEPTH,
    Kind,
    Mode,
    Op,
    Policy,
    Problem,
    Rule,
    Signal,
)
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

MAX_LINES = 2_000_000
MAX_LINE = 8192
"""Characters of an entry; the longest path has 4,094 bytes."""

SECTION_OF = {
    Kind.PATH: "deny_path",
    Kind.DIRECTORY: "deny_path",
    Kind.INODE: "deny_inode",
    Kind.IP: "deny_ip",
    Kind.CIDR: "deny_cidr",
    Kind.PORT: "deny_port",
    Kind.IP_PORT: "deny_ip_port",
}

_HASH = "programs are not told apart by hash; deny the file by [deny_path] or [deny_inode]"
_PROTECT = "no program is exempt from a rule; deny by [deny_path], let others in by [allow_cgroup]"
_KERNEL = "only files, programs and the network are enforced"
_CGROUP = "a rule holds for all cgroups; let single ones through by [allow_cgroup]"
UNSUPPORTED = {
    "allow_binary_hash": _HASH,
    "cgroup_deny_inode": _CGROUP,
    "cgroup_deny_ip": _CGROUP,
    "cgroup_deny_port": _CGROUP,
    "deny_binary_hash": _HASH,
    "deny_bpf": _KERNEL,
    "deny_comm": "a program is renamed in a moment; deny its file by [deny_path]",
    "deny_module_load": _KERNEL,
    "deny_ptrace": _KERNEL,
    "ima_fail_closed": "IMA is not consulted",
    "protect_connect": _PROTECT,
    "protect_path": _PROTECT,
    "protect_runtime_deps": _PROTECT,
    "require_ima_appraisal": "IMA is not consulted",
    "scan_paths": "no folders are searched for programs; name them by [deny_path]",
    "trusted_exec_hash": "IMA is not consulted",
}
"""Sections that other readers of the format know, and why they are an error here."""

_Entry = Callable[[str, int], None]


def parse_text(data: bytes) -> tuple[Policy | None, list[Problem]]:
    """Parse a policy in the line format.

    Returns:
        The policy, None if there is any error; and all problems, by line.
    """
    problems = Problems()
    policy = None
    with contextlib.suppress(Stop):
        policy = _Parser(problems).run(decode(data, problems))
    return (None if problems.failed else policy), problems.all()


class _Parser:
    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.rules: list[Rule] = []
        self.seen: dict[str, int] = {}
        self.ports: dict[str, Op] = {}
        self.cgroups: dict[str, int] = {}
        self.version = 0
        self.sections: dict[str, _Entry] = {
            "deny_path": self.path_entries(),
            "allow_cgroup": self.cgroup,
            "deny_port": self.port,
            **{
                SECTION_OF[kind]: self.plain_entries(kind)
                for kind in (Kind.INODE, Kind.IP, Kind.CIDR, Kind.IP_PORT)
            },
        }

    def run(self, text: str) -> Policy:
        lines = text.split("\n")
        if len(lines) > MAX_LINES:
            raise self.problems.fatal(0, f"the file has more than {MAX_LINES:,} lines")
        entry: _Entry = self.header
        for number, line in enumerate(lines, 1):
            line = line.strip(" \t")  # noqa: PLW2901 - a second name costs on each of 65,536 lines
            if not line or line[0] == "#":
                continue
            if line[0] == "[" and line[-1] == "]":
                entry = self.section(line, number)
            else:
                entry(line, number)
        self.check_whole()
        return Policy(tuple(self.rules), tuple(self.cgroups), self.version)

    def check_whole(self) -> None:
        if not self.version:
            self.problems.error(0, "the header is missing: begin the file with version=1")
        if len(self.rules) > MAX_RULES:
            self.problems.error(0, f"there are more than {MAX_RULES:,} rules")

    def header(self, line: str, number: int) -> None:
        key, equals, value = (part.strip(" \t") for part in line.partition("="))
        if not equals:
            message = f"{quoted(line)} stands before the first [section]"
        elif key != "version":
            message = f"unknown header {quoted(key)}{suggestion(key, ['version'])}"
        elif value not in map(str, VERSIONS):
            message = f"version must be 1 to 6, not {quoted(value)}"
        elif self.version:
            message = "version is given twice"
        else:
            self.version = int(value)
            return
        self.version = self.version or VERSIONS[0]
        self.problems.error(number, message)

    def section(self, line: str, number: int) -> _Entry:
        name = line[1:-1].strip(" \t")
        if name in self.sections:
            return self.sections[name]
        if name in UNSUPPORTED:
            why = UNSUPPORTED[name]
            self.problems.error(number, f"section [{name}] is not supported: {why}; or remove it")
        else:
            near = suggestion(name, [*self.sections, *UNSUPPORTED])
            self.problems.error(number, f"unknown section {quoted(name)}{near}")
        return lambda _line, _number: None

    def path_entries(self) -> _Entry:
        add_path = self.plain_entries(Kind.PATH)
        add_directory = self.plain_entries(Kind.DIRECTORY)

        def add(line: str, number: int) -> None:
            (add_directory if line[-1] == "/" else add_path)(line, number)

        return add

    def plain_entries(self, kind: Kind) -> _Entry:
        """Return what adds one entry of this kind: the hot loop, hence the local names."""
        canonical, prefix = targets.CANONICAL[kind], kind.value + ":"
        operations = targets.default_operations(kind)
        depth = MAX_DEPTH if kind is Kind.DIRECTORY else 0
        new, rule, enforce, none = tuple.__new__, Rule, Mode.ENFORCE, Signal.NONE
        seen, append = self.seen, self.rules.append

        def add(line: str, number: int) -> None:
            try:
                target = canonical(line)
            except ValueError as error:
                self.refuse(line, number, error)
                return
            name = prefix + target
            if seen.setdefault(name, number) != number:
                message = f"{visible(target)} is on line {seen[name]} already"
                self.problems.warning(number, message, name)
                return
            # Rule(...) goes through a Python function of its own: a third more time each.
            append(
                new(
                    rule,
                    (name, kind, target, operations, enforce, none, depth, "", "", 0, number),
                )
            )

        return add

    def port(self, line: str, number: int) -> None:
        try:
            target, operations = targets.port_rule(line)
        except ValueError as error:
            self.refuse(line, number, error)
            return
        again = operations & self.ports.get(target, Op(0))
        self.ports[target] = self.ports.get(target, Op(0)) | operations
        operations &= ~again
        if again:
            what = f"{targets.direction(again)} of port {target}"
            self.problems.warning(number, f"{what} is denied above already")
        if operations:
            name = targets.implied_id(Kind.PORT, target, operations, self.seen)
            self.seen[name] = number
            self.rules.append(Rule(name, Kind.PORT, target, operations, line=number))

    def cgroup(self, line: str, number: int) -> None:
        add_cgroup(line, number, self.cgroups, self.problems)

    def refuse(self, line: str, number: int, error: ValueError) -> None:
        message = f"{quoted(line)}: {error}"
        if len(line) > MAX_LINE:
            message = f"the line is longer than {MAX_LINE} characters"
        elif " #" in line:
            message += "; a comment stands on a line of its own"
        self.problems.error(number, message)
