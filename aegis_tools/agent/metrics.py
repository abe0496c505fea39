"""What a scrape found as Prometheus metrics, in a registry of their own.

``families`` is pure: one list of metrics from one reading. Every family is always there, with
HELP and TYPE, but without samples where there is nothing to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from aegis_tools import __version__
from aegis_tools.agent.hostfacts import HOLDS, PARTS, HostFacts
from aegis_tools.agent.samples import Samples, counter, gauge, info, label
from aegis_tools.agent.scrape import TOP_RULES, Kernel, Reading, RuleHits
from aegis_tools.control.posture import MODES, STATES
from aegis_tools.control.stats import Snapshot
from aegis_tools.kernel.layout import Stat

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

COUNTERS = {
    "aegisbpf_blocks": (Stat.BLOCKS, "Accesses that were refused"),
    "aegisbpf_audits": (Stat.AUDITS, "Matches that were reported and not refused"),
    "aegisbpf_events": (Stat.EVENTS, "Events handed to the ring"),
    "aegisbpf_ringbuf_drops": (Stat.RINGBUF_DROPS, "Events lost because the ring was full"),
    "aegisbpf_events_sampled_out": (Stat.SAMPLED_OUT, "Events left out by the sample rate"),
    "aegisbpf_cgroup_allowed": (Stat.CGROUP_ALLOWED, "Matches let go for an allowed cgroup"),
    "aegisbpf_survival_allowed": (Stat.SURVIVAL_ALLOWED, "Matches let go for survival"),
    "aegisbpf_rule_hits_lost": (Stat.HITS_LOST, "Hits of rules beyond the hit counters"),
}
NET_BLOCKS = {
    "connect": Stat.CONNECT_BLOCKS,
    "bind": Stat.BIND_BLOCKS,
    "send": Stat.SEND_BLOCKS,
}
ENTRIES = {
    "aegisbpf_deny_inode_entries": ("deny_inode_map", "Entries of deny_inode_map"),
    "aegisbpf_deny_path_entries": ("deny_path_map", "Entries of deny_path_map"),
    "aegisbpf_allow_cgroup_entries": ("allow_cgroup_map", "Entries of allow_cgroup_map"),
}


AGENT_GAUGES = {
    "lag_seconds": ("aegisbpf_agent_event_lag_seconds", "Age of the newest event when it was read"),
    "deny_rate": ("aegisbpf_agent_deny_rate", "Refusals a second that the agent saw last"),
    "starts_in_window": ("aegisbpf_agent_unclean_starts", "Unclean starts that count to the limit"),
    "held": ("aegisbpf_agent_events_held", "Events held back to be told of in one line"),
}
AGENT_COUNTERS = {
    "events": ("aegisbpf_agent_events_received", "Events that the agent read from the ring"),
    "written": ("aegisbpf_agent_events_written", "Lines that the agent wrote for them"),
    "folded": ("aegisbpf_agent_events_folded", "Events told of in the line of another"),
    "undecodable": ("aegisbpf_agent_events_undecodable", "Events not of this version's form"),
}
SINK_METRICS = (
    ("failing", "aegisbpf_agent_sink_failing", "1: writing to it fails now", "gauge"),
    ("lost_events", "aegisbpf_agent_sink_lost_events", "Events it could not write", "counter"),
    ("lost_lines", "aegisbpf_agent_sink_lost_lines", "Lines it could not write", "counter"),
)
SINKS = 16


def families(reading: Reading) -> list[Metric]:
    """Return all metrics of a reading."""
    return [*_general(reading), *_kernel(reading.kernel), *_host(reading.facts)]


def _general(reading: Reading) -> Iterable[Metric]:
    kernel, facts = reading.kernel, reading.facts
    yield info("aegisbpf_build", "The program", {"version": __version__})
    yield gauge("aegisbpf_up", "1: what is in the kernel could be read", [kernel is not None])
    yield gauge("aegisbpf_loaded", "1: programs and maps are in the kernel", [reading.loaded])
    posture = kernel.snapshot.posture if kernel else None
    enforcing = posture is not None and posture.enforcing
    waiting = facts.pending or (posture is not None and posture.deadline is not None)
    yield gauge("aegisbpf_enforcing", "1: a match of an enforcing rule is refused now", [enforcing])
    yield gauge("aegisbpf_change_unconfirmed", "1: a change waits for its confirmation", [waiting])
    yield gauge(
        "aegisbpf_readable",
        "1: this part of the state could be read",
        {(part,): part not in facts.unreadable for part in PARTS},
        ["part"],
    )
    yield gauge("aegisbpf_scrape_duration_seconds", "What reading took", [reading.seconds])


def _kernel(kernel: Kernel | None) -> Iterable[Metric]:
    snapshot = kernel.snapshot if kernel else None
    yield from _posture(snapshot)
    yield from _policy(snapshot)
    yield from _counters(snapshot)
    yield from _maps(kernel)
    yield from _hooks(snapshot)
    yield _hits(kernel.hits if kernel else ())
    yield from _drift(kernel)


def _posture(snapshot: Snapshot | None) -> Iterable[Metric]:
    posture = snapshot.posture if snapshot else None
    yield gauge(
        "aegisbpf_mode",
        "1: this mode is set",
        {(name,): name == posture.mode for name in MODES} if posture else {},
        ["mode"],
    )
    yield gauge(
        "aegisbpf_state",
        "1: the state that the host is in",
        {(name,): name == posture.state for name in STATES} if posture else {},
        ["state"],
    )
    yield gauge(
        "aegisbpf_enforce_deadline_seconds",
        "Until enforce counts as audit; negative when passed, 0 without a deadline",
        [posture.deadline or 0.0] if posture else [],
    )
    yield gauge(
        "aegisbpf_event_sample_rate",
        "Share of matches that send an event",
        [snapshot.sample_rate] if snapshot else [],
    )


def _policy(snapshot: Snapshot | None) -> Iterable[Metric]:
    live = snapshot.info if snapshot else None
    labels = {}
    if live:
        labels["digest"] = live.bundle.hex() if any(live.bundle) else "none"
        labels["signed"] = "true" if live.serial else "false"
    yield info("aegisbpf_policy", "The live policy", labels)
    yield gauge(
        "aegisbpf_policy_serial",
        "Serial of the live policy; 0 = unsigned",
        [live.serial] if live else [],
    )
    yield gauge(
        "aegisbpf_policy_applied_timestamp_seconds",
        "When the live policy was applied; 0 = never",
        [live.applied_ns / 1e9] if live else [],
    )


def _counters(snapshot: Snapshot | None) -> Iterable[Metric]:
    count = snapshot.counters if snapshot else None
    for name, (stat, text) in COUNTERS.items():
        yield counter(name, text, [count[stat]] if count else [])
    yield counter(
        "aegisbpf_net_blocks",
        "Refused, by system call",
        {(kind,): count[stat] for kind, stat in NET_BLOCKS.items()} if count else {},
        ["type"],
    )
    actions = actions_of(count) if count else {}
    yield counter(
        "aegisbpf_actions",
        "Matches by what followed",
        {(name,): number for name, number in actions.items()},
        ["action"],
    )


def actions_of(count: dict[Stat, int]) -> dict[str, int]:
    """Return the matches by what followed; together they are all blocks and audits."""
    signals = count[Stat.TERM] + count[Stat.KILL] + count[Stat.INT]
    return {
        "audit": count[Stat.AUDITS],
        "block": max(count[Stat.BLOCKS] - signals, 0),
        "term": count[Stat.TERM],
        "kill": count[Stat.KILL],
        "int": count[Stat.INT],
    }


def _maps(kernel: Kernel | None) -> Iterable[Metric]:
    uses = [*kernel.snapshot.maps, *kernel.sizes] if kernel else []
    named = {use.name: use for use in uses}
    yield gauge("aegisbpf_map_entries", "Entries of the map",
                 {(use.name,): use.entries for use in uses}, ["map"])  # fmt: skip
    yield gauge("aegisbpf_map_capacity", "Entries it can hold",
                 {(use.name,): use.capacity for use in uses}, ["map"])  # fmt: skip
    yield gauge("aegisbpf_map_utilization", "Share of it in use, 0 to 1",
                 {(use.name,): round(use.share, 6) for use in uses}, ["map"])  # fmt: skip
    for name, (map_, text) in ENTRIES.items():
        yield gauge(name, text, [named[map_].entries] if map_ in named else [])
    yield gauge(
        "aegisbpf_ringbuf_bytes",
        "Size of the event ring",
        [kernel.snapshot.ring_bytes] if kernel else [],
    )


def _hooks(snapshot: Snapshot | None) -> Iterable[Metric]:
    uses = {p.name.removeprefix("aegis_"): p for p in snapshot.programs} if snapshot else {}
    yield counter("aegisbpf_hook_runs", "Runs while kernel.bpf_stats_enabled is 1",
                   {(name,): use.runs for name, use in uses.items()}, ["hook"])  # fmt: skip
    yield counter("aegisbpf_hook_seconds", "Time while kernel.bpf_stats_enabled is 1",
                   {(name,): use.nanoseconds / 1e9 for name, use in uses.items()},
                   ["hook"])  # fmt: skip


def _hits(hits: Iterable[RuleHits]) -> Metric:
    samples: dict[tuple[str, ...], float] = {}
    for hit in hits:
        for action, number in (("block", hit.blocks), ("audit", hit.audits)):
            key = (label(hit.rule), action)
            samples[key] = samples.get(key, 0) + number  # cut to the same label: still one series
    text = f"Matches of the {TOP_RULES} rules that match most, and of all other rules as other"
    return counter("aegisbpf_rule_hits", text, samples, ["rule", "action"])


def _drift(kernel: Kernel | None) -> Iterable[Metric]:
    drift = kernel.drift if kernel else None
    yield gauge(
        "aegisbpf_live_maps_drifted",
        "1: the live maps are not what was committed",
        {("tampered",): drift.tampered, ("interrupted",): drift.interrupted} if drift else {},
        ["kind"],
    )
    yield gauge(
        "aegisbpf_live_maps_check_timestamp_seconds",
        "When they were compared last",
        [drift.checked] if drift else [],
    )
    yield gauge(
        "aegisbpf_live_maps_check_duration_seconds",
        "What comparing them took",
        [drift.cost] if drift else [],
    )


def _host(facts: HostFacts) -> Iterable[Metric]:
    yield from _agent(facts)
    yield from _guards(facts)
    record, last = facts.record, facts.last_apply
    yield gauge(
        "aegisbpf_policy_signer_info",
        "1: a key that signed the live policy, as recorded when it was applied",
        {(label(key),): 1 for key in record.signers} if record else {},
        ["keyid"],
    )
    yield gauge(
        "aegisbpf_policy_expiry_timestamp_seconds",
        "When the live policy's bundle expires; no sample for never",
        [] if facts.expires is None else [facts.expires],
    )
    yield gauge(
        "aegisbpf_last_apply_timestamp_seconds",
        "When a policy was applied or refused last",
        [last.time] if last else [],
    )
    yield gauge(
        "aegisbpf_last_apply_success",
        "1: the last attempt to apply a policy succeeded",
        [last.result == "ok"] if last else [],
    )
    yield info(
        "aegisbpf_last_apply",
        "The last attempt to apply a policy",
        {"action": label(last.action), "result": label(last.result)} if last else {},
    )


def _guards(facts: HostFacts) -> Iterable[Metric]:
    hold = facts.hold
    yield gauge(
        "aegisbpf_held_in_audit",
        "1: the host is held in audit for this reason until aegisbpf resume",
        {(reason,): hold is not None and hold.reason == reason for reason in HOLDS},
        ["reason"],
    )
    yield gauge(
        "aegisbpf_held_since_timestamp_seconds",
        "Since when it is held; no sample where it is not",
        [hold.since] if hold else [],
    )


def _agent(facts: HostFacts) -> Iterable[Metric]:
    agent = facts.agent
    yield info("aegisbpf_agent", "The agent", {"version": label(agent.version)} if agent else {})
    yield gauge(
        "aegisbpf_agent_heartbeat_age_seconds",
        "Since the agent's last sign of life; no sample where it never ran",
        [agent.age] if agent else [],
    )
    yield gauge(
        "aegisbpf_agent_heartbeat_timestamp_seconds",
        "When that was; for a textfile, which is read later than it is written",
        [agent.updated] if agent else [],
    )
    yield gauge(
        "aegisbpf_agent_ready", "1: the agent says that it works", [agent.ready] if agent else []
    )
    yield gauge(
        "aegisbpf_agent_start_time_seconds",
        "When the agent was started, Unix seconds",
        [agent.started] if agent else [],
    )
    told = agent.numbers if agent else {}
    for key, (name, text) in AGENT_GAUGES.items():
        yield gauge(name, text, [told[key]] if key in told else [])
    for key, (name, text) in AGENT_COUNTERS.items():
        yield counter(name, text, [told[key]] if key in told else [])
    sinks = list(agent.sinks.items())[:SINKS] if agent else []
    for key, name, text, make in SINK_METRICS:
        samples: Samples = {(label(sink),): told[key] for sink, told in sinks if key in told}
        yield (gauge if make == "gauge" else counter)(name, text, samples, ["sink"])


class Collector:
    """Reads when it is asked to collect.

    Args:
        read: Returns a new reading.
    """

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read

    def collect(self) -> list[Metric]:
        """Return all metrics."""
        return families(self._read())


def registry_of(read: Callable[[], Reading]) -> CollectorRegistry:
    """Return a registry that has nothing but our collector; nothing is read before it is asked."""
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(read))
    return registry


def exposition(registry: CollectorRegistry) -> str:
    """Return the text format (version 0.0.4), with HELP and TYPE."""
    from prometheus_client import generate_latest

    return generate_latest(registry).decode()


def samples_only(text: str) -> str:
    """Return the text format without HELP and TYPE, which it allows: one line a sample.

    ``metrics | grep NAME | awk '{print $2}'`` then is one number, and stays valid to scrape.
    """
    return "".join(f"{line}\n" for line in text.split("\n") if line and line[0] != "#")
