"""``aegisbpf events``: search and follow what ``aegisbpf run`` wrote."""

from __future__ import annotations

import argparse
import gc
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from importlib.resources import files

from aegis_tools.agent.eventsource import Files, Journal
from aegis_tools.agent.search import Event, Query, Search, Top, time_text
from aegis_tools.cli import types
from aegis_tools.cli.eventoptions import add_source_options, moment, source
from aegis_tools.cli.output import App, plain, table
from aegis_tools.errors import UsageError

ACTIONS = ("AUDIT", "BLOCK", "TERM", "KILL", "INT")
DAY = "24h"


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_source_options(parser, DAY)
    parser.add_argument("--until", metavar="WHEN", default="", help="no event after it")
    parser.add_argument("--rule", metavar="ID", default="")
    parser.add_argument("--path", metavar="PATH", default="", help="it and all below, or a glob")
    parser.add_argument("--comm", metavar="NAME", default="", help="name of the process")
    parser.add_argument("--unit", metavar="UNIT", default="", help="systemd unit of the process")
    parser.add_argument("--action", type=action, choices=ACTIONS, default="")
    parser.add_argument("--limit", metavar="N", type=types.positive, help="only the newest N lines")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--follow", "-f", action="store_true", help="only new ones, as they come")
    which.add_argument(
        "--top", metavar="N", nargs="?", type=types.positive, const=10,
        help="the most frequent rules, paths, processes and units (default: 10 of each)",
    )  # fmt: skip
    which.add_argument("--schema", action="store_true", help="print the JSON Schema of an event")
    parser.epilog = (
        "WHEN is how long ago (90s, 15m, 12h, 7d), a date, or a time like 2027-01-31T18:00:00Z.\n"
        "--json prints events as they were written, one a line; nothing where none match.\n\n"
        "example: aegisbpf events --since 1h --action block --path '/etc/*'"
    )
    parser.set_defaults(run=run)


def action(text: str) -> str:
    """Return an action in upper case; anything else as it was written, for the message."""
    return text.upper() if text.upper() in ACTIONS else text


def run(app: App, arguments: argparse.Namespace) -> int:
    """Search, follow, count, or print the schema."""
    if arguments.schema:
        schema = files("aegis_tools.agent").joinpath("event.schema.json")
        replace(app, json=False).write(None, schema.read_text(encoding="utf-8"))
        return 0
    now = time.time()
    since = moment(arguments.since, now)
    until = moment(arguments.until, now) if arguments.until else 0
    if arguments.follow and until:
        raise UsageError("--follow has no end", hint="leave --until out")
    if until and until <= since:
        raise UsageError("--until is not after --since", hint="for example: --since 2h --until 1h")
    search = Search(
        Query(
            time_text(since), time_text(until) if until else "", arguments.rule, arguments.path,
            arguments.comm, arguments.unit, arguments.action,
        )
    )  # fmt: skip
    places = source(arguments, since, until)
    if arguments.follow:
        gc.enable()  # other commands end before garbage matters
        search.query = search.query._replace(since="")
        for batch in search.among(places.follow()):
            show(app, batch)
    elif arguments.top:
        show_top(app, search, places, arguments.top)
    else:
        found = search.among(places.batches())
        shown = 0
        for batch in found if arguments.limit is None else newest(found, arguments.limit):
            show(app, batch)
            shown += len(batch)
        if not shown:
            app.note("no events match")
    note_damage(app, search, in_file=arguments.events_file is not None)
    return 0


def newest(
    batches: Iterable[list[tuple[bytes, Event]]], limit: int
) -> list[list[tuple[bytes, Event]]]:
    """Return the last ``limit`` of all."""
    kept: deque[tuple[bytes, Event]] = deque(maxlen=limit)
    for batch in batches:
        kept.extend(batch)
    return [list(kept)]


def show(app: App, batch: list[tuple[bytes, Event]]) -> None:
    """Print events: as they are, or a line each for a person."""
    if not batch:
        return
    if app.json:
        text = b"\n".join(line for line, _ in batch).decode("ascii", "backslashreplace")
        replace(app, json=False).write(None, text)
    else:
        app.show(None, "\n".join(readable(event) for _, event in batch))


def readable(event: Event) -> str:
    """Return an event in a line of a terminal."""
    what = event.get("path", "")
    if event["type"] == "net":
        address = event.get("address", "")
        what = f"[{address}]" if ":" in address else address
        what += f":{event.get('port', 0)}/{event.get('protocol', '')}"
    where = event["unit"] or event["cgroup"] or "-"
    times = f"  ({event['count']} times)" if event["count"] > 1 else ""
    reason = f" ({event['reason']})" if event["reason"] else ""
    return plain(
        f"{event['time'][:19]}Z  {event['action']}{reason}  {event['operation']} {what}  "
        f"{event['comm']}[{event['pid']}]  {where}  rule {event['rule']}{times}"
    )


def show_top(app: App, search: Search, places: Files | Journal, number: int) -> None:
    """Print what is most frequent."""
    top = Top()
    for batch in search.among(places.batches()):
        for _, event in batch:
            top.add(event)
    ranked = top.ranked(number)
    facts = {"events": top.events, "lines": top.lines, "approximate": top.approximate}
    app.show(
        {
            **facts,
            "since": search.query.since,
            "until": search.query.until,
            "top": {
                name: [{"value": value, "events": count} for value, count in rows]
                for name, rows in ranked.items()
            },
        },
        lambda: "\n\n".join(
            [
                f"{top.events} events since {search.query.since[:19]}Z",
                *(
                    table(
                        [(count, plain(value)) for value, count in rows], ("EVENTS", name.upper())
                    )
                    for name, rows in ranked.items()
                    if rows
                ),
            ]
        ),
    )
    if top.approximate:
        app.note("aegisbpf: too many different values, so small counts are approximate")


def columns(name: str, rows: Iterable[tuple[str, int]]) -> str:
    """Return one field's most frequent values as a table."""
    return table([(count, plain(value)) for value, count in rows], ("EVENTS", name.upper()))


def note_damage(app: App, search: Search, *, in_file: bool) -> None:
    """Say what was passed over. A journal holds other lines of the unit by its nature."""
    bad = search.damaged + (search.foreign if in_file else 0)
    if bad:
        app.note(f"warning: {bad} lines are no whole events and were passed over")
