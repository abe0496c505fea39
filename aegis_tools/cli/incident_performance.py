"""``aegisbpf incident performance``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from aegis_tools.cli import types
from aegis_tools.errors import UsageError

if TYPE_CHECKING:
    from aegis_tools.incident.case import Case, Outcome

UNIT = "aegisbpf.service"


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--event-sample-rate", metavar="R", default="0.1",
        help="go down to this share of matches that send an event (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--apply", action="store_true", help="make the event ring larger, live, where it was full"
    )
    parser.add_argument(
        "--ringbuf-size", dest="ringbuf_bytes", type=types.number(4096, 1 << 30), metavar="BYTES",
        default=0, help="that large, a power of two (default: as measured)",
    )  # fmt: skip
    parser.add_argument(
        "--restore", action="store_true", help="bring the sample rate of before back"
    )
    parser.add_argument(
        "--seconds", type=types.number(1, 60), default=5, metavar="N",
        help="measure for so long, before and after (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-hook-cpu", type=types.number(1, 100), default=10, metavar="PERCENT",
        help="what all hooks may take of the CPUs (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-events", type=types.number(1, 10**7), default=5000, metavar="N",
        help="events a second that are no trouble (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--file", metavar="PATH", dest="events_file", type=types.path,
        help="read the --events-file of aegisbpf run, not the journal",
    )  # fmt: skip
    parser.epilog = (
        "What is denied stays denied: only events are left out, and counted. Lowers the sample\n"
        "rate, measures hooks, rules and processes, compares before and after.\n\n"
        "example: aegisbpf incident performance --apply --restore"
    )


def procedure(case: Case, arguments: argparse.Namespace) -> Outcome:
    """Run it."""
    from aegis_tools.agent.eventsource import Files, Journal
    from aegis_tools.control.settings import parse_rate
    from aegis_tools.incident import performance
    from aegis_tools.incident.costs import Limits

    size = arguments.ringbuf_bytes
    if size & (size - 1):
        raise UsageError(f"{size} is no power of two", hint="use one, such as 1048576")

    def events(since: float) -> Files | Journal:
        if arguments.events_file is not None:
            return Files(arguments.events_file, since=since)
        return Journal(UNIT, since=since)

    options = performance.Options(
        seconds=arguments.seconds,
        rate=parse_rate(arguments.event_sample_rate),
        apply=arguments.apply,
        ring_bytes=size,
        restore=arguments.restore,
        limits=Limits(hook_cpu=arguments.max_hook_cpu / 100, events=arguments.max_events),
        events=events,
    )
    return performance.run(case, options)
