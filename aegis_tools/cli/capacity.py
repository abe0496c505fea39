"""``aegisbpf capacity``."""

from __future__ import annotations

import argparse

from aegis_tools.cli import types
from aegis_tools.cli.output import App, table
from aegis_tools.control import capacity
from aegis_tools.control.capacity import Outlook
from aegis_tools.control.live import Live
from aegis_tools.errors import KernelError
from aegis_tools.kernel.pins import Pins

FULL = KernelError.exit_code


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--warn",
        type=types.number(1, 100),
        metavar="PERCENT",
        default=80,
        help="exit 6 where a map is as full as this (default: %(default)s)",
    )
    parser.epilog = (
        "The trend is that of the changes of the live policy; with less than five of them, or\n"
        "less than a day between the first and the last, there is none.\n\n"
        "example: aegisbpf capacity --warn 90"
    )
    parser.set_defaults(run=run)


def run(app: App, arguments: argparse.Namespace) -> int:
    """Print the fill of every map and what is to be expected."""
    samples = capacity.read_samples(app.paths.capacity_log)
    with Live(Pins(app.paths.pins)) as live:
        found = capacity.outlook(capacity.read_use(live), samples)
    over = [each.use.name for each in found if 100 * each.use.share >= arguments.warn]
    app.show(
        {
            "maps": [each.to_dict() for each in found],
            "samples": len(samples),
            "warn_percent": arguments.warn,
            "over": over,
        },
        lambda: as_text(found, len(samples), over, arguments.warn),
    )
    return FULL if over else 0


def as_text(found: list[Outlook], samples: int, over: list[str], warn: int) -> str:
    """Return the table, and what is full."""
    rows = [
        (each.use.name, each.use.entries, each.use.capacity, f"{100 * each.use.share:.1f}%",
         growth(each), left(each))
        for each in found
    ]  # fmt: skip
    lines = [table(rows, ("map", "entries", "capacity", "full", "a day", "full in"))]
    if all(each.per_day is None for each in found):
        many = "1 sample" if samples == 1 else f"{samples} samples"
        lines.append(f"not enough data for a trend: {many} so far")
    lines += [f"warning: {name} is {warn}% full or more" for name in over]
    if over:
        lines.append("  next: aegisbpf block clear-stale; or larger maps, live: aegisbpf tune")
    return "\n".join(lines)


def growth(each: Outlook) -> str:
    """Return the entries a day, signed."""
    return "-" if each.per_day is None else f"{each.per_day:+.1f}"


def left(each: Outlook) -> str:
    """Return the time until the map is full."""
    if each.per_day is None:
        return "-"
    if each.use.share >= 1:
        return "now"
    if each.days_left is None or each.days_left > 3650:
        return "not soon"
    return f"{each.days_left:.0f} days" if each.days_left >= 2 else f"{24 * each.days_left:.0f} h"
