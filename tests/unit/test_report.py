"""The report of a rollout says of every host what became of it, and is what its schema says."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_support import NEW, OLD, Story, a_failure, plan

from aegis_tools.rollout import report as module
from aegis_tools.rollout.events import HIDDEN, Event, Outcome, events, text

SCHEMA = json.loads(Path(module.__file__).with_name("report.schema.json").read_text())


def valid(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Hold a report to its schema, and return its hosts by name."""
    jsonschema.validate(json.loads(module.to_json(report)), SCHEMA)
    return {host["name"]: host for host in report["hosts"]}


def outcomes(report: dict[str, Any]) -> dict[str, str]:
    return {name: host["outcome"] for name, host in valid(report).items()}


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_rollout_that_went_well() -> None:
    story = Story("h1", "h2", "h3")
    story.went_well("h1")
    story.went_well("h2", "h3")
    report = story.report()
    hosts = valid(report)
    assert report["summary"] == {"hosts": 3, "outcomes": {"changed": 3}, "behind": []}
    assert [wave["hosts"] for wave in report["waves"]] == [1, 2]
    assert (hosts["h3"]["wave"], hosts["h3"]["before"], hosts["h3"]["after"]) == (2, OLD, NEW)
    assert hosts["h2"]["gate"]["passed"]
    assert len(hosts["h2"]["gate"]["looks"]) == 3
    assert report["policies"] == [{"file": "web.bundle", "digest": NEW, "hosts": 3}]


def test_a_change_that_many_hosts_share_is_told_once() -> None:
    story = Story("h1", "h2", "h3")
    story.went_well("h1", "h2", "h3")
    [change] = story.report()["changes"]
    assert (change["hosts"], change["added"][0]["rule"]) == (3, "ssh-keys")
    assert change["changed"] == [{"rule": "secrets", "what": "audit → enforce"}]


def test_a_gate_that_failed_names_the_host_that_did_and_comes_first() -> None:
    report = a_failure()
    hosts = valid(report)
    assert [host["name"] for host in report["hosts"]] == ["h3", "h2", "h4", "h5", "h1"]
    assert report["reason"] == "h3: gate: 7.5 refusals a second, 0.2 before; at most 1.6"
    assert outcomes(report) == {
        "h1": "changed", "h2": "rolled-back", "h3": "rolled-back",
        "h4": "untouched", "h5": "untouched",
    }  # fmt: skip
    assert hosts["h2"]["failure"] is None
    assert (hosts["h3"]["target"], hosts["h3"]["after"]) == (NEW, OLD)
    assert report["summary"]["behind"] == ["h3", "h2", "h4", "h5"]


def test_a_host_that_was_cut_off_is_unreachable_whatever_it_was_told_before() -> None:
    story = Story("h1")
    story.wave("h1")
    story.planned("h1")
    story.applied("h1")
    story.looked("h1", "no new connection: nobody can log in")
    story.tell("h1", "aegisbpf_policy", {"unreachable": True, "msg": "timed out"},
               outcome="unreachable", state="reverted")  # fmt: skip
    hosts = valid(story.report("unreachable"))
    assert hosts["h1"]["outcome"] == "unreachable"
    assert hosts["h1"]["after"] == NEW
    assert hosts["h1"]["failure"] == "gate: no new connection: nobody can log in"


def test_a_host_that_answers_after_all_is_not_unreachable() -> None:
    story = Story("h1")
    story.wave("h1")
    story.planned("h1")
    story.applied("h1")
    lost = {"unreachable": True, "msg": "timed out"}
    story.tell("h1", "aegisbpf_info", lost, outcome="unreachable")
    story.tell("h1", "aegisbpf_undo", {"changed": True})
    hosts = valid(story.report("failed"))
    assert (hosts["h1"]["outcome"], hosts["h1"]["failure"]) == ("rolled-back", "timed out")


def test_a_straggler_is_told_apart_and_is_no_failure() -> None:
    story = Story("h1", "h2")
    story.wave("h1", "h2")
    told = {"changed": False, "error": "not_clean", "msg": "secrets matched 2 h ago"}
    for name in ("h1", "h2"):
        story.tell(name, "aegisbpf_info", {"status": {"loaded": True}})
    story.tell("h1", "aegisbpf_policy", told, state="planned", src="web.bundle")
    story.planned("h2")
    story.applied("h2")
    story.settled("h2", "confirmed")
    report = story.report()
    assert outcomes(report) == {"h1": "straggler", "h2": "changed"}
    assert report["summary"]["behind"] == ["h1"]
    assert (report["reason"], report["hosts"][0]["note"]) == (None, "secrets matched 2 h ago")


