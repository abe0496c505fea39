"""A report that was made elsewhere: what is used of it, once it has the right shape.

Reports come from files and from other hosts, so nothing in them is believed: a field that is
missing or of another kind is an error, and never shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from aegis_tools.control.files import named, read_limited
from aegis_tools.errors import UsageError
from aegis_tools.policy import strictjson
from aegis_tools.soak import report as made
from aegis_tools.soak.settings import ID, SCENARIOS
from aegis_tools.soak.verdict import FAIL, INCONCLUSIVE, INFO, PASS, Criterion

MAX_BYTES = 16 << 20
_STATES = ("running", "done", "stopped", "left")
_MOST_CRITERIA = 100
_LONGEST = 2000
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Brief:
    """The part of a report in which soaks are compared.

    Attributes:
        id: The soak's.
        host: The name that the host has for itself.
        scenario: One of SCENARIOS.
        state: ``running``, ``done``, ``stopped`` or ``left``.
        started: RFC 3339.
        ended: RFC 3339; when it was looked at, if it still ran.
        length_s: Seconds that it lasted.
        status: The verdict.
        text: The verdict in one line.
        advice: What follows from it.
        override: Why it was begun although it should not have been.
        mode: The host's when it began.
        workload: What the host did.
        policy: Digest; empty where none was live.
        kernel: Its release.
        version: Of this program.
        system: Processors and memory, in a line.
        criteria: All of them.
        figures: Numbers that no criterion has, by name.
    """

    id: str
    host: str
    scenario: str
    state: str
    started: str
    ended: str
    length_s: float
    status: str
    text: str
    advice: str
    override: str
    mode: str
    workload: str
    policy: str
    kernel: str
    version: str
    system: str
    criteria: tuple[Criterion, ...]
    figures: Mapping[str, float]

    def criterion(self, identifier: str) -> Criterion | None:
        """Return the criterion of that id; None where there is none."""
        return next((one for one in self.criteria if one.id == identifier), None)


def read(path: Path) -> Brief:
    """Read a ``report.json``.

    Raises:
        UsageError: It cannot be read, or is none.
    """
    what = f"report {named(path)}"
    data = read_limited(path, MAX_BYTES, what=what, follow=True, error=UsageError)
    try:
        return brief(strictjson.loads(data, fractions=True))
    except ValueError as error:
        raise UsageError(
            f"{named(path)} is no report of a soak",
            hint="give the report.json of a soak, or an id: aegisbpf soak list",
            detail=str(error),
        ) from error


def brief(report: object) -> Brief:
    """Return what is used of a report.

    Raises:
        ValueError: It is none.
    """
    top = _of(report, dict)
    if top.get("format") != made.FORMAT:
        raise ValueError("a format of another version")
    try:
        soak, verdict = _of(top["soak"], dict), _of(top["verdict"], dict)
        host, policy = _of(top["host"], dict), _of(top["policy"] or {}, dict)
        criteria = _of(top["criteria"], list)[:_MOST_CRITERIA]
        if not ID.fullmatch(_text(soak["id"])):
            raise ValueError("id")
        return Brief(
            id=_text(soak["id"]),
            host=_text(host["name"]),
            scenario=_one_of(soak["scenario"], SCENARIOS),
            state=_one_of(soak["state"], _STATES),
            started=_text(soak["started"]),
            ended=_text(soak["ended"]),
            length_s=_number(soak["length_s"]),
            status=_one_of(verdict["status"], (PASS, FAIL, INCONCLUSIVE)),
            text=_text(verdict["text"]),
            advice=_text(_of(top["recommendation"], dict)["text"]),
            override=_text(soak["override"]),
            mode=_text(soak["mode"]),
            workload=_text(soak["workload"]),
            policy=_text(policy.get("digest", "")),
            kernel=_text(host["kernel"]),
            version=_text(host["version"]),
            system=f"{_number(host['cpus']):.0f} x {_text(host['cpu_model'])}, "
                   f"{_number(host['memory_mb']) / 1024:.1f} GiB",
            criteria=tuple(map(_criterion, criteria)),
            figures=_figures(_of(top["figures"], dict), _number(soak["length_s"])),
        )  # fmt: skip
    except LookupError as error:
        raise ValueError(f"a field is missing: {error}") from error


def _criterion(one: object) -> Criterion:
    given = _of(one, dict)
    value, low, high = (
        None if given[name] is None else _number(given[name]) for name in ("value", "low", "high")
    )
    return Criterion(
        id=_text(given["id"]),
        title=_text(given["title"]),
        limit=_text(given["limit"]),
        unit=_text(given["unit"]),
        value=value,
        low=low,
        high=high,
        samples=int(_number(given["samples"])),
        status=_one_of(given["status"], (PASS, FAIL, INCONCLUSIVE, INFO)),
        why=_text(given["why"]),
    )


def _figures(found: Mapping[str, Any], seconds: float) -> dict[str, float]:
    """Return figures by name; counts as a rate."""
    numbers: dict[str, float] = {}
    for name in ("cpu", "memory", "probe"):
        if found[name] is not None:
            spread = _of(found[name], dict)
            numbers |= {f"{name}_{part}": _number(spread[part]) for part in ("mean", "p99")}
    matches = [_number(found[name]) for name in ("blocks", "audits") if found[name] is not None]
    if matches and seconds > 0:
        numbers["matches_an_hour"] = sum(matches) * 3600 / seconds
    if found["bpf_ns_a_run"] is not None:
        numbers["bpf_ns_a_run"] = _number(found["bpf_ns_a_run"])
    for name in ("restarts", "reboots"):
        numbers[name] = _number(found[name])
    return numbers


def _of(value: object, kind: type[Kind]) -> Kind:
    if not isinstance(value, kind):
        raise ValueError(f"{kind.__name__} expected")
    return value


def _text(value: object) -> str:
    return _of(value, str)[:_LONGEST]


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError("a number expected")
    return float(value)


def _one_of(value: object, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"one of {', '.join(known)} expected")
    return str(value)
