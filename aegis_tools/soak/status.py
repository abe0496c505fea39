"""How a soak stands: how far it is, what the last turn saw, what it has shown so far."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aegis_tools.control import files
from aegis_tools.errors import AegisError
from aegis_tools.paths import Paths
from aegis_tools.soak import reading, recover
from aegis_tools.soak.columns import COLUMNS, Sample
from aegis_tools.soak.folder import folder
from aegis_tools.soak.reading import Soak
from aegis_tools.soak.verdict import PASS, Verdict, judge

LATE_INTERVALS = 3
_MAX_VERDICT = 4 << 20


@dataclass(frozen=True)
class Status:
    """How a soak stands.

    Attributes:
        soak: Its files.
        elapsed_s: Seconds that it has lasted.
        verdict: What it has shown so far.
        age_s: Seconds since the last turn; None before the first.
    """

    soak: Soak
    elapsed_s: float
    verdict: Verdict
    age_s: float | None

    @property
    def state(self) -> str:
        """As the soak says it."""
        return self.soak.state

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        left = self.soak.settings.duration_s - self.elapsed_s
        return max(left, 0.0) if self.state == "running" else 0.0

    @property
    def last(self) -> Sample | None:
        """What the last turn saw."""
        return self.soak.samples[-1] if self.soak.samples else None

    @property
    def late(self) -> bool:
        """Whether turns are not made any more, as it seems."""
        limit = LATE_INTERVALS * self.soak.settings.interval_s + LATE_INTERVALS
        return self.state == "running" and self.age_s is not None and self.age_s > limit

    @property
    def counts(self) -> dict[str, int]:
        """How often what happened, by kind."""
        return dict(Counter(one.kind for one in self.soak.happened))

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        settings, last = self.soak.settings, self.last
        return {
            "id": settings.id,
            "state": self.state,
            "running": self.state == "running",
            "scenario": settings.scenario,
            "workload": settings.workload,
            "interval_seconds": settings.interval_s,
            "duration_seconds": settings.duration_s,
            "elapsed_seconds": round(self.elapsed_s, 3),
            "left_seconds": round(self.left_s, 3),
            "progress": round(min(self.elapsed_s / settings.duration_s, 1.0), 6),
            "turns": len(self.soak.samples),
            "last": {name: getattr(last, name) for name in COLUMNS} if last else None,
            "last_age_seconds": None if self.age_s is None else round(self.age_s, 3),
            "late": self.late,
            "happened": self.counts,
            "override": settings.override,
            "verdict": self.verdict.to_dict(),
            "problems": list(self.soak.problems),
        }


def read(paths: Paths, identifier: str, *, clock: Callable[[], float] = time.time) -> Status:
    """Read how a soak stands.

    Raises:
        StateError: There is no such soak, or its files cannot be read.
    """
    soak = reading.read_soak(paths, identifier, clock=clock)
    settings, samples = soak.settings, list(soak.samples)
    elapsed = recover.of_rows(samples, settings).elapsed_s if samples else 0.0
    age = max(soak.now - samples[-1].timestamp, 0.0) if samples else None
    return Status(soak, elapsed, judge(soak), age)


def wanted(paths: Paths, identifier: str) -> str:
    """Return the soak that is meant: the one named, or else the running or the newest one."""
    return identifier or reading.running(paths) or reading.newest(paths)


def open_points(verdict: Verdict) -> list[str]:
    """Return the criteria that are not passed, a line each, what failed first."""
    found = [one for one in verdict.criteria if one.status not in (PASS, "INFO")]
    found.sort(key=lambda one: one.status)
    return [f"{one.status}  {one.title}: {one.why}" for one in found]


def overview(paths: Paths) -> list[dict[str, Any]]:
    """Return all soaks, newest first, without reading their rows.

    Raises:
        StateError: They cannot be listed.
    """
    current = reading.running(paths)
    return [_row(paths, name, current) for name in reading.soaks(paths)]


def _row(paths: Paths, name: str, current: str) -> dict[str, Any]:
    from aegis_tools.soak.running import read_settings
    from aegis_tools.soak.settings import parse_result

    at = folder(paths, name)
    row: dict[str, Any] = {"id": name, "state": "damaged", "verdict": "", "workload": "",
                           "duration_seconds": None, "started": None, "ended": None}  # fmt: skip
    if name == current and not files.exists(at.settings):
        return row | {"state": "beginning"}
    try:
        settings = read_settings(paths, name)
    except AegisError:
        return row
    row |= {"workload": settings.workload, "duration_seconds": settings.duration_s,
            "started": settings.started}  # fmt: skip
    row["state"] = "running" if name == current else "left"
    with suppress(AegisError, ValueError):
        found = parse_result(files.read_limited(at.result, 4096, what="result of the soak"))
        row |= {"state": found.state, "ended": found.ended}
    with suppress(AegisError, ValueError, LookupError, TypeError):
        data = files.read_limited(at.verdict, _MAX_VERDICT, what="verdict of the soak")
        row["verdict"] = files.printable(str(json.loads(data)["text"]))
    return row
