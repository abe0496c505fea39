"""``aegisbpf metrics``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from aegis_tools.agent import metrics
from aegis_tools.cli import types
from aegis_tools.cli.output import App
from aegis_tools.control.live import Live
from aegis_tools.control.stats import read_snapshot
from aegis_tools.errors import NotLoadedError
from aegis_tools.kernel.pins import Pins

if TYPE_CHECKING:
    from prometheus_client.core import Metric


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--out",
        type=types.path,
        metavar="FILE",
        help="write a file for node_exporter's textfile collector, with HELP and TYPE",
    )
    parser.add_argument(
        "--full", action="store_true", help="print HELP and TYPE lines too, not only samples"
    )
    parser.epilog = (
        "stdout has samples only, so that this gives one number:\n"
        "  aegisbpf metrics | grep aegisbpf_deny_path_entries | awk '{print $2}'\n\n"
        "example: aegisbpf metrics --out /var/lib/node_exporter/aegisbpf.prom"
    )
    parser.set_defaults(run=run)


def run(app: App, arguments: argparse.Namespace) -> int:
    """Print or write the metrics."""
    text = metrics.exposition(collect(app))
    if arguments.out is not None:
        from aegis_tools.control.outputs import write_output

        write_output(arguments.out, text.encode(), what="metrics file")
        app.show({"output": str(arguments.out)}, "")
        return 0
    shown = text if arguments.full else metrics.samples_only(text)
    app.show({"exposition": text}, shown.rstrip("\n"))
    return 0


def collect(app: App) -> list[Metric]:
    """Read what is live."""
    try:
        with Live(Pins(app.paths.pins)) as live:
            return metrics.families(read_snapshot(live), top_hits(app, live))
    except NotLoadedError:
        return metrics.families(None)


def top_hits(app: App, live: Live) -> list[metrics.RuleHits]:
    """Return the hits of the rules that match most, by name."""
    from aegis_tools.control.names import rules_by_uid

    hits = live.hits()
    if not hits:
        return []
    rules = rules_by_uid(live, app.paths)
    return metrics.top_hits(hits, {uid: rule.id for uid, rule in rules.items()})
