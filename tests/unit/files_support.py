"""System calls that fail, for what writes files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

from aegis_tools.control import files


def failing(name: str, code: int = errno.ENOSPC, after: int = 0) -> files.Calls:
    """System calls of which ``name`` fails from its ``after``-th use on."""
    real: Callable[..., Any] = getattr(files.SYSTEM, name)
    used = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal used
        used += 1
        if used > after:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    return files.Calls(**{**vars(files.SYSTEM), name: call})
