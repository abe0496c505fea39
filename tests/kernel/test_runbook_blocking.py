"""Refusals are ended at once, one rule goes, and nothing else changes; killed anywhere, and again.

The audit fallback refuses nothing, so what was refused is written into the kernel's own counts.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confirm_support import config, killed, put
from edit_support import Host

from aegis_tools.agent.search import time_text
from aegis_tools.control import bootstate, fallback
from aegis_tools.control.bootclock import boot_ns
from aegis_tools.control.live import Live
from aegis_tools.kernel.layout import RULE_HITS, Config, uid_of
from aegis_tools.kernel.pins import Pins
from aegis_tools.policy.model import Mode

MINUTE = 60 * 10**9


def hit(host: Host, rule: str, *, blocks: int = 5, ago_ns: int = 10**9) -> None:
    """Let the kernel say that a rule has refused something."""
    with Live(Pins(host.paths.pins)) as live:
        key = uid_of(rule).to_bytes(8, "little")
        live.map("rule_hits").set(key, RULE_HITS.pack(blocks, 0, boot_ns() - ago_ns))


def rules(host: Host) -> dict[str, dict[str, Any]]:
    """Return what is live, by rule, without what is only counted."""
    found = host("rule", "list")["rules"]
    return {row["rule"]: {**row, "hits": 0, "last": None} for row in found}


def entries(host: Host) -> dict[str, Any]:
    with Live(Pins(host.paths.pins)) as live:
        return {**live.all_entries(), "slot": live.slot, "info": live.info()}


def records(host: Host) -> list[Path]:
    return sorted(host.paths.incidents.glob("*/record.json"))


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Let nothing be written below a folder, as on a disk that is full."""
    for options in (("--bind", folder), ("-o", "remount,bind,ro")):
        subprocess.run(["mount", *options, folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_text("")
    return path


def told(events: Path, rule: str, *, count: int = 1, comm: str = "nginx") -> None:
    """Add an event of refusals."""
    event = {
        "time": time_text(time.time() - 5), "host": "h", "type": "file", "action": "BLOCK",
        "reason": "", "operation": "open", "comm": comm, "parent_comm": "systemd",
        "cgroup": "/system.slice/nginx.service", "unit": "nginx.service", "rule": rule,
        "bundle": "", "path": "/srv/x", "pid": 42, "ppid": 1, "uid": 33, "count": count,
    }  # fmt: skip
    with events.open("a") as file:
        file.write(json.dumps(event, separators=(",", ":")) + "\n")


@pytest.fixture
def enforcing(host: Host, files: dict[str, Path]) -> Host:
    """A host that enforces: a rule of its policy, another, and one made by hand."""
    policy = files["policy"].with_suffix(".yaml")
    policy.write_text(f"version: 1\nrules:\n  - {{id: r1, path: {files['a']}}}\n"
                      f"  - {{id: r2, path: {files['other']}}}\n")  # fmt: skip
    host("policy", "apply", policy)
    host("block", "add", files["b"])
    put(host, Config.MODE, 1)
    bootstate.keep(host.paths, None, Mode.ENFORCE)
    return host


def run(host: Host, events: Path, *more: str | Path, code: int = 0) -> dict[str, Any]:
    return host("incident", "blocking", "--file", events, "--no-probe", *more, code=code)


def states(answer: dict[str, Any]) -> dict[str, str]:
    return {step["action"]: step["state"] for step in answer["steps"]}


@pytest.mark.parametrize("ago", [None, 16 * MINUTE])
def test_on_a_host_that_refused_nothing_lately_nothing_changes(
    enforcing: Host, events: Path, ago: int | None
) -> None:
    if ago is not None:
        hit(enforcing, "r1", ago_ns=ago)
    before, history = entries(enforcing), enforcing("history")
    answer = run(enforcing, events, "--probe-command", "true", "--reenforce")
    assert (answer["found"], answer["changed"], answer["result"]) == (False, False, "nothing-to-do")
    assert (config(enforcing, Config.MODE), entries(enforcing)) == (1, before)
    assert (records(enforcing), enforcing("history")) == ([], history)


def test_a_service_that_fails_for_another_reason_is_said_and_nothing_changes(
    enforcing: Host, events: Path
) -> None:
    answer = run(enforcing, events, "--probe-command", "false", code=7)
    assert (answer["found"], answer["changed"], answer["result"]) == (False, False, "not-recovered")
    assert "aegisbpf incident blocking --since 24h" in answer["hint"]
    assert config(enforcing, Config.MODE) == 1


def test_without_anything_loaded_there_is_nothing_to_do(enforcing: Host, events: Path) -> None:
    enforcing("reset")
    assert run(enforcing, events)["result"] == "nothing-to-do"


@pytest.mark.parametrize(
    ("probe", "journal"),
    [
        (("--probe-command", "false"), "journalctl -b -p err"),
        (("--probe-unit", "no-such"), "journalctl -b -u no-such.service"),
    ],
)
def test_without_anything_loaded_a_service_that_fails_is_to_be_looked_at_itself(
    enforcing: Host, events: Path, probe: tuple[str, str], journal: str
) -> None:
    enforcing("reset")
    answer = run(enforcing, events, *probe, code=7)
    assert (answer["changed"], answer["result"]) == (False, "not-recovered")
    assert "nothing of Aegis is loaded: look at the service itself" in answer["message"]
    assert answer["hint"] == f"see its journal: {journal}"


def test_a_host_in_audit_is_left_as_it_is(enforcing: Host, events: Path) -> None:
    enforcing("mode", "audit")
    hit(enforcing, "r1")
    before = entries(enforcing)
    answer = run(enforcing, events, "--reenforce")
    assert (answer["result"], answer["changed"]) == ("nothing-to-do", False)
    assert entries(enforcing) == before


def test_where_a_guard_was_first_the_rule_is_found_and_a_person_resumes(
    enforcing: Host, events: Path
) -> None:
    hit(enforcing, "r1")
    with Live(Pins(enforcing.paths.pins)) as live:
        fallback.enter(enforcing.paths, live, "deny-rate")
    answer = run(enforcing, events)
    assert (answer["changed"], answer["next"]) == (True, ["aegisbpf resume"])
    assert rules(enforcing)["r1"]["mode"] == "audit"
    again = run(enforcing, events, "--reenforce")
    assert (again["changed"], again["next"]) == (False, ["aegisbpf resume"])
    assert config(enforcing, Config.MODE) == 0


def test_a_rule_of_the_policy_is_demoted_and_only_it(enforcing: Host, events: Path) -> None:
    hit(enforcing, "r1", blocks=7)
    told(events, "r1", count=6)
    told(events, "r1", comm="php")
    before = rules(enforcing)
    answer = run(enforcing, events, "--probe-command", "true")
    assert (answer["found"], answer["changed"], answer["result"]) == (True, True, "recovered")
    assert states(answer) == {"audit": "done", "probe": "done", "events": "done",
                              "demote-rule": "done"} | {"start-unit": "not-needed"}  # fmt: skip
    assert config(enforcing, Config.MODE) == 0
    assert bootstate.read_boot_state(enforcing.paths).mode is Mode.AUDIT
    before["r1"]["mode"] = "audit"
    assert rules(enforcing) == before
    [rule] = answer["record"]["rules"]
    assert rule["id"] == "r1"
    assert rule["hits"]["refused_lately"] == 7
    assert rule["hits"]["refused_since_load"] == 7
    assert rule["processes"][0].startswith("nginx[42] nginx.service open /srv/x (6")
    assert "policy apply by uid 0" in rule["applied_by"]
    assert rule["policy"] == enforcing("policy", "show")["digest"]
    assert answer["record"]["facts"]["fix"]["undo"] == "aegisbpf rule promote r1 --force"
    assert answer["record"]["facts"]["nothing_refused_since"]
    assert answer["next"] == [
        "aegisbpf incident blocking --reenforce --confirm-within 120s --probe-command true"
    ]
    actions = [entry["action"] for entry in enforcing("history")["entries"]]
    assert actions[:2] == ["rule demote", "incident blocking"]


def test_run_again_it_changes_nothing_more_though_other_rules_have_refused(
    enforcing: Host, events: Path
) -> None:
    hit(enforcing, "r1", blocks=7)
    hit(enforcing, "r2", blocks=3)
    first = run(enforcing, events)
    before, history = entries(enforcing), enforcing("history")
    again = run(enforcing, events)
    assert (again["id"], again["changed"], again["result"]) == (first["id"], False, "recovered")
    assert (entries(enforcing), enforcing("history")) == (before, history)
    assert rules(enforcing)["r2"]["mode"] == "enforce"
    assert len(records(enforcing)) == 1


def test_a_rule_made_by_hand_is_removed_and_can_be_put_back(
    enforcing: Host, files: dict[str, Path], events: Path
) -> None:
    rule = f"manual:path:{files['b']}"
    hit(enforcing, rule)
    before = rules(enforcing)
    answer = run(enforcing, events)
    after = rules(enforcing)
    assert before.pop(rule)
    assert after == before
    undo = answer["record"]["facts"]["fix"]["undo"].split()[1:]
    enforcing(*undo)
    assert rules(enforcing)[rule]["operations"] == ["read", "write", "exec"]


def test_a_name_that_is_no_rules_leads_to_those_that_are(enforcing: Host, events: Path) -> None:
    hit(enforcing, "r1")
    answer = run(enforcing, events, "--rule", "r11")
    assert (answer["found"], answer["result"]) == (False, "nothing-to-do")
    assert answer["next"] == ["aegisbpf rule list"]
    assert run(enforcing, events, "--rule", "/srv/a\udcffb")["next"] == ["aegisbpf rule list"]
    assert run(enforcing, events, "--rule", "r2")["found"] is True


def test_the_named_rule_goes_whatever_others_refused(enforcing: Host, events: Path) -> None:
    hit(enforcing, "r1", blocks=70)
    answer = run(enforcing, events, "--rule", "r2")
    assert (answer["changed"], states(answer)["demote-rule"]) == (True, "done")
    assert states(answer)["audit"] == "not-needed", "it has refused nothing"
    assert config(enforcing, Config.MODE) == 1
    assert {name: row["mode"] for name, row in rules(enforcing).items() if name[0] == "r"} == {
        "r1": "enforce", "r2": "audit",
    }  # fmt: skip
    again = run(enforcing, events, "--rule", "r2")
    assert (again["changed"], again["result"]) == (False, "nothing-to-do")
    assert run(enforcing, events, "--rule", "nosuch")["result"] == "nothing-to-do"


def test_the_choice_is_left_to_a_person_where_the_probe_shows_another(
    enforcing: Host, files: dict[str, Path], events: Path
) -> None:
    hit(enforcing, "r1", blocks=70)
    hit(enforcing, "r2", blocks=3)
    before = rules(enforcing)
    # The probe opens what r2 denies, which the fallback counts as the hooks do.
    answer = run(enforcing, events, "--probe-command", f"cat {files['other']}")
    assert "r2" in answer["why"], answer["why"]
    assert config(enforcing, Config.MODE) == 0
    assert rules(enforcing) == before
    assert answer["next"] == ["aegisbpf incident blocking --rule ID"]
    error = run(enforcing, events, "--reenforce", code=3)
    assert "no rule was taken out" in error["message"]
    assert config(enforcing, Config.MODE) == 0
    named = run(enforcing, events, "--rule", "r2")
    assert named["id"] == answer["id"]
    assert rules(enforcing)["r2"]["mode"] == "audit"


def test_a_dry_run_says_it_all_and_does_nothing(enforcing: Host, events: Path) -> None:
    hit(enforcing, "r1")
    before, history = entries(enforcing), enforcing("history")
    answer = run(enforcing, events, "--dry-run", "--reenforce")
    assert states(answer) == {"audit": "would", "events": "done", "demote-rule": "would",
                              "reenforce": "would"}  # fmt: skip
    assert (answer["changed"], answer["found"]) == (True, True)
    assert (config(enforcing, Config.MODE), entries(enforcing)) == (1, before)
    assert (records(enforcing), enforcing("history")) == ([], history)


def test_audit_comes_though_nothing_can_be_written(enforcing: Host, events: Path) -> None:
    hit(enforcing, "r1")
    enforcing.paths.history.unlink()
    enforcing.paths.history.mkdir()
    answer = run(enforcing, events, code=8)
    assert config(enforcing, Config.MODE) == 0
    assert answer["steps"][0]["action"] == "audit"
    enforcing.paths.history.rmdir()
    assert run(enforcing, events)["result"] == "recovered"
    assert rules(enforcing)["r1"]["mode"] == "audit"


@pytest.mark.parametrize("rule", ["r1", "by hand"])
@pytest.mark.parametrize("later", [0, 16 * MINUTE])
def test_run_again_once_there_is_space_it_says_audit_at_the_next_boot(
    enforcing: Host, events: Path, files: dict[str, Path], rule: str, later: int
) -> None:
    rule = rule if rule == "r1" else f"manual:path:{files['b']}"
    hit(enforcing, rule)
    state = enforcing.paths.boot
    with unwritable(enforcing.paths.state):
        told = run(enforcing, events, code=8)
        assert "run the same command again" in told["hint"]
        assert json.loads(state.read_text())["mode"] == "enforce"
    hit(enforcing, rule, ago_ns=10**9 + later)
    assert run(enforcing, events)["result"] == "recovered"
    assert json.loads(state.read_text())["mode"] == "audit"
    assert run(enforcing, events)["changed"] is False


def test_where_refusals_cannot_be_read_it_audits(enforcing: Host, events: Path) -> None:
    enforcing.paths.pins.joinpath("maps/rule_hits").unlink()
    enforcing.any("incident", "blocking", "--file", events, "--no-probe")
    assert config(enforcing, Config.MODE) == 0


def test_nothing_enforces_again_where_the_service_fails_in_audit_as_well(
    enforcing: Host, events: Path
) -> None:
    hit(enforcing, "r1")
    words = ("--probe-command", "false", "--probe-for", "0", "--reenforce")
    error = run(enforcing, events, *words, code=7)
    assert "in audit either" in error["message"]
    assert config(enforcing, Config.MODE) == 0
    assert rules(enforcing)["r1"]["mode"] == "enforce", "refusals are not its trouble"
    error = run(enforcing, events, *words[:-1], "--rule", "r1", code=7)
    assert rules(enforcing)["r1"]["mode"] == "audit", "but for who names it"


def test_a_password_in_a_probe_is_not_shown(enforcing: Host, events: Path) -> None:
    hit(enforcing, "r1")
    url = "http://admin:hunter2@127.0.0.1:1/"
    error = run(enforcing, events, "--probe-url", url, "--probe-for", "0", code=7)
    assert "admin:" in json.dumps(error)
    assert "hunter2" not in json.dumps(error)


def test_stop_removes_everything_and_a_boot_brings_audit(enforcing: Host, events: Path) -> None:
    hit(enforcing, "r1")
    answer = run(enforcing, events, "--stop")
    assert (answer["result"], states(answer)["reset"]) == ("recovered", "done")
    assert answer["next"] == ["aegisbpf boot"]
    assert not Pins(enforcing.paths.pins).is_loaded()
    assert run(enforcing, events, "--stop")["changed"] is False
    assert bootstate.read_boot_state(enforcing.paths).mode is Mode.AUDIT


@pytest.mark.parametrize("words", [("--stop", "--reenforce"), ("--confirm-within", "60s"),
                                   ("--probe-url", "x"), ("--since", "never")])  # fmt: skip
def test_what_contradicts_itself_is_refused_before_anything(
    enforcing: Host, events: Path, words: tuple[str, ...]
) -> None:
    hit(enforcing, "r1")
    run(enforcing, events, *words, code=2)
    assert config(enforcing, Config.MODE) == 1


INSTANTS = [1, 4, 10, 19, 31, 45, 60, 90, 140, 220]


@pytest.mark.parametrize("instant", INSTANTS)
def test_killed_at_any_instant_and_run_again_it_ends_the_same(
    enforcing: Host, events: Path, instant: int
) -> None:
    hit(enforcing, "r1", blocks=7)
    before = rules(enforcing)
    words = ("incident", "blocking", "--file", events, "--no-probe")
    killed(enforcing, instant, *words)
    modes = {name: row["mode"] for name, row in rules(enforcing).items() if name != "r1"}
    assert set(modes.values()) == {"enforce"}, "no other rule is touched"
    answer = run(enforcing, events)
    assert answer["result"] == "recovered", answer
    assert config(enforcing, Config.MODE) == 0
    assert bootstate.read_boot_state(enforcing.paths).mode is Mode.AUDIT
    assert answer["record"]["facts"]["mode_before"] == "enforce"
    before["r1"]["mode"] = "audit"
    assert rules(enforcing) == before
    assert len(records(enforcing)) == 1
    assert run(enforcing, events)["changed"] is False
