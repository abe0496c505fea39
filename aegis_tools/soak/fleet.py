"""One report on the soaks of many hosts: who sticks out, and by what. Pure.

A host sticks out where a figure of it lies far from the other hosts' median, measured by their
median absolute deviation (robust z), or where its verdict is worse than most of theirs. Only soaks
of one scenario are compared with each other.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from aegis_tools.control.files import printable
from aegis_tools.soak.brief import Brief
from aegis_tools.soak.verdict import FAIL, INCONCLUSIVE, PASS
from aegis_tools.soak.words import amount, plural

FORMAT = 1
MISSING = "MISSING"
FAR, FEW = 5.0, 10
"""Robust z from which on a figure of very many hosts sticks out, and of how many it is twice that:
the median absolute deviation of few figures is noise itself."""
FEWEST = 5
"""So many hosts it takes to say what is usual."""
RELATIVE = 0.05
"""Less than this share of the median is no difference, however alike the others are."""
_RANK = {FAIL: 0, MISSING: 1, INCONCLUSIVE: 2, PASS: 3}
_MAD = 1.4826
"""Makes the median absolute deviation of normal figures their standard deviation."""
_LONGEST = 300


class Figure(NamedTuple):
    """A figure in which hosts are compared.

    Attributes:
        title: For a person.
        unit: Of the figure.
        floor: What is no difference in any fleet, in that unit.
    """

    title: str
    unit: str
    floor: float


FIGURES = {
    "crashes": Figure("Crashes of the agent", "", 0.1),
    "panics": Figure("Kernel panics", "", 0.1),
    "kernel_errors": Figure("Kernel errors of BPF", "", 0.1),
    "oom": Figure("OOM kills", "", 0.1),
    "cpu_sustained": Figure("CPU, sustained", "%", 0.05),
    "cpu_p99": Figure("CPU, p99", "%", 0.1),
    "mem_level": Figure("Memory", "MB", 0.5),
    "mem_growth": Figure("Memory growth", "MB/day", 0.05),
    "drops": Figure("Lost events", "%", 0.0005),
    "canary": Figure("Canary misses", "", 0.1),
    "slowness": Figure("Slower over the soak", "%", 1.0),
    "maps_stable": Figure("Growth of the maps", "entries/day", 2.0),
    "same_policy": Figure("Same policy and mode", "%", 0.5),
    "agent_present": Figure("Agent there", "%", 0.1),
    "coverage": Figure("Turns made", "%", 0.5),
    "false_positives": Figure("False positives", "%", 0.0005),
    "probe_mean": Figure("Open and close", "µs", 0.5),
    "matches_an_hour": Figure("Matches", "an hour", 2.0),
    "bpf_ns_a_run": Figure("A run of a BPF program", "ns", 10.0),
    "restarts": Figure("Restarts of the agent", "", 0.2),
    "reboots": Figure("Boots", "", 0.2),
}
"""By name of the criterion or the figure; in the order in which they are told."""


@dataclass(frozen=True)
class Usual:
    """What is usual among hosts.

    Attributes:
        middle: The median.
        scale: What a deviation is measured by.
        hosts: How many hosts have the figure.
        low: The least.
        high: The most.
    """

    middle: float
    scale: float
    hosts: int
    low: float
    high: float

    def z(self, value: float) -> float:
        """Return how far off a value is."""
        return (value - self.middle) / self.scale


def far(hosts: int) -> float:
    """Return the robust z from which on a figure of so many hosts sticks out."""
    return FAR * (1 + FEW / hosts)


def usual(name: str, values: Sequence[float]) -> Usual:
    """Return what is usual for a figure, of at least one value."""
    middle = median(values)
    spread = _MAD * median(abs(value - middle) for value in values)
    scale = max(spread, FIGURES[name].floor, RELATIVE * abs(middle))
    return Usual(middle, scale, len(values), min(values), max(values))


def build(
    hosts: Mapping[str, Brief | str], *, pages: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the report.

    Args:
        hosts: By name in the inventory: its soak, or why there is none.
        pages: Where the hosts' own reports lie beside this one, by name.
    """
    soaks = {name: found for name, found in hosts.items() if isinstance(found, Brief)}
    scenarios = sorted({one.scenario for one in soaks.values()})
    figures: list[dict[str, Any]] = []
    reasons: dict[str, list[tuple[float, str]]] = {name: [] for name in hosts}
    for scenario in scenarios:
        group = {name: one for name, one in soaks.items() if one.scenario == scenario}
        figures += _compare(scenario, group, reasons)
        _by_verdict(group, reasons)
    rows = [_row(name, found, reasons[name], pages or {}) for name, found in hosts.items()]
    rows.sort(
        key=lambda row: (not row["outlier"], _RANK[row["status"]], -row["score"], row["host"])
    )
    return {
        "format": FORMAT,
        "summary": _summary(rows, soaks),
        "scenarios": scenarios,
        "policies": _counted(one.policy for one in soaks.values()),
        "kernels": _counted(one.kernel for one in soaks.values()),
        "versions": _counted(one.version for one in soaks.values()),
        "figures": figures,
        "hosts": rows,
    }


