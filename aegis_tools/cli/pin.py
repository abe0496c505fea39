"""``aegisbpf pin``: what is pinned in the BPF file system."""

from __future__ import annotations

import argparse

from aegis_tools.cli.editing import record
from aegis_tools.cli.output import App, table
from aegis_tools.control.lock import locked
from aegis_tools.errors import UsageError
from aegis_tools.kernel.pins import PARTS, Pins


def build(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    parser.epilog = "example: aegisbpf pin list"
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=type(parser))
    command = commands.add_parser(
        "list", help="links, programs and maps", epilog="example: aegisbpf pin list"
    )
    command.set_defaults(run=show)
    command = commands.add_parser(
        "remove",
        help="remove pins: a removed link ends its hook, --all ends everything",
        epilog="example: aegisbpf pin remove links/aegis_file_open",
    )
    command.add_argument("names", metavar="NAME", nargs="*", help="PART/NAME, or NAME")
    command.add_argument("--all", action="store_true", help="everything, links first")
    command.add_argument("--dry-run", action="store_true", help="say what would be done")
    command.set_defaults(run=remove)


def pinned(pins: Pins) -> list[str]:
    """Return everything that is pinned, as ``PART/NAME``, links first."""
    return [f"{part}/{name}" for part in PARTS for name in pins.names(part)]


def show(app: App, arguments: argparse.Namespace) -> int:
    """List the pins."""
    del arguments
    found = [name.split("/") for name in pinned(Pins(app.paths.pins))]
    app.show(
        {"pins": [{"part": part, "name": name} for part, name in found]},
        table(found, ("PART", "NAME")) if found else "nothing is pinned",
    )
    return 0


def choose(found: list[str], names: list[str], *, everything: bool) -> list[str]:
    """Return the pins that are meant.

    Raises:
        UsageError: A name is none, or is in several parts.
    """
    if everything == bool(names):
        raise UsageError("name pins, or --all", hint="see: aegisbpf pin list")
    if everything:
        return found
    chosen = []
    for name in names:
        fits = [pin for pin in found if name in (pin, pin.partition("/")[2])]
        if len(fits) != 1:
            what = f"is in {' and '.join(fits)}" if fits else "is not pinned"
            raise UsageError(f"{name!r} {what}", hint="see: aegisbpf pin list")
        chosen += fits
    return chosen


def remove(app: App, arguments: argparse.Namespace) -> int:
    """Remove pins."""
    pins = Pins(app.paths.pins)
    with locked(app.paths.lock, command="pin remove"):
        chosen = choose(pinned(pins), arguments.names, everything=arguments.all)
        if not arguments.dry_run:
            if arguments.all:
                pins.remove_all()
            for pin in chosen:
                pins.remove(*pin.split("/"))
            record(app, "pin remove", {"removed": len(chosen)}, ", ".join(chosen))
    verb = "dry run, would remove" if arguments.dry_run else "removed"
    text = "\n".join(f"{verb}: {pin}" for pin in chosen) or "nothing is pinned"
    if chosen and not arguments.dry_run:
        text += "\nto put things right: aegisbpf reset && aegisbpf load"
    app.show(
        {"changed": bool(chosen), "dry_run": arguments.dry_run, "removed": chosen},
        text,
    )
    return 0
