"""``aegisbpf monitor forget``: the tables of monitors are dropped from the store."""

from __future__ import annotations

import argparse

from aegis_tools.cli.monitor_store import add_store
from aegis_tools.cli.output import App
from aegis_tools.control.lock import locked
from aegis_tools.errors import UsageError
from aegis_tools.monitors.registry import MONITORS, find


def build_forget(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``forget``."""
    parser.add_argument("names", nargs="*", metavar="MONITOR", help="such as memory")
    parser.add_argument("--all", action="store_true", help="what all monitors told")
    parser.add_argument(
        "--every-host", action="store_true", help="also of other hosts, in a store of many"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be dropped")
    add_store(parser)
    parser.epilog = (
        "Events and hourly statistics of these monitors are gone for good; the monitors stay\n"
        "loaded, and whatever stores what they tell goes on with empty tables.\n\n"
        "example: aegisbpf monitor forget memory disk-io --dry-run"
    )
    parser.set_defaults(run=run_forget)


def run_forget(app: App, arguments: argparse.Namespace) -> int:
    """Drop the tables."""
    from aegis_tools.monitors.store import forget, place
    from aegis_tools.monitors.store.database import Database

    monitors = _chosen(arguments)
    where = place.find(app.paths, arguments.store)
    database = Database(where, read_only=True)
    try:
        if arguments.dry_run:
            return _show(app, where.shown, forget.rows(database, monitors), dry_run=True)
        if not database.is_sqlite and not arguments.every_host:
            _check_own(forget.hosts(database, monitors))
        forget.rows(database, monitors)  # says so where nothing was stored, and makes nothing
        database.close()
        with locked(app.paths.lock, command="monitor forget"):
            database = Database(where)
            dropped = forget.drop(database, monitors)
            _remember(app, dropped)
    finally:
        database.close()
    return _show(app, where.shown, dropped, dry_run=False)


def _chosen(arguments: argparse.Namespace) -> list[str]:
    """Return the names of the monitors. Raises UsageError: none means none, not all."""
    if bool(arguments.names) == arguments.all:
        raise UsageError(
            "name the monitors to forget, or --all",
            hint=f"look first: aegisbpf monitor forget --all --dry-run; of: {', '.join(MONITORS)}",
        )
    return [one.name for one in find(arguments.names)]


def _check_own(found: set[str]) -> None:
    import socket

    others = sorted(found - {socket.gethostname(), ""})
    if others:
        raise UsageError(
            f"the store also holds what {len(others)} other hosts have told",
            hint="their events would be gone as well; if that is meant: --every-host",
            detail=", ".join(others),
        )


def _remember(app: App, dropped: dict[str, int]) -> None:
    """Write it to the history; a full disk is a reason to forget, not to fail."""
    import contextlib

    from aegis_tools.control.remember import remember
    from aegis_tools.errors import AegisError

    with contextlib.suppress(AegisError, OSError):
        remember(app.paths, "monitor forget", counts=dropped)


def _show(app: App, store: str, tables: dict[str, int], *, dry_run: bool) -> int:
    verb = "dry run, would drop" if dry_run else "dropped"
    lines = [f"{verb} {name}: {count} rows" for name, count in tables.items()]
    data = {"dry_run": dry_run, "changed": bool(tables), "store": store, "tables": tables}
    app.show(data, "\n".join(lines) if lines else "there is nothing to forget")
    return 0
