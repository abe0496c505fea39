"""The YAML form: what it means, and what it says about every mistake."""

from __future__ import annotations

import pytest

from aegis_tools.policy.model import MAX_DEPTH, Kind, Mode, Op, Rule, Signal
from aegis_tools.policy.yamlform import parse_yaml

OPEN = Op.READ | Op.WRITE | Op.EXEC
BOTH = Op.EGRESS | Op.BIND


def rules_of(rules: str, head: str = "") -> tuple[Rule, ...]:
    policy, problems = parse_yaml(f"version: 1\n{head}rules:\n{rules}\n".encode())
    assert policy is not None, problems
    assert problems == []
    return policy.rules


def problems_of(text: str) -> list[tuple[int, str]]:
    policy, problems = parse_yaml(text.encode())
    assert policy is None
    return [(problem.line, problem.message) for problem in problems]


def test_a_rule_says_everything_it_can() -> None:
    (rule,) = rules_of(
        """
- id: customer-data
  directory: /srv//data
  operations: [read, modify]
  mode: audit
  signal: kill
  depth: 4
  owner: data-team@example.com
  reason: |
    two
    lines
  expires: 2027-01-31T18:00:00+02:00
"""
    )
    assert rule == Rule(
        "customer-data",
        Kind.DIRECTORY,
        "/srv/data/",
        Op.READ | Op.MODIFY,
        Mode.AUDIT,
        Signal.KILL,
        4,
        "data-team@example.com",
        "two\nlines\n",
        1801411200,
        line=4,
    )


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("path: /a b", Rule("path:/a b", Kind.PATH, "/a b", OPEN)),
        ("directory: /", Rule("directory:/", Kind.DIRECTORY, "/", OPEN, depth=MAX_DEPTH)),
        ("inode: 271:12", Rule("inode:271:12", Kind.INODE, "271:12", OPEN)),
        ("ip: 10.0.0.1", Rule("ip:10.0.0.1", Kind.IP, "10.0.0.1", Op.EGRESS)),
        ("cidr: ::/0", Rule("cidr:::/0", Kind.CIDR, "::/0", Op.EGRESS)),
        ("port: 22", Rule("port:22:any", Kind.PORT, "22:any", BOTH)),
        ("port: 22:tcp:bind", Rule("port:22:tcp", Kind.PORT, "22:tcp", Op.BIND)),
        (
            "ip_port: '[::1]:22'",
            Rule("ip_port:[::1]:22:any", Kind.IP_PORT, "[::1]:22:any", Op.EGRESS),
        ),
        ("{path: /a, owner: no}", Rule("path:/a", Kind.PATH, "/a", OPEN, owner="no")),
    ],
)
def test_what_a_rule_leaves_out_is_filled_in(rule: str, expected: Rule) -> None:
    assert rules_of(f"- {rule}") == (expected._replace(line=3),)


def test_numbers_stay_as_they_were_written() -> None:
    # YAML 1.1 takes 271:12 for base 60, and 022 for octal.
    assert rules_of("- inode: 271:12")[0].target == "271:12"
    assert "leading zeros" in problems_of("version: 1\nrules:\n- port: 022")[0][1]


def test_defaults_hold_where_a_rule_says_nothing() -> None:
    head = "defaults: {mode: audit, signal: term, operations: [write, bind]}\n"
    rules = rules_of(
        "- path: /a\n- ip: 10.0.0.1\n- path: /b\n  operations: [exec]\n  mode: enforce\n"
        "- port: 22:tcp:egress\n",
        head,
    )
    assert [rule.operations for rule in rules] == [Op.WRITE, Op.BIND, Op.EXEC, Op.EGRESS]
    assert [rule.mode.value for rule in rules] == ["audit", "audit", "enforce", "audit"]
    assert {rule.signal for rule in rules} == {Signal.TERM}


def test_defaults_hold_wherever_they_stand_in_the_file() -> None:
    text = b"rules: [{path: /a}]\nversion: 1\ndefaults: {mode: audit}\n"
    policy, _ = parse_yaml(text)
    assert policy is not None
    assert policy.rules[0].mode is Mode.AUDIT


def test_default_operations_of_the_other_kind_change_nothing() -> None:
    (rule,) = rules_of("- ip: 10.0.0.1", "defaults: {operations: [read]}\n")
    assert rule.operations == Op.EGRESS


def test_two_rules_may_share_a_target_for_different_operations() -> None:
    rules = rules_of(
        "- {path: /a, operations: [read], mode: audit}\n- {path: /a, operations: [write, exec]}"
    )
    assert [rule.id for rule in rules] == ["path:/a", "path:/a:write+exec"]


def test_the_same_operation_twice_names_both_lines() -> None:
    text = "version: 1\nrules:\n- path: /a\n- path: //a\n  id: again\n  operations: [modify, exec]"
    assert problems_of(text) == [(4, "/a is denied exec on line 3 already")]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2027-01-31", 1801353600),
        ("2027-01-31T18:00:00Z", 1801418400),
        ("2027-01-31t18:00:00.5z", 1801418400),
        ("2027-01-31 18:00:00-01:00", 1801422000),
    ],
)
def test_a_rule_expires_at_a_moment(text: str, seconds: int) -> None:
    assert rules_of(f"- {{path: /a, expires: '{text}'}}")[0].expires == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("never", "2027", "2027-02-30", "1969-01-01", "1970-01-01", "20270131", "1801418400"),
        *("2027-01-31T18:00:00", "2027-01-31T25:00:00Z", "2027-01-31T18:00:00+99:00"),
        "2027-01-3\u0661",
    ],
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    found = problems_of(f"version: 1\nrules:\n- path: /a\n  expires: '{text}'")
    assert [line for line, _ in found] == [4]


