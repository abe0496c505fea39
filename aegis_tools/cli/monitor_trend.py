"""``aegisbpf monitor trend``: the history of a process or a profile, by the hour."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aegis_tools.cli import monitor_store, types
from aegis_tools.cli.output import App, plain, table
from aegis_tools.errors import UsageError

if TYPE_CHECKING:
    from aegis_tools.monitors.store.plot import Panel
    from aegis_tools.monitors.store.query import Hour

METRICS = {"bytes": "bytes", "latency": "ns", "count": ""}
"""Units of what is drawn."""
_TELLING = {"process-monitor": "count", "disk-io-monitor": "latency"}
_ROWS = 24
_MICRO = 1_000_000


def build_trend(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    monitor_store.add_store(parser)
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--comm", metavar="NAME", help="name of the process")
    who.add_argument("--profile", metavar="NAME")
    who.add_argument(
        "--pid", metavar="N", type=types.number(0, 1 << 32),
        help="counted from single events, which are not kept as long",
    )  # fmt: skip
    monitor_store.add_filters(parser, "7d")
    parser.add_argument(
        "--metric", choices=tuple(METRICS),
        help="what is drawn (default: what tells most of each monitor)",
    )  # fmt: skip
    parser.add_argument("--plot", metavar="FILE.svg", type=types.path, help="draw it into a file")
    parser.epilog = (
        "Latency of a disk request is from issue to complete; of a process it is its lifetime.\n"
        "Times are UTC. FILE.svg opens in any browser, and must not exist yet.\n\n"
        "example: aegisbpf monitor trend --comm postgres --monitor disk-io --plot postgres.svg"
    )
    parser.set_defaults(run=run)


def run(app: App, arguments: argparse.Namespace) -> int:
    """Print the hours, or draw them."""
    from aegis_tools.monitors.store.query import trend

    if arguments.plot is not None and arguments.plot.suffix != ".svg":
        raise UsageError(
            "a plot is written as SVG, which any browser shows",
            hint=f"write it like: --plot {plain(arguments.plot.stem) or 'trend'}.svg",
        )
    now = time.time()
    wanted = monitor_store.wanted(arguments, now)
    if wanted.until is None:
        wanted = replace(wanted, until=int(now * _MICRO))
    database = monitor_store.reading(app, arguments)
    try:
        found = trend(database, wanted)
    finally:
        database.close()
    if arguments.plot is not None and found:
        draw(arguments, found)
    app.show(lambda: to_dict(arguments, found), lambda: to_text(arguments, found))
    if not found:
        app.note("no events match")
    elif arguments.plot is not None:
        app.note(f"drawn in {plain(str(arguments.plot))}")
    return 0


def draw(arguments: argparse.Namespace, found: dict[str, list[Hour]]) -> None:
    """Write the picture."""
    from aegis_tools.control.files import named, write_new
    from aegis_tools.monitors.store.plot import svg

    picture = svg([panel(arguments, monitor, hours) for monitor, hours in found.items()])
    what = f"plot {named(arguments.plot)}"
    write_new(arguments.plot, picture.encode(), what=what, mode=0o644)


def metric_of(arguments: argparse.Namespace, monitor: str) -> str:
    """Return what is drawn of a monitor."""
    return arguments.metric or _TELLING.get(monitor, "bytes")


def panel(arguments: argparse.Namespace, monitor: str, hours: list[Hour]) -> Panel:
    """Return a monitor's hours to be drawn."""
    from aegis_tools.monitors.store.plot import Panel

    metric = metric_of(arguments, monitor)
    values = {
        "bytes": [hour.size for hour in hours],
        "latency": [hour.latency_avg_ns for hour in hours],
        "count": [hour.count for hour in hours],
    }[metric]
    most = [hour.latency_max_ns for hour in hours] if metric == "latency" else []
    what = {"latency": "mean latency", "bytes": "bytes", "count": "events"}[metric]
    if metric == "latency" and monitor == "process-monitor":
        what = "mean lifetime"
    title = f"{monitor}: {what} of {_who(arguments)}, by the hour (UTC)"
    return Panel(plain(title), METRICS[metric], hours[0].start, values, most)


def _who(arguments: argparse.Namespace) -> str:
    if arguments.pid is not None:
        return f"process {arguments.pid}"
    return f"profile {arguments.profile}" if arguments.profile else str(arguments.comm)


def to_text(arguments: argparse.Namespace, found: dict[str, list[Hour]]) -> str:
    """Return a line of blocks and a table for each monitor."""
    from aegis_tools.monitors.store.plot import amount, hour_text, sparkline

    parts = []
    for monitor, hours in found.items():
        shown = panel(arguments, monitor, hours)
        top = max(range(len(hours)), key=lambda n, values=shown.values: values[n])  # type: ignore[misc]
        rows = [
            (
                hour_text(hour.start), hour.count, amount(hour.size, "bytes"),
                amount(hour.latency_avg_ns, "ns") if hour.timed else "-",
                amount(hour.latency_max_ns, "ns") if hour.timed else "-",
            )
            for hour in hours if hour.count
        ]  # fmt: skip
        most = f"{amount(shown.values[top], shown.unit)} at {hour_text(hours[top].start)}"
        parts += [
            shown.title,
            f"  {sparkline(shown.values)}  most: {most}",
            table(rows[-_ROWS:], ("HOUR", "EVENTS", "BYTES", "MEAN", "LONGEST")),
        ]
        if len(rows) > _ROWS:
            parts.append(f"({len(rows) - _ROWS} hours before: see --json or --plot)")
        parts.append("")
    return "\n".join(parts[:-1])


def to_dict(arguments: argparse.Namespace, found: dict[str, list[Hour]]) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    by = next(name for name in ("comm", "profile", "pid") if getattr(arguments, name) is not None)
    return {
        "by": by,
        by: getattr(arguments, by),
        "monitors": [_monitor(arguments, monitor, hours) for monitor, hours in found.items()],
    }


def _monitor(arguments: argparse.Namespace, monitor: str, hours: list[Hour]) -> dict[str, Any]:
    from aegis_tools.monitors.store.fields import to_time
    from aegis_tools.monitors.store.query import buckets_of

    what, bounds = buckets_of(monitor)
    counts = [sum(each) for each in zip(*(h.histogram for h in hours if h.histogram), strict=True)]
    return {
        "monitor": monitor,
        "metric": metric_of(arguments, monitor),
        "hours": [
            {
                "hour": to_time(hour.start),
                "count": hour.count,
                "bytes": hour.size,
                "latency_avg_ns": hour.latency_avg_ns if hour.timed else None,
                "latency_max_ns": hour.latency_max_ns if hour.timed else None,
            }
            for hour in hours
        ],
        "histogram": {"of": what, "up_to": [*bounds, None], "counts": counts} if counts else None,
    }