def test_a_rollout_that_nobody_let_go_on_is_no_failure_of_a_host_that_is_done() -> None:
    story = Story("h1", "h2")
    story.went_well("h1")
    story.tell("h1", "ansible.builtin.assert", {"msg": "nobody said yes"}, outcome="failed")
    report = story.report("failed")
    assert outcomes(report) == {"h1": "changed", "h2": "untouched"}
    assert report["reason"] == "h1: nobody said yes"


def test_an_interrupt_leaves_hosts_unconfirmed_and_others_stopped() -> None:
    story = Story("h1", "h2", "h3")
    story.wave("h1", "h2")
    story.planned("h1")
    story.planned("h2")
    story.applied("h1")
    report = story.report("interrupted")
    assert outcomes(report) == {"h1": "unconfirmed", "h2": "stopped", "h3": "untouched"}


def test_a_host_that_has_it_already_is_unchanged() -> None:
    story = Story("h1")
    story.wave("h1")
    story.planned("h1", plan(NEW, NEW))
    told = {"changed": False, "plan": plan(NEW, NEW)}
    story.tell("h1", "aegisbpf_policy", told, src="dist/web.bundle")
    hosts = valid(story.report())
    assert (hosts["h1"]["outcome"], hosts["h1"]["change"]) == ("unchanged", None)


def test_a_playbook_that_only_asked_left_its_hosts_unchanged() -> None:
    story = Story("h1")
    story.wave("h1")
    story.tell("h1", "aegisbpf_info", {"status": {"loaded": True}})
    assert outcomes(story.report()) == {"h1": "unchanged"}


def test_a_host_that_failed_before_its_change() -> None:
    story = Story("h1")
    story.wave("h1")
    status = {"loaded": True, "policy": None, "mode": {"mode": "enforce"}}
    story.tell("h1", "aegisbpf_info", {"status": status})
    story.tell("h1", "ansible.builtin.assert", {"msg": "in no state"}, outcome="failed")
    hosts = valid(story.report("failed"))
    assert (hosts["h1"]["outcome"], hosts["h1"]["failure"]) == ("failed", "in no state")
    assert hosts["h1"]["mode"]["after"] == "enforce"


def test_a_wave_that_did_not_begin_because_of_another_is_no_failure_of_its_hosts() -> None:
    story = Story("h1")
    story.wave("h1")
    story.tell("h1", "ansible.builtin.assert", {"msg": "Stopped: h0 failed"}, outcome="failed")
    report = story.report("failed")
    assert outcomes(report) == {"h1": "untouched"}
    assert report["hosts"][0]["failure"] is None
    assert report["reason"] == "h1: Stopped: h0 failed"


def test_check_mode_says_what_would_change() -> None:
    story = Story("h1", "h2", check=True)
    story.wave("h1", "h2")
    story.planned("h1")
    story.planned("h2", plan(NEW, NEW))
    report = story.report()
    assert outcomes(report) == {"h1": "would-change", "h2": "unchanged"}
    assert valid(report)["h1"]["after"] == OLD


def test_a_change_that_was_confirmed_and_taken_back_later_is_rolled_back() -> None:
    story = Story("h1")
    story.went_well("h1")
    back = {"changed": True, "plan": plan(NEW, OLD), "digest": OLD, "pending": None}
    story.tell("h1", "aegisbpf_policy", back, src="before.bundle")
    assert outcomes(story.report("failed")) == {"h1": "rolled-back"}


@pytest.mark.parametrize(
    ("action", "arguments"), [("aegisbpf_undo", {}), ("aegisbpf_policy", {"state": "undone"})]
)
def test_a_change_that_was_undone_is_rolled_back(action: str, arguments: dict[str, str]) -> None:
    story = Story("h1", "h2")
    story.went_well("h1")
    story.tell("h1", action, {"changed": True, "digest": OLD}, **arguments)
    assert outcomes(story.report("failed")) == {"h1": "rolled-back", "h2": "untouched"}


def test_a_mode_is_a_change_too() -> None:
    story = Story("h1")
    story.wave("h1")
    told = {"changed": True, "mode": {"mode": "enforce"}, "diff": {"before": "audit\n"}}
    story.tell("h1", "aegisbpf_mode", told, mode="enforce", confirm_within="2m")
    assert outcomes(story.report()) == {"h1": "unconfirmed"}
    story.settled("h1", "confirmed")
    hosts = valid(story.report())
    assert hosts["h1"]["outcome"] == "changed"
    assert hosts["h1"]["mode"] == {"before": "audit", "target": "enforce", "after": "enforce"}


