"""Metrics: names, the seed's pipeline, bounded labels, and valid text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from aegis_tools.agent.metrics import exposition, families, samples_only, top_hits
from aegis_tools.control.posture import judge
from aegis_tools.control.stats import MapUse, ProgramUse, Snapshot
from aegis_tools.kernel.layout import POLICY_MAPS, SlotInfo, Stat


def snapshot() -> Snapshot:
    counters = {stat: int(stat) * 10 for stat in Stat}
    counters[Stat.BLOCKS] = 100
    maps = tuple(MapUse(spec.name, i, spec.capacity) for i, spec in enumerate(POLICY_MAPS))
    info = SlotInfo(serial=7, bundle=bytes(range(32)), applied_ns=1_700_000_000_000_000_000)
    return Snapshot(
        judge(1, None, disabled=False, attached=True, fallback=False),
        info,
        counters,
        maps,
        (ProgramUse("aegis_file_open", 5, 1000),),
        True,
        1.0,
        262144,
    )


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_name_that_the_runbooks_use_is_there() -> None:
    names = {name for name, _ in values(exposition(families(snapshot())))}
    assert names >= {
        "aegisbpf_blocks_total", "aegisbpf_ringbuf_drops_total", "aegisbpf_map_utilization",
        "aegisbpf_map_capacity", "aegisbpf_map_entries", "aegisbpf_deny_path_entries",
        "aegisbpf_deny_inode_entries", "aegisbpf_allow_cgroup_entries",
        "aegisbpf_net_blocks_total", "aegisbpf_actions_total", "aegisbpf_audits_total",
        "aegisbpf_mode", "aegisbpf_loaded", "aegisbpf_enforcing",
        "aegisbpf_enforce_deadline_seconds", "aegisbpf_policy_serial", "aegisbpf_policy_info",
        "aegisbpf_build_info",
    }  # fmt: skip


def test_actions_add_up_to_blocks_and_audits() -> None:
    found = values(exposition(families(snapshot())))
    actions = {labels: v for (name, labels), v in found.items() if name == "aegisbpf_actions_total"}
    assert sum(actions.values()) == 100 + 10
    assert actions[(("action", "block"),)] == 100 - 20 - 30 - 40


@pytest.mark.parametrize(
    "name",
    ["aegisbpf_deny_path_entries", "aegisbpf_deny_inode_entries", "aegisbpf_allow_cgroup_entries"],
)
def test_grep_and_awk_of_the_soak_script_give_one_number(name: str) -> None:
    text = samples_only(exposition(families(snapshot())))
    (line,) = [line for line in text.splitlines() if name in line]
    assert float(line.split()[1]) >= 0


def test_without_anything_loaded_that_is_what_it_says() -> None:
    found = values(exposition(families(None)))
    assert found["aegisbpf_loaded", ()] == 0
    assert found["aegisbpf_enforcing", ()] == 0
    assert not [name for name, _ in found if "total" in name]


def test_only_the_rules_that_match_most_have_a_sample() -> None:
    hits = {uid: (uid, 0, 0) for uid in range(1, 1001)}
    top = top_hits(hits, {1000: "path:/x"})
    assert len(top) == 100
    assert top[0].rule == "path:/x"
    assert top[-1].blocks == 901


@given(st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp")), max_size=50))
def test_any_rule_id_comes_back_from_the_text(rule: str) -> None:
    hits = top_hits({1: (3, 4, 0)}, {1: rule or "x"})
    text = exposition(families(snapshot(), hits))
    found = values(text)
    labels = (("action", "audit"), ("rule", hits[0].rule))
    assert found["aegisbpf_rule_hits_total", labels] == 4
    assert values(samples_only(text)) == found


def test_a_map_that_is_nearly_full_is_not_called_full() -> None:
    assert MapUse("m", 65535, 65536).line() == "m: 65535/65536 entries (99% full)"
    assert MapUse("m", 65536, 65536).line() == "m: 65536/65536 entries (100% full)"
    assert MapUse("deny_path_map", 12000, 16384).line().endswith("(73% full)")
