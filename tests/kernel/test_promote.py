"""Staged promotion: one rule's mode, live, with the evidence; and what later applies make of it."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from apply_support import Host
from hypothesis import given
from hypothesis import strategies as st
from kernel_support import kill_after, start_python

from aegis_tools.cli.main import run
from aegis_tools.control.live import Live
from aegis_tools.control.promote import Evidence, judge
from aegis_tools.kernel.pins import Pins
from aegis_tools.policy.model import Mode

KILLED = """
import sys
from aegis_tools.cli.main import run
print("working", flush=True)
run(["--root", sys.argv[1], "--json", *sys.argv[2:]])
"""


@pytest.fixture
def policy(host: Host, tmp_path: Path) -> Path:
    """Apply two rules that audit, for two names of one file, and one that enforces."""
    (tmp_path / "a").write_text("secret")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    found = tmp_path / "policy.yaml"
    found.write_text(
        "version: 1\nrules:\n"
        f"  - {{id: r1, path: {tmp_path / 'a'}, mode: audit, signal: term}}\n"
        f"  - {{id: r2, path: {tmp_path / 'b'}, mode: audit}}\n"
        "  - {id: r3, ip: 203.0.113.9}\n"
    )
    host("policy", "apply", found)
    return found


def modes(host: Host) -> dict[str, str]:
    return {row["rule"]: row["mode"] for row in host("rule", "list")["rules"]}


def standing(host: Host) -> dict[str, dict[bytes, bytes]]:
    """Return every map but the record of what was made by hand."""
    with Live(Pins(host.paths.pins)) as live:
        maps = live.all_entries()
    del maps["manual_rules"]
    return maps


@pytest.mark.usefixtures("policy")
def test_only_the_rules_mode_changes_and_back_again(host: Host) -> None:
    before = standing(host)
    assert host("rule", "promote", "r1")["promoted"] == ["r1"]
    after = standing(host)
    assert modes(host) == {"r1": "enforce", "r2": "audit", "r3": "enforce"}
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"rules"}
    assert sum(a != b for a, b in zip(after["rules"].values(), before["rules"].values(),
                                      strict=True)) == 1  # fmt: skip
    host("rule", "demote", "r1")
    assert standing(host) == before
    assert host("policy", "verify-live", "--strict")["drifted"] is False, "no trace of it is left"


def test_promoted_and_demoted_is_not_made_by_hand(
    host: Host, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c").write_text("x")
    host("block", "add", tmp_path / "c")
    host("rule", "promote", "r1", "r2")
    host("rule", "demote", "r3")
    verdict = host("policy", "verify-live")
    assert (verdict["promoted"], verdict["demoted"]) == (["r1", "r2"], ["r3"])
    assert verdict["added"] == [f"manual:path:{tmp_path / 'c'}"]

    def text(*words: str) -> str:
        run(["--root", str(host.paths.root), *words])
        return capsys.readouterr().out

    assert ", 1 rules made by hand, 2 rules promoted, 1 rules demoted" in text("status")
    for words in (("verify-live",), ("plan", str(policy)), ("show",)):
        told = text("policy", *words)
        assert "r3  (demoted by hand" in told
        assert "r1  (promoted by hand" in told
        assert told.count("made by hand") == 1


@pytest.mark.usefixtures("policy")
def test_the_rule_that_enforces_takes_the_place_and_gives_it_back(host: Host) -> None:
    before = standing(host)["deny_inode_map"]
    host("rule", "promote", "r2")
    taken = standing(host)["deny_inode_map"]
    assert taken != before, "both are for one inode, and r1 held it"
    host("rule", "promote", "r1")
    host("rule", "demote", "r2")
    assert standing(host)["deny_inode_map"] == before
    assert not host("policy", "verify-live")["tampered"]


def test_it_is_drift_that_is_shown_and_an_apply_keeps_it(host: Host, policy: Path) -> None:
    host("rule", "promote", "r1")
    verdict = host("policy", "verify-live")
    assert (verdict["modes"], verdict["tampered"]) == (["mode:r1=enforce"], False)
    host("policy", "verify-live", "--strict", code=9)
    assert host("policy", "show")["manual"] == ["mode:r1=enforce"]
    assert "mode: audit" not in exported(host).split("r2")[0]
    plan = host("policy", "apply", policy)["plan"]
    assert plan["kept"] == ["mode:r1=enforce"]
    assert modes(host)["r1"] == "enforce"
    plan = host("policy", "apply", policy, "--reset")["plan"]
    assert plan["changes"] == [{"sign": "~", "rule": "r1", "what": "enforce → audit"}]
    assert modes(host)["r1"] == "audit"


def exported(host: Host) -> str:
    return str(host("policy", "export", "-", "--to", "yaml")["policy"])


def test_what_the_policy_says_by_itself_needs_no_record_any_more(host: Host, policy: Path) -> None:
    host("rule", "promote", "r1", "r2")
    policy.write_text(policy.read_text().replace("mode: audit, signal", "signal"))
    assert host("policy", "apply", policy)["plan"]["kept"] == ["mode:r2=enforce"]
    text = policy.read_text()
    policy.write_text(text[: text.index("  - {id: r2")])
    assert host("policy", "apply", policy)["plan"]["kept"] == [], "a rule that is gone has no mode"


@pytest.mark.usefixtures("policy")
def test_a_removed_rule_leaves_no_record(host: Host, tmp_path: Path) -> None:
    host("rule", "promote", "r1")
    host("block", "del", tmp_path / "a")
    assert host("policy", "show")["manual"] == []


def test_a_rule_made_by_hand_is_promoted_in_its_own_record(host: Host, tmp_path: Path) -> None:
    (tmp_path / "c").write_text("x")
    host("block", "add", tmp_path / "c")
    rule = f"manual:path:{tmp_path / 'c'}"
    host("rule", "demote", rule)
    assert modes(host) == {rule: "audit"}
    host("rule", "promote", rule)
    assert modes(host) == {rule: "enforce"}
    assert host("policy", "show")["manual"] == [rule]


@pytest.mark.usefixtures("policy")
def test_a_rule_that_still_matches_is_refused_with_the_evidence(host: Host, tmp_path: Path) -> None:
    (tmp_path / "a").read_text()
    error = host("rule", "promote", "r1", "r2", code=3)
    assert error["evidence"][0]["audits"] >= 1
    assert "--force" in error["hint"]
    assert modes(host) == {"r1": "audit", "r2": "audit", "r3": "enforce"}, "all or none"
    shown = host("rule", "promote", "r1", "--dry-run")
    assert shown["promoted"] == []
    assert shown["evidence"][0]["objection"]
    host("rule", "promote", "r1", "--clean-for", "7d", code=3)
    assert host("rule", "promote", "r1", "--force")["promoted"] == ["r1"]
    assert "--force" in host("history")["entries"][0]["note"]
    assert host("rule", "promote", "r1")["promoted"] == [], "it enforces already"


def days_ago(host: Host, days: int) -> None:
    """Let all that was done so far have been done then."""
    entries = [json.loads(line) for line in host.paths.history.read_text().splitlines()]
    shifted = [json.dumps({**e, "time": e["time"] - days * 86400}) + "\n" for e in entries]
    host.paths.history.write_text("".join(shifted))
    for pin in (host.paths.pins / "maps" / "rule_hits", host.paths.pins / "links"):
        then = pin.stat().st_mtime - days * 86400
        os.utime(pin, (then, then))


def test_an_apply_begins_the_clean_days_of_changed_rules_anew_and_of_no_others(
    host: Host, policy: Path
) -> None:
    days_ago(host, 8)
    policy.write_text(policy.read_text() + "  - {id: r4, ip: 203.0.113.10}\n")
    assert host("policy", "apply", policy)["plan"]["counts"]["added"] == 1
    shown = host("rule", "promote", "r1", "--clean-for", "7d", "--dry-run")["evidence"][0]
    assert (shown["objection"], shown["watched"] > 7 * 86400) == ("", True)
    text = policy.read_text()
    policy.write_text(text.replace("a, mode: audit,", "a, mode: audit, operations: [read],"))
    host("policy", "apply", policy)
    error = host("rule", "promote", "r1", "--clean-for", "7d", code=3)
    assert "as it is now" in error["message"]
    assert host("rule", "promote", "r2", "r2", "--clean-for", "7d")["promoted"] == ["r2"]


def test_a_rule_that_was_gone_or_not_counted_meanwhile_was_not_clean(
    host: Host, policy: Path, tmp_path: Path
) -> None:
    days_ago(host, 8)
    host("block", "del", tmp_path / "a")
    host("policy", "apply", policy)
    promote = ("rule", "promote", "--clean-for", "7d", "--dry-run")
    found = host(*promote, "r1", "r2")["evidence"]
    assert [bool(each["objection"]) for each in found] == [True, False]
    host("detach")
    host("attach")
    assert host(*promote, "r2")["evidence"][0]["objection"]


@pytest.mark.usefixtures("policy")
def test_there_is_no_such_rule(host: Host) -> None:
    assert "rule list" in host("rule", "promote", "nonsense", code=3)["hint"]
    assert "rule list" in host("rule", "demote", "nonsense", code=3)["hint"]


@pytest.mark.usefixtures("policy")
def test_an_unconfirmed_promotion_goes_and_an_unconfirmed_demotion_comes_back(host: Host) -> None:
    before = standing(host)
    host("rule", "promote", "r1", "--confirm-within", "60s")
    assert modes(host)["r1"] == "enforce"
    host("policy", "revert")
    assert standing(host) == before
    host("rule", "promote", "r1", "--confirm-within", "60s")
    host("policy", "confirm")
    host("rule", "demote", "r1", "--confirm-within", "60s")
    host("policy", "revert")
    assert modes(host)["r1"] == "enforce"
    assert host("policy", "verify-live")["modes"] == ["mode:r1=enforce"]


@pytest.mark.usefixtures("policy")
def test_a_new_policy_that_is_reverted_gives_the_promotion_back(host: Host, tmp_path: Path) -> None:
    host("rule", "promote", "r1")
    other = tmp_path / "other.conf"
    other.write_text("version=1\n[deny_ip]\n203.0.113.9\n")
    host("policy", "apply", other, "--confirm-within", "60s")
    host("policy", "revert")
    assert modes(host) == {"r1": "enforce", "r2": "audit", "r3": "enforce"}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.usefixtures("policy")
def test_killed_at_any_instant_it_is_whole_after_the_next_edit(
    host: Host, tmp_path: Path, seed: int
) -> None:
    process = start_python(KILLED, host.paths.root, "rule", "promote", "r2")
    kill_after(process, random.Random(seed).uniform(0, 0.2))
    (tmp_path / "c").write_text("x")
    host("block", "add", tmp_path / "c")
    verdict = host("policy", "verify-live")
    assert not verdict["tampered"]
    assert not verdict["interrupted"]
    assert (modes(host)["r2"] == "enforce") == (verdict["modes"] == ["mode:r2=enforce"])


EVIDENCE = st.builds(
    Evidence,
    st.just("r"),
    st.just(Mode.AUDIT),
    st.integers(0, 3),
    st.just(0),
    st.none() | st.floats(0, 1e6),
    st.floats(0, 1e6),
)


@given(EVIDENCE, st.none() | st.integers(1, 10**6), st.integers(0, 2))
def test_nothing_is_promoted_that_matched_within_the_time_asked_for(
    found: Any, clean_for: int | None, lost: int
) -> None:
    said = judge(found, clean_for=clean_for, hits_lost=lost).objection
    if found.quiet is not None and clean_for is not None and found.quiet < clean_for:
        assert said
    if clean_for is None and found.audits:
        assert said
    if clean_for is not None and found.watched < clean_for:
        assert said
    if not lost and not found.audits and found.quiet is None and clean_for is None:
        assert not said
