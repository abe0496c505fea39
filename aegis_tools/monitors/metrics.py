"""The monitors as Prometheus metrics, beside those of the policy (``agent.metrics``).

``families`` is pure. Every family is always there, but without samples where there is nothing to
tell. Where nothing is loaded, asked for or running, a scrape looks for one folder and two files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from aegis_tools.agent.samples import Samples, counter, gauge, info
from aegis_tools.errors import AegisError
from aegis_tools.monitors import metrics_agent
from aegis_tools.monitors.metrics_agent import Latency, Limit, Told
from aegis_tools.monitors.metrics_asked import Asked
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.paths import Paths

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from aegis_tools.monitors.metrics_kernel import Inside, Loaded, Program

T = TypeVar("T")
PARTS = ("kernel", "agent", "settings")
COUNTERS = {
    "seen": "Events of a monitor, whatever became of them",
    "sent": "Events handed to its ring",
    "dropped": "Events lost because its ring was full",
    "busy": "Events lost because what a program needs was in use",
    "filtered": "Events that its filter left out",
    "sampled_out": "Events that its sample rate left out",
    "untracked": "What was seen in part, because a map was full",
}
"""Elements of the ``stats`` map."""


class Reading(NamedTuple):
    """What one scrape found.

    Attributes:
        loaded: By monitor.
        asked: Monitors that the host is to have.
        told: What the monitors' agent tells; None where none is to run, and none has died.
        unreadable: Of PARTS.
        seconds: What reading took.
    """

    loaded: dict[str, Loaded]
    asked: frozenset[str]
    told: Told | None
    unreadable: frozenset[str]
    seconds: float


def families(reading: Reading) -> list[Metric]:
    """Return all metrics of a reading."""
    return [*_state(reading), *_inside(reading.loaded), *_programs(reading.loaded),
            *_agent(reading.told), *_events(reading.told), *_store(reading.told),
            *_notifications(reading.told), *_limits(reading.told)]  # fmt: skip


def _state(reading: Reading) -> Iterable[Metric]:
    loaded = reading.loaded
    attached = {name for name, one in loaded.items() if one.attached}
    for name, text, found in (
        ("asked", "1: the settings of the monitors' agent ask for it", reading.asked),
        ("loaded", "1: its programs and maps are in the kernel", loaded.keys()),
        ("attached", "1: all its programs are attached", attached),
    ):
        samples: Samples = {(one,): one in found for one in MONITORS}
        yield gauge(f"aegisbpf_monitor_{name}", text, samples, ["monitor"])
    yield gauge(
        "aegisbpf_monitor_variant_info",
        "1: which of several ways to look the kernel took",
        {(name, one.variant): 1 for name, one in loaded.items()},
        ["monitor", "variant"],
    )
    yield gauge(
        "aegisbpf_monitor_readable",
        "1: this part of what is told of monitors could be read",
        {(part,): part not in reading.unreadable for part in PARTS},
        ["part"],
    )
    yield gauge(
        "aegisbpf_monitor_scrape_duration_seconds",
        "What reading of monitors took",
        [reading.seconds],
    )


def _inside(loaded: dict[str, Loaded]) -> Iterable[Metric]:
    told = {name: one.inside for name, one in loaded.items() if one.inside is not None}
    for name, text in COUNTERS.items():
        yield counter(
            f"aegisbpf_monitor_{name}",
            text,
            {(monitor,): one.counters[name] for monitor, one in told.items()},
            ["monitor"],
        )
    sizes: tuple[tuple[str, str, Callable[[Inside], float]], ...] = (
        ("ring_bytes", "Size of its ring", lambda one: one.ring_bytes),
        ("ring_waiting_bytes", "What of its ring nobody has read", lambda one: one.ring_waiting),
        ("memory_bytes", "Kernel memory of its maps and programs", lambda one: one.memory),
    )
    for name, text, of in sizes:
        samples: Samples = {(monitor,): of(one) for monitor, one in told.items()}
        yield gauge(f"aegisbpf_monitor_{name}", text, samples, ["monitor"])
    for index, name, text in (
        (0, "entries", "Entries of the map: block requests under way"),
        (1, "capacity", "Entries it can hold"),
    ):
        yield gauge(
            f"aegisbpf_monitor_map_{name}",
            text,
            {
                (monitor, map_): use[index]
                for monitor, one in told.items()
                for map_, use in one.entries.items()
            },
            ["monitor", "map"],
        )


def _programs(loaded: dict[str, Loaded]) -> Iterable[Metric]:
    told = [
        (name, program)
        for name, one in loaded.items()
        for program in (one.inside.programs if one.inside else ())
    ]
    values: tuple[tuple[str, str, Callable[[Program], float]], ...] = (
        ("runs", "Runs while kernel.bpf_stats_enabled is 1", lambda one: one.runs),
        ("seconds", "Time while kernel.bpf_stats_enabled is 1", lambda one: one.seconds),
        ("missed", "Calls for which the kernel did not run it", lambda one: one.missed),
    )
    for name, text, of in values:
        samples: Samples = {(monitor, one.name): of(one) for monitor, one in told}
        yield counter(f"aegisbpf_monitor_program_{name}", text, samples, ["monitor", "program"])


def _agent(told: Told | None) -> Iterable[Metric]:
    up = told is not None and told.up
    yield gauge(
        "aegisbpf_monitor_agent_up",
        "1: the monitors' agent lives; no sample where none is to run, and none has died",
        [] if told is None else [up],
    )
    yield info(
        "aegisbpf_monitor_agent",
        "The monitors' agent",
        {"version": told.version} if told is not None and up else {},
    )
    yield gauge(
        "aegisbpf_monitor_agent_heartbeat_age_seconds",
        "Since the last sign of life of the monitors' agent",
        [] if told is None or told.age is None else [told.age],
    )
    yield gauge(
        "aegisbpf_monitor_agent_start_time_seconds",
        "When the monitors' agent was started, Unix seconds",
        [told.started] if told is not None and up else [],
    )


def _events(told: Told | None) -> Iterable[Metric]:
    by_type = ["monitor", "type"]
    yield counter(
        "aegisbpf_monitor_events",
        "Events that the monitors' agent read",
        dict(told.events) if told else {},
        by_type,
    )
    yield counter(
        "aegisbpf_monitor_event_bytes",
        "Bytes that were read, written, sent, received or allocated, by those events",
        dict(told.bytes) if told else {},
        by_type,
    )
    yield counter(
        "aegisbpf_monitor_damaged",
        "Records that the monitors' agent could not read",
        dict(told.damaged) if told else {},
        ["monitor"],
    )
    yield _histogram(
        "aegisbpf_monitor_disk_latency_seconds",
        "How long block requests took, from issue to complete",
        told.latency if told else {},
    )


def _histogram(name: str, text: str, found: dict[str, Latency]) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(name, text, labels=["operation"])
    for operation, one in found.items():
        buckets = [(_bound(bound), number) for bound, number in one.buckets]
        family.add_metric([operation], buckets, one.total)
    return family


def _bound(seconds: float) -> str:
    return "+Inf" if seconds == math.inf else repr(seconds)


def _store(told: Told | None) -> Iterable[Metric]:
    store = told.store if told else None
    yield gauge(
        "aegisbpf_monitor_store_failing",
        "1: storing fails now; no sample where nothing is stored",
        [store.failing] if store else [],
    )
    yield gauge(
        "aegisbpf_monitor_store_waiting_events",
        "Events that wait to be stored",
        [store.waiting] if store else [],
    )
    for name, text, samples in (
        ("stored", "Events that were stored", store.stored if store else {}),
        ("dropped", "Events that could not be stored", store.dropped if store else {}),
        ("invalid", "Events that the store does not take", store.invalid if store else {}),
    ):
        yield counter(f"aegisbpf_monitor_store_{name}", text, dict(samples), ["monitor"])


def _notifications(told: Told | None) -> Iterable[Metric]:
    yield counter(
        "aegisbpf_monitor_notifications",
        "Notifications of limits by what became of them",
        dict(told.notifications) if told else {},
        ["destination", "result"],
    )
    yield counter(
        "aegisbpf_monitor_notifications_suppressed",
        "Notifications held back, as there were too many of one limit",
        [told.suppressed] if told and told.up else [],
    )


def _limits(told: Told | None) -> Iterable[Metric]:
    limits = told.limits if told else ()
    yield gauge(
        "aegisbpf_limits",
        "Limits that are watched, also those without samples of their own",
        [told.watched] if told and told.up else [],
    )
    values: tuple[tuple[str, str, Callable[[Limit], float]], ...] = (
        ("threshold", "What the profile may use", lambda one: one.threshold),
        ("value", "What it uses", lambda one: one.value),
    )
    for name, text, of in values:
        samples: Samples = {(one.profile, one.kind, one.unit): of(one) for one in limits}
        yield gauge(f"aegisbpf_limit_{name}", text, samples, ["profile", "limit", "unit"])
    yield gauge(
        "aegisbpf_limit_exceeded",
        "1: the profile uses more",
        {(one.profile, one.kind): one.over for one in limits},
        ["profile", "limit"],
    )
    yield counter(
        "aegisbpf_limit_actions",
        "How often something was done about it",
        {(one.profile, one.kind): one.actions for one in limits},
        ["profile", "limit"],
    )


class Collector:
    """Reads when it is asked to collect.

    Args:
        paths: Where everything is.
        boot_ns: The boot clock.
        lives: Whether there is a process of that number.
    """

    def __init__(
        self,
        paths: Paths,
        boot_ns: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        lives: Callable[[int], bool] = metrics_agent.alive,
    ) -> None:
        self._paths = paths
        self._boot_ns = boot_ns
        self._lives = lives
        self._asked = Asked(paths)

    def collect(self) -> list[Metric]:
        """Return all metrics."""
        return families(self.read())

    def read(self) -> Reading:
        """Return what there is to tell now. What cannot be read is left out, and said to be."""
        start = time.monotonic()
        failed: set[str] = set()
        asked = _tried(self._asked.read, failed, "settings") or frozenset()
        told = _tried(self._told, failed, "agent")
        loaded = _tried(self._loaded, failed, "kernel") or {}
        if any(one.inside is None for one in loaded.values()):
            failed.add("kernel")
        if told is None and (asked or failed & {"agent", "settings"}):
            told = Told(up=False)
        return Reading(loaded, asked, told, frozenset(failed), time.monotonic() - start)

    def _told(self) -> Told | None:
        return metrics_agent.read(self._paths, self._boot_ns(), self._lives)

    def _loaded(self) -> dict[str, Loaded]:
        if not self._paths.monitor_pins.is_dir():
            return {}
        from aegis_tools.monitors import metrics_kernel

        return metrics_kernel.read(self._paths.monitor_pins)


def _tried(read: Callable[[], T], failed: set[str], part: str) -> T | None:
    """Return what ``read`` does; where it cannot be read, None, and ``part`` has failed."""
    try:
        return read()
    except (AegisError, OSError, ValueError, RecursionError):
        failed.add(part)
        return None
