"""``aegisbpf diagnose``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aegis_tools import __version__
from aegis_tools.cli import types
from aegis_tools.cli.output import App

if TYPE_CHECKING:
    from aegis_tools.incident.facts import Facts
    from aegis_tools.incident.scenarios import Diagnosis


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--seconds",
        type=types.number(0, 60),
        default=1,
        metavar="N",
        help="between the two looks that rates are made of (default: %(default)s)",
    )
    parser.epilog = (
        "exit codes: 0 none of the scenarios, 20 low, 21 medium, 22 high, 23 critical (the worst\n"
        "  one found), 8 none found, but not everything could be looked at\n\n"
        "example: aegisbpf diagnose --json | jq -r '.findings[].command'"
    )
    parser.set_defaults(run=run)


def run(app: App, arguments: argparse.Namespace) -> int:
    """Look, judge, print."""
    from aegis_tools.incident.facts import read_facts
    from aegis_tools.incident.scenarios import diagnose

    facts = read_facts(app.paths, seconds=arguments.seconds)
    found = diagnose(facts)
    app.show(
        lambda: {"version": __version__, **found.to_dict(), "facts": facts.to_dict()},
        lambda: "\n".join([head(facts), *lines(found, facts)]),
    )
    return found.exit_code


def head(facts: Facts) -> str:
    """Return which host it is and when: many terminals are open at such a time."""
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(facts.time))
    return f"{facts.host or 'this host'}, Linux {facts.kernel}, {when}"


def lines(found: Diagnosis, facts: Facts) -> Iterator[str]:
    """Yield the verdict: each scenario with its evidence and its command, then what else is."""
    for one in found.findings:
        yield f"{one.severity.upper()}  {one.scenario}: {one.summary}"
        yield from (f"    {line}" for line in one.evidence)
        yield f"  next: {one.command}"
        yield f"  more: {one.runbook}; a fleet: {one.playbook}"
        yield ""
    if not found.findings:
        yield _none(found, facts)
    for note in found.notes:
        yield f"also: {note.text}" + (f"; see: {note.command}" if note.command else "")
    for text in found.unknown:
        yield f"not known: {text}"
    if found.unknown and not facts.root:
        yield "  next: sudo aegisbpf diagnose"


def _none(found: Diagnosis, facts: Facts) -> str:
    if found.unknown:
        return "none found, but not everything could be looked at"
    what = facts.meaning or "nothing is loaded"
    return f"none: none of the scenarios of the runbook holds; {what}"
