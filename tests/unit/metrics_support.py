"""A reading in which every metric has a sample, and what is exposed of one."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from aegis_tools.agent.hostfacts import Agent, Hold, HostFacts
from aegis_tools.agent.metrics import exposition, registry_of
from aegis_tools.agent.scrape import Drift, Kernel, Reading, RuleHits
from aegis_tools.control.history import Entry
from aegis_tools.control.posture import Posture, judge
from aegis_tools.control.stats import MapUse, ProgramUse, Snapshot
from aegis_tools.control.store import Record
from aegis_tools.kernel.layout import POLICY_MAPS, SlotInfo, Stat

NUMBERS = (
    "events", "written", "folded", "undecodable", "lag_seconds", "deny_rate", "starts_in_window",
    "held",
)  # fmt: skip
SAME = Drift(False, False, 1_700_000_000.0, 0.2)
FACTS = HostFacts(
    agent=Agent(
        0.5,
        1_700_000_100.0,
        True,
        1_700_000_000.0,
        "0.1.0",
        dict.fromkeys(NUMBERS, 1.0),
        {"stdout": {"failing": 0.0, "lost_events": 1.0, "lost_lines": 1.0}},
    ),
    hold=Hold("deny-rate", 1_700_000_050.0),
    pending=False,
    record=Record("ab" * 32, "p.conf", True, 1_700_000_000, 7, "default", ("k1", "k2")),
    expires=1_800_000_000,
    last_apply=Entry(1_700_000_000, "policy apply"),
)


def reading(
    *,
    hits: tuple[RuleHits, ...] = (RuleHits("path:/x", 3, 4), RuleHits("other", 0, 0)),
    drift: Drift | None = SAME,
    posture: Posture | None = None,
    facts: HostFacts = FACTS,
) -> Reading:
    """Return a reading of a loaded host that enforces."""
    counters = {stat: int(stat) * 10 for stat in Stat}
    counters[Stat.BLOCKS] = 100
    snapshot = Snapshot(
        posture or judge(1, None, disabled=False, attached=True, fallback=False),
        SlotInfo(serial=7, bundle=bytes(range(32)), applied_ns=1_700_000_000_000_000_000),
        counters,
        tuple(MapUse(spec.name, i, spec.capacity) for i, spec in enumerate(POLICY_MAPS)),
        (ProgramUse("aegis_file_open", 5, 1000),),
        True,
        1.0,
        262144,
    )
    sizes = (MapUse("rule_hits", 2, 65536), MapUse("survival_allowlist", 70, 4096))
    return Reading(True, Kernel(snapshot, hits, sizes, drift), facts, 0.003)


def exposed(found: Reading) -> str:
    """Return the text that is exposed of a reading."""
    return exposition(registry_of(lambda: found))


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the value of every sample by name and labels; none may be there twice."""
    found = [
        ((sample.name, tuple(sorted(sample.labels.items()))), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    assert len(dict(found)) == len(found)
    return dict(found)
