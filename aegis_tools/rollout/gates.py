"""Gates: what must hold on a host, from before a change until it may be confirmed.

Pure: samples in, reasons out. A sample is the document of ``aegisbpf status --json``; counters
and ``boot_seconds`` (the boot clock) are the host's own, so no clock of ours is compared with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Sample = Mapping[str, Any]
SHORTEST = 10.0
"""Seconds: a handful of matches in the first moment is no rate."""


@dataclass(frozen=True)
class Limits:
    """How much worse a host may become.

    Attributes:
        deny_factor: Refusals a second may be so many times those before the change,
        deny_extra: and so many a second more.
        audit_factor: The same of matches in audit, each of which enforce would refuse,
        audit_extra: and so many a second more.
        drops: Events that may be lost.
        map_fill: How full the fullest map may be; full is 1.
    """

    deny_factor: float = 3.0
    deny_extra: float = 1.0
    audit_factor: float = 3.0
    audit_extra: float = 10.0
    drops: int = 0
    map_fill: float = 0.9


class Rates(NamedTuple):
    """How often rules matched, a second.

    Attributes:
        refusals: Matches that were refused.
        audits: Matches that were let through.
        seconds: How long was watched; 0 where two samples cannot be compared.
    """

    refusals: float
    audits: float
    seconds: float


def rates(earlier: Sample, later: Sample, *, at_least: float = 0.0) -> Rates:
    """Return what happened between two samples; nothing where they are not of one load.

    Args:
        earlier: A sample.
        later: A later one.
        at_least: Seconds over which a shorter time is spread.
    """
    seconds = max(later["boot_seconds"] - earlier["boot_seconds"], 0.0)
    was, new = earlier["counters"], later["counters"]
    if not seconds or not was or not new or earlier["boot_id"] != later["boot_id"]:
        return Rates(0.0, 0.0, 0.0)
    over = max(seconds, at_least)
    refused, let = (float(max(0, new[name] - was[name]) / over) for name in ("blocks", "audits"))
    return Rates(refused, let, float(seconds))


def judge(
    before: Sample, base: Sample, now: Sample, limits: Limits, *, digest: str, left: float = 0.0
) -> list[str]:
    """Return why a host does not pass; an empty list where it does.

    Args:
        before: Before the change; between it and ``base`` is the host's own measure.
        base: Right before the change; counters are compared with it.
        now: The newest sample.
        limits: What is tolerated.
        digest: The policy that is to be live, hex.
        left: Seconds that the watch still takes, for which the change must wait.
    """
    if now["boot_id"] != base["boot_id"]:
        return ["the host has booted again"]
    if not now["loaded"] or not now["counters"] or not base["counters"]:
        return ["nothing is loaded any more"]
    return [
        *_still_ours(now, digest, left),
        *_worse(base, now),
        *_agent(base, now),
        *_rates(rates(before, base), rates(base, now, at_least=SHORTEST), limits),
        *_room(base, now, limits),
    ]


def _still_ours(now: Sample, digest: str, left: float) -> Iterator[str]:
    live = (now["policy"] or {}).get("digest", "")
    if live != digest:
        yield f"another policy is live: {live[:12] or 'none'}"
    elif not now["pending"]:
        yield "the change does not wait any more: somebody confirmed or undid it"
    elif now["pending"]["seconds_left"] < left:
        yield (
            f"the host undoes it in {now['pending']['seconds_left']:.0f} s, the watch takes "
            f"{left:.0f} s more: confirm_within is too short"
        )


def _worse(base: Sample, now: Sample) -> Iterator[str]:
    failed = {check["name"] for check in base["failed"]}
    for check in now["failed"]:
        if check["name"] not in failed:
            yield f"not healthy: {check['message']}"
    if now["mode"]["held"] and not base["mode"]["held"]:
        yield f"held in audit: {now['mode']['held']}"


def _agent(base: Sample, now: Sample) -> Iterator[str]:
    was, new = base["agent"], now["agent"]
    if was["running"] and not new["running"]:
        yield "the agent does not run any more"
    elif new.get("starts_in_window", 0) > was.get("starts_in_window", 0):
        yield "the agent was started again"


def _rates(was: Rates, new: Rates, limits: Limits) -> Iterator[str]:
    for what, rate, base, factor, extra in (
        ("refusals", new.refusals, was.refusals, limits.deny_factor, limits.deny_extra),
        ("would-be refusals", new.audits, was.audits, limits.audit_factor, limits.audit_extra),
    ):
        most = base * factor + extra
        if rate > most:
            yield f"{rate:.1f} {what} a second, {base:.1f} before; at most {most:.1f}"


def _room(base: Sample, now: Sample, limits: Limits) -> Iterator[str]:
    lost = now["counters"]["ringbuf_drops"] - base["counters"]["ringbuf_drops"]
    if lost > limits.drops:
        yield f"{lost} events lost, at most {limits.drops}"
    fullest = now["fullest_map"]
    if fullest and fullest["utilization"] > limits.map_fill:
        yield f"{fullest['name']} is {fullest['utilization']:.0%} full"