def test_cgroups_are_read_as_in_the_line_format() -> None:
    policy, problems = parse_yaml(b"version: 1\nallow_cgroups:\n- /a/\n- cgid:7\n- b\n- /a\n")
    assert policy is not None
    assert policy.allow_cgroups == ("/a", "cgid:7", "/b")
    assert [(problem.line, problem.error) for problem in problems] == [(5, False), (6, False)]


def test_every_mistake_is_reported_with_its_line() -> None:
    found = problems_of(
        "version: 9\nallow_cgroups: [/a/..]\nrules:\n- path: rel\n  mode: adit\n- {ip: 1}\n"
        "- path: /a\n  owner: []\n  depth: 2\n- 7\n- {}\n"
    )
    assert [line for line, _ in found] == [1, 2, 4, 5, 6, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("rule", "line", "words"),
    [
        ("path: /a\n  oprations: [read]", 4, "did you mean 'operations'"),
        ("path: /a\n  operations: [red]", 4, "did you mean 'read'"),
        ("path: /a\n  operations: []", 4, "deny nothing"),
        ("path: /a\n  operations: read", 4, "must be a list"),
        ("path: /a\n  operations: [[read]]", 4, "single value"),
        ("path: /a\n  operations: [egress]", 4, "cannot deny egress, only read, write, exec"),
        ("ip: 10.0.0.1\n  operations: [read]", 4, "cannot deny read, only egress, bind"),
        ("port: 22:tcp:bind\n  operations: [bind]", 4, "leave one out"),
        ("path: /a\n  mode: off", 4, "one of audit, enforce"),
        ("path: /a\n  signal: hup", 4, "one of none, int, kill, term"),
        ("path: /a\n  depth: 2", 4, "only a directory"),
        ("directory: /a\n  depth: 33", 4, "1 to 32"),
        ("directory: /a\n  depth: 0x2", 4, "1 to 32"),
        ("path: /a\n  id: -x", 4, "begins with no sign"),
        ("path: /a\n  id: " + "x" * 129, 4, "1 to 128"),
        ("path: /a\n  owner:", 4, "missing"),
        ("path: /a\n  owner: ~", 4, "missing"),
        ("path: /a\n  owner: " + "x" * 1025, 4, "longer than 1024"),
        ('path: /a\n  reason: "\\e[31m"', 4, "control characters"),
        ("path:\n    /a: b", 4, "single value"),
        ("path: /a/", 3, "directory"),
        ("path: /a\n  ip: 10.0.0.1", 3, "this one has path and ip"),
        ("id: x", 3, "this one has none"),
        ("just text", 3, "a rule has keys"),
        ("path: /a\n  path: /b", 4, "given twice, first on line 3"),
        ("{path: /a, id: x}\n- {path: /b, id: x}", 4, "line 3 already"),
        ("path: /a\n- {path: /b, id: 'path:/a'}", 4, "line 3 already"),
        ("path: &a /a", 3, "anchors"),
        ("path: !!str /a", 3, "tags"),
        ("path: !!python/object/apply:os.system [ls]", 3, "tags"),
        ("path: *a", 3, "aliases"),
        ("<<: {path: /a}", 3, "unknown key '<<'"),
        ("{path: {a: {b: {c: {d: {e: {}}}}}}}", 3, "too deeply"),
        ("? [a]\n  : b", 3, "a key must be a word"),
        ('path: "/a', 3, "no YAML"),
        ("path: '/a\x07'", 3, "control character"),
        ("path: \u2028", 3, "control character"),
    ],
)
def test_a_mistake_in_a_rule_is_explained(rule: str, line: int, words: str) -> None:
    found = problems_of(f"version: 1\nrules:\n- {rule}\n")
    assert any(at == line and words in message for at, message in found), found


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 0, "empty"),
        ("# only a comment\n", 0, "empty"),
        ("rules: []", 1, "version is missing"),
        ("version: 7", 1, "1 to 6"),
        ("version: 1.0", 1, "1 to 6"),
        ("[1]", 1, "expected keys"),
        ("version: 1\nrule: []", 2, "did you mean 'rules'"),
        ("version: 1\nrules: {}", 2, "must be a list"),
        ("version: 1\ndefaults: []", 2, "expected keys"),
        ("version: 1\ndefaults: {owner: me}", 2, "unknown key 'owner'"),
        ("version: 1\ndefaults: {operations: []}", 2, "deny nothing"),
        ("version: 1\n---\nversion: 1", 2, "second document"),
        ("version: 1\nversion: 1", 2, "twice"),
        ("version: 1\r\n", 1, "carriage return"),
        ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]", 1, "anchors"),
    ],
)
def test_a_mistake_in_the_file_is_explained(text: str, line: int, words: str) -> None:
    assert any(at == line and words in message for at, message in problems_of(text))
