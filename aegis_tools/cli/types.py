"""Types of command line arguments; what they refuse is a usage error."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from aegis_tools.cli.duration import parse_duration
from aegis_tools.control.limits import check_within
from aegis_tools.control.quantities import parse_size
from aegis_tools.errors import UsageError

FORCE = "--i-know-this-locks-me-out"
MAX_ENTRIES = 1 << 24
"""More than any map here is ever made for."""


def path(text: str) -> Path:
    """Return a path; the empty text, which pathlib takes for the current folder, is none."""
    if not text:
        raise argparse.ArgumentTypeError("a path cannot be empty")
    return Path(text)


def number(low: int, high: int = MAX_ENTRIES) -> Callable[[str], int]:
    """Return a type that takes whole numbers from ``low`` to ``high``."""

    def parse(text: str) -> int:
        found = int(text) if text.lstrip("-").isdecimal() and len(text) <= 20 else None
        if found is None or not low <= found <= high:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number from {low} to {high}")
        return found

    return parse


positive = number(1)


def within(text: str) -> int:
    """Return the seconds of ``--confirm-within``.

    Raises:
        UsageError: It is no duration, or too short or too long.
    """
    return check_within(parse_duration(text))


def add_confirm_within(parser: argparse.ArgumentParser) -> None:
    """Add ``--confirm-within``."""
    parser.add_argument(
        "--confirm-within",
        type=within,
        metavar="TIME",
        help="undo it unless aegisbpf policy confirm comes in time: 120s, 5m",
    )
    parser.add_argument(
        "--no-probe",
        action="store_true",
        help="do not try a login, sudo, names and Python after a change with --confirm-within",
    )
    parser.add_argument(
        FORCE,
        dest="i_know",
        action="store_true",
        help="although the lockout proof refuses it; only with --confirm-within, and logged",
    )


def check_forced(arguments: argparse.Namespace) -> None:
    """Raise UsageError where a change is forced that would not undo itself."""
    if arguments.i_know and not arguments.confirm_within and not arguments.dry_run:
        raise UsageError(
            f"{FORCE} needs --confirm-within, so that the host comes back",
            hint="add: --confirm-within 2m",
        )


def size(text: str) -> int:
    """Return a number of bytes of at least 4 KiB: ``65536``, ``64K``, ``64M``, ``1G``."""
    try:
        return parse_size(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(f"{error.message}; {error.hint}") from None
