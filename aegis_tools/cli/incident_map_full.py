"""``aegisbpf incident map-full``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from aegis_tools.cli import types
from aegis_tools.cli.duration import parse_duration
from aegis_tools.errors import UsageError

if TYPE_CHECKING:
    from aegis_tools.incident.case import Case, Outcome


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Says which map is full and who fills it, removes what matches nothing any more (with an\n"
        "undo file), gives maps that are still too small more room while the host goes on\n"
        "enforcing, and applies the policy that did not fit."
    )
    parser.add_argument(
        "--at", type=types.number(1, 100), default=85, metavar="PERCENT",
        help="how full is too full (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--older-than", metavar="TIME", type=parse_duration, default=0,
        help="also remove rules not hit for 30m, 12h, 7d, 4w",
    )  # fmt: skip
    parser.add_argument("--keep-stale", action="store_true", help="remove nothing, only make room")
    parser.add_argument(
        "--size", metavar="MAP=N", action="append", default=[], type=_size,
        help="give this map so many entries; without it what is enough",
    )  # fmt: skip
    parser.add_argument(
        "--policy", metavar="FILE", type=types.path, help="then apply this, which did not fit"
    )
    parser.add_argument(
        "--allow-unsigned", action="store_true", help="take an unsigned policy; it is recorded"
    )
    parser.add_argument(
        "--confirm-within", type=types.within, metavar="TIME",
        help="undo the policy unless aegisbpf policy confirm comes in time",
    )  # fmt: skip
    parser.add_argument(
        "--no-probe", action="store_true", help="do not try a login, sudo, names and Python"
    )
    parser.epilog = (
        "examples:\n"
        "  aegisbpf incident map-full --dry-run\n"
        "  aegisbpf incident map-full --policy /etc/aegisbpf/policy.conf --confirm-within 120s"
    )


def _size(text: str) -> tuple[str, int]:
    """Return map and size.

    Raises:
        UsageError: It is none.
    """
    from aegis_tools.kernel.layout import SPECS

    name, _, number = text.partition("=")
    if name not in SPECS:
        raise UsageError(f"{name[:60]!r} is no map of the policy", hint="see: aegisbpf capacity")
    return name, types.positive(number)


def procedure(case: Case, arguments: argparse.Namespace) -> Outcome:
    """Carry it out."""
    from aegis_tools.incident import map_full

    if arguments.confirm_within and not arguments.policy:
        raise UsageError("--confirm-within goes with --policy", hint="leave it out")
    asked = map_full.Asked(
        at=arguments.at / 100,
        older_than=arguments.older_than,
        clear=not arguments.keep_stale,
        sizes=dict(arguments.size),
        policy=arguments.policy,
        allow_unsigned=arguments.allow_unsigned,
        within=arguments.confirm_within or 0,
        log_in=not arguments.no_probe,
    )
    return map_full.run(case, asked)
