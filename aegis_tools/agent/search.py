"""Which lines of events are wanted: decided on bytes where that is enough, then on fields.

Lines come from a journal or a file that others may have written to as well. What is no event is
passed over and counted, whatever it is.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from json.encoder import encode_basestring_ascii as quote
from typing import Any, NamedTuple

Event = dict[str, Any]

MAX_LINE = 64 << 10
_START = b'{"time":"'
_TIME = slice(len(_START), len(_START) + 27)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_TEXTS = (
    *("host", "type", "action", "reason", "operation", "comm", "parent_comm"),
    *("cgroup", "unit", "rule", "bundle"),
)
_MAY_LACK = ("path", "address", "exe", "container", "first", "last", "inode")
_NUMBERS = ("pid", "ppid", "uid", "count")


def time_text(seconds: float) -> str:
    """Return Unix seconds as events have them; texts compare as the times do."""
    bounded = min(max(seconds, 0), 253402300799)
    return datetime.fromtimestamp(bounded, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Query(NamedTuple):
    """What is wanted; an empty text is no condition.

    Attributes:
        since: Not before this time, as events have it.
        until: Not after it. Of a line of repetitions any part of its time will do.
        rule: Rule id.
        path: A glob if it has any of ``*?[``; else the path itself and all below it.
        comm: Process name.
        unit: systemd unit.
        action: ``BLOCK`` and so on.
    """

    since: str = ""
    until: str = ""
    rule: str = ""
    path: str = ""
    comm: str = ""
    unit: str = ""
    action: str = ""


@dataclass
class Search:
    """Finds events, and counts what it passed over.

    Attributes:
        foreign: Lines that do not begin as an event does.
        damaged: Lines that do, and are none.
    """

    query: Query
    foreign: int = 0
    damaged: int = 0

    def among(self, batches: Iterable[list[bytes]]) -> Iterator[list[tuple[bytes, Event]]]:
        """Yield, for each batch of lines, those that match, as they are and as an event."""
        since, until = self.query.since.encode(), self.query.until.encode()
        needles, accepts = _needles(self.query), _condition(self.query)
        for batch in batches:
            found: list[tuple[bytes, Event]] = []
            for line in batch:
                if not line.startswith(_START):
                    self.foreign += bool(line)
                    continue
                when = line[_TIME]
                if when < since or (until and when > until and b',"first":"' not in line):
                    continue
                if not all(needle in line for needle in needles):
                    continue
                event = read_event(line)
                if event is None:
                    self.damaged += 1
                elif accepts(event):
                    found.append((line, event))
            yield found


def read_event(line: bytes) -> Event | None:
    """Return the event that a line is, or None; fields of later versions are kept."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    good = (
        isinstance(event.get("time"), str)
        and _RFC3339.fullmatch(event["time"])
        and all(isinstance(event.get(name), str) for name in _TEXTS)
        and all(isinstance(event.get(name, ""), str) for name in _MAY_LACK)
        and all(_is_count(event.get(name)) for name in _NUMBERS)
        and event["count"] >= 1
    )
    return event if good else None


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _needles(query: Query) -> list[bytes]:
    """Return what the bytes of every line that matches hold."""
    exact = {name: getattr(query, name) for name in ("rule", "comm", "unit", "action")}
    found = [f'"{name}":{quote(value)}'.encode() for name, value in exact.items() if value]
    if query.path:
        start = re.split(r"[*?\[]", query.path)[0].rstrip("/")
        found.append(f'"path":{quote(start)[:-1]}'.encode())
    return found


def _condition(query: Query) -> Callable[[Event], bool]:
    exact = [(n, getattr(query, n)) for n in ("rule", "comm", "unit", "action")]
    wanted = [(name, value) for name, value in exact if value]
    path = path_condition(query.path)

    def accepts(event: Event) -> bool:
        return (
            all(event[name] == value for name, value in wanted)
            and (not query.until or str(event.get("first") or event["time"]) <= query.until)
            and (path is None or path(event.get("path", "")))
        )

    return accepts


def path_condition(text: str) -> Callable[[str], bool] | None:
    """Return what tells whether a path is wanted; None where every one is."""
    if not text:
        return None
    if re.search(r"[*?\[]", text):
        matches = re.compile(fnmatch.translate(text), re.DOTALL).match
        return lambda path: matches(path) is not None
    exact = text.rstrip("/")
    below = exact + "/"
    return lambda path: path == exact or path.startswith(below)


class Top:
    """The most frequent values of some fields, in events and not in lines.

    Args:
        room: Values counted a field; at more, the rarer half is dropped, and ``approximate`` set.
    """

    FIELDS = ("rule", "path", "comm", "unit")

    def __init__(self, room: int = 1 << 16) -> None:
        self._room = room
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in self.FIELDS}
        self.events = self.lines = 0
        self.approximate = False

    def add(self, event: Event) -> None:
        """Count an event."""
        count = event["count"]
        self.events += count
        self.lines += 1
        for name, counter in self.counts.items():
            value = event.get(name, "") or (event.get("address", "") if name == "path" else "")
            counter[value or "-"] += count
            if len(counter) > self._room:
                self.counts[name] = Counter(dict(counter.most_common(self._room // 2)))
                self.approximate = True

    def ranked(self, number: int) -> dict[str, list[tuple[str, int]]]:
        """Return the first of each field; those of the same count in the order of their names."""
        return {
            name: sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:number]
            for name, counter in self.counts.items()
        }
