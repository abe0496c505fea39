"""An event in one line for a person, and how grave it is (syslog(3))."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aegis_tools.monitors.profiles import units
from aegis_tools.monitors.profiles.model import KINDS

WARNING, NOTICE = 4, 5
_DONE = {
    "nothing": "",
    "throttled": ", held back",
    "terminated": ", a process was ended",
    "failed": ", which could not be acted on",
}


def line(event: Mapping[str, Any]) -> str:
    """Return an event (limit.schema.json) as one line."""
    if event["event"] != "limit":
        return f"limits: {event['message']}; next: {event['hint']}"
    dimension = KINDS[event["limit"]].dimension
    limit = units.show(event["threshold"], dimension)
    who = f"profile {event['profile']}: {event['limit']}"
    if event["state"] == "ended":
        return f"{who} is below {limit} again"
    measured = units.about(event["measured"], dimension)
    process = event["process"]
    whose = f" ({process['comm']}, process {process['pid']})" if process else ""
    where = f" of disk {event['device']}" if event.get("device") else ""
    again = f"; {event['suppressed']} more of these" if event.get("suppressed") else ""
    return f"{who}{where} {measured}, limit {limit}{_DONE[event['done']]}{whose}{again}"


def priority(event: Mapping[str, Any]) -> int:
    """Return the priority of an event."""
    return NOTICE if event.get("state") == "ended" else WARNING
