"""The report of a rollout: one document, from what the hosts sent. Pure; see ``page`` for HTML.

Its JSON Schema is ``report.schema.json`` beside this module.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from aegis_tools.rollout.events import Event, text
from aegis_tools.rollout.hosts import BEHIND, OUTCOMES, Host, follow

VERSION = 1
THERE = ("changed", "unconfirmed", "unreachable")
"""Where the change was made, as far as is known."""
SIGNS = {"+": "added", "-": "removed", "~": "changed"}


@dataclass
class Run:
    """What is known of a run besides its hosts.

    Attributes:
        playbook: Its file, as it was given.
        started: Seconds since 1970.
        user: Who ran it, on the controller.
        controller: The controller's name.
        ansible: Ansible's version.
        check: It was to change nothing.
        limit: ``--limit``; empty without.
        settings: The rollout's variables, as far as they are no secret.
        names: All hosts of the play.
        waves: For each wave that began, when, and its hosts.
        result: ``running`` until it is known.
        ended: Seconds since 1970; until then, when this was written.
    """

    playbook: str
    started: float
    user: str = ""
    controller: str = ""
    ansible: str = ""
    check: bool = False
    limit: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    names: Sequence[str] = ()
    waves: list[tuple[float, list[str]]] = field(default_factory=list)
    result: str = "running"
    ended: float = 0.0


def build(run: Run, told: Sequence[Event]) -> dict[str, Any]:
    """Return the report.

    Args:
        run: The run.
        told: Events, in the order in which they came.
    """
    found = follow(run.names, (names for _, names in run.waves), told)
    changes = _Changes()
    hosts = [_host(host, run, changes) for host in found.values()]
    order = list(OUTCOMES)
    hosts.sort(key=lambda host: (not host["failure"], order.index(host["outcome"])))
    counts = Counter(host["outcome"] for host in hosts)
    return {
        "version": VERSION,
        "playbook": text(run.playbook),
        "result": run.result,
        "reason": _reason(found.values()),
        "check": run.check,
        "started": moment(run.started),
        "ended": moment(run.ended),
        "seconds": round(run.ended - run.started, 3),
        "by": {
            "user": text(run.user),
            "controller": text(run.controller),
            "ansible": text(run.ansible),
            "limit": text(run.limit),
        },
        "settings": {name: _plain(value) for name, value in sorted(run.settings.items())},
        "summary": {
            "hosts": len(hosts),
            "outcomes": {name: counts[name] for name in OUTCOMES if counts[name]},
            "behind": [host["name"] for host in hosts if host["outcome"] in BEHIND],
        },
        "policies": _policies(hosts, found),
        "waves": [_wave(number, wave, run, hosts) for number, wave in enumerate(run.waves, 1)],
        "changes": changes.listed(),
        "hosts": hosts,
    }


def _reason(hosts: Iterable[Host]) -> str | None:
    """Return what failed first: the others mostly follow from it."""
    known = list(hosts)
    failed = [host for host in known if host.failed_at is not None]
    first = min(failed, key=lambda host: host.failed_at or 0.0, default=None)
    if first:
        return f"{text(first.name)}: {first.failure}"
    noted = (host for host in known if host.note and not host.straggler)
    return next((f"{text(host.name)}: {host.note}" for host in noted), None)


def moment(seconds: float) -> str:
    """Return a time as RFC 3339, UTC, milliseconds."""
    found = datetime.fromtimestamp(seconds, tz=timezone.utc)
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: object) -> object:
    """Return a setting as JSON can say it."""
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return text(value)


class _Changes:
    """The different changes of rules and mode; most hosts share one."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def name(self, plan: Mapping[str, Any]) -> str:
        """Return the name of what a plan changes, and count one more host."""
        rules: dict[str, list[dict[str, str]]] = {name: [] for name in SIGNS.values()}
        for change in plan["changes"]:
            kind = SIGNS.get(change["sign"], "changed")
            rules[kind].append({"rule": change["rule"], "what": change["what"]})
        parts = {"before": plan["before"], "after": plan["after"], "mode": plan["mode"], **rules}
        key = json.dumps(parts)
        entry = self.found.setdefault(key, {"id": f"c{len(self.found) + 1}", "hosts": 0, **parts})
        entry["hosts"] += 1
        return str(entry["id"])

    def listed(self) -> list[dict[str, Any]]:
        """Return them, the most common first."""
        return sorted(self.found.values(), key=lambda entry: -entry["hosts"])


def _host(host: Host, run: Run, changes: _Changes) -> dict[str, Any]:
    outcome, plan = host.outcome(check=run.check, well=run.result == "ok"), host.plan
    looks = [host.looks[time] for time in sorted(host.looks)]
    ended = host.ended if host.started is not None else None
    return {
        "name": text(host.name),
        "wave": host.wave,
        "outcome": outcome,
        "failure": host.failure or None,
        "note": host.note or None,
        **_state(host, there=host.applied and outcome in THERE),
        "plan": plan["digest"] if plan else None,
        "change": changes.name(plan) if plan and not host.same else None,
        "refreshed": plan["refreshed"] if plan else 0,
        "started": moment(host.started) if host.started is not None else None,
        "ended": moment(ended) if ended is not None else None,
        "seconds": round(ended - host.started, 3)
        if host.started is not None and ended is not None
        else None,
        "gate": {
            "passed": None if not looks else not any(look["reasons"] for look in looks),
            "looks": [{**look, "time": moment(look["time"])} for look in looks],
        },
    }


def _state(host: Host, *, there: bool) -> dict[str, Any]:
    """Return policy and mode: before, what it was to get, and what it has as far as is known."""
    plan, known = host.plan or {}, host.before or {}
    before = plan.get("before") or known.get("digest") or None
    target = plan.get("after") or before
    mode = (host.mode or {}).get("before") or known.get("mode") or None
    wanted = (host.mode or {}).get("after") or plan.get("mode") or mode
    return {
        "before": before,
        "target": target,
        "after": target if there else before,
        "mode": {"before": mode, "target": wanted, "after": wanted if there else mode},
    }


def _policies(
    hosts: Sequence[Mapping[str, Any]], found: Mapping[str, Host]
) -> list[dict[str, Any]]:
    """Return the policies that were to be rolled out, each with how many hosts it was for."""
    files = {text(host.name): host.file for host in found.values()}
    counted = Counter((files[h["name"]], h["target"]) for h in hosts if h["plan"])
    return [
        {"file": file, "digest": digest, "hosts": count}
        for (file, digest), count in counted.most_common()
    ]


def _wave(
    number: int, wave: tuple[float, list[str]], run: Run, hosts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    started, names = wave
    following = [begun for begun, _ in run.waves[number:]]
    counts = Counter(host["outcome"] for host in hosts if host["wave"] == number)
    return {
        "number": number,
        "hosts": len(names),
        "started": moment(started),
        "seconds": round((following[0] if following else run.ended) - started, 3),
        "outcomes": {name: counts[name] for name in OUTCOMES if counts[name]},
    }


def to_json(report: Mapping[str, Any]) -> bytes:
    """Return the document's bytes, one line a host."""
    return (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode()
