"""How long a confirmation may be waited for."""

from __future__ import annotations

from aegis_tools.errors import UsageError

SHORTEST, LONGEST = 5, 86400
"""Seconds."""


def check_within(seconds: int) -> int:
    """Return the seconds.

    Raises:
        UsageError: Too few or too many.
    """
    if not SHORTEST <= seconds <= LONGEST:
        raise UsageError(
            f"--confirm-within takes {SHORTEST} s to {LONGEST // 3600} h",
            hint="write it like 120s or 5m",
        )
    return seconds
