"""The small values of a rule, read from text: each returns the value, or raises ValueError.

The message of the error says what would be right; the caller knows the line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from typing import TypeVar

from aegis_tools.policy.model import MAX_DEPTH, Op
from aegis_tools.policy.source import suggestion

VERSIONS = range(1, 7)
"""Versions of the rule language; all of them read the same here."""
MAX_TEXT = 1024
"""Characters of an owner or a reason."""

OPERATIONS = {op.name.lower(): op for op in Op if op.name}

_id = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,127}").fullmatch
_control = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff]").search
_time = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[Tt ](\d\d):(\d\d):(\d\d)(?:\.\d{1,9})?(Z|z|[+-]\d\d:\d\d))?",
    re.ASCII,
).fullmatch

_E = TypeVar("_E", bound=Enum)


def one_of(enum: type[_E]) -> Callable[[str], _E]:
    """Return what reads a member of the enum by its value."""

    def parse(text: str) -> _E:
        try:
            return enum(text)
        except ValueError:
            raise ValueError(f"must be one of {', '.join(item.value for item in enum)}") from None

    return parse


def operation(text: str) -> Op:
    """Return the operation of this name."""
    if text not in OPERATIONS:
        near = suggestion(text, OPERATIONS) or f"; known are {', '.join(OPERATIONS)}"
        raise ValueError(f"unknown operation{near}")
    return OPERATIONS[text]


def version(text: str) -> int:
    """Return the version of the rule language."""
    if text not in map(str, VERSIONS):
        raise ValueError("version must be 1 to 6")
    return int(text)


def depth(text: str) -> int:
    """Return the levels that a directory rule covers."""
    if text not in map(str, range(1, MAX_DEPTH + 1)):
        raise ValueError(f"depth must be 1 to {MAX_DEPTH}")
    return int(text)


def rule_id(text: str) -> str:
    """Return an id that an author chose."""
    if not _id(text):
        raise ValueError("an id has 1 to 128 letters, digits or ._:/@[]- and begins with no sign")
    return text


def free_text(text: str) -> str:
    """Return an owner or a reason."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"the text is longer than {MAX_TEXT} characters")
    if _control(text):
        raise ValueError("the text holds control characters")
    return text


def expiry(text: str) -> int:
    """Return the Unix seconds of an RFC 3339 timestamp, or of 00:00 UTC of a date.

    Raises:
        ValueError: It is neither, or before 1970.
    """
    match = _time(text)
    if not match:
        raise ValueError("write a date (2027-01-31) or a time with its zone (2027-01-31T18:00:00Z)")
    date, clock, zone = match.group(1, 2, 3), match.group(4, 5, 6), match.group(7)
    offset = "+00:00" if zone in {None, "Z", "z"} else zone
    clock_text = ":".join(part or "00" for part in clock)
    try:
        moment = datetime.fromisoformat(f"{'-'.join(date)}T{clock_text}{offset}")
        seconds = int(moment.timestamp())
    except (ValueError, OverflowError):
        raise ValueError("there is no such day or time") from None
    if seconds <= 0:
        raise ValueError("the time is before 1970")
    return seconds
