"""The snapshot as Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from aegis_tools import __version__
from aegis_tools.control.posture import MODES
from aegis_tools.control.stats import Snapshot
from aegis_tools.kernel.layout import Stat

if TYPE_CHECKING:
    from prometheus_client.core import Metric

TOP_RULES = 100

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


class RuleHits(NamedTuple):
    """How often a rule matched."""

    rule: str
    blocks: int
    audits: int


def top_hits(
    hits: Mapping[int, tuple[int, int, int]], names: Mapping[int, str], room: int = TOP_RULES
) -> list[RuleHits]:
    """Return the rules that matched most, at most ``room`` of them: labels must be bounded."""
    ranked = sorted(hits.items(), key=lambda item: (-item[1][0] - item[1][1], item[0]))[:room]
    return [
        RuleHits(names.get(uid, f"unknown:{uid:016x}"), blocks, audits)
        for uid, (blocks, audits, _) in ranked
    ]


def families(snapshot: Snapshot | None, hits: Iterable[RuleHits] = ()) -> list[Metric]:
    """Return the metric families; without a snapshot only that nothing is loaded."""
    from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

    build = InfoMetricFamily("aegisbpf_build", "The program", value={"version": __version__})
    loaded = GaugeMetricFamily(
        "aegisbpf_loaded", "1: programs and maps are in the kernel", value=float(bool(snapshot))
    )
    enforcing = GaugeMetricFamily(
        "aegisbpf_enforcing",
        "1: a match of an enforcing rule is refused now",
        value=float(bool(snapshot and snapshot.posture.enforcing)),
    )
    result: list[Metric] = [build, loaded, enforcing]
    if snapshot is not None:
        result += [
            *_posture(snapshot),
            *_policy(snapshot),
            *_counters(snapshot),
            *_maps(snapshot),
            *_hooks(snapshot),
            _hits(hits),
        ]
    return result


def _posture(snapshot: Snapshot) -> Iterable[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    posture = snapshot.posture
    mode = GaugeMetricFamily("aegisbpf_mode", "1: this mode is set", labels=["mode"])
    for name in MODES:
        mode.add_metric([name], float(name == posture.mode))
    state = GaugeMetricFamily(
        "aegisbpf_state", "1: the state that the host is in", labels=["state"]
    )
    state.add_metric([posture.state], 1)
    yield mode
    yield state
    yield GaugeMetricFamily(
        "aegisbpf_enforce_deadline_seconds",
        "Until enforce counts as audit; negative when passed, 0 without a deadline",
        value=posture.deadline or 0.0,
    )
    yield GaugeMetricFamily(
        "aegisbpf_event_sample_rate", "Share of matches that send an event", snapshot.sample_rate
    )


def _policy(snapshot: Snapshot) -> Iterable[Metric]:
    from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

    info = snapshot.info
    labels = {"digest": info.bundle.hex() if any(info.bundle) else "none"}
    labels["signed"] = "true" if info.serial else "false"
    yield InfoMetricFamily("aegisbpf_policy", "The live policy", value=labels)
    yield GaugeMetricFamily(
        "aegisbpf_policy_serial", "Serial of the live policy; 0 = unsigned", info.serial
    )
    yield GaugeMetricFamily(
        "aegisbpf_policy_applied_timestamp_seconds",
        "When the live policy was applied; 0 = never",
        info.applied_ns / 1e9,
    )


def _counters(snapshot: Snapshot) -> Iterable[Metric]:
    from prometheus_client.core import CounterMetricFamily

    count = snapshot.counters
    for name, (stat, text) in COUNTERS.items():
        yield CounterMetricFamily(name, text, value=count[stat])
    net = CounterMetricFamily("aegisbpf_net_blocks", "Refused, by system call", labels=["type"])
    for kind, stat in NET_BLOCKS.items():
        net.add_metric([kind], count[stat])
    yield net
    signals = count[Stat.TERM] + count[Stat.KILL] + count[Stat.INT]
    actions = {
        "audit": count[Stat.AUDITS],
        "block": count[Stat.BLOCKS] - signals,
        "term": count[Stat.TERM],
        "kill": count[Stat.KILL],
        "int": count[Stat.INT],
    }
    action = CounterMetricFamily("aegisbpf_actions", "Matches by what followed", labels=["action"])
    for name, number in actions.items():
        action.add_metric([name], max(number, 0))
    yield action


def _maps(snapshot: Snapshot) -> Iterable[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    entries = GaugeMetricFamily("aegisbpf_map_entries", "Entries of the map", labels=["map"])
    capacity = GaugeMetricFamily("aegisbpf_map_capacity", "Entries it can hold", labels=["map"])
    share = GaugeMetricFamily("aegisbpf_map_utilization", "Share of it in use", labels=["map"])
    for use in snapshot.maps:
        entries.add_metric([use.name], use.entries)
        capacity.add_metric([use.name], use.capacity)
        share.add_metric([use.name], round(use.share, 6))
    yield from (entries, capacity, share)
    by_name = {use.name: use.entries for use in snapshot.maps}
    for name, (map_, text) in ENTRIES.items():
        yield GaugeMetricFamily(name, text, by_name[map_])
    yield GaugeMetricFamily("aegisbpf_ringbuf_bytes", "Size of the event ring", snapshot.ring_bytes)


def _hooks(snapshot: Snapshot) -> Iterable[Metric]:
    from prometheus_client.core import CounterMetricFamily

    runs = CounterMetricFamily("aegisbpf_hook_runs", "Runs while measured", labels=["hook"])
    spent = CounterMetricFamily("aegisbpf_hook_seconds", "Time while measured", labels=["hook"])
    for program in snapshot.programs:
        name = program.name.removeprefix("aegis_")
        runs.add_metric([name], program.runs)
        spent.add_metric([name], program.nanoseconds / 1e9)
    yield from (runs, spent)


def _hits(hits: Iterable[RuleHits]) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(
        "aegisbpf_rule_hits",
        f"Matches of the {TOP_RULES} rules that match most",
        labels=["rule", "action"],
    )
    for hit in hits:
        family.add_metric([hit.rule, "block"], hit.blocks)
        family.add_metric([hit.rule, "audit"], hit.audits)
    return family


class _Fixed:
    """A collector of what was collected already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def exposition(metrics: list[Metric]) -> str:
    """Return the text format (version 0.0.4), with HELP and TYPE."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed(metrics))
    return generate_latest(registry).decode()


def samples_only(text: str) -> str:
    """Return the text format without HELP and TYPE, which it allows: one line a sample.

    ``metrics | grep NAME | awk '{print $2}'`` then is one number, and stays valid to scrape.
    """
    return "".join(line for line in text.splitlines(True) if not line.startswith("#"))
