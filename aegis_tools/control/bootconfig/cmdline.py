"""Kernel command lines, as the kernel itself takes them apart (lib/cmdline.c, next_arg). Pure.

White space separates arguments unless it is between double quotes, which may open anywhere in
one. A quote around the whole argument, or around the whole value, is not part of it. What follows
a lone ``--`` belongs to init. Of several ``lsm=``, the last counts.
"""

from __future__ import annotations

from typing import NamedTuple

_SPACE = " \t\n\v\f\r"
LSM = "lsm"
SECURITY = "security"


class Argument(NamedTuple):
    """One argument.

    Attributes:
        key: Before the first ``=``.
        value: After it, without quotes; None without a ``=``.
        text: As it stands on the command line.
    """

    key: str
    value: str | None
    text: str


def texts(line: str) -> list[str]:
    """Return the arguments as they stand, those of init and ``--`` included."""
    found, current, quoted = [], "", False
    for char in line:
        if char in _SPACE and not quoted:
            if current:
                found.append(current)
            current = ""
            continue
        quoted ^= char == '"'
        current += char
    return [*found, current] if current else found


def parse_argument(text: str) -> Argument:
    """Return one argument, taken apart."""
    body = text[1:] if text.startswith('"') else text
    end = body
    if text.startswith('"') and body.endswith('"'):
        end = body[:-1]
    equals = body.find("=", 1)
    if equals < 0:
        return Argument(end, None, text)
    value = end[equals + 1 :]
    if value.startswith('"'):
        value = value[1:]
        if end == body:
            value = value.removesuffix('"')
    return Argument(body[:equals], value, text)


def arguments(line: str) -> list[Argument]:
    """Return the arguments that are for the kernel."""
    found = []
    for text in texts(line):
        one = parse_argument(text)
        if one.key == "--" and one.value is None:
            break
        found.append(one)
    return found


def values(line: str, key: str = LSM) -> list[str]:
    """Return the values of a key, in order."""
    return [one.value for one in arguments(line) if one.key == key and one.value is not None]


def effective(line: str, key: str = LSM) -> str | None:
    """Return the value that counts, the last one; None without any."""
    found = values(line, key)
    return found[-1] if found else None


def with_lsm(line: str, value: str | None) -> str:
    """Return a command line with exactly this ``lsm=``, or with none; the rest stays in order."""
    mine = [one.text for one in arguments(line) if one.key != LSM or one.value is None]
    inits = texts(line)[len(arguments(line)) :]
    return " ".join([*mine, *([f"{LSM}={value}"] if value is not None else []), *inits])
