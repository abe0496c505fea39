"""How a report says things: numbers, times, statuses, what comes next. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from aegis_tools.soak.chart import LATEST
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.verdict import FAIL, INCONCLUSIVE, INFO, PASS, span

TONES = {PASS: "good", FAIL: "bad", INCONCLUSIVE: "warn", INFO: "idle"}
SIGNS = {PASS: "✓", FAIL: "✗", INCONCLUSIVE: "?", INFO: "·"}
SCENARIOS = {"shadow": "Shadow", "enforce": "Enforcement", "stress": "Stress"}
KINDS = {
    "begun": ("S", "info", "begun"),
    "ended": ("E", "info", "ended"),
    "stopped": ("E", "warn", "stopped before its time"),
    "reboot": ("B", "warn", "the host was booted"),
    "restart": ("R", "warn", "the agent was started again"),
    "crash": ("X", "bad", "the agent died"),
    "kernel": ("K", "bad", "kernel message"),
    "canary-miss": ("M", "bad", "the canary was missed"),
    "rule-restored": ("C", "info", "the canary's rule was put back"),
    "override": ("O", "warn", "begun although it should not have been"),
    "clock": ("T", "info", "the clock was set"),
    "policy": ("P", "info", "another policy"),
    "mode": ("P", "info", "another mode"),
    "gap": ("G", "warn", "turns are missing"),
    "reading-failed": ("G", "warn", "a turn could not read something"),
}
"""Letter in a plot, tone and words of what happens in a soak."""


MOST_NAMED = 4
_NOTHING = 1e-6


def tone(one: Happened) -> str:
    """Return how bad it is that something happened: ``bad``, ``warn`` or ``info``.

    Not every message of the kernel says that something broke.
    """
    return "warn" if one.class_ == "warning" else KINDS[one.kind][1]


def number(value: float | None, digits: int = 3) -> str:
    """Return a number for reading: ``0.0123``, ``4.2``, ``42,156``.

    Args:
        value: The number; a dash for None.
        digits: So many that count, as far as they are within four decimals, or all of those zero.
            Less than a millionth is nothing.
    """
    if value is None:
        return "-"
    value = 0.0 if abs(value) < _NOTHING else value
    if value == int(value):
        return f"{int(value):,}"
    first = -math.floor(math.log10(abs(value)))
    decimals = max(0, first - 1 + digits)
    decimals = min(decimals, 4) if first <= 4 else first + 1
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def amount(value: float | None, unit: str = "") -> str:
    """Return a number with its unit."""
    if value is None:
        return "not known"
    return f"{number(value)} {unit}".rstrip()


def interval(low: float | None, high: float | None) -> str:
    """Return a confidence interval; a dash where there is none."""
    if low is None and high is None:
        return "-"
    if low is None or high is None:
        return f"from {number(low)}" if high is None else f"up to {number(high)}"
    if low == high:
        return number(low)
    texts = ((number(low, digits), number(high, digits)) for digits in range(3, 8))
    return " to ".join(next((one for one in texts if one[0] != one[1]), (number(low),)))


def ranked(criteria: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return criteria with those first that did not pass."""
    order = (FAIL, INCONCLUSIVE)
    return sorted(criteria, key=lambda one: (*order, PASS, INFO).index(one["status"])
                  if one["status"] in order else len(order))  # fmt: skip


def confidence(report: Mapping[str, Any]) -> str:
    """Return the heading of a column of intervals: ``99 % interval``."""
    return f"{100 * report['verdict']['confidence']:g} % interval"


def rfc3339(unix: float) -> str:
    """Return a time for programs, to the second, UTC."""
    return _date(unix).strftime("%Y-%m-%dT%H:%M:%SZ")


def _date(unix: float) -> datetime:
    return datetime.fromtimestamp(min(unix, LATEST), tz=timezone.utc)


