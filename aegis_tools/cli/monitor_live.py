"""``aegisbpf monitor events`` and ``monitor top``: what the monitors tell, while it happens."""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from aegis_tools.agent.decode import encode
from aegis_tools.agent.stream import Stop, stop_on_signals
from aegis_tools.cli.duration import parse_duration
from aegis_tools.cli.output import App, plain, table
from aegis_tools.errors import KernelError, UsageError
from aegis_tools.monitors import filters, follow, reading
from aegis_tools.monitors.follow import Follower, Query, Told
from aegis_tools.monitors.pins import MonitorPins, not_loaded
from aegis_tools.monitors.registry import MONITORS, Monitor, find
from aegis_tools.monitors.status import counters, lost
from aegis_tools.monitors.top import NEEDS, Usage, Use, forget_ended, read_totals, resident

Rings = list[reading.Taken]
TICK = 1.0
_ROWS = 20
_HOME, _CLEAR = "\x1b[H", "\x1b[0J"
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""The terminal's second screen, without a cursor, and back."""
_LIVE = ("disk-io-monitor", "network-monitor")
"""Whose events ``top`` adds up."""


def run_events(app: App, arguments: argparse.Namespace) -> int:
    """Follow events until told to stop."""
    if arguments.schema:
        schema = files("aegis_tools.monitors").joinpath("event.schema.json")
        replace(app, json=False).write(None, schema.read_text(encoding="utf-8"))
        return 0
    wanted = frozenset(arguments.event or ())
    monitors = telling(chosen(app, arguments.names), wanted)
    since = 0 if arguments.waiting else time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    query = Query(wanted, arguments.pid, arguments.comm, since)
    seconds = parse_duration(arguments.seconds) if arguments.seconds else None
    gc.enable()  # other commands end before garbage matters
    told = Told()
    before = _lost(app, monitors)
    _note_totals_only(app, monitors)
    _note_detached(app, monitors)
    command, left = "monitor events", arguments.count
    with following(app, monitors, command, query, told, seconds=seconds) as (batches, stop):
        for found in batches:
            _show(app, found[:left])
            left = None if left is None else max(0, left - len(found))
            if left == 0:
                break
    missed = _lost(app, monitors) - before
    _note_damage(app, told)
    if missed > 0:
        app.note(f"warning: {missed} events were lost meanwhile: see aegisbpf monitor status")
    return 128 + signal.SIGINT if stop.signal == signal.SIGINT else 0


def _note_damage(app: App, told: Told) -> None:
    if told.damaged:
        app.note(f"warning: {told.damaged} records of another version's form were passed over")


def chosen(app: App, names: list[str]) -> list[Monitor]:
    """Return the monitors that are named, or all that are loaded.

    Raises:
        KernelError: One that is named is not loaded, or none is.
    """
    base, monitors = app.paths.monitor_pins, find(names)
    loaded = [one for one in monitors if MonitorPins(base, one.name).is_loaded()]
    missing = [one.name for one in monitors if one not in loaded]
    if names and missing:
        raise not_loaded(missing[0])
    if not loaded:
        raise KernelError("no monitor is loaded", hint="run: aegisbpf monitor load")
    return loaded


def _note_totals_only(app: App, monitors: list[Monitor]) -> None:
    """Say why nothing comes: without a minimum, of each kmalloc there would be an event."""
    if [one.name for one in monitors] != ["memory-monitor"]:
        return
    if not filters.read(MonitorPins(app.paths.monitor_pins, "memory-monitor")).min_bytes:
        app.note(
            "memory-monitor keeps totals only; for events as well: "
            "aegisbpf monitor load memory --min-bytes 65536"
        )


def _note_detached(app: App, monitors: list[Monitor]) -> None:
    """Say why nothing comes, or less than there is."""
    for one in monitors:
        if not MonitorPins(app.paths.monitor_pins, one.name).is_attached():
            again = f"aegisbpf monitor unload {one.name} && aegisbpf monitor load {one.name}"
            app.note(f"warning: not all programs of {one.name} are attached; run: {again}")


def telling(monitors: list[Monitor], wanted: frozenset[str]) -> list[Monitor]:
    """Return those monitors that tell of some of these events. Raises UsageError for none."""
    found = [one for one in monitors if not wanted or wanted & set(one.types.values())]
    if not found:
        raise UsageError(
            f"none of {', '.join(one.name for one in monitors)} tells of {min(wanted)}",
            hint="see which does: aegisbpf monitor list --json",
        )
    return found


@contextlib.contextmanager
def taking(app: App, monitors: list[Monitor], command: str) -> Iterator[tuple[Rings, Stop]]:
    """Read the rings of monitors, as their only reader, which they say nothing of."""
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        yield [stack.enter_context(reading.take(app.paths, m, command)) for m in monitors], stop


class Following(NamedTuple):
    """Events as they come.

    Attributes:
        batches: Of events; ends when told to stop.
        stop: Says which signal it was.
    """

    batches: Iterator[list[dict[str, Any]]]
    stop: Stop


