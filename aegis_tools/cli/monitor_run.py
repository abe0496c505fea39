"""``aegisbpf monitor run``: the monitors' agent, as a service or in the foreground."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import time
from typing import Any

from aegis_tools import __version__
from aegis_tools.cli import monitor
from aegis_tools.cli.output import App
from aegis_tools.errors import UsageError
from aegis_tools.monitors.agent import heartbeat, settings
from aegis_tools.monitors.agent.settings import Settings
from aegis_tools.monitors.filters import Filter
from aegis_tools.monitors.reading import AGENT


def run(app: App, arguments: argparse.Namespace) -> int:
    """Work until told to stop."""
    from aegis_tools.agent.notify import Notifier
    from aegis_tools.agent.stream import stop_on_signals
    from aegis_tools.agent.tell import is_journal, teller
    from aegis_tools.control.lock import locked
    from aegis_tools.kernel.features import check_enabled, read_host_features
    from aegis_tools.monitors.agent.heartbeat import Self
    from aegis_tools.monitors.agent.loop import Agent

    wanted = settings.load(app.paths)
    check_enabled(read_host_features(app.paths.root))
    if arguments.dry_run:
        return _dry_run(app, wanted)
    gc.enable()  # other commands end before garbage matters
    tell = teller(app.note, journal=is_journal(os.environ, app.err), verbose=app.verbose)
    who = Self(os.getpid(), __version__, time.time())
    with stop_on_signals() as stop, locked(app.paths.monitor_agent_lock, AGENT, timeout=1.0):
        manager = Notifier(os.environ)
        agent = Agent(app.paths, wanted, stop, tell=tell, manager=manager, who=who)
        agent.run()
    facts = agent.facts()
    app.show(facts, lambda: _summary(facts))
    return 128 + signal.SIGINT if stop.signal == signal.SIGINT else 0


def _dry_run(app: App, wanted: Settings) -> int:
    filters, waits = _filters(wanted)
    rows = monitor.would_load(app, filters)
    for row in rows:
        row["ring_size"] = wanted.monitors[row["monitor"]].ring_size
    place = _place(app) if wanted.monitors and wanted.store is not None else None
    lines = [monitor.would_line(row) for row in rows] or ["no monitor would be loaded"]
    lines += [f"{name}: would be loaded later: {why}" for name, why in waits.items()]
    lines.append(f"would store in {place}" if place else "would store nothing")
    lines.append("would watch the limits of profiles")
    app.show({"monitors": rows, "waits": waits, "store": place}, "\n".join(lines))
    return 0


def _filters(wanted: Settings) -> tuple[dict[str, Filter], dict[str, str]]:
    """Return the filters that there would be now, and of which monitors there is none, and why."""
    found, waits = {}, {}
    for name, options in wanted.monitors.items():
        try:
            found[name] = options.filter(partly=True)
        except UsageError as error:
            waits[name] = error.message
    return found, waits


def _place(app: App) -> str:
    from aegis_tools.monitors.store import place

    return place.find(app.paths).shown


def _summary(facts: dict[str, Any]) -> str:
    told = sum(sum(one["events"].values()) for one in facts["monitors"].values())
    lines = [f"{told} events followed"]
    store = facts["store"]
    if store is not None:
        lines.append(f"{sum(store['stored'].values())} events stored")
        lines += [
            f"{count} of {name} dropped, as the store did not take them"
            for name, count in sorted(store["dropped"].items())
        ]
    return "\n".join(lines)


def status(app: App) -> dict[str, Any] | None:
    """Return what ``monitor status`` says of the agent; None where there is none."""
    found = heartbeat.read(app.paths)
    if found is None:
        return None
    life = heartbeat.life(app.paths, found)
    return {
        "runs": life.runs, "died": life.died, "age_seconds": round(life.age, 3),
        **{key: found.get(key) for key in ("pid", "version", "started", "store")},
        "troubles": found["troubles"] if isinstance(found.get("troubles"), dict) else {},
    }  # fmt: skip


def status_lines(agent: dict[str, Any] | None) -> list[str]:
    """Return it for a person: how the agent is, and what it cannot do now."""
    troubles = agent["troubles"] if agent is not None and agent["runs"] else {}
    return [status_line(agent), *(f"  {what}: {text}" for what, text in sorted(troubles.items()))]


def status_line(agent: dict[str, Any] | None) -> str:
    """Return it for a person."""
    if agent is None:
        return "agent: does not run (systemctl start aegis-monitors)"
    started = agent["started"] if isinstance(agent["started"], int | float) else 0
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started))
    who = f"process {agent['pid']}, since {since}"
    if agent["died"]:
        return f"agent: DIED ({who}): systemctl status aegis-monitors"
    if not agent["runs"]:
        return f"agent: HANGS ({who}): no sign of life for {agent['age_seconds']:.0f} s"
    store = agent["store"] if isinstance(agent["store"], dict) else None
    if store is None:
        return f"agent: runs ({who}), stores nothing"
    if store.get("failing"):
        return f"agent: runs ({who}), does NOT store: {store['failing']}"
    return f"agent: runs ({who}), stores in {store.get('place')}"
