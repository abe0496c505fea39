"""``aegisbpf metrics``."""

from __future__ import annotations

import argparse
import gc
import select
import time
from collections.abc import Callable
from pathlib import Path

from aegis_tools.agent import metrics
from aegis_tools.agent.scrape import Scraper
from aegis_tools.cli import types
from aegis_tools.cli.duration import parse_duration
from aegis_tools.cli.output import App
from aegis_tools.errors import UsageError
from aegis_tools.monitors import metrics as monitors


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--textfile",
        "--out",
        dest="textfile",
        type=types.path,
        metavar="FILE",
        help="write a file for node_exporter's textfile collector, with HELP and TYPE",
    )
    parser.add_argument(
        "--every", metavar="TIME", help="with --textfile: write it again and again, as 15s"
    )
    parser.add_argument(
        "--listen", metavar="ADDRESS:PORT", help="serve /metrics over HTTP until SIGTERM"
    )
    parser.add_argument(
        "--allow-remote", action="store_true", help="let --listen be reached by other hosts"
    )
    parser.add_argument(
        "--full", action="store_true", help="print HELP and TYPE lines too, not only samples"
    )
    parser.epilog = (
        "stdout has samples only, so that this gives one number:\n"
        "  aegisbpf metrics | grep aegisbpf_deny_path_entries | awk '{print $2}'\n\n"
        "example: aegisbpf metrics --listen 127.0.0.1:9635\n"
        "example: aegisbpf metrics --textfile /var/lib/prometheus/node-exporter/aegisbpf.prom"
    )
    parser.set_defaults(run=run)


def check(arguments: argparse.Namespace) -> None:
    """Raise UsageError for options that make no sense together."""
    if arguments.listen and arguments.textfile:
        raise UsageError("--listen and --textfile are two ways", hint="choose one")
    if arguments.every is not None and not arguments.textfile:
        raise UsageError("--every needs --textfile", hint="name the file to write")
    if arguments.every is not None and parse_duration(arguments.every) < 1:
        raise UsageError("--every needs at least a second", hint="for example: --every 15s")
    if arguments.allow_remote and not arguments.listen:
        raise UsageError("--allow-remote needs --listen", hint="name an address and a port")
    if arguments.full and (arguments.listen or arguments.textfile):
        raise UsageError("--full is for stdout", hint="the others always have HELP and TYPE")


def run(app: App, arguments: argparse.Namespace) -> int:
    """Print, write or serve the metrics."""
    check(arguments)
    with Scraper(app.paths) as scraper:
        registry = metrics.registry_of(scraper.read)
        registry.register(monitors.Collector(app.paths))
        if arguments.listen:
            return serve(app, arguments, scraper, lambda: metrics.exposition(registry).encode())
        if arguments.textfile:
            pause = None if arguments.every is None else parse_duration(arguments.every)
            return write(app, arguments.textfile, pause, lambda: metrics.exposition(registry))
        text = metrics.exposition(registry)
    shown = text if arguments.full else metrics.samples_only(text)
    app.show({"exposition": text}, shown.rstrip("\n"))
    return 0


def write(app: App, path: Path, pause: float | None, page: Callable[[], str]) -> int:
    """Write the file once, or until SIGTERM."""
    from aegis_tools.agent.stream import stop_on_signals
    from aegis_tools.control.outputs import write_output

    write_output(path, page().encode(), what="metrics file")
    if pause is None:
        app.show({"output": str(path)}, "")
        return 0
    gc.enable()  # this one lives long
    with stop_on_signals() as stop:
        due = time.monotonic() + pause
        while not stop:
            select.select([stop], [], [], max(0.0, due - time.monotonic()))
            if not stop and time.monotonic() >= due:
                due = time.monotonic() + pause
                write_output(path, page().encode(), what="metrics file")
    return 0


def serve(
    app: App, arguments: argparse.Namespace, scraper: Scraper, page: Callable[[], bytes]
) -> int:
    """Serve over HTTP until SIGTERM."""
    from aegis_tools.agent.httpd import Server, parse_address
    from aegis_tools.agent.stream import stop_on_signals

    address = parse_address(arguments.listen)
    if not address.is_loopback and not arguments.allow_remote:
        raise UsageError(
            f"other hosts could read {address}: metrics tell what is denied here",
            hint="listen on 127.0.0.1, or say that it is meant with --allow-remote",
        )
    gc.enable()  # this one lives long
    with stop_on_signals() as stop, Server(address, page, scraper.look, app.note) as server:
        url = f"http://{server.address}/metrics"
        app.note(f"aegisbpf: metrics at {url}")
        app.err.flush()
        server.serve(lambda: bool(stop), stop.fileno())
    return 0
