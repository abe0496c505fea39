"""``aegisbpf monitor record``, ``query`` and ``trend``: what the monitors saw, kept and looked up.

Parsers are made by whoever has the group of commands; ``follow`` of ``build_record`` is how events
are read, which is no concern of the store's.
"""

from __future__ import annotations

import argparse
import gc
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aegis_tools.agent.decode import encode
from aegis_tools.cli import types
from aegis_tools.cli.duration import parse_duration
from aegis_tools.cli.eventoptions import moment
from aegis_tools.cli.output import App
from aegis_tools.control.lock import locked
from aegis_tools.errors import UsageError

if TYPE_CHECKING:
    from aegis_tools.cli.monitor_live import Following
    from aegis_tools.monitors.store.database import Database
    from aegis_tools.monitors.store.query import Wanted
    from aegis_tools.monitors.store.writer import Counts, Writer

_MICRO = 1_000_000
_COMMAND = "monitor record"


Follow = Callable[[App, list[str], str], "AbstractContextManager[Following]"]


def build_record(parser: argparse.ArgumentParser, follow: Follow) -> None:
    """Add the options of ``record``."""
    parser.add_argument("names", nargs="*", metavar="MONITOR", help="all that are loaded if none")
    add_store(parser)
    parser.add_argument(
        "--keep", metavar="TIME", type=parse_duration, default="7d",
        help="events are kept for so long (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--keep-hourly", metavar="TIME", type=parse_duration, default="400d",
        help="hourly statistics are kept for so long (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--keep-size", metavar="BYTES", type=types.size, default=1 << 30,
        help="of all that, the oldest goes first: 64M, 1G (default: 1G)",
    )  # fmt: skip
    parser.epilog = (
        "Follows the monitors and stores what they tell, until SIGTERM or Ctrl-C. What the store\n"
        "does not take in time is dropped and counted; whatever it does, the host goes on.\n\n"
        "example: aegisbpf monitor record disk-io --keep 30d --keep-size 4G"
    )
    parser.set_defaults(run=run_record, follow=follow)


def build_query(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``query``."""
    add_store(parser)
    add_filters(parser, "1h")
    parser.add_argument("--pid", metavar="N", type=types.number(0, 1 << 32))
    parser.add_argument("--comm", metavar="NAME", default="", help="name of the process")
    parser.add_argument("--profile", metavar="NAME", default="")
    parser.add_argument(
        "--limit", metavar="N", type=types.number(1, 1_000_000), default=1000,
        help="only the newest N (default: %(default)s)",
    )  # fmt: skip
    parser.epilog = (
        "WHEN is how long ago (90s, 15m, 12h, 7d), a date, or a time like 2027-01-31T18:00:00Z.\n"
        "--json prints events as monitor events does, one a line; nothing where none match.\n\n"
        "example: aegisbpf monitor query --monitor filesystem --event open --comm sshd --since 2h"
    )
    parser.set_defaults(run=run_query)


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where the store is."""
    parser.add_argument(
        "--store", metavar="URL", default="",
        help="another than this host's own, without a password: postgresql://host/database "
        "(or AEGIS_MONITOR_STORE, or monitor-store.url beside the configuration)",
    )  # fmt: skip


def add_filters(parser: argparse.ArgumentParser, since: str) -> None:
    """Add the options that both ways of looking up have."""
    parser.add_argument("--monitor", metavar="NAME", action="append", default=[], help="repeatable")
    parser.add_argument("--event", metavar="NAME", action="append", default=[], help="repeatable")
    parser.add_argument("--host", metavar="NAME", default="", help="in a store of many hosts")
    parser.add_argument(
        "--since", metavar="WHEN", default=since, help="not before it (default: %(default)s)"
    )
    parser.add_argument("--until", metavar="WHEN", default="", help="not after it")


def reading(app: App, arguments: argparse.Namespace) -> Database:
    """Return the store to read from."""
    from aegis_tools.monitors.store import place
    from aegis_tools.monitors.store.database import Database

    return Database(place.find(app.paths, arguments.store), read_only=True)


def wanted(arguments: argparse.Namespace, now: float) -> Wanted:
    """Return what the options ask for."""
    from aegis_tools.monitors.store.query import Wanted

    since = moment(arguments.since, now)
    until = moment(arguments.until, now) if arguments.until else None
    if until is not None and until <= since:
        raise UsageError("--until is not after --since", hint="for example: --since 2h --until 1h")
    return Wanted(
        monitors=tuple(arguments.monitor),
        events=tuple(arguments.event),
        since=max(0, int(since * _MICRO)),
        until=None if until is None else int(until * _MICRO),
        pid=arguments.pid,
        comm=arguments.comm or "",
        profile=arguments.profile or "",
        host=arguments.host,
    )


def run_query(app: App, arguments: argparse.Namespace) -> int:
    """Print events that were stored."""
    from aegis_tools.cli.monitor_live import readable
    from aegis_tools.monitors.store.query import search

    database = reading(app, arguments)
    try:
        found = search(database, wanted(arguments, time.time()), arguments.limit)
    finally:
        database.close()
    if found.events:
        lines = map(encode, found.events) if app.json else map(readable, found.events)
        replace(app, json=False).write(None, "\n".join(lines))
    else:
        app.note("no events match")
    if found.cut:
        app.note(f"only the newest {arguments.limit} are shown: see --limit, --since and --until")
    for monitor, count in found.lost.items():
        app.note(f"warning: {count} events of {monitor} could not be stored in these hours")
    return 0


def run_record(app: App, arguments: argparse.Namespace) -> int:
    """Follow the monitors, and store what they tell, until told to stop."""
    import socket

    from aegis_tools.monitors.store import place
    from aegis_tools.monitors.store.database import Database
    from aegis_tools.monitors.store.retention import Keep
    from aegis_tools.monitors.store.store import Store
    from aegis_tools.monitors.store.writer import Writer

    gc.enable()  # other commands end before garbage matters
    where = place.find(app.paths, arguments.store)
    database = Database(where)
    store = Store(database, host="" if database.is_sqlite else socket.gethostname())
    keep = Keep(arguments.keep * _MICRO, arguments.keep_hourly * _MICRO, arguments.keep_size)
    with locked(app.paths.monitor_store_lock, command=_COMMAND, timeout=1.0):
        if database.is_sqlite:  # a server may well come later
            store.prepare()
            database.close()  # of this thread
        writer = Writer(store, keep=keep, tell=lambda line: app.note(f"aegisbpf: {line}"))
        with arguments.follow(app, arguments.names, _COMMAND) as following:
            app.note(f"aegisbpf: storing in {where.shown}")
            counts = store_all(writer, following.batches)
    app.show(counts.to_dict(), lambda: summary(counts))
    return 128 + signal.SIGINT if following.stop.signal == signal.SIGINT else 0


def store_all(writer: Writer, batches: Iterable[Sequence[dict[str, Any]]]) -> Counts:
    """Give the writer all there is, and let it end."""
    writer.start()
    try:
        for batch in batches:
            for event in batch:
                writer.offer(event)
    finally:
        counts = writer.close()
    return counts


def summary(counts: Counts) -> str:
    """Return what became of the events."""
    lines = [f"{sum(counts.stored.values())} events stored"]
    for what, found in (
        ("dropped, as the store did not take them", counts.dropped),
        ("left out, as they are no events", counts.invalid),
    ):
        lines += [f"{count} of {monitor} {what}" for monitor, count in sorted(found.items())]
    return "\n".join(lines)
