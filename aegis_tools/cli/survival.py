"""``aegisbpf survival``: files that no rule keeps from being read or run."""

from __future__ import annotations

import argparse

from aegis_tools.cli.output import App
from aegis_tools.control import survival
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.kernel.pins import Pins


def build(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=type(parser))
    parser.epilog = "example: aegisbpf survival list"
    command = commands.add_parser(
        "list",
        help="list the files and whether each is protected now",
        epilog="example: aegisbpf survival list --json",
    )
    command.set_defaults(run=list_files)
    command = commands.add_parser(
        "refresh",
        help="fill the list anew; load does it, repeat it after package upgrades",
        epilog="example: aegisbpf survival refresh",
    )
    command.add_argument("--dry-run", action="store_true", help="say what would be done")
    command.set_defaults(run=refresh)


def list_files(app: App, arguments: argparse.Namespace) -> int:
    """List the essential files."""
    del arguments
    with Live(Pins(app.paths.pins)) as live:
        found = survival.listed(live, app.paths)
    lines = [f"{'protected' if ok else 'MISSING  '}  {path}" for path, ok in found.items()]
    missing = [path for path, ok in found.items() if not ok]
    if missing:
        lines.append(f"{len(missing)} missing; run: aegisbpf survival refresh")
    app.show({"files": found, "missing": missing}, "\n".join(lines))
    return 0


def refresh(app: App, arguments: argparse.Namespace) -> int:
    """Fill the list anew."""
    if arguments.dry_run:
        with Live(Pins(app.paths.pins)) as live:
            missing = [path for path, ok in survival.listed(live, app.paths).items() if not ok]
        text = f"dry run, would add {len(missing)} files to those that can always be read and run"
        app.show({"dry_run": True, "would_add": missing}, text)
        return 0
    with locked(app.paths.lock, command="survival refresh"), Live(Pins(app.paths.pins)) as live:
        found = survival.refresh(live, app.paths)
    app.show({"files": sorted(found)}, f"{len(found)} files can always be read and run")
    return 0
