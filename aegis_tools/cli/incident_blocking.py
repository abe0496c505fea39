"""``aegisbpf incident blocking``."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from aegis_tools.cli import types
from aegis_tools.cli.duration import parse_duration
from aegis_tools.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis_tools.incident.case import Case, Outcome
    from aegis_tools.incident.probe import Probe
    from aegis_tools.paths import Paths

DEFAULT_SINCE = "15m"
DEFAULT_WITHIN = 120


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from aegis_tools.cli.eventoptions import add_source_options

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Sets the host to audit at once, where a rule has refused something lately; then asks the\n"
        "service, finds the rule, takes out just that one. Enforces again only with --reenforce."
    )
    for kind, text in (
        ("url", "is answered with a status below 400"),
        ("command", "ends with status 0; words, not a shell's line"),
        ("unit", "is active; started again where it has failed"),
    ):
        parser.add_argument(
            f"--probe-{kind}", metavar=kind.upper(), action="append", default=[], dest="probes",
            type=_probe(kind),
            help=f"the service is well when this {text} (again and again)",
        )  # fmt: skip
    parser.add_argument(
        "--probe-for", type=parse_duration, default=20, metavar="TIME",
        help="how long it may take to answer (default: 20s)",
    )  # fmt: skip
    parser.add_argument("--rule", metavar="ID", default="", help="the rule; else it is found")
    parser.add_argument(
        "--fix", choices=("auto", "demote", "remove", "none"), default="auto",
        help="auto: a rule of the policy only audits from now on, one made by hand is removed",
    )  # fmt: skip
    parser.add_argument(
        "--stop", action="store_true", help="stop the agent and remove everything from the kernel"
    )
    parser.add_argument(
        "--reenforce", action="store_true", help="enforce again without that rule, if it did before"
    )
    parser.add_argument(
        "--confirm-within", type=types.within, metavar="TIME",
        help="back to audit unless aegisbpf policy confirm comes in time (default: 120s)",
    )  # fmt: skip
    parser.add_argument(
        "--no-probe", action="store_true", help="do not try a login, sudo, names and Python as well"
    )
    add_source_options(parser, DEFAULT_SINCE)
    parser.epilog = (
        "examples:\n"
        "  aegisbpf incident blocking --probe-url http://127.0.0.1/health\n"
        "  aegisbpf incident blocking --probe-unit nginx --reenforce --confirm-within 120s\n"
        "  aegisbpf incident blocking --rule no-shadow --dry-run"
    )


def first(paths: Paths, arguments: argparse.Namespace) -> None:
    """End the refusals, before anything else is read or even imported."""
    _check(arguments)
    from aegis_tools.incident.relief import relieve

    arguments.relief = relieve(
        paths,
        since=_since(arguments),
        rule=arguments.rule,
        settled_ns=lambda: _settled(paths),
        dry_run=arguments.dry_run,
    )


def _since(arguments: argparse.Namespace) -> float:
    from aegis_tools.cli.eventoptions import moment

    return moment(arguments.since, time.time())


def _check(arguments: argparse.Namespace) -> None:
    """Raise UsageError for options that contradict each other."""
    if arguments.stop and arguments.reenforce:
        raise UsageError("--stop leaves nothing to enforce with", hint="leave one of them out")
    if arguments.confirm_within and not arguments.reenforce:
        raise UsageError("--confirm-within goes with --reenforce", hint="add: --reenforce")
    if arguments.reenforce and arguments.fix == "none":
        raise UsageError("--reenforce with --fix none brings it back", hint="leave one of them out")
    _since(arguments)


def _settled(paths: Paths) -> int:
    """Return up to when an earlier incident looked into refusals; 0 for none."""
    from aegis_tools.control.bootclock import boot_id
    from aegis_tools.incident.relief import settled_ns
    from aegis_tools.incident.shelf import Shelf

    found = (one.content for one in Shelf(paths).all() if one.content)
    facts = (held.facts for held in found if held.scenario == "blocking")
    return settled_ns(facts, boot_id(paths))


def _probe(kind: str) -> Callable[[str], Probe]:
    """Return the type of an option that says how to ask the service."""

    def parse(text: str) -> Probe:
        from aegis_tools.incident import probe

        makers = {"url": probe.url, "command": probe.command, "unit": probe.unit}
        return makers[kind](text)

    return parse


def procedure(case: Case, arguments: argparse.Namespace) -> Outcome:
    """Carry it out."""
    from aegis_tools.cli.eventoptions import source
    from aegis_tools.incident import blocking

    since = _since(arguments)
    asked = blocking.Asked(
        since=since,
        source=source(arguments, since),
        rule=arguments.rule,
        probes=tuple(arguments.probes),
        patience=arguments.probe_for,
        fix=arguments.fix,
        stop=arguments.stop,
        within=(arguments.confirm_within or DEFAULT_WITHIN) if arguments.reenforce else 0,
        log_in=not arguments.no_probe,
    )
    return blocking.run(case, asked, arguments.relief)
