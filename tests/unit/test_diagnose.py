"""Which scenario a host is in: facts in, findings out."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.cli.diagnose import lines
from aegis_tools.incident.facts import Facts
from aegis_tools.incident.readers import Hook, Refused, RuleUse, Unit, count_refused, parse_units
from aegis_tools.incident.scenarios import EXIT_CODES, ORDER, UNKNOWN_CODE, diagnose

HEALTHY = Facts(
    host="web1",
    kernel="6.12",
    set_up=True,
    wanted="enforce",
    loaded=True,
    mode="enforce",
    state="enforcing",
    meaning="matches of enforcing rules are refused",
    agent={"running": True, "died": False, "lag_seconds": 0.1},
    units=(
        Unit("aegisbpf-boot.service", "loaded", "active", "exited", "enabled", "success"),
        Unit("aegisbpf.service", "loaded", "active", "running", "enabled", "success"),
    ),
    maps=(("deny_inode_map", 10, 100),),
    counters={"blocks": 5, "ringbuf_drops": 0},
    rates={"blocks": 0.0, "ringbuf_drops": 0.0, "events": 1.0},
    lsm_active=True,
    lsm_pending=True,
    lsm_text="the next boot has bpf, by lsm=",
    disk_free=1 << 30,
)
RULE = RuleUse("deny-app", "enforce", False, 1200, 0, 14.0, 0.0, 0.1)
CRASHING = Unit(
    "aegisbpf.service", "loaded", "activating", "auto-restart", "enabled", "exit-code", 4, 1
)


def host(**changes: Any) -> Facts:
    return dataclasses.replace(HEALTHY, **changes)


def test_a_healthy_host_is_in_none() -> None:
    found = diagnose(HEALTHY)
    assert (found.findings, found.notes, found.unknown) == ((), (), ())
    assert (found.severity, found.exit_code) == ("none", 0)
    assert found.to_dict()["scenario"] == "none"


UNLOADED: dict[str, Any] = {
    "loaded": False, "mode": "", "state": "", "meaning": "", "maps": (), "rates": {},
    "counters": {},
}  # fmt: skip
CASES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "refusing now": (
        {"rates": {"blocks": 14.0}, "rules": (RULE,)}, "blocking", "critical", "deny-app",
    ),
    "refused lately": (
        {"rules": (RULE._replace(block_rate=0.0, ago=120.0),)}, "blocking", "high", "120 s ago",
    ),
    "deny rate": (
        {"mode": "audit", "state": "auditing", "held": "deny-rate", "held_meaning": "5 a second"},
        "blocking", "high", "5 a second",
    ),
    "lockout": (
        {"mode": "audit", "state": "auditing", "held": "lockout"}, "blocking", "high", "lock",
    ),
    "overdue": (
        {"state": "deadline-passed", "pending": "policy apply", "pending_left": -5.0},
        "blocking", "medium", "policy apply",
    ),
    "crash loop going on": ({"units": (CRASHING,)}, "crash-loop", "high", "4 restarts"),
    "crash loop, just being started": (
        {"units": (CRASHING._replace(sub="start"),)}, "crash-loop", "high", "again and again",
    ),
    "crash loop held": (
        {"held": "crash-loop", "mode": "audit", "state": "auditing"},
        "crash-loop", "high", "resume",
    ),
    "crash loop held and looked into": (
        {"held": "crash-loop", "held_known": True, "mode": "audit", "state": "auditing"},
        "crash-loop", "medium", "still held",
    ),
    "deny rate, looked into": (
        {"held": "deny-rate", "held_known": True, "mode": "audit", "state": "auditing"},
        "blocking", "medium", "still held",
    ),
    "damaged hold": (
        {"held": "damaged", "mode": "audit", "state": "auditing"}, "crash-loop", "high", "damaged",
    ),
    "many starts": ({"starts": 5, "agent": {"running": False}}, "crash-loop", "high", "5 starts"),
    "boot failed": (
        {"units": (Unit("aegisbpf-boot.service", "loaded", "failed", "failed", "enabled",
                        "exit-code", 0, 3),)},
        "crash-loop", "high", "exit code 3",
    ),
    "pins gone": ({"missing": ("maps/rules",)}, "crash-loop", "high", "maps/rules"),
    "nothing loaded": (UNLOADED, "crash-loop", "high", "enforce"),
    "damaged bundle": (
        {"config": (("policy", "the stored policy is damaged", "apply it again"),)},
        "crash-loop", "medium", "damaged",
    ),
    "ring drops": (
        {"rates": {"ringbuf_drops": 200.0}, "ring_bytes": 1 << 20}, "performance", "medium", "1024",
    ),
    "expensive hooks": (
        {"hooks": (Hook("aegis_file_open", 1e6, 300.0, 0.3),)},
        "performance", "medium", "aegis_file_open",
    ),
    "event storm": ({"rates": {"events": 9000.0}}, "performance", "medium", "9000 a second"),
    "map at 85 %": ({"maps": (("deny_inode_map", 85, 100),)}, "map-full", "low", "85% full"),
    "map full": ({"maps": (("deny_inode_map", 100, 100),)}, "map-full", "medium", "100% full"),
    "hits full": ({"maps": (("rule_hits", 100, 100),)}, "map-full", "low", "not counted"),
    "no room": (
        {"last_refused": ("policy apply", "policy",
                          "the policy needs 9 entries in deny_inode_map, which holds 8", 60.0)},
        "map-full", "medium", "needs 9",
    ),
    "lsm missing": (
        {"lsm_active": False, "state": "audit-fallback"}, "kernel-upgrade", "critical", "6.12",
    ),
    "lsm missing in audit": (
        {"lsm_active": False, "state": "audit-fallback", "mode": "audit", "wanted": "audit"},
        "kernel-upgrade", "medium", "audit",
    ),
    "fallback though lsm is there": (
        {"state": "audit-fallback"}, "kernel-upgrade", "critical", "refused our programs",
    ),
    "lsm missing at the next boot": (
        {"lsm_pending": False, "lsm_text": "lsm= leaves it out"},
        "kernel-upgrade", "high", "leaves it out",
    ),
    "switched off at boot": ({**UNLOADED, "disabled": True}, "kernel-upgrade", "medium", "boot"),
    "no btf": ({"btf": False}, "kernel-upgrade", "critical", "BTF"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_scenario_is_found_with_evidence_a_command_and_where_to_read_on(name: str) -> None:
    changes, scenario, severity, words = CASES[name]
    found = diagnose(host(**changes))
    assert [(one.scenario, one.severity) for one in found.findings] == [(scenario, severity)]
    (one,) = found.findings
    assert words in "\n".join((one.summary, *one.evidence))
    assert one.command.startswith("aegisbpf ")
    assert one.runbook == f"docs/runbook.md#{scenario}"
    assert one.playbook == f"playbooks/runbook_{scenario.replace('-', '_')}.yml"
    assert found.exit_code == EXIT_CODES[severity]


def test_two_scenarios_at_once_come_the_worst_first() -> None:
    found = diagnose(host(maps=(("rules", 9, 10),), units=(CRASHING,), rates={"blocks": 2.0}))
    assert [one.scenario for one in found.findings] == ["blocking", "crash-loop", "map-full"]
    assert found.exit_code == 23


def test_blocking_says_who_and_that_it_cannot_know_whether_it_is_meant() -> None:
    who = Refused("deny-app", "nginx", "www.service", "read", "/srv/app/x", 14, "", "")
    (one,) = diagnose(host(rates={"blocks": 14.0}, rules=(RULE,), refused=(who,))).findings
    text = "\n".join(one.evidence)
    assert "nginx (www.service) read /srv/app/x, 14 times" in text
    assert "cannot know" in text


@pytest.mark.parametrize(
    ("changes", "words", "command"),
    [
        ({"pending": "mode", "pending_left": 42.0}, "in 42 s", "policy confirm"),
        ({"sample_rate": 0.1}, "10 % are sent", "event-sample-rate 1"),
        ({"open_incidents": ("20270115T080000Z-blocking",)}, "is open", "incident show"),
        ({"counters": {"ringbuf_drops": 7}}, "7 events were lost", "stats"),
        ({"maps": (("rules", 82, 100),)}, "rules is 82% full", "capacity"),
        ({"agent": {"running": True, "lag_seconds": 30.0}}, "30 s behind", "stats"),
        ({"disk_free": 1 << 20}, "1 MiB left", "df"),
        ({"state": "detached", "checks": (("attached", "0 of 9 hooks attached", "run: X"),)},
         "0 of 9 hooks", "X"),
        ({**UNLOADED, "set_up": False, "units": ()}, "nothing was set up", "load"),
    ],
)  # fmt: skip
def test_what_is_no_scenario_is_a_note(changes: dict[str, Any], words: str, command: str) -> None:
    found = diagnose(host(**changes))
    assert (found.findings, found.exit_code) == ((), 0)
    assert any(words in note.text and command in note.command for note in found.notes)


@pytest.mark.parametrize(
    "changes",
    [
        {"root": False, "loaded": None, **{k: v for k, v in UNLOADED.items() if k != "loaded"}},
        {"problems": (("kernel maps", "a loaded map is not ours"),)},
        {"lsm_active": None},
    ],
)
def test_what_could_not_be_looked_at_is_not_called_healthy(changes: dict[str, Any]) -> None:
    found = diagnose(host(**changes))
    assert found.unknown
    assert found.exit_code == UNKNOWN_CODE
    assert "none of" not in "\n".join(lines(found, host(**changes)))


def test_a_problem_beside_a_finding_keeps_the_findings_code() -> None:
    found = diagnose(host(rates={"blocks": 2.0}, problems=(("events", "no journal"),)))
    assert found.exit_code == 23
    assert found.unknown == ("events: no journal",)


def test_a_host_on_which_nothing_was_set_up_is_in_no_trouble() -> None:
    found = diagnose(Facts(lsm_active=False, checks=(("lsm-active", "not active", "x"),)))
    assert (found.findings, found.exit_code) == ((), 0)


TEXT = st.text(max_size=8)
NUMBER = st.floats(min_value=0, max_value=1e9)
RULES = st.builds(
    RuleUse, TEXT, st.sampled_from(["audit", "enforce"]), st.booleans(), st.integers(0, 9),
    st.integers(0, 9), NUMBER, NUMBER, st.none() | NUMBER,
)  # fmt: skip
UNITS = st.builds(
    Unit,
    st.sampled_from(["aegisbpf.service", "aegisbpf-boot.service", "x"]),
    st.just("loaded"),
    st.sampled_from(["active", "failed", "activating"]),
    st.sampled_from(["running", "auto-restart", "failed", ""]),
)
ANY = st.builds(
    Facts,
    root=st.booleans(),
    set_up=st.booleans(),
    wanted=st.sampled_from(["audit", "enforce"]),
    loaded=st.none() | st.booleans(),
    missing=st.lists(TEXT, max_size=2).map(tuple),
    mode=st.sampled_from(["", "audit", "enforce"]),
    state=st.sampled_from(["", "enforcing", "auditing", "audit-fallback", "detached"]),
    cpus=st.integers(0, 9),
    held_known=st.booleans(),
    held=st.sampled_from(["", "crash-loop", "deny-rate", "lockout", "damaged", "later"]),
    pending_left=st.none() | st.floats(-100, 100),
    agent=st.dictionaries(
        st.sampled_from(["running", "lag_seconds"]), TEXT | NUMBER | st.booleans()
    ),
    starts=st.integers(0, 9),
    units=st.lists(UNITS, max_size=3).map(tuple),
    maps=st.lists(st.tuples(TEXT, st.integers(0, 9), st.integers(0, 9)), max_size=3).map(tuple),
    counters=st.dictionaries(st.sampled_from(["blocks", "ringbuf_drops"]), st.integers(0, 9)),
    rates=st.dictionaries(st.sampled_from(["blocks", "ringbuf_drops", "events"]), NUMBER),
    rules=st.lists(RULES, max_size=3).map(tuple),
    hooks=st.lists(st.builds(Hook, TEXT, NUMBER, NUMBER, NUMBER), max_size=2).map(tuple),
    sample_rate=st.floats(0, 1),
    lsm_active=st.none() | st.booleans(),
    lsm_pending=st.none() | st.booleans(),
    disabled=st.booleans(),
    btf=st.booleans(),
    config=st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=2).map(tuple),
    checks=st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=2).map(tuple),
    last_refused=st.none() | st.tuples(TEXT, TEXT, TEXT, NUMBER),
    disk_free=st.none() | st.integers(0, 1 << 40),
    problems=st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple),
)


@given(ANY)
def test_whatever_is_seen_the_answer_is_whole(facts: Facts) -> None:
    found = diagnose(facts)
    codes = [EXIT_CODES[one.severity] for one in found.findings]
    assert codes == sorted(codes, reverse=True)
    assert len({one.scenario for one in found.findings}) == len(codes)
    assert {one.scenario for one in found.findings} <= set(ORDER)
    unknown = UNKNOWN_CODE if found.unknown else 0
    assert found.exit_code == (codes[0] if codes else unknown)
    assert found.to_dict()["exit_code"] == found.exit_code
    text = "\n".join(lines(found, facts))
    assert all(one.command in text for one in found.findings)
    if not found.findings:
        assert text.startswith("none")


def test_units_are_read_from_what_systemctl_shows() -> None:
    text = (
        "Id=aegisbpf-boot.service\nLoadState=loaded\nActiveState=active\nSubState=exited\n\n"
        "Id=aegisbpf.service\nLoadState=loaded\nActiveState=activating\nSubState=auto-restart\n"
        "Result=exit-code\nNRestarts=7\nExecMainStatus=1\nUnitFileState=enabled\n"
    )
    boot, agent = parse_units(text)
    assert (boot.name, boot.sub, boot.restarts) == ("aegisbpf-boot.service", "exited", 0)
    assert (agent.sub, agent.restarts, agent.status) == ("auto-restart", 7, 1)


@given(st.text())
def test_any_text_is_read_as_units_without_an_error(text: str) -> None:
    list(parse_units(text))


def test_refusals_are_counted_by_rule_process_and_path() -> None:
    event = {"rule": "r", "comm": "cat", "unit": "a.service", "operation": "read", "path": "/x",
             "count": 3, "time": "2"}  # fmt: skip
    other = {**event, "comm": "sh", "count": 1}
    found = count_refused(iter([event, {**event, "first": "1", "time": "4"}, other]))
    assert found[0] == Refused("r", "cat", "a.service", "read", "/x", 6, "1", "4")
    assert found[1].comm == "sh"
