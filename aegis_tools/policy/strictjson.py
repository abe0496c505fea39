"""JSON with one meaning: what two readers could understand differently is refused."""

from __future__ import annotations

import json
import re
from math import isfinite
from typing import Any, NoReturn

_LONGEST_INTEGER = 20  # digits of 2**64 - 1


def loads(data: bytes, *, fractions: bool = False) -> Any:
    """Parse one JSON document, strictly.

    Refused: anything but UTF-8 without a byte order mark, a key that occurs twice in an object,
        fractions unless they are asked for, ``NaN``, integers of more than 20 digits, lone
        surrogates, and nesting too deep for the parser.

    Raises:
        ValueError: ``data`` is not such a document.
    """
    text = data.decode("utf-8")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_int=_integer,
            parse_float=_fraction if fractions else _no_number,
            parse_constant=_no_number,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if re.search(r"\\u[dD]", text):
        # An escape can spell half a character, which no text may hold; encoding it fails.
        json.dumps(value, ensure_ascii=False).encode()
    return value


def dumps(value: Any) -> bytes:
    """Return the one way to write ``value``: sorted keys, no white space, UTF-8.

    Raises:
        ValueError: ``value`` holds a lone surrogate or a number that JSON lacks.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def is_integer(value: object, low: int, high: int) -> bool:
    """Tell whether ``value`` is a whole number from ``low`` to ``high``; ``true`` is none."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def texts(value: object) -> tuple[str, ...]:
    """Return a list of texts as a tuple.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError("a list of texts is none")
    return tuple(value)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return result


def _integer(digits: str) -> int:
    # Converting digits takes quadratic time, and older Pythons do it without a limit.
    if len(digits.lstrip("-")) > _LONGEST_INTEGER:
        raise ValueError("an integer is too long")
    return int(digits)


def _fraction(text: str) -> float:
    found = float(text)
    if not isfinite(found):
        raise ValueError("a number is too large")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is not a whole number")
