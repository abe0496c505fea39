"""Lint: what it warns of, and what it must leave alone."""

from __future__ import annotations

import pytest

from aegis_tools.policy.lint import dangers, lint
from aegis_tools.policy.model import Kind, Op, Policy, Rule
from aegis_tools.policy.yamlform import parse_yaml


def findings(*rules: str, now: float = 0) -> list[tuple[int, str]]:
    """Lint rules written as YAML flow mappings; the first stands on line 1."""
    lines = "".join(f"- {{{rule}}}\n" for rule in rules)
    policy, problems = parse_yaml(f"rules:\n{lines}version: 1\n".encode())
    assert policy is not None, problems
    found = lint(policy, now=now)
    assert not any(problem.error for problem in found)
    return [(problem.line - 1, problem.message) for problem in found]


@pytest.mark.parametrize(
    ("wider", "rule"),
    [
        ("directory: /a/", "path: /a/b"),
        ("directory: /a/", "path: /a/b/c/d"),
        ("directory: /a/", "path: /a" + "/b" * 32),
        ("directory: /a/", "directory: /a/b/"),
        ("directory: /", "path: /a"),
        ("directory: /a/, depth: 2", "path: /a/b/c"),
        ("directory: /a/, depth: 3", "directory: /a/b/, depth: 2"),
        ("directory: /a/", "path: /a/b, operations: [read]"),
        ("directory: /a/", "path: /a/b, mode: audit"),
        ("directory: /a/", "path: /a/b, expires: 2030-01-01"),
        ("directory: /a/, signal: kill", "path: /a/b"),
        ("cidr: 10.0.0.0/8", "ip: 10.1.2.3"),
        ("cidr: 10.0.0.0/8", "cidr: 10.1.0.0/16"),
        ("cidr: 10.0.0.0/8", "ip: '::ffff:10.1.2.3'"),
        ("cidr: '2001:db8::/32'", "ip: '2001:db8::1'"),
        ("cidr: 10.0.0.0/8", "ip_port: 10.1.2.3:443:tcp"),
        ("cidr: 10.0.0.1/32", "ip: 10.0.0.1"),
        ("ip: 10.0.0.1", "cidr: 10.0.0.1/32"),
        ("ip: 10.0.0.1", "ip_port: 10.0.0.1:443"),
        ("port: 443", "port: 443:tcp"),
        ("port: 443:tcp", "ip_port: 10.0.0.1:443:tcp"),
        ("port: 443", "ip_port: '[::1]:443:udp'"),
    ],
)
def test_a_rule_that_another_one_covers_is_needless(wider: str, rule: str) -> None:
    ((line, message),) = [found for found in findings(wider, rule) if "adds nothing" in found[1]]
    assert line == 2
    assert "(line 2)" in message


@pytest.mark.parametrize(
    ("wider", "rule"),
    [
        ("directory: /a/", "path: /ab"),
        ("directory: /a/", "path: /a"),
        ("directory: /a/, depth: 1", "path: /a/b/c"),
        ("directory: /a/, depth: 2", "directory: /a/b/, depth: 2"),
        ("directory: /a/, operations: [read]", "path: /a/b"),
        ("directory: /a/, mode: audit", "path: /a/b"),
        ("directory: /a/", "path: /a/b, signal: kill"),
        ("directory: /a/, expires: 2030-01-01", "path: /a/b"),
        ("directory: /a/, expires: 2030-01-01", "path: /a/b, expires: 2031-01-01"),
        ("directory: /a/", "path: /a" + "/b" * 33),
        ("path: /a", "path: /a/b"),
        ("cidr: 10.0.0.0/8", "ip: 11.0.0.1"),
        ("cidr: 0.0.0.0/1", "ip: '2001:db8::1'"),
        ("cidr: 10.0.0.0/8", "cidr: 11.0.0.0/8"),
        ("cidr: 10.0.0.0/8", "ip: 10.0.0.1, operations: [bind]"),
        ("port: 443:tcp", "port: 443:udp"),
        ("port: 443:tcp:egress", "port: 443:tcp:bind"),
        ("port: 443:tcp", "ip_port: 10.0.0.1:443:any"),
        ("port: 443:any:bind", "ip_port: 10.0.0.1:443:tcp"),
        ("port: 443", "ip_port: 10.0.0.1:444"),
    ],
)
def test_a_rule_that_adds_something_is_left_alone(wider: str, rule: str) -> None:
    assert findings(wider, rule) == []


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("directory: /", "whole system"),
        ("directory: /usr", "whole system"),
        ("path: /usr", "whole system"),
        ("cidr: 0.0.0.0/0", "every address"),
        ("cidr: '::/0'", "every address"),
        ("path: '/srv/*.key'", "no patterns"),
        ("path: '/srv/key # main'", "line of its own"),
        ('path: "/srv/\\u200b"', "cannot be seen"),
        ("path: /a, mode: audit, signal: kill", "never sent"),
    ],
)
def test_what_is_probably_not_meant_is_a_warning(rule: str, words: str) -> None:
    ((line, message),) = findings(rule)
    assert line == 1
    assert words in message


@pytest.mark.parametrize(
    "rule", ["directory: /usr, mode: audit", "directory: /usr/local/", "path: /a b", "path: /ü"]
)
def test_what_is_fine_is_left_alone(rule: str) -> None:
    assert findings(rule) == []


@pytest.mark.parametrize(("now", "count"), [(0, 0), (1893455999, 0), (1893456000, 1), (2e9, 1)])
def test_a_rule_has_expired_from_that_second_on(now: float, count: int) -> None:
    assert len(findings("path: /a, expires: 2030-01-01", now=now)) == count


def test_a_rule_without_operations_is_an_error() -> None:
    (problem,) = lint(Policy((Rule("x", Kind.PATH, "/a", Op(0), line=7),)))
    assert (problem.line, problem.error, problem.rule) == (7, True, "x")


def test_the_root_cgroup_and_relative_cgroups_are_warned_of() -> None:
    found = lint(Policy((), ("/", "a.slice", "/b", "cgid:7")))
    assert len(found) == 2
    assert not any(problem.error for problem in found)


@pytest.mark.parametrize(
    "rule",
    [
        "directory: /",
        "directory: /usr/",
        "path: /lib64",
        "path: /dev/null",
        "cidr: 0.0.0.0/0",
        "cidr: '::/0'",
        "cidr: 127.0.0.0/8",
        "ip: 127.0.0.1",
        "ip: '::1'",
        "port: 22",
    ],
)
def test_what_makes_a_host_unusable_is_a_danger_unless_it_only_audits(rule: str) -> None:
    for mode, count in (("enforce", 1), ("audit", 0)):
        text = f"rules:\n- {{{rule}, mode: {mode}}}\nversion: 1\n"
        policy, problems = parse_yaml(text.encode())
        assert policy is not None, problems
        found = dangers(policy)
        assert len(found) == count
        assert set(found) <= set(lint(policy))
        assert not any(problem.error for problem in found)


@pytest.mark.parametrize(
    "rule", ["path: /etc/shadow", "ip: '::1:2'", "port: 2222", "cidr: 10.0.0.0/8", "path: /usr/x"]
)
def test_an_ordinary_rule_is_no_danger(rule: str) -> None:
    policy, _ = parse_yaml(f"rules:\n- {{{rule}}}\nversion: 1\n".encode())
    assert policy is not None
    assert dangers(policy) == []
