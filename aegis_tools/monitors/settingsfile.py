"""A file of settings that a person wrote: read where there is one, named where it is damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from aegis_tools.control.files import read_if_present
from aegis_tools.errors import StateError

T = TypeVar("T")


def read(path: Path, parse: Callable[[bytes], T], *, what: str, most: int, hint: str) -> T | None:
    """Return what the file says; None where there is none.

    Args:
        path: The file.
        parse: Reads it; raises ValueError, TypeError or KeyError where it is none of its kind.
        what: What it holds, in the plural.
        most: Bytes.
        hint: What to do about one that is damaged.

    Raises:
        StateError: It is damaged, or could be changed by others.
    """
    data = read_if_present(path, most, what=what, owners=frozenset((0, os.geteuid())))
    if data is None:
        return None
    try:
        return parse(data)
    except (ValueError, TypeError, KeyError) as error:
        raise StateError(f"the {what} are damaged: {error}", hint=hint, detail=str(path)) from None