def test_a_promotion_says_from_which_mode_to_which() -> None:
    story = Story("h1")
    story.wave("h1")
    found = plan(NEW, NEW, mode="audit → enforce")
    story.planned("h1", found)
    told = {"changed": True, "plan": found, "digest": NEW, "pending": {"action": "mode"}}
    story.tell("h1", "aegisbpf_policy", told, src="dist/web.bundle", mode="enforce")
    story.settled("h1", "confirmed")
    report = story.report()
    hosts = valid(report)
    assert (hosts["h1"]["outcome"], hosts["h1"]["change"]) == ("changed", "c1")
    assert hosts["h1"]["mode"] == {"before": "audit", "target": "enforce", "after": "enforce"}
    assert report["changes"][0]["mode"] == "enforce"


def test_tries_of_one_task_are_looks_and_no_failures() -> None:
    story = Story("h1")
    story.wave("h1")
    story.planned("h1")
    story.applied("h1")
    for number in (1, 2):
        line = {"time": story.now + number, "reasons": [], "counters": None}
        story.tell("h1", "aegisbpf_gate", {"timeline": [line], "attempts": number}, outcome="look")
    story.tell("h1", "aegisbpf_gate", {"timeline": [line]})  # the last one again, as the result
    story.settled("h1", "confirmed")
    hosts = valid(story.report())
    assert hosts["h1"]["outcome"] == "changed"
    assert len(hosts["h1"]["gate"]["looks"]) == 2


def heard(action: str, result: dict[str, Any], outcome: Outcome = "ok", **more: Any) -> list[Event]:
    arguments = more.pop("arguments", {})
    return list(
        events(1.0, "h9", action, arguments=arguments, outcome=outcome, result=result, **more)
    )


def test_items_of_a_loop_are_results_each() -> None:
    line = {"time": 5.0, "reasons": ["slow"], "counters": {"blocks": 1}}
    well = {"timeline": [{**line, "reasons": []}]}
    sick = {"timeline": [line], "failed": True, "msg": "gate: slow"}
    told = {"results": [well, sick, {"skipped": True}], "msg": "One or more items failed"}
    found = heard("aegisbpf_gate", told, "failed")
    assert [event.outcome for event in found] == ["ok", "failed"]
    assert found[1].facts["msg"] == "gate: slow"


def test_what_one_host_does_for_others_is_theirs() -> None:
    known = ["h1", "h2", "h9"]
    items = [{"item": "h1", "changed": True}, {"item": "h2", "failed": True, "msg": "drift"}]
    told = {"results": items, "msg": "One or more items failed"}
    found = heard("aegisbpf_undo", told, "failed", delegate="{{ item }}", known=known)
    assert [(e.host, e.outcome) for e in found] == [("h1", "ok"), ("h2", "failed")]
    told["results"][0] = {"item": "h1", "unreachable": True, "msg": "timed out"}
    found = heard("aegisbpf_undo", told, "unreachable", delegate="{{ item }}", known=known)
    assert [(e.host, e.outcome) for e in found] == [("h1", "unreachable"), ("h2", "ok")]
    [one] = heard("aegisbpf_undo", {}, delegate="h1", known=known)
    assert one.host == "h1"
    [own] = heard("aegisbpf_info", {}, delegate="localhost", known=known)
    assert own.host == "h9"


def test_a_module_of_a_collection_is_known_by_its_last_name() -> None:
    [event] = heard("our.fleet.aegisbpf_policy", {}, arguments={"state": "confirmed"})
    assert (event.action, event.state) == ("aegisbpf_policy", "confirmed")


def test_what_is_no_business_of_a_report_is_not_kept() -> None:
    key = "aegis-ed25519-private ops\nc2VjcmV0"
    told = {"msg": f"cannot read: {key}", "stdout": "hunter2", "cmd": ["cat", "hunter2"]}
    story = Story("h1")
    story.wave("h1")
    story.tell("h1", "aegisbpf_info", {"status": {"loaded": True}, "environment": "hunter2"})
    story.tell("h1", "ansible.builtin.command", told, outcome="failed", password="hunter2")
    story.tell("h1", "ansible.builtin.command", {"stdout": "hunter2"}, password="hunter2")
    document = module.to_json(story.report("failed")).decode()
    assert HIDDEN in document
    assert "hunter2" not in document
    assert "c2VjcmV0" not in document


@pytest.mark.parametrize("char", ["\x00", "\x1b", "\u202e", "\u200b", "\ud800", "\x7f"])
def test_a_character_that_is_not_seen_is_written_out(char: str) -> None:
    assert text(f"a{char}b") == f"a\\u{ord(char):04x}b"


@given(st.text(alphabet=st.characters(), max_size=900))
def test_any_text_can_be_written(raw: str) -> None:
    told = text(raw)
    assert json.loads(json.dumps(told).encode()) == told
    assert not [c for c in told if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n"]
    assert len(told) <= 601 * 8


def test_a_report_that_says_something_else_is_not_valid() -> None:
    report = a_failure()
    report["hosts"][0]["outcome"] = "fine"
    with pytest.raises(jsonschema.ValidationError):
        valid(report)
