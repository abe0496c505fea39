"""Metrics: names, the seed's pipeline, bounded labels, and valid text."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metrics_support import FACTS, exposed, reading, values
from monitor_metrics_support import exposed as monitors_exposed
from prometheus_client.parser import text_string_to_metric_families

from aegis_tools.agent.hostfacts import Agent, Hold, HostFacts
from aegis_tools.agent.metrics import families, samples_only
from aegis_tools.agent.samples import LABEL_LENGTH, label
from aegis_tools.agent.scrape import Drift, Other, Reading, RuleHits, top_hits
from aegis_tools.control.posture import judge
from aegis_tools.control.stats import MapUse

REPOSITORY = Path(__file__).resolve().parents[2]
NOTHING = Reading(False, None, HostFacts(), 0.001)
SEEDS = {
    "aegisbpf_blocks_total", "aegisbpf_ringbuf_drops_total", "aegisbpf_map_utilization",
    "aegisbpf_deny_path_entries", "aegisbpf_deny_inode_entries", "aegisbpf_allow_cgroup_entries",
}  # fmt: skip


def test_every_name_that_the_runbooks_use_is_there() -> None:
    assert {name for name, _ in values(exposed(reading()))} >= SEEDS


def test_the_table_of_the_documents_is_that_of_the_collector() -> None:
    text = (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| (.+) \|$", text, re.MULTILINE)
    assert rows == documented()


def documented() -> list[tuple[str, str, str, str]]:
    """Return name, type, labels and help of every metric, as the document has them."""
    found = []
    for family in text_string_to_metric_families(exposed(reading()) + monitors_exposed()):
        suffix = "_total" if family.type == "counter" else ""
        names = sorted({name for sample in family.samples for name in sample.labels})
        shown = ", ".join(f"`{name}`" for name in names)
        found.append((family.name + suffix, family.type, shown, family.documentation))
    return found


def test_promtool_finds_no_fault() -> None:
    for text in (exposed(reading()), exposed(NOTHING)):
        done = subprocess.run(
            ["promtool", "check", "metrics"],
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert (done.stdout, done.returncode) == (b"", 0)


def test_nothing_loaded_has_the_same_families_and_says_so() -> None:
    found = values(exposed(NOTHING))
    assert found["aegisbpf_up", ()] == found["aegisbpf_loaded", ()] == 0
    assert found["aegisbpf_enforcing", ()] == 0
    assert not [name for name, _ in found if name.endswith("_total")]
    assert [f.name for f in families(NOTHING)] == [f.name for f in families(reading())]


def test_pins_that_cannot_be_read_are_loaded_and_not_up() -> None:
    found = values(exposed(NOTHING._replace(loaded=True)))
    assert (found["aegisbpf_loaded", ()], found["aegisbpf_up", ()]) == (1, 0)


def test_actions_add_up_to_blocks_and_audits() -> None:
    found = values(exposed(reading()))
    actions = {labels: v for (name, labels), v in found.items() if name == "aegisbpf_actions_total"}
    assert sum(actions.values()) == 100 + 10
    assert actions[(("action", "block"),)] == 100 - 20 - 30 - 40


@pytest.mark.parametrize(
    "name",
    ["aegisbpf_deny_path_entries", "aegisbpf_deny_inode_entries", "aegisbpf_allow_cgroup_entries"],
)
def test_grep_and_awk_of_the_soak_script_give_one_number(name: str) -> None:
    (line,) = [line for line in samples_only(exposed(reading())).splitlines() if name in line]
    assert float(line.split()[1]) >= 0


@pytest.mark.parametrize(
    ("facts", "name", "labels", "value"),
    [
        ({"pending": True}, "aegisbpf_change_unconfirmed", (), 1),
        ({"pending": False}, "aegisbpf_change_unconfirmed", (), 0),
        (
            {"hold": Hold("crash-loop", 5.0)},
            "aegisbpf_held_in_audit",
            (("reason", "crash-loop"),),
            1,
        ),
        (
            {"hold": Hold("crash-loop", 5.0)},
            "aegisbpf_held_in_audit",
            (("reason", "deny-rate"),),
            0,
        ),
        (
            {"unreadable": frozenset({"history"})},
            "aegisbpf_readable",
            (("part", "history"),),
            0,
        ),
        ({"expires": 1234}, "aegisbpf_policy_expiry_timestamp_seconds", (), 1234),
    ],
)
def test_a_fact_of_a_file_has_its_sample(
    facts: dict[str, object], name: str, labels: tuple[tuple[str, str], ...], value: float
) -> None:
    found = values(exposed(reading(facts=FACTS._replace(**facts))))
    assert found[name, labels] == value


def test_a_deadline_in_the_kernel_is_an_unconfirmed_change_whatever_the_files_say() -> None:
    posture = judge(1, 42.0, disabled=False, attached=True, fallback=False)
    found = values(exposed(reading(posture=posture, facts=FACTS._replace(pending=False))))
    assert found["aegisbpf_change_unconfirmed", ()] == 1
    assert found["aegisbpf_enforce_deadline_seconds", ()] == 42


def test_no_expiry_and_no_agent_have_no_sample() -> None:
    found = {name for name, _ in values(exposed(reading(facts=HostFacts())))}
    assert "aegisbpf_policy_expiry_timestamp_seconds" not in found
    assert not [name for name in found if name.startswith("aegisbpf_agent")]


def test_every_sink_has_its_own_sample_and_their_number_is_bounded() -> None:
    sinks = {f"sink{i}": {"lost_events": float(i)} for i in range(100)}
    agent = Agent(1.0, 2.0, True, 3.0, "1", {}, sinks)
    found = values(exposed(reading(facts=FACTS._replace(agent=agent))))
    lost = [v for (name, _), v in found.items() if name == "aegisbpf_agent_sink_lost_events_total"]
    assert lost == list(range(16))


def test_drift_is_told_by_kind() -> None:
    found = values(exposed(reading(drift=Drift(True, False, 99.0, 0.1))))
    assert found["aegisbpf_live_maps_drifted", (("kind", "tampered"),)] == 1
    assert found["aegisbpf_live_maps_drifted", (("kind", "interrupted"),)] == 0
    assert found["aegisbpf_live_maps_check_timestamp_seconds", ()] == 99


def test_only_the_rules_that_match_most_have_a_sample_of_their_own() -> None:
    hits = {uid: (uid, 0, 0) for uid in range(1, 1001)}
    top = top_hits(hits, {1000: "path:/x"})
    assert len(top) == 100
    assert top[0].rule == "path:/x"
    assert top[-1].blocks == 901
    *_, other = Other().complete(top, sum(range(1001)), 7)
    assert other == RuleHits("other", sum(range(901)), 7)


def test_a_rule_called_other_is_counted_there_once() -> None:
    top = top_hits({1: (5, 0, 0), 2: (3, 0, 0)}, {1: "other", 2: "r"})
    hits = Other().complete(top, 8, 0)
    assert hits == (RuleHits("r", 3, 0), RuleHits("other", 5, 0))


def test_what_is_left_over_never_shrinks_when_a_rule_comes_among_the_first() -> None:
    other = Other()
    assert other.complete([RuleHits("a", 10, 0)], 19, 0)[-1].blocks == 9
    assert other.complete([RuleHits("b", 15, 0)], 27, 0)[-1].blocks == 12
    assert other.complete([RuleHits("b", 20, 0)], 28, 0)[-1].blocks == 12
    assert other.complete([RuleHits("b", 2, 0)], 3, 0)[-1].blocks == 1  # the kernel began anew


@given(st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp")), max_size=50))
def test_any_rule_id_comes_back_from_the_text(rule: str) -> None:
    hits = (RuleHits(rule or "x", 3, 4),)
    text = exposed(reading(hits=hits))
    found = values(text)
    labels = (("action", "audit"), ("rule", rule or "x"))
    assert found["aegisbpf_rule_hits_total", labels] == 4
    assert values(samples_only(text)) == found


HOSTILE = [
    'r"} 1\naegisbpf_blocks_total 999', "a\nb", "a\\nb", 'quote"', "nul\0", "cr\rx", "\u2028# x",
    "half\ud800", "caf\udce9", "\x1b[2J", "{}", "\\", "x" * 1000, "# HELP x",
]  # fmt: skip


@pytest.mark.parametrize("rule", HOSTILE)
def test_a_hostile_rule_id_stays_one_label_of_one_line(rule: str) -> None:
    text = exposed(reading(hits=(RuleHits(rule, 3, 4),)))
    expected = values(exposed(reading(hits=(RuleHits("plain", 3, 4),))))
    found = values(text)
    assert len(found) == len(expected)
    assert found["aegisbpf_blocks_total", ()] == 100
    assert found["aegisbpf_rule_hits_total", (("action", "block"), ("rule", label(rule)))] == 3
    assert len(label(rule)) <= LABEL_LENGTH * 6
    assert values(samples_only(text)) == found
    checked = subprocess.run(["promtool", "check", "metrics"], input=text.encode(), check=False)
    assert checked.returncode == 0


def test_ids_that_are_cut_to_the_same_label_are_one_series() -> None:
    long = "x" * LABEL_LENGTH
    hits = (RuleHits(f"{long}1", 3, 0), RuleHits(f"{long}2", 4, 0))
    found = values(exposed(reading(hits=hits)))
    assert found["aegisbpf_rule_hits_total", (("action", "block"), ("rule", long))] == 7


def test_a_map_that_is_nearly_full_is_not_called_full() -> None:
    assert MapUse("m", 65535, 65536).line() == "m: 65535/65536 entries (99% full)"
    assert MapUse("m", 65536, 65536).line() == "m: 65536/65536 entries (100% full)"
    assert MapUse("deny_path_map", 12000, 16384).line().endswith("(73% full)")