@contextlib.contextmanager
def follow_all(app: App, names: list[str], command: str) -> Iterator[Following]:
    """Yield all that monitors tell, and what waits in their rings by now.

    Args:
        app: Of which host.
        names: Of monitors; all that are loaded where none is named.
        command: Which reads them, for others that are refused meanwhile.

    Raises:
        KernelError: One is not loaded.
        StateError: Another command reads one.
    """
    monitors, told = chosen(app, names), Told()
    with following(app, monitors, command, Query(), told) as found:
        yield found
    _note_damage(app, told)


@contextlib.contextmanager
def following(
    app: App,
    monitors: list[Monitor],
    command: str,
    query: Query,
    told: Told,
    *,
    seconds: int | None = None,
) -> Iterator[Following]:
    """Yield batches of events, one a second at least if only an empty one, and what ends them.

    Args:
        app: Of which host.
        monitors: All of them loaded.
        command: Which reads them.
        query: What is wanted of them.
        told: Is counted in.
        seconds: End after so many.

    Raises:
        KernelError: One was unloaded meanwhile.
        StateError: Another command reads one.
    """
    with taking(app, monitors, command) as (taken, stop):
        end = None if seconds is None else time.monotonic() + seconds
        check = partial(_check_there, app.paths.monitor_pins, taken)
        yield Following(_batches(_follower(taken, stop), check, query, told, end), stop)


def _batches(
    follower: Follower, check: Callable[[], None], query: Query, told: Told, end: float | None
) -> Iterator[list[dict[str, Any]]]:
    decoder = reading.new_decoder()
    while not follower.stop:
        left = TICK if end is None else min(TICK, end - time.monotonic())
        if left <= 0:
            return
        batch = follower.batch(left)
        if not batch:
            check()
        records = [one for one in batch if query.matches(one)]
        yield list(follow.events(records, decoder, told, follow.boot_offset))
    records = [one for one in follower.rest() if query.matches(one)]
    yield list(follow.events(records, decoder, told, follow.boot_offset))


def _follower(taken: Rings, stop: Stop) -> Follower:
    return Follower([(one.monitor, one.ring) for one in taken], stop)


def _show(app: App, events: list[dict[str, Any]]) -> None:
    if events:
        lines = map(encode, events) if app.json else map(readable, events)
        # Escaped already, and lines of JSON are no document.
        replace(app, json=False).write(None, "\n".join(lines))


def _check_there(base: Path, taken: Rings) -> None:
    """Raise KernelError where what is read here is loaded no more: nothing would ever come."""
    for one in taken:
        name = one.monitor.name
        if reading.number_of(MonitorPins(base, name)) != one.number:
            raise KernelError(
                f"{name} was unloaded meanwhile", hint=f"run: aegisbpf monitor load {name}"
            )


def _lost(app: App, monitors: list[Monitor]) -> int:
    base = app.paths.monitor_pins
    with contextlib.suppress(KernelError):  # unloaded meanwhile
        return sum(lost(counters(MonitorPins(base, one.name))) for one in monitors)
    return 0


def readable(event: dict[str, Any]) -> str:
    """Return an event in a line of a terminal."""
    kind = event["monitor"].removesuffix("-monitor")
    details = {
        "process": _process, "filesystem": _file, "network": _peers, "memory": _bytes,
        "disk-io": _request,
    }[kind](event)  # fmt: skip
    known = "" if event["cause_known"] else "?"
    return plain(
        f"{event['time']}  {kind:<10}  {event['event']:<10}  "
        f"{event['comm']}[{event['pid']}]{known}  {details}"
    )


def _process(event: dict[str, Any]) -> str:
    if event["event"] == "exec":
        words = " ".join(map(shlex.quote, event["arguments"])) + (" …" if event["cut"] else "")
        return f"uid {event['uid']}  {event['executable'] or '(no file)'}: {words}"
    how = f"status {event['exit_status']}"
    if event["signal"] is not None:
        how = f"killed by {_signal(event['signal'])}"
    return f"{how} after {event['age_seconds']:.3f} s"


