"""network-monitor against a program that knows what it did; here and in machines."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, NamedTuple

from monitor_facts import run_facts
from monitor_support import Attached, Head
from network_activity import ANY, GID, UID

from aegis_tools.monitors import layout
from aegis_tools.monitors.registry import MONITORS

NETWORK = MONITORS["network-monitor"]
COMM = "known-traffic"
PROTOCOLS = {6: "tcp", 17: "udp"}


class Event(NamedTuple):
    """The decoded struct network_event."""

    head: Head
    fact: dict[str, Any]

    @classmethod
    def of(cls, record: bytes) -> Event:
        head = Head.of(record)
        assert len(record) == layout.HEAD.size + layout.NETWORK.size
        moved, family, protocol, local_port, remote_port, result, local, remote = (
            layout.NETWORK.unpack_from(record, layout.HEAD.size)
        )
        size = 4 if family == socket.AF_INET else 16
        assert local[size:] == remote[size:] == bytes(16 - size)
        return cls(
            head,
            {
                "event": NETWORK.types[head.type],
                "family": family,
                "protocol": PROTOCOLS[protocol],
                "result": result,
                "bytes": moved,
                "local": [socket.inet_ntop(family, local[:size]), local_port],
                "remote": [socket.inet_ntop(family, remote[:size]), remote_port],
                "tid": head.tid,
            },
        )


def by_functions(fact: dict[str, Any]) -> dict[str, Any] | None:
    """Return what is told where the kernel's functions are watched."""
    told = {name: value for name, value in fact.items() if name != "how"}
    if fact.get("how") == "refused":  # the answer comes after the function
        told["result"] = 0
    return told


def by_tracepoints(fact: dict[str, Any]) -> dict[str, Any] | None:
    """Return what is told where they are not."""
    told = {name: value for name, value in fact.items() if name != "how"}
    match fact.get("how"):
        case "udp" | "splice":
            return None
        case "named":
            told["remote"] = [ANY[fact["family"]], 0]
        case "truncated":
            told["bytes"] = told["result"]
    return told


def expected(facts: dict[str, Any], variant: str) -> list[dict[str, Any]]:
    """Return what that variant is to tell of the program's facts."""
    rule = by_tracepoints if variant == "tracepoints" else by_functions
    return [told for fact in facts["facts"] if (told := rule(fact)) is not None]


def events_of(attached: Attached) -> list[Event]:
    return [Event.of(record) for record in attached.records()]


def check_everything(attached: Attached, variant: str) -> None:
    """Everything is told of once, in its order, with the right fields; nothing else is."""
    attached.let_through(comms=[COMM])
    facts = run_facts("network_activity", COMM)
    events = events_of(attached)
    told, wanted = [event.fact for event in events], expected(facts, variant)
    for number, (one, other) in enumerate(zip(told, wanted, strict=False)):
        assert one == other, (
            number,
            told[number - 1 : number + 3],
            wanted[number - 1 : number + 3],
        )
    assert len(told) == len(wanted)
    check_heads(facts, [event.head for event in events], UID, GID)
    stats = attached.stats()
    assert (stats["SENT"], stats["DROPPED"], stats["UNTRACKED"]) == (len(events), 0, 0)


def check_heads(facts: dict[str, Any], heads: list[Head], uid: int, gid: int) -> None:
    """All of them name the program, in the order of time."""
    for head in heads:
        assert (head.pid, head.ppid, head.uid, head.gid) == (facts["pid"], facts["ppid"], uid, gid)
        assert (head.comm, head.cgroup, head.flags) == (COMM, facts["cgroup"], 0)
        assert facts["began"] < head.time_ns < facts["ended"]
    assert [head.time_ns for head in heads] == sorted(head.time_ns for head in heads)


def check_drops(object_: str, folder: Path, variant: str) -> None:
    """What the ring has no room for is counted."""
    with Attached(NETWORK, object_, folder, 4096) as attached:
        attached.let_through(comms=[COMM])
        facts = run_facts("network_activity", COMM)
        told, stats = attached.records(), attached.stats()
    assert stats["SENT"] == len(told) > 0
    assert stats["SENT"] + stats["DROPPED"] == len(expected(facts, variant))