def after(seconds: float) -> str:
    """Return how long after the beginning: ``3 d 04:12`` or ``00:12:30``."""
    days, rest = divmod(int(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    if days:
        return f"{days} d {hours:02}:{rest // 60:02}"
    return f"{hours:02}:{rest // 60:02}:{rest % 60:02}"


def plural(count: int, word: str) -> str:
    """Return ``1 host``, ``2 hosts``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def title(report: Mapping[str, Any]) -> str:
    """Return what a report is about: ``Shadow soak of web-01, 14 d``."""
    soak = report["soak"]
    name = report["host"]["name"] or "a host"
    return f"{SCENARIOS[soak['scenario']]} soak of {name}, {span(soak['length_s'])}"


def state(report: Mapping[str, Any]) -> str:
    """Return how far a soak is, where that is not its end; else an empty text."""
    soak = report["soak"]
    of = f"{span(soak['length_s'])} of {span(soak['duration_s'])}"
    if soak["state"] == "running":
        return f"still running: {of}"
    if soak["state"] == "left":
        return f"nothing tells how it ended, {of}"
    return f"stopped after {of}" if soak["state"] == "stopped" else ""


def beside(report: Mapping[str, Any]) -> list[str]:
    """Return what stands beside a verdict, whatever it is: short, still running, overridden."""
    soak, verdict = report["soak"], report["verdict"]
    found = []
    if verdict["short"]:
        found.append(f"short: {span(soak['length_s'])} of {span(verdict['minimum_s'])}")
    if told := state(report):
        found.append(told)
    return [*found, "override"] if soak["override"] else found


def overridden(report: Mapping[str, Any]) -> str:
    """Return why a soak was begun although it should not have been."""
    return f"Begun although it should not have been (override): {report['soak']['override']}"


def recommendation(report: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return what a person should do with the verdict, and the commands for it."""
    soak, verdict = report["soak"], report["verdict"]
    failed = _titles(report["criteria"], FAIL)
    if failed:
        found = [_NEXT[one["id"]] for one in report["criteria"]
                 if one["status"] == FAIL and one["id"] in _NEXT]  # fmt: skip
        return f"Not ready: {failed}.", list(dict.fromkeys(found)) or [DIAGNOSE]
    if soak["state"] == "running":
        return "No verdict yet: the soak is still running.", ["aegisbpf soak status"]
    if soak["state"] == "left":
        return "No verdict: nothing tells how the soak ended.", [_again(report)]
    if verdict["status"] == INCONCLUSIVE:
        open_ones = _titles(report["criteria"], INCONCLUSIVE)
        told = f"Not decided: {open_ones}." if open_ones else "Nothing could be judged."
        first = [_OPEN[one["id"]] for one in report["criteria"]
                 if one["status"] == INCONCLUSIVE and one["id"] in _OPEN]  # fmt: skip
        return told, [*first, _again(report)]
    if verdict["short"]:
        least = span(verdict["minimum_s"])
        return f"All criteria met, in less time than the {least} that count.", [_again(report)]
    return _READY[soak["scenario"]]


DIAGNOSE = "aegisbpf diagnose"
_READY = {
    "shadow": (
        "Ready for phase 2: an enforcement soak of the same policy.",
        ["aegisbpf mode enforce", "aegisbpf soak start --scenario enforce --duration 14d"],
    ),
    "enforce": ("Ready to enforce this policy in production.", []),
    "stress": ("Holds under sustained load.", []),
}
_BUNDLE = "aegisbpf incident bundle -o /root/aegis.tar.gz"
_NEXT = {
    **dict.fromkeys(("panics", "kernel_errors", "oom", "mem_level", "mem_growth"), _BUNDLE),
    "crashes": "aegisbpf incident crash-loop --dry-run",
    "cpu_sustained": "aegisbpf incident performance --dry-run",
    "cpu_p99": "aegisbpf incident performance --dry-run",
    "slowness": "aegisbpf incident performance --dry-run",
    "drops": "aegisbpf incident performance --dry-run",
    "maps_stable": "aegisbpf incident map-full --dry-run",
    "false_positives": "aegisbpf rule list",
    "canary": "aegisbpf health",
}
"""What to look at first, by criterion that failed."""
_OPEN = {
    "agent_present": "aegisbpf service status",
    "coverage": "systemctl status aegis-soak.timer",
    "same_policy": "aegisbpf history",
}
"""The same, by criterion that is not decided for another reason than too little time."""


def _titles(criteria: Sequence[Mapping[str, Any]], status: str) -> str:
    """Return the criteria of a status with their figures, the first few by name."""
    found = [_lowered(one["title"]) + _figure(one) for one in criteria if one["status"] == status]
    more = [f"{len(found) - MOST_NAMED} more"] if len(found) > MOST_NAMED else []
    return "; ".join(found[:MOST_NAMED] + more)


def _figure(one: Mapping[str, Any]) -> str:
    if one["value"] is None:
        return ""
    return f" {amount(one['value'], one['unit'])} (limit {one['limit']})"


def _lowered(title: str) -> str:
    """Return a title for the middle of a sentence: ``CPU`` stays."""
    return title[:1].lower() + title[1:] if title[1:2].islower() else title


def _again(report: Mapping[str, Any]) -> str:
    scenario, least = report["soak"]["scenario"], report["verdict"]["minimum_s"]
    days = max(1, least // 86400)
    return f"aegisbpf soak start --scenario {scenario} --duration {2 * days}d"