def _signal(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _failure(result: int) -> str:
    return errno.errorcode.get(-result, str(result))


def _file(event: dict[str, Any]) -> str:
    what = event["path"] or f"{event['device'] or '-'} inode {event['inode']}"
    if event["result"] < 0:
        return f"{what}  {_failure(event['result'])}"
    if event["event"] == "open":
        return f"{what}  descriptor {event['result']}"
    return f"{what}  {event['bytes']} bytes" if event["event"] != "close" else what


def _peers(event: dict[str, Any]) -> str:
    ends = [
        f"[{event[end]}]:{event[f'{end}_port']}" if event["family"] == "IPv6"
        else f"{event[end]}:{event[f'{end}_port']}"
        for end in ("local", "remote")
    ]  # fmt: skip
    told = f"{event['bytes']} bytes" if event["event"] != "connect" else ""
    told = _failure(event["result"]) if event["result"] < 0 else told
    return f"{event['protocol']} {ends[0]} → {ends[1]}  {told}".rstrip()


def _bytes(event: dict[str, Any]) -> str:
    size = "?" if event["bytes"] is None else event["bytes"]
    return f"{size} bytes" + (f", order {event['order']}" if event["order"] is not None else "")


def _request(event: dict[str, Any]) -> str:
    told = f"{event['device']} {event['operation']} {event['bytes']} bytes at {event['sector']}"
    if event["latency_ns"] is not None:
        told += f"  {event['latency_ns'] / 1e6:.3f} ms"
    return told + (f"  error {event['error']}" if event["error"] else "")


def run_top(app: App, arguments: argparse.Namespace) -> int:
    """Show who uses most until told to stop, or once."""
    interval = parse_duration(arguments.interval)
    if not interval:
        raise UsageError("an interval of 0 has no use", hint="for example: --interval 2s")
    base = app.paths.monitor_pins
    loaded = {name for name in {*NEEDS.values()} if MonitorPins(base, name).is_loaded()}
    by = arguments.by or next((by for by, name in NEEDS.items() if name in loaded), "memory")
    if NEEDS[by] not in loaded:
        raise not_loaded(NEEDS[by])
    monitors = [MONITORS[name] for name in _LIVE if name in loaded]
    gc.enable()
    screen = app.out.isatty() and not app.json and not arguments.once
    limit = arguments.limit or (max(5, shutil.get_terminal_size().lines - 4) if screen else _ROWS)
    usage = Usage(resident)
    with taking(app, monitors, "monitor top") as (taken, stop), _screen(app, screen):
        follower = _follower(taken, stop)
        _totals(app, usage, loaded)
        follower.batch(0)
        usage.take(by, 0)
        while not stop:
            _gather(follower, usage, stop, interval)
            _totals(app, usage, loaded)
            if not stop or arguments.once:
                _draw(app, usage.take(by, limit), by, interval, loaded, screen=screen)
            if arguments.once:
                break
    return 128 + signal.SIGINT if stop.signal == signal.SIGINT else 0


@contextlib.contextmanager
def _screen(app: App, wanted: bool) -> Iterator[None]:
    """Leave the terminal as it was, however this ends."""
    if wanted:
        print(_ENTER, end="", file=app.out, flush=True)
    try:
        yield
    finally:
        if wanted:
            print(_LEAVE, end="", file=app.out, flush=True)


def _gather(follower: Follower, usage: Usage, stop: Stop, interval: int) -> None:
    end = time.monotonic() + interval
    while not stop and (left := end - time.monotonic()) > 0:
        usage.add(follower.batch(left))


def _totals(app: App, usage: Usage, loaded: set[str]) -> None:
    if "memory-monitor" in loaded:
        pins = MonitorPins(app.paths.monitor_pins, "memory-monitor")
        with pins.open_map("MEMORY_TOTALS") as opened:
            totals = read_totals(opened)
            usage.add_totals(totals)
            forget_ended(opened, totals)


def _draw(
    app: App, uses: list[Use], by: str, interval: int, loaded: set[str], *, screen: bool
) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if app.json:
        told = {"time": now, "seconds": interval, "by": by, "monitors": sorted(loaded),
                "processes": [use.to_dict() for use in uses]}  # fmt: skip
        replace(app, json=False).write(None, encode(told))
        return
    body = f"{now}  by {by}, a second, over {interval} s\n{rows(uses, interval, loaded)}"
    if screen:
        width = shutil.get_terminal_size().columns
        lines = [plain(line)[:width] for line in body.split("\n")]
        text = "".join(f"{line}\x1b[K\n" for line in lines)
        print(_HOME + text + _CLEAR, end="", file=app.out, flush=True)
    else:
        app.show(None, f"{body}\n")


def rows(uses: list[Use], interval: int, loaded: set[str]) -> str:
    """Return processes as a table; ``-`` for what no loaded monitor tells."""
    disk, network, memory = (
        f"{name}-monitor" in loaded for name in ("disk-io", "network", "memory")
    )

    def rate(value: int, known: bool) -> str:
        return human(value / interval) if known else "-"

    lines = [
        (
            use.pid or "-", plain(use.comm),
            "-" if use.resident is None else human(use.resident),
            rate(use.allocated, memory), rate(use.freed, memory),
            rate(use.read, disk), rate(use.written, disk),
            f"{use.latency_ns / use.requests / 1e6:.2f}" if use.requests else "-",
            f"{use.latency_max_ns / 1e6:.2f}" if use.requests else "-",
            rate(use.sent, network), rate(use.received, network),
        )
        for use in uses
    ]  # fmt: skip
    header = ("PID", "COMMAND", "RESIDENT", "ALLOC", "FREED", "READ", "WRITTEN", "MS", "MAX MS",
              "SENT", "RECEIVED")  # fmt: skip
    return table(lines, header) or "(nothing)"


def human(number: float) -> str:
    """Return bytes with at most 4 digits: ``0``, ``1023``, ``1.5K``, ``20M``."""
    for unit in ("", "K", "M", "G", "T"):
        if number < 1000 or unit == "T":
            break
        number /= 1024
    return f"{number:.1f}{unit}" if unit and number < 10 else f"{number:.0f}{unit}"
