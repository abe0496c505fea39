"""What the agent says to people, with the priority that the journal sorts by (sd-daemon(3))."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import TextIO

ERROR, WARNING, NOTICE, DEBUG = 3, 4, 5, 7
"""Priorities of syslog(3)."""

Tell = Callable[[int, str], None]


def is_journal(environment: Mapping[str, str], stream: TextIO) -> bool:
    """Return whether a stream leads to the journal: ``JOURNAL_STREAM`` is its device:inode."""
    with contextlib.suppress(OSError):
        found = os.fstat(stream.fileno())
        return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
    return False


def teller(note: Callable[[str], None], *, journal: bool, verbose: bool = False) -> Tell:
    """Return a function that says something.

    Args:
        note: Writes a line for a person.
        journal: Begin lines with their priority. Then details are written too, since the journal
            keeps them apart (``journalctl -p debug``).
        verbose: Write details where there is no journal.
    """

    def tell(priority: int, text: str) -> None:
        if priority == DEBUG and not (journal or verbose):
            return
        for line in text.splitlines():
            note(f"<{priority}>{line}" if journal else line)

    return tell
