"""``aegisbpf monitor``; events and top are in monitor_live, what is stored in monitor_store."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aegis_tools.cli import monitor_forget, monitor_store, monitor_trend, types
from aegis_tools.cli.output import App, plain, table
from aegis_tools.errors import AegisError
from aegis_tools.monitors.pins import MonitorPins, leftovers
from aegis_tools.monitors.registry import MONITORS, Monitor, find

if TYPE_CHECKING:
    from aegis_tools.cli.monitor_live import Following
    from aegis_tools.monitors.filters import Filter
    from aegis_tools.monitors.options import Options

EVENTS = sorted({name for monitor in MONITORS.values() for name in monitor.types.values()})
PREBUILT = Path(__file__).resolve().parent.parent / "objects" / "prebuilt-ebpf"
"""The portable objects, under the names that are given to bpftool."""
BY = ("memory", "io", "latency", "bandwidth")


def build(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    kinds = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=type(parser))
    listing = kinds.add_parser("list", help="which monitors there are, and which are loaded")
    listing.epilog = "example: aegisbpf monitor list --json"
    listing.set_defaults(run=run_list)
    load = kinds.add_parser("load", help="load monitors, attach and pin them")
    _add_names(load)
    _add_filter_options(load)
    load.add_argument("--dry-run", action="store_true", help="only say what would be loaded")
    load.epilog = (
        "What is loaded stays until it is unloaded, or the next boot. Of a monitor that is loaded\n"
        "only the filter changes: to what is given here, or to all.\n\n"
        "example: aegisbpf monitor load process network --only-uid 1000 --only-command sshd"
    )
    load.set_defaults(run=run_load)
    unload = kinds.add_parser("unload", help="remove monitors, and all they had in the kernel")
    _add_names(unload)
    unload.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    unload.epilog = "example: aegisbpf monitor unload memory"
    unload.set_defaults(run=run_unload)
    status = kinds.add_parser("status", help="what monitors have seen and lost, and what they take")
    _add_names(status)
    status.epilog = "example: aegisbpf monitor status --json | jq '.monitors[].counters'"
    status.set_defaults(run=run_status)
    _build_live(kinds)
    _build_store(kinds)
    parser.epilog = "example: aegisbpf monitor load process && aegisbpf monitor events"


def _build_live(kinds: Any) -> None:
    events = kinds.add_parser("events", help="follow what monitors tell")
    _add_names(events)
    events.add_argument("--event", metavar="KIND", action="append", choices=EVENTS,
                        help=f"only these: {', '.join(EVENTS)}")  # fmt: skip
    events.add_argument("--pid", metavar="N", type=types.number(0, 1 << 32), help="of this process")
    events.add_argument("--comm", metavar="NAME", help="of processes with this name")
    events.add_argument("--count", metavar="N", type=types.positive, help="end after so many")
    events.add_argument("--for", metavar="TIME", dest="seconds", help="end after 10s, 5m")
    events.add_argument(
        "--waiting", action="store_true", help="also what has waited in the rings since before"
    )
    events.add_argument("--schema", action="store_true", help="print the JSON Schema of an event")
    events.epilog = (
        "--json prints one event a line. One command at a time reads a monitor.\n\n"
        "example: aegisbpf monitor events process --event exec --for 10s --json"
    )
    events.set_defaults(run=run_events)
    top = kinds.add_parser("top", help="which processes use most, live")
    top.add_argument("--by", choices=BY, help="sort by it (default: the first that is loaded)")
    top.add_argument(
        "--interval", metavar="TIME", default="2s", help="between two looks (default: %(default)s)"
    )
    top.add_argument("--limit", metavar="N", type=types.positive, help="so many processes")
    top.add_argument("--once", action="store_true", help="one look")
    top.epilog = (
        "On a terminal it is drawn anew each time, elsewhere it is printed below.\n\n"
        "example: aegisbpf monitor top --by io --interval 5s"
    )
    top.set_defaults(run=run_top)


def _build_store(kinds: Any) -> None:
    agent = kinds.add_parser("run", help="the monitors' agent: load, store, watch limits, notify")
    agent.add_argument("--dry-run", action="store_true", help="only say what would be loaded")
    agent.epilog = (
        "What is loaded and stored is said by /etc/aegisbpf/monitors.json; without it limits of\n"
        "profiles are watched, and nothing is loaded. SIGHUP reads it anew; SIGTERM ends it,\n"
        "and unloads what it loaded. As a service: systemctl enable --now aegis-monitors\n\n"
        "example: aegisbpf monitor run --dry-run --json"
    )
    agent.set_defaults(run=run_agent)
    record = kinds.add_parser("record", help="store what monitors tell, until told to stop")
    monitor_store.build_record(record, _follow)
    query = kinds.add_parser("query", help="events that were stored")
    monitor_store.build_query(query)
    trend = kinds.add_parser("trend", help="the history of a process or a profile, with a plot")
    monitor_trend.build_trend(trend)
    forget = kinds.add_parser("forget", help="drop what was stored, for good")
    monitor_forget.build_forget(forget)


def _follow(app: App, names: list[str], command: str) -> AbstractContextManager[Following]:
    from aegis_tools.cli.monitor_live import follow_all

    return follow_all(app, names, command)


def _add_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help="such as process or process-monitor; without: all"
    )


def _add_filter_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only-uid", metavar="USER", action="append", default=[], help="what this user does"
    )
    parser.add_argument(
        "--only-cgroup", metavar="PATH", action="append", default=[],
        help="what is done in or below this cgroup, such as /system.slice/x.service",
    )  # fmt: skip
    parser.add_argument(
        "--only-command", metavar="NAME", action="append", default=[],
        help="what processes of this name do; any of these three is enough",
    )  # fmt: skip
    parser.add_argument(
        "--min-bytes", metavar="N", type=types.number(0, 1 << 40), default=0,
        help="nothing smaller; of memory, without it, only totals are kept",
    )  # fmt: skip
    parser.add_argument(
        "--sample", metavar="R", default="1", help="a share of the rest, by chance: 0.01"
    )
    parser.add_argument(
        "--ring-size", metavar="SIZE", type=types.size,
        help="room for events that wait, a power of two: 4M",
    )  # fmt: skip


def run_list(app: App, arguments: argparse.Namespace) -> int:
    """Print the monitors."""
    del arguments
    rows = []
    for monitor in MONITORS.values():
        pins = MonitorPins(app.paths.monitor_pins, monitor.name)
        variant = pins.about().variant if pins.is_loaded() else ""
        rows.append(
            {
                "monitor": monitor.name, "title": monitor.title, "loaded": pins.is_loaded(),
                "variant": variant, "events": list(monitor.types.values()),
                "prebuilt": str(PREBUILT / monitor.name),
            }
        )  # fmt: skip
    app.show(
        {"monitors": rows},
        lambda: table(
            [(r["monitor"], r["variant"] or "-", r["title"]) for r in rows],
            ("MONITOR", "LOADED AS", "TELLS OF"),
        ),
    )
    return 0


def wanted_options(arguments: argparse.Namespace) -> Options:
    """Return what the command line asks for. Raises UsageError."""
    from aegis_tools.monitors.options import Options

    return Options(
        tuple(arguments.only_uid), tuple(arguments.only_cgroup), tuple(arguments.only_command),
        arguments.min_bytes, arguments.sample, arguments.ring_size,
    )  # fmt: skip


def run_load(app: App, arguments: argparse.Namespace) -> int:
    """Load monitors; where one cannot be, the others are all the same."""
    from aegis_tools.control.lock import locked
    from aegis_tools.control.remember import try_to_remember
    from aegis_tools.kernel.features import (
        check_enabled,
        is_bpffs,
        mount_if_missing,
        read_host_features,
    )
    from aegis_tools.monitors.choose import kernel_names

    monitors, wanted = find(arguments.names), wanted_options(arguments).filter()
    check_enabled(read_host_features(app.paths.root))
    if arguments.dry_run:
        rows = would_load(app, {monitor.name: wanted for monitor in monitors})
        app.show({"monitors": rows}, lambda: "\n".join(map(would_line, rows)))
        return 0
    with locked(app.paths.lock, command="monitor load"), kernel_names() as has:
        if not is_bpffs(app.paths.bpffs):
            mount_if_missing("bpf", app.paths.bpffs)
        rows, failed = _load_each(app, monitors, has, wanted, arguments.ring_size)
        changed = [row["monitor"] for row in rows if row.get("changed")]
        if changed:
            try_to_remember(
                app.paths, "monitor load", f"{', '.join(changed)}; filter: {wanted.line()}"
            )
    if failed and len(monitors) == 1:
        raise failed[0]
    app.show({"monitors": rows}, lambda: "\n".join(_loaded_line(row) for row in rows))
    return failed[0].exit_code if failed else 0


def _load_each(
    app: App, monitors: list[Monitor], has: Any, wanted: Filter, ring_bytes: int | None
) -> tuple[list[dict[str, Any]], list[AegisError]]:
    from aegis_tools.monitors.load import load

    rows: list[dict[str, Any]] = []
    failed: list[AegisError] = []
    for monitor in monitors:
        try:
            done = load(app.paths.monitor_pins, monitor, has, ring_bytes=ring_bytes, wanted=wanted)
        except AegisError as error:
            failed.append(error)
            rows.append({"monitor": monitor.name, "loaded": False, **error.to_dict()})
            continue
        rows.append(
            {
                "monitor": monitor.name, "loaded": True, "fresh": done.fresh,
                "changed": done.changed, "variant": done.about.variant,
                "refused": [
                    {"variant": one.variant, "reason": one.reason} for one in done.about.refused
                ],
                "filter": wanted.to_dict(),
            }
        )  # fmt: skip
    return rows, failed


def _loaded_line(row: dict[str, Any]) -> str:
    if not row["loaded"]:
        return f"{row['monitor']}: NOT loaded: {row['message']}\n  next: {row['hint']}"
    what = "loaded" if row["fresh"] else "was loaded already"
    if row["changed"] and not row["fresh"]:
        what += ", its filter is new"
    lines = [f"{row['monitor']}: {what} ({row['variant']})"]
    lines += [f"  not as {one['variant']}: {one['reason']}" for one in row["refused"]]
    return "\n".join(lines)


def would_load(app: App, wanted: Mapping[str, Filter]) -> list[dict[str, Any]]:
    """Return what a load of these monitors, with these filters, would do."""
    from aegis_tools.monitors.choose import fits, kernel_names

    rows = []
    with kernel_names() as has:
        for name, chosen in wanted.items():
            found = fits(MONITORS[name], has)
            best = next((fit.variant.name for fit in found if not fit.reason), "")
            loaded = MonitorPins(app.paths.monitor_pins, name).is_loaded()
            rows.append(
                {
                    "monitor": name, "loaded": loaded, "would_load": not loaded,
                    "variant": best, "filter": chosen.to_dict(),
                    "unfit": [{"variant": f.variant.name, "reason": f.reason}
                              for f in found if f.reason],
                }
            )  # fmt: skip
    return rows


def would_line(row: dict[str, Any]) -> str:
    """Return a row of ``would_load`` for a person."""
    if row["loaded"]:
        return f"{row['monitor']}: is loaded; its filter would be what is given here"
    if not row["variant"]:
        why = "; ".join(one["reason"] for one in row["unfit"])
        return f"{row['monitor']}: does not fit this kernel: {why}"
    return f"{row['monitor']}: would be loaded ({row['variant']}, if the kernel accepts it)"


def run_unload(app: App, arguments: argparse.Namespace) -> int:
    """Unload monitors."""
    from aegis_tools.control.lock import locked
    from aegis_tools.control.remember import try_to_remember
    from aegis_tools.monitors.load import unload

    base, monitors = app.paths.monitor_pins, find(arguments.names)
    if arguments.dry_run:
        names = [one.name for one in monitors if MonitorPins(base, one.name).is_loaded()]
        app.show({"would_unload": names}, f"would unload: {' '.join(names) or 'nothing'}")
        return 0
    with locked(app.paths.lock, command="monitor unload"):
        counts = {monitor.name: unload(base, monitor.name) for monitor in monitors}
        gone = [name for name, count in counts.items() if count]
        if gone:
            try_to_remember(app.paths, "monitor unload", ", ".join(gone))
    app.show({"unloaded": gone, "pins": sum(counts.values())},
             f"unloaded: {' '.join(gone)}" if gone else "nothing was loaded")  # fmt: skip
    return 0


def run_status(app: App, arguments: argparse.Namespace) -> int:
    """Print what is loaded, what it saw and lost, and what it takes."""
    from aegis_tools.cli import monitor_run
    from aegis_tools.monitors.status import facts

    rows = [facts(app.paths.monitor_pins, monitor) for monitor in find(arguments.names)]
    left = len(leftovers(app.paths.monitor_pins))
    agent = monitor_run.status(app)
    app.show(
        {"monitors": rows, "leftovers": left, "agent": agent},
        lambda: "\n".join(
            [*map(_status_lines, rows), *_left_lines(left), *monitor_run.status_lines(agent)]
        ),
    )
    return 0


def _left_lines(left: int) -> list[str]:
    if not left:
        return []
    return [f"{left} loads or unloads are going on, or did not end: aegisbpf monitor unload NAME"]


def _status_lines(row: dict[str, Any]) -> str:
    if not row["loaded"]:
        return f"{row['monitor']}: not loaded"
    count, ring, chosen = row["counters"], row["ring"], row["filter"]
    lines = [f"{row['monitor']}: loaded ({row['variant'] or 'of an unknown kind'})"]
    if not row["attached"]:
        again = f"aegisbpf monitor unload {row['monitor']} && aegisbpf monitor load"
        lines.append(f"  NOT all of its programs are attached: {again} {row['monitor']}")
    if not row["current"]:
        lines.append(f"  of another version: aegisbpf monitor unload {row['monitor']}")
    lines += [f"  not as {one['variant']}: {one['reason']}" for one in row["refused"]]
    lines.append(
        f"  seen {count['seen']}, sent {count['sent']}, lost {row['lost']}, "
        f"filtered {count['filtered']}, sampled out {count['sampled_out']}, "
        f"untracked {count['untracked']}"
    )
    lines.append(f"  ring {ring['bytes']} bytes, {ring['percent']} % waiting to be read")
    lines += [f"  {name}: {entries} entries" for name, entries in row["entries"].items()]
    lines.append(f"  kernel memory {row['memory_bytes']} bytes")
    shown = [
        f"{name} {', '.join(map(_member, value)) if isinstance(value, list) else value}"
        for name, value in chosen.items()
        if value not in ([], 0, 1.0)
    ]
    lines.append(f"  filter: {'; '.join(shown) or 'all'}")
    return "\n".join([*lines, *_program_lines(row["programs"])])


def _member(one: object) -> str:
    """Return what a filter lets through; a cgroup without a path is there no more."""
    text = plain(str(one))
    return f"{text} (is gone)" if text.startswith("cgid:") else text


def _program_lines(programs: list[dict[str, Any]]) -> list[str]:
    """Return what the programs took; the kernel counts that only where it is told to."""
    lines = [
        f"  {one['name']}: {one['run_cnt']} runs, {one['run_time_ns'] // one['run_cnt']} ns each"
        for one in programs
        if one["run_cnt"]
    ]
    if not lines:
        lines = ["  what its programs take is not counted: sysctl kernel.bpf_stats_enabled=1"]
    missed = sum(one["recursion_misses"] for one in programs)
    return [*lines, f"  {missed} calls were missed"] if missed else lines


def run_events(app: App, arguments: argparse.Namespace) -> int:
    """Follow events."""
    from aegis_tools.cli import monitor_live

    return monitor_live.run_events(app, arguments)


def run_top(app: App, arguments: argparse.Namespace) -> int:
    """Show who uses most."""
    from aegis_tools.cli import monitor_live

    return monitor_live.run_top(app, arguments)


def run_agent(app: App, arguments: argparse.Namespace) -> int:
    """Be the monitors' agent."""
    from aegis_tools.cli import monitor_run

    return monitor_run.run(app, arguments)
