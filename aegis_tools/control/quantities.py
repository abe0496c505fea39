"""Durations and sizes as people write them, on the command line and in settings."""

from __future__ import annotations

from aegis_tools.errors import UsageError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SHIFTS = {"K": 10, "M": 20, "G": 30}
_LEAST, _MOST = 4096, 1 << 44


def parse_duration(text: str) -> int:
    """Return seconds of ``90s``, ``15m``, ``12h``, ``7d``, ``2w``, or plain seconds.

    Raises:
        UsageError: It is no duration.
    """
    number, unit = (text[:-1], text[-1:]) if text[-1:] in _SECONDS else (text, "s")
    if not (number.isascii() and number.isdecimal()) or len(number) > 9:
        raise UsageError(f"{text!r} is no duration", hint="write it like 90s, 15m, 12h or 7d")
    return int(number) * _SECONDS[unit]


def parse_size(text: str) -> int:
    """Return a number of bytes of at least 4 KiB: ``65536``, ``64K``, ``64M``, ``1G``.

    Raises:
        UsageError: It is no such size.
    """
    shift = _SHIFTS.get(text[-1:].upper(), 0)
    digits = text[:-1] if shift else text
    whole = digits.isascii() and digits.isdecimal() and len(digits) <= 15
    found = int(digits) << shift if whole else 0
    if not _LEAST <= found <= _MOST:
        raise UsageError(f"{text[:40]!r} is no size", hint="write it like 64M or 1G")
    return found


def human(size: int) -> str:
    """Return a size for a person."""
    if size < 1 << 20:
        return f"{size / 1024:.1f} KiB"
    if size < 1 << 30:
        return f"{size / (1 << 20):.2f} MiB"
    return f"{size / (1 << 30):.2f} GiB"