def _compare(
    scenario: str, group: Mapping[str, Brief], reasons: dict[str, list[tuple[float, str]]]
) -> Iterator[dict[str, Any]]:
    """Yield what is usual for each figure, and say of each host what is not."""
    table = {name: values(one) for name, one in group.items()}
    for name, figure in FIGURES.items():
        known = {host: found[name] for host, found in table.items() if name in found}
        if not known:
            continue
        found = usual(name, list(known.values()))
        enough = len(known) >= FEWEST
        for host, value in known.items():
            if enough and abs(z := found.z(value)) >= far(found.hosts):
                reasons[host].append((abs(z), _words(name, value, found)))
        limit = next((c.limit for one in group.values() if (c := one.criterion(name))), "")
        yield {
            "id": name, "scenario": scenario, "title": figure.title, "unit": figure.unit,
            "limit": limit, "hosts": found.hosts, "compared": enough, "median": found.middle,
            "scale": found.scale, "low": found.low, "high": found.high,
        }  # fmt: skip


def values(one: Brief) -> dict[str, float]:
    """Return the figures of a soak by name."""
    found = {c.id: c.value for c in one.criteria if c.value is not None}
    return {name: value for name, value in {**one.figures, **found}.items() if name in FIGURES}


def rounded(name: str, value: float) -> float:
    """Return a figure without the digits that make no difference between hosts."""
    return round(value, max(0, 1 - math.floor(math.log10(FIGURES[name].floor))))


def _words(name: str, value: float, found: Usual) -> str:
    figure, z = FIGURES[name], found.z(value)
    return (
        f"{figure.title}: {amount(rounded(name, value), figure.unit)}, the hosts' median "
        f"{amount(rounded(name, found.middle), figure.unit)} (z {z:+.0f})"
    )


def _by_verdict(group: Mapping[str, Brief], reasons: dict[str, list[tuple[float, str]]]) -> None:
    """Say of which hosts the verdict is worse than that of most."""
    if len(group) < FEWEST:
        return
    counts = Counter(one.status for one in group.values())
    for name, one in group.items():
        better = sum(n for status, n in counts.items() if _RANK[status] > _RANK[one.status])
        if 2 * better > len(group):
            what = ", ".join(
                f"{c.title} {amount(c.value, c.unit)} (limit {c.limit})"
                for c in one.criteria if c.status == one.status
            )  # fmt: skip
            told = f"{one.status} where most hosts are better: {what or one.text}"
            reasons[name].append((FAR if one.status == FAIL else 0.0, told))


def _row(
    name: str, found: Brief | str, reasons: list[tuple[float, str]], pages: Mapping[str, str]
) -> dict[str, Any]:
    if isinstance(found, str):
        return {"host": _shown(name), "status": MISSING, "text": "no soak", "outlier": True,
                "score": 0.0, "why": [_shown(found)], "soak": None, "figures": {},
                "page": None}  # fmt: skip
    reasons.sort(key=lambda reason: -reason[0])
    return {
        "host": _shown(name),
        "status": found.status,
        "text": _shown(found.text),
        "outlier": bool(reasons),
        "score": round(max((score for score, _ in reasons), default=0.0), 2),
        "why": [_shown(text) for _, text in reasons],
        "soak": {
            **{key: _shown(getattr(found, key)) for key in _TOLD},
            "length_s": found.length_s,
        },
        "figures": values(found),
        "page": pages.get(name),
    }


_TOLD = ("id", "scenario", "state", "started", "ended", "policy", "kernel", "version", "system",
         "mode", "workload", "override", "advice")  # fmt: skip


def _shown(text: str) -> str:
    return printable(text, _LONGEST)


def _summary(rows: Sequence[Mapping[str, Any]], soaks: Mapping[str, Brief]) -> dict[str, Any]:
    counts = Counter(row["status"] for row in rows)
    running = sum(one.state == "running" for one in soaks.values())
    sticking = sum(row["outlier"] for row in rows)
    status = next((one for one in (FAIL, MISSING, INCONCLUSIVE) if counts[one]), PASS)
    status = (
        INCONCLUSIVE if status == MISSING or not rows or (running and status == PASS) else status
    )
    parts = [f"{counts[one]} {one}" for one in _RANK if counts[one]]
    return {
        "hosts": len(rows),
        "status": status,
        "counts": {one: counts[one] for one in _RANK if counts[one]},
        "running": running,
        "outliers": sticking,
        "text": f"{plural(len(rows), 'host')}: {', '.join(parts) or 'nothing'}"
                + (f"; {running} still running" if running else ""),
    }  # fmt: skip


def _counted(values: Iterator[str] | Any) -> list[dict[str, Any]]:
    return [
        {"value": _shown(value), "hosts": count} for value, count in Counter(values).most_common()
    ]


def to_json(report: Mapping[str, Any]) -> bytes:
    """Return the document's bytes."""
    return (json.dumps(report, indent=1, allow_nan=False) + "\n").encode("ascii")
