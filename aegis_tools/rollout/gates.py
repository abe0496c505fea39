"""Gates: what must hold on a host, from before a change until it may be confirmed.

Pure: samples in, reasons out. A sample is the document of ``aegisbpf status --json``; counters
and ``boot_seconds`` (the boot clock) are the host's own, so no clock of ours is compared with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """How much worse a host may become.

    Attributes:
        deny_factor: Refusals a second may be so many times those before the change,
        deny_extra: and so many a second more.
        drops: Events that may be lost.
        map_fill: How full the fullest map may be; full is 1.
    """

    deny_factor: float = 3.0
    deny_extra: float = 1.0
    drops: int = 0
    map_fill: float = 0.9


def deny_rate(earlier: Sample, later: Sample) -> float:
    """Return refusals a second between two samples of one boot and one load; 0 without time."""
    seconds = later["boot_seconds"] - earlier["boot_seconds"]
    if seconds <= 0 or not (earlier["counters"] and later["counters"]):
        return 0.0
    return float(max(0, later["counters"]["blocks"] - earlier["counters"]["blocks"]) / seconds)


def judge(
    before: Sample, base_rate: float, changed: Sample, now: Sample, limits: Limits, *, digest: str
) -> list[str]:
    """Return why a host does not pass; an empty list where it does.

    Args:
        before: Before the change.
        base_rate: Refusals a second before it.
        changed: Right after it.
        now: The newest sample.
        limits: What is tolerated.
        digest: The policy that is to be live, hex.
    """
    if now["boot_id"] != before["boot_id"]:
        return ["the host has booted again"]
    if not now["loaded"] or not now["counters"] or not changed["counters"]:
        return ["nothing is loaded any more"]
    return [
        *_still_ours(now, digest),
        *_worse(before, now),
        *_agent(before, now),
        *_numbers(base_rate, changed, now, limits),
    ]


def _still_ours(now: Sample, digest: str) -> Iterator[str]:
    live = (now["policy"] or {}).get("digest", "")
    if live != digest:
        yield f"another policy is live: {live[:12] or 'none'}"


def _worse(before: Sample, now: Sample) -> Iterator[str]:
    failed = {check["name"] for check in before["failed"]}
    for check in now["failed"]:
        if check["name"] not in failed:
            yield f"not healthy: {check['message']}"
    if now["mode"]["held"] and not before["mode"]["held"]:
        yield f"held in audit: {now['mode']['held']}"


def _agent(before: Sample, now: Sample) -> Iterator[str]:
    was, new = before["agent"], now["agent"]
    if was["running"] and not new["running"]:
        yield "the agent does not run any more"
    elif new.get("starts_in_window", 0) > was.get("starts_in_window", 0):
        yield "the agent was started again"


def _numbers(base_rate: float, changed: Sample, now: Sample, limits: Limits) -> Iterator[str]:
    rate, most = deny_rate(changed, now), base_rate * limits.deny_factor + limits.deny_extra
    if rate > most:
        yield f"{rate:.1f} refusals a second, {base_rate:.1f} before; at most {most:.1f}"
    lost = now["counters"]["ringbuf_drops"] - changed["counters"]["ringbuf_drops"]
    if lost > limits.drops:
        yield f"{lost} events lost, at most {limits.drops}"
    fullest = now["fullest_map"]
    if fullest and fullest["utilization"] > limits.map_fill:
        yield f"{fullest['name']} is {fullest['utilization']:.0%} full"
