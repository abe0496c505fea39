"""Soaks made up by hand: what the tests of figures and verdict begin with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aegis_tools.soak.columns import Sample
from aegis_tools.soak.reading import Soak
from aegis_tools.soak.settings import PolicyFacts, Result, Settings, new_id
from aegis_tools.soak.verdict import Criterion, Verdict

BEGUN = 1_800_000_000.0
DIGEST = "0123456789ab" + "c" * 52
DAY = 86400


def settings(
    scenario: str = "shadow", *, duration_s: int = 7 * DAY, interval_s: int = 300, **more: Any
) -> Settings:
    """Return a soak's settings, begun 1,000 s after boot."""
    return Settings(
        id=new_id(scenario, BEGUN), scenario=scenario, started=BEGUN, duration_s=duration_s,
        interval_s=interval_s, boot="0" * 8, boot_s=1000.0, policy=PolicyFacts(DIGEST),
        mode="enforce" if scenario == "enforce" else "audit", **more,
    )  # fmt: skip


def sample(of: Settings, number: int, **more: Any) -> Sample:
    """Return a row with nothing the matter; number 1 is an interval after the beginning."""
    after = number * of.interval_s
    given = Sample(
        timestamp=int(BEGUN) + after, cpu_pct=0.5 + 0.01 * (number % 7), mem_mb=10.0, blocks=0,
        ringbuf_drops=0, map_deny_path=100, map_deny_inode=100, map_allow_cgroup=2,
        boot="0" * 8, boot_s=1000.0 + after, agent="running", agent_pid=50, agent_start_s=5.0,
        mode=of.mode, policy=DIGEST[:12], audits=10 * number, events=10 * number, map_fill=0.1,
        canary="ok", probe_us=20.0 + 0.1 * (number % 5), load1=0.2,
    )  # fmt: skip
    return replace(given, **more)


def soak(
    scenario: str = "shadow",
    change: Callable[[Settings, list[Sample]], list[Sample]] = lambda _, rows: rows,
    *,
    rows: int = 2016,
    of: Settings | None = None,
    **more: Any,
) -> Soak:
    """Return a soak that is done, with its rows changed as wanted."""
    chosen = of or settings(scenario)
    samples = change(chosen, [sample(chosen, at + 1) for at in range(rows)])
    end = (samples[-1].timestamp if samples else BEGUN) + 1.0
    return Soak(chosen, tuple(samples), now=end, result=Result("done", end), **more)


def each(change: Callable[[int, Sample], dict[str, Any]]) -> Any:
    """Return a change of every row, by its number from 0."""
    return lambda _, rows: [replace(row, **change(at, row)) for at, row in enumerate(rows)]


def criterion(verdict: Verdict, identifier: str) -> Criterion:
    """Return a criterion that must be there."""
    found = verdict.criterion(identifier)
    assert found is not None, identifier
    return found
