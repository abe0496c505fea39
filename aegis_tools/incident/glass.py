"""The record that ``scripts/break-glass`` leaves: text, for a shell cannot be trusted with JSON.

``<id>/record.txt``, with no ``record.json`` beside it until somebody adds a note or closes it::

    host: web-1
    kernel: 6.1.0-28-amd64
    by: alice
    the hooks are switched off
    …
    ENDED, and proven: aegisbpf refuses nothing any more

A disk that was full may have cut it anywhere, and names of files in it may be anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

from aegis_tools.control.files import printable
from aegis_tools.incident import content
from aegis_tools.incident.content import Content

SCENARIO = "break-glass"
RECORD = "record.txt"
MAX_BYTES = 1 << 20
_LINES = 200
_LONGEST = 1000
_HEAD = ("host", "kernel", "by")
_VERDICTS = {"ENDED, and proven": "recovered", "NOT ENDED": "not-recovered"}
"""How a line begins that says how it went. Without proof a person has to look, and closes it."""


def parse(identifier: str, data: bytes) -> Content:
    """Return what a record says.

    Args:
        identifier: Its folder's name; the time in it is the one that counts.
        data: What the file holds, whatever that is.

    Raises:
        ValueError: The time is none.
    """
    when = datetime.strptime(identifier[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    began = when.timestamp()
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    head = dict(zip(_HEAD, _head(lines), strict=False))
    found = Content(
        identifier,
        SCENARIO,
        host=head.get("host", ""),
        kernel=head.get("kernel", ""),
        began=began,
        by={"uid": 0, "sudo_user": head.get("by", "")},
        result=next(filter(None, map(_result, reversed(lines))), ""),
    )
    found.ended = began if found.result else None
    told = ["broke the glass", *_bounded([one for one in lines[len(head) :] if one])]
    for number, line in enumerate(told):
        message = printable(line, _LONGEST)
        found.act(
            content.entry(began, 0.0, SCENARIO, message, ok=True, changes=not number, data={})
        )
    return found


def _head(lines: Sequence[str]) -> Iterator[str]:
    for name, line in zip(_HEAD, lines, strict=False):
        if not line.startswith(f"{name}: "):
            return
        yield content.text(printable(line.removeprefix(f"{name}: "), 100))


def _bounded(lines: list[str]) -> list[str]:
    if len(lines) <= _LINES:
        return lines
    half = _LINES // 2
    return [*lines[:half], f"… {len(lines) - 2 * half} lines left out", *lines[-half:]]


def _result(line: str) -> str:
    return next((result for words, result in _VERDICTS.items() if line.startswith(words)), "")
