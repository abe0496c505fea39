"""Options of the commands that read events again: where from, and since when."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from aegis_tools.cli import types
from aegis_tools.cli.duration import parse_duration
from aegis_tools.errors import UsageError

if TYPE_CHECKING:
    from aegis_tools.agent.eventsource import Files, Journal

UNIT = "aegisbpf.service"


def add_source_options(parser: argparse.ArgumentParser, since: str) -> None:
    """Add the options."""
    parser.add_argument(
        "--since", metavar="WHEN", default=since, help="no event before it (default: %(default)s)"
    )
    parser.add_argument(
        "--file", metavar="PATH", dest="events_file", type=types.path,
        help="read the --events-file of aegisbpf run, rotated ones too, not the journal",
    )  # fmt: skip
    parser.add_argument("--journal-dir", metavar="DIR", default="", help="journal files elsewhere")
    parser.add_argument("--journal-unit", metavar="UNIT", default=UNIT, help="default: %(default)s")


def source(arguments: argparse.Namespace, since: float, until: float = 0) -> Files | Journal:
    """Return where events are read from."""
    from aegis_tools.agent.eventsource import Files, Journal

    if arguments.events_file is not None:
        return Files(arguments.events_file, since=since)
    return Journal(arguments.journal_unit, arguments.journal_dir, since, until)


def moment(text: str, now: float) -> float:
    """Return Unix seconds of how long ago, a date or a time.

    Raises:
        UsageError: It is none of these.
    """
    if "-" not in text and ":" not in text:
        return now - parse_duration(text)
    try:
        found = datetime.fromisoformat(text.upper().replace("Z", "+00:00"))
        return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(
            f"{text!r} is no time", hint="write it like 2027-01-31T18:00:00Z, 15m or 7d"
        ) from None
