"""Durations on the command line: ``90s``, ``15m``, ``12h``, ``7d``, ``2w``, or plain seconds."""

from __future__ import annotations

from aegis_tools.errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_duration(text: str) -> int:
    """Return seconds.

    Raises:
        UsageError: It is no duration.
    """
    number, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS else (text, "s")
    if not (number.isascii() and number.isdecimal()) or len(number) > 9:
        raise UsageError(f"{text!r} is no duration", hint="write it like 90s, 15m, 12h or 7d")
    return int(number) * _UNITS[unit]
