"""YAML text to a small tree with line numbers: strings, lists and mappings, nothing else.

It reads parser events, one by one, and so stops at the first alias, tag, duplicate key or level
too deep, before anything is built of it. A scalar stays the text that was written: YAML 1.1 would
read ``271:12`` as the number 16272, ``022`` as 18 and ``no`` as false.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from aegis_tools.policy.source import Problems, quoted

MAX_LEVELS = 6
MAX_NODES = 4_000_000

# What YAML does not print, and what it takes for a line end though no editor does.
_refused = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]").search

Value = str | list["Node"] | dict[str, "Entry"]


class Node(NamedTuple):
    """A value and the line it begins on. An unquoted empty scalar or ``~`` is an empty string."""

    line: int
    value: Value


class Entry(NamedTuple):
    """A value of a mapping, and the line of its key."""

    line: int
    node: Node


def read(text: str, problems: Problems, *, pure: bool = False) -> Node:
    """Return the only document of a YAML text.

    Args:
        text: The whole file.
        problems: Receives what is wrong.
        pure: Do not use libyaml even where it is there.

    Raises:
        Stop: It is no YAML, or YAML that a policy does not use; the problem has been added.
    """
    import yaml

    if refused := _refused(text):
        line = text.count("\n", 0, refused.start()) + 1
        raise problems.fatal(line, f"a control character ({refused[0]!a}) in the text")
    loader = yaml.SafeLoader if pure else getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Reader(yaml.parse(text, Loader=loader), problems).document()
    except yaml.MarkedYAMLError as error:
        unclosed = "end of stream" in str(error.problem) and error.context_mark
        mark = unclosed or error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        raise problems.fatal(line, f"no YAML: {_why(error)}") from None
    except (yaml.YAMLError, ValueError, OverflowError):
        # A number in an escape or a directive too large for the parser's own conversions.
        raise problems.fatal(0, "no YAML") from None


def _why(error: Any) -> str:
    return " ".join(str(part) for part in (error.context, error.problem) if part)


class _Reader:
    """Recursive descent over the events; the depth is bounded by MAX_LEVELS."""

    def __init__(self, events: Iterator[Any], problems: Problems) -> None:
        import yaml

        self.yaml = yaml
        self.events = events
        self.problems = problems
        self.nodes = 0

    def document(self) -> Node:
        yaml = self.yaml
        event = next(self.events)
        while isinstance(event, (yaml.StreamStartEvent, yaml.DocumentStartEvent)):
            event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            raise self.problems.fatal(0, "the file is empty")
        root = self.node(event, 1)
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                raise self.problems.fatal(_line(event), "a second document: a policy is one")
        return root

    def node(self, event: Any, level: int) -> Node:
        yaml, line = self.yaml, _line(event)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self.problems.fatal(line, f"there are more than {MAX_NODES:,} values")
        if isinstance(event, yaml.AliasEvent):
            raise self.problems.fatal(line, "aliases (*name) are not allowed: write the value out")
        if event.anchor or event.tag:
            raise self.problems.fatal(line, "anchors (&name) and tags (!name) are not allowed")
        if isinstance(event, yaml.ScalarEvent):
            return Node(line, "" if event.value == "~" and not event.style else event.value)
        if level > MAX_LEVELS:
            raise self.problems.fatal(line, "values are nested too deeply for a policy")
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(line, self.sequence(level))
        return Node(line, self.mapping(level))

    def sequence(self, level: int) -> list[Node]:
        items = []
        end = self.yaml.SequenceEndEvent
        while not isinstance(event := next(self.events), end):
            items.append(self.node(event, level + 1))
        return items

    def mapping(self, level: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        end = self.yaml.MappingEndEvent
        while not isinstance(event := next(self.events), end):
            line, key = self.node(event, level + 1)
            if not isinstance(key, str):
                raise self.problems.fatal(line, "a key must be a word")
            node = self.node(next(self.events), level + 1)
            if key in entries:
                message = f"{quoted(key)} is given twice, first on line {entries[key].line}"
                self.problems.error(line, message)
                continue
            entries[key] = Entry(line, node)
        return entries


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
