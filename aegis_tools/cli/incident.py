"""``aegisbpf incident``: the options of its subcommands.

The procedures are in modules of their own (PROCEDURES), the records in ``incident_records``.
A procedure's module has ``build(parser)``, which adds its options and an epilog, and
``procedure(case, arguments)``, which returns an ``Outcome``; ``probe(arguments)`` may return what
asks the affected service. ``first(paths, arguments)`` may do what comes before anything is read.
It imports nothing heavy at its top: completion reads them all.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from aegis_tools.cli import types
from aegis_tools.cli.output import App

PROCEDURES = {
    "blocking": ("incident_blocking", "enforcement hits legitimate work: audit at once, then fix"),
    "crash-loop": (
        "incident_crash_loop",
        "the agent dies at start: stop it, collect, start safely",
    ),
    "performance": ("incident_performance", "the host is slow or events are lost: less, and why"),
    "map-full": ("incident_map_full", "a map is full: who fills it, make room, apply again"),
    "kernel-upgrade": ("incident_kernel_upgrade", "check a kernel before, or go back after"),
}
"""Module of ``aegis_tools.cli`` and one line of help, by scenario."""


def build(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    parser.epilog = (
        "which one: aegisbpf diagnose\n\n"
        "examples:\n"
        "  aegisbpf incident blocking --dry-run\n"
        "  aegisbpf incident list"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=type(parser))
    for scenario, (module, _) in PROCEDURES.items():
        if find_spec(f"aegis_tools.cli.{module}"):
            _add_procedure(commands, scenario)
    _add_records(commands)


def _add_procedure(commands: Any, scenario: str) -> None:
    module, text = PROCEDURES[scenario]
    found = importlib.import_module(f"aegis_tools.cli.{module}")
    command = commands.add_parser(scenario, help=text, description=text)
    command.epilog = f"example: aegisbpf incident {scenario} --dry-run"
    command.add_argument(
        "--dry-run", action="store_true", help="look, say what would be done, and change nothing"
    )
    found.build(command)
    command.set_defaults(run=partial(_run_procedure, scenario))


def _run_procedure(scenario: str, app: App, arguments: argparse.Namespace) -> int:
    found = importlib.import_module(f"aegis_tools.cli.{PROCEDURES[scenario][0]}")
    if hasattr(found, "first"):
        found.first(app.paths, arguments)
    from aegis_tools.cli.incident_run import execute

    probe = found.probe(arguments) if hasattr(found, "probe") else None
    return execute(
        app,
        scenario,
        lambda case: found.procedure(case, arguments),
        dry_run=arguments.dry_run,
        probe=probe,
    )


def _add_records(commands: Any) -> None:
    def add(name: str, text: str, example: str) -> Any:
        command = commands.add_parser(
            name, help=text, description=text, epilog=f"example: aegisbpf incident {example}"
        )
        command.set_defaults(run=_records(name))
        return command

    command = add("list", "the incidents recorded here, newest first", "list")
    command.add_argument("--limit", type=types.positive, default=20, metavar="N")
    command = add("show", "one incident: what was seen and done, and when", "show last --markdown")
    command.add_argument("id", metavar="ID", help="an id, or: last")
    command.add_argument("--markdown", action="store_true", help="as a page for a report")
    command = add("note", "add a line to an incident's record", "note last 'the vendor is told'")
    command.add_argument("id", metavar="ID", help="an id, or: last")
    command.add_argument("text", metavar="TEXT")
    command = add("close", "end an incident that is still open", "close last")
    command.add_argument("id", metavar="ID", help="an id, or: last")
    command.add_argument(
        "--result", choices=("recovered", "not-recovered"), default="recovered",
        help="how it ended (default: %(default)s)",
    )  # fmt: skip
    command = add(
        "bundle", "pack the evidence for support, without secrets", "bundle -o /root/aegis.tar.gz"
    )
    command.add_argument(
        "id", metavar="ID", nargs="?", default="", help="only this incident's record"
    )
    command.add_argument("-o", "--output", metavar="FILE", type=types.path, required=True)


def _records(name: str) -> Callable[[App, argparse.Namespace], int]:
    def call(app: App, arguments: argparse.Namespace) -> int:
        found = importlib.import_module("aegis_tools.cli.incident_records")
        return int(getattr(found, f"run_{name}")(app, arguments))

    return call
