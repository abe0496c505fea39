"""``aegisbpf incident crash-loop``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from aegis_tools.cli.duration import parse_duration

if TYPE_CHECKING:
    from aegis_tools.incident.case import Case, Outcome


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--stable-for", metavar="TIME", type=parse_duration, default=60,
        help="how long the agent must live after a start (default: 60s)",
    )  # fmt: skip
    parser.add_argument(
        "--normal-start", action="store_true",
        help="when the cause is gone: start the agent as its unit and drop-ins say again",
    )  # fmt: skip
    parser.epilog = (
        "Ends the loop, names the cause, starts the agent as it is shipped (by a drop-in that a\n"
        "reboot removes), puts the last good policy in the place of a damaged one. What the\n"
        "kernel enforces goes on, unless policy or programs may be the cause: then the host is\n"
        "held in audit until: aegisbpf resume\n\n"
        "example: aegisbpf incident crash-loop --stable-for 60s"
    )


def procedure(case: Case, arguments: argparse.Namespace) -> Outcome:
    """Run it."""
    from aegis_tools.incident import crash_loop

    if arguments.normal_start:
        return crash_loop.normal_start(case, stable_for=arguments.stable_for)
    return crash_loop.run(case, stable_for=arguments.stable_for)
