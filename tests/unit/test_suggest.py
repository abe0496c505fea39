"""Proposals: what facts speak for, and what comes close and must not be proposed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aegis_tools.agent.evidence import PLACES, Evidence
from aegis_tools.agent.search import time_text
from aegis_tools.agent.suggest import DAY, Facts, Report, changed, owns, suggest
from aegis_tools.cli.policy_suggest import diff
from aegis_tools.control.history import Entry
from aegis_tools.control.manual import mode_record
from aegis_tools.control.steady import Policies, steady_since
from aegis_tools.control.store import Store
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Kind, Mode, Op, Policy, Rule

NOW = 1_800_000_000.0
BACKUP = "/system.slice/backup.service"


def rule(
    name: str, target: str = "/srv/x", mode: Mode = Mode.AUDIT, kind: Kind = Kind.PATH
) -> Rule:
    return Rule(name, kind, target, Op.READ, mode)


def event(
    name: str, days_ago: float = 1, unit: str = "backup.service", **more: Any
) -> dict[str, Any]:
    return {
        "time": time_text(NOW - days_ago * DAY), "rule": name, "action": "AUDIT", "count": 1,
        "comm": "tar", "uid": 0, "path": "/srv/x", "unit": unit, "cgroup": f"/system.slice/{unit}",
        **more,
    }  # fmt: skip


def facts(rules: list[Rule], events: list[dict[str, Any]], **more: Any) -> Facts:
    evidence = Evidence()
    for each in events:
        evidence.add(each)
    base: dict[str, Any] = {
        "policy": Policy(tuple(rules)),
        "events": evidence.rules,
        "last_hits": {},
        "steady_since": {each.id: NOW - 30 * DAY for each in rules},
        "counted_since": NOW - 30 * DAY,
        "read_since": NOW - 30 * DAY,
        "lost": 0,
        "now": NOW,
        "clean_days": 7,
    }
    return Facts(**{**base, **more})


def kinds(report: Report) -> list[tuple[str, str]]:
    return [(each.kind, each.target) for each in report.suggestions]


def why(report: Report, kind: str) -> str:
    return next((each.why for each in report.withheld if each.kind == kind), "")


RULES = [rule("a"), rule("b"), rule("c", mode=Mode.ENFORCE)]


def storm(unit: str = "backup.service", **more: Any) -> list[dict[str, Any]]:
    return [event(each.id, unit=unit, count=10, **more) for each in RULES]


def test_a_service_that_many_rules_meet_may_be_allowed() -> None:
    report = suggest(facts(RULES, storm()))
    assert kinds(report) == [("allow-cgroup", BACKUP)]
    [found] = report.suggestions
    assert "30 matches of 3 rules: a 10, b 10, c 10" in found.evidence[0]
    assert "tar" in found.evidence[1]
    assert "no rule then holds" in found.caution


def test_the_cgroup_proposed_is_the_unit_s_own() -> None:
    report = suggest(facts(RULES, storm(cgroup=f"{BACKUP}/payload/deep")))
    assert kinds(report) == [("allow-cgroup", BACKUP)]


@pytest.mark.parametrize(
    ("events", "told"),
    [
        (storm("ssh.service"), "sessions"),
        (storm("sshd@3-10.0.0.1.service"), "sessions"),
        (storm("user@1000.service"), "sessions"),
        (storm("session-4.scope"), "sessions"),
        (storm("cron.service"), "sessions"),
        (storm("docker-x.scope", container="f" * 64), "container"),
        (storm("run-r1.scope"), "no service"),
        (storm()[:2], ""),
        ([{**each, "count": 6} for each in storm()], ""),
        ([{**each, "action": "BLOCK"} for each in storm()], ""),
        (storm(cgroup="", unit=""), ""),
    ],
)
def test_what_is_no_trusted_service_is_not_allowed(events: list[Any], told: str) -> None:
    report = suggest(facts(RULES, events))
    assert "allow-cgroup" not in dict(kinds(report))
    assert told in why(report, "allow-cgroup")
    assert bool(told) == bool(why(report, "allow-cgroup"))


def test_a_rule_nobody_met_for_long_enough_may_enforce() -> None:
    report = suggest(facts([rule("a"), rule("e", mode=Mode.ENFORCE)], []))
    assert kinds(report) == [("promote-rule", "a")]
    assert "no match for 7 days" in report.suggestions[0].evidence[0]


@pytest.mark.parametrize(
    ("events", "more", "told"),
    [
        ([event("a", 6.9)], {}, "1 matches, the last at"),
        ([event("a", 6.9, action="BLOCK")], {}, "1 matches"),
        ([], {"last_hits": {"a": NOW - 6 * DAY}}, "the kernel counted"),
        ([], {"steady_since": {"a": NOW - 6 * DAY}}, "only since"),
        ([], {"steady_since": {}}, "only since"),
        ([], {"counted_since": NOW - DAY, "read_since": 0}, "reach back"),
        ([], {"counted_since": NOW - DAY, "read_since": NOW - 6 * DAY}, "reach back"),
        ([], {"blind": "audit fallback"}, "not every match"),
    ],
)
def test_a_rule_is_not_promoted_on_thin_evidence(
    events: list[Any], more: dict[str, Any], told: str
) -> None:
    report = suggest(facts([rule("a")], events, **more))
    assert kinds(report) == []
    assert told in why(report, "promote-rule")


def test_old_matches_and_either_source_alone_do() -> None:
    assert kinds(suggest(facts([rule("a")], [event("a", 8)], last_hits={"a": NOW - 8 * DAY})))
    assert kinds(suggest(facts([rule("a")], [], read_since=0)))
    assert kinds(suggest(facts([rule("a")], [], counted_since=NOW)))


NGINX = rule("web", "/etc/nginx/private/", kind=Kind.DIRECTORY)


def days(count: int = 4, **more: Any) -> list[dict[str, Any]]:
    return [event("web", n, unit="nginx.service", **{"count": 20, **more}) for n in range(count)]


def test_a_rule_that_only_its_own_service_meets_may_go() -> None:
    report = suggest(facts([NGINX], days()))
    assert kinds(report) == [("drop-rule", "web")]
    assert "80 matches" in report.suggestions[0].evidence[0]
    assert "allow /system.slice/nginx.service instead" in report.suggestions[0].caution


@pytest.mark.parametrize(
    ("events", "more"),
    [
        (days(2), {}),
        (days(count=4)[:1], {}),
        ([*days(), event("web", unit="ssh.service")], {}),
        ([*days(), event("web", action="BLOCK", unit="ssh.service")], {}),
        ([{**each, "unit": "apache2.service"} for each in days()], {}),
        (days(count=4), {"lost": 1}),
        ([{**each, "container": "f" * 64} for each in days()], {}),
    ],
)
def test_a_rule_that_others_may_have_met_stays(events: list[Any], more: dict[str, Any]) -> None:
    assert "drop-rule" not in dict(kinds(suggest(facts([NGINX], events, **more))))


def test_an_enforcing_rule_is_never_dropped() -> None:
    report = suggest(facts([NGINX._replace(mode=Mode.ENFORCE)], days()))
    assert kinds(report) == []


@pytest.mark.parametrize(
    ("unit", "target", "kind", "expected"),
    [
        ("nginx.service", "/etc/nginx/x", Kind.PATH, True),
        ("postgresql@15-main.service", "/var/lib/postgresql/", Kind.DIRECTORY, True),
        ("nginx.service", "/etc/nginx-other/x", Kind.PATH, False),
        ("nginx.scope", "/etc/nginx/x", Kind.PATH, False),
        ("a.service", "/srv/a/x", Kind.PATH, False),
        ("nginx.service", "10.0.0.1", Kind.IP, False),
    ],
)
def test_ownership_is_by_name(unit: str, target: str, kind: Kind, expected: bool) -> None:
    assert owns(unit, rule("r", target, kind=kind)) is expected


def test_more_places_than_are_kept_apart_are_not_one() -> None:
    evidence = Evidence()
    for number in range(PLACES + 5):
        evidence.add(event("web", unit=f"u{number}.service"))
    assert evidence.rules["web"].crowded
    assert len(evidence.rules["web"].places) == PLACES
    assert evidence.rules["web"].all.events == PLACES + 5


def test_all_proposals_together_make_the_new_policy_and_its_diff() -> None:
    rules = [*RULES, rule("quiet", "/srv/q"), NGINX]
    given = facts(rules, [*storm(), *days()])
    report = suggest(given)
    assert kinds(report) == [
        ("allow-cgroup", BACKUP), ("promote-rule", "quiet"), ("drop-rule", "web"),
    ]  # fmt: skip
    after = changed(given.policy, report.suggestions)
    assert after.allow_cgroups == (BACKUP,)
    assert {each.id: each.mode for each in after.rules} == {
        "a": Mode.AUDIT, "b": Mode.AUDIT, "c": Mode.ENFORCE, "quiet": Mode.ENFORCE,
    }  # fmt: skip
    text = diff(given.policy, after)
    assert text.startswith("--- live policy\n+++ proposed policy\n")
    assert f'+  - "{BACKUP}"' in text or f"+  - {BACKUP}" in text
    assert "web" in "".join(line for line in text.splitlines() if line.startswith("-"))
    assert diff(given.policy, given.policy) == ""


class Known(Policies):
    def __init__(self, policies: dict[str, list[Rule]]) -> None:
        super().__init__(Store(Paths(Path("/nowhere"))))
        self._known = {
            digest: {each.id: each for each in rules} for digest, rules in policies.items()
        }


def entry(days_ago: int, digest: str, action: str = "policy apply", result: str = "ok") -> Entry:
    return Entry(int(NOW - days_ago * DAY), action, result, digest=digest)


def since(history: list[Entry], policies: dict[str, list[Rule]]) -> float:
    live = (rule("a"),)
    found = steady_since(live, tuple(history), policies=Known(policies), applied=NOW - DAY)
    return round((NOW - found["a"]) / DAY)


def test_a_rule_is_as_old_as_the_policies_that_had_it_alike() -> None:
    same, other = [rule("a"), rule("z")], [rule("a", mode=Mode.ENFORCE)]
    x, y = "aa" * 32, "bb" * 32
    assert since([], {}) == 1
    assert since([entry(1, x), entry(9, x)], {x: same}) == 9
    assert since([entry(1, x), entry(9, y), entry(20, x)], {x: same, y: other}) == 1
    assert since([entry(1, x), entry(9, y), entry(20, x)], {x: same, y: []}) == 1
    assert since([entry(1, x), entry(5, x, result="policy"), entry(7, x, "mode")], {x: same}) == 1
    assert since([entry(1, x), entry(9, "cc" * 32), entry(20, x)], {x: same}) == 1
    for note, days in (("path:/srv/x, a", 1), ("b", 9), ("x" * 512, 1)):
        removed = Entry(int(NOW - 5 * DAY), "block del", note=note)
        assert since([entry(1, x), removed, entry(9, x)], {x: same}) == days
    restored = Entry(int(NOW), "block restore")
    assert since([restored, entry(9, x)], {x: same}) == 0


def test_a_demoted_rule_is_as_it_is_since_then() -> None:
    made = mode_record("a", enforce=False, now_ns=int((NOW - 2 * DAY) * 1e9), uid=0)
    history = (entry(9, "aa" * 32),)
    policies = Known({"aa" * 32: [rule("a")]})
    found = steady_since([rule("a")], history, policies=policies, applied=NOW - DAY, records=[made])
    assert found == {"a": NOW - 2 * DAY}
