"""The line format: what it means, and what it says about every mistake."""

from __future__ import annotations

import pytest

from aegis_tools.policy.model import MAX_DEPTH, Kind, Op, Policy, Rule
from aegis_tools.policy.text import UNSUPPORTED, parse_text

OPEN = Op.READ | Op.WRITE | Op.EXEC
BOTH = Op.EGRESS | Op.BIND


def parsed(body: str) -> Policy:
    policy, problems = parse_text(f"version=1\n{body}".encode())
    assert policy is not None, problems
    return policy


def problems_of(text: str | bytes) -> list[tuple[int, str]]:
    data = text if isinstance(text, bytes) else text.encode()
    policy, problems = parse_text(data)
    assert policy is None
    return [(problem.line, problem.message) for problem in problems if problem.error]


def warnings_of(body: str) -> list[tuple[int, str]]:
    policy, problems = parse_text(f"version=1\n{body}".encode())
    assert policy is not None
    assert not any(problem.error for problem in problems)
    return [(problem.line, problem.message) for problem in problems]


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("[deny_path]\n/etc/shadow", Rule("path:/etc/shadow", Kind.PATH, "/etc/shadow", OPEN)),
        ("[deny_path]\n/a #b/c d", Rule("path:/a #b/c d", Kind.PATH, "/a #b/c d", OPEN)),
        (
            "[deny_path]\n/srv//x/",
            Rule("directory:/srv/x/", Kind.DIRECTORY, "/srv/x/", OPEN, depth=MAX_DEPTH),
        ),
        ("[deny_inode]\n8:12", Rule("inode:8:12", Kind.INODE, "8:12", OPEN)),
        ("[deny_ip]\n10.0.0.1", Rule("ip:10.0.0.1", Kind.IP, "10.0.0.1", Op.EGRESS)),
        ("[deny_cidr]\n10.0.0.0/8", Rule("cidr:10.0.0.0/8", Kind.CIDR, "10.0.0.0/8", Op.EGRESS)),
        ("[deny_port]\n22:tcp", Rule("port:22:tcp", Kind.PORT, "22:tcp", BOTH)),
        ("[deny_port]\n22", Rule("port:22:any", Kind.PORT, "22:any", BOTH)),
        ("[deny_port]\n22:tcp:bind", Rule("port:22:tcp", Kind.PORT, "22:tcp", Op.BIND)),
        (
            "[deny_ip_port]\n[::1]:22",
            Rule("ip_port:[::1]:22:any", Kind.IP_PORT, "[::1]:22:any", Op.EGRESS),
        ),
    ],
)
def test_an_entry_becomes_a_rule(body: str, rule: Rule) -> None:
    assert parsed(body).rules == (rule._replace(line=3),)


def test_blanks_comments_and_reopened_sections_are_fine() -> None:
    policy = parsed("# c\n\n [ deny_path ] \n  /b\t\n#/no\n[deny_ip]\n10.0.0.1\n[deny_path]\n/a")
    assert [(rule.target, rule.line) for rule in policy.rules] == [
        ("/b", 5),
        ("10.0.0.1", 8),
        ("/a", 10),
    ]


@pytest.mark.parametrize("version", range(1, 7))
def test_the_versions_of_the_format_are_kept(version: int) -> None:
    policy, problems = parse_text(f" version = {version} ".encode())
    assert policy == Policy((), (), version)
    assert problems == []


def test_cgroups_are_allowed_by_path_or_number() -> None:
    assert parsed("[allow_cgroup]\n/system.slice/\ncgid:7").allow_cgroups == (
        "/system.slice",
        "cgid:7",
    )


def test_a_relative_cgroup_is_taken_from_the_root_with_a_warning() -> None:
    assert parsed("[allow_cgroup]\na.slice").allow_cgroups == ("/a.slice",)
    assert "relative" in warnings_of("[allow_cgroup]\na.slice")[0][1]


def test_two_directions_of_a_port_are_two_rules_with_two_ids() -> None:
    policy = parsed("[deny_port]\n22:tcp:egress\n22:tcp:bind")
    assert [(rule.id, rule.operations) for rule in policy.rules] == [
        ("port:22:tcp", Op.EGRESS),
        ("port:22:tcp:bind", Op.BIND),
    ]


def test_no_operation_of_a_port_is_denied_by_two_rules() -> None:
    policy = parsed("[deny_port]\n22:tcp:egress\n22:tcp:both\n22:tcp")
    assert [rule.operations for rule in policy.rules] == [Op.EGRESS, Op.BIND]
    lines = [line for line, _ in warnings_of("[deny_port]\n22:tcp:egress\n22:tcp:both\n22:tcp")]
    assert lines == [4, 5]


@pytest.mark.parametrize(
    "body",
    [
        "[deny_path]\n/a\n//a",
        "[deny_path]\n/a/\n/a//",
        "[deny_inode]\n8:1\n8:1",
        "[deny_ip]\n10.0.0.1\n::ffff:10.0.0.1",
        "[deny_cidr]\n10.0.0.0/8\n::ffff:10.0.0.0/104",
        "[deny_ip_port]\n10.0.0.1:1\n10.0.0.1:1:any",
        "[allow_cgroup]\n/a\n/a/",
    ],
)
def test_a_target_given_twice_is_kept_once_with_a_warning(body: str) -> None:
    policy = parsed(body)
    assert len(policy.rules) + len(policy.allow_cgroups) == 1
    assert [line for line, _ in warnings_of(body)] == [4]
    assert "line 3" in warnings_of(body)[0][1]


def test_every_mistake_is_reported_with_its_line() -> None:
    found = problems_of("version=9\nx\n[deny_path]\nrel\n[nope]\nignored\n[deny_port]\n0\n22\n0")
    assert [line for line, _ in found] == [1, 2, 4, 5, 8, 10]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 0, "version=1"),
        ("[deny_path]\n/a", 0, "version=1"),
        ("version=0", 1, "1 to 6"),
        ("version=7", 1, "1 to 6"),
        ("version=", 1, "1 to 6"),
        ("version=1\nversion=1", 2, "twice"),
        ("verson=1", 1, "did you mean 'version'"),
        ("version=1\n/etc/shadow", 2, "before the first"),
        ("version=1\n[deny_pth]", 2, "did you mean 'deny_path'"),
        ("version=1\n[]", 2, "unknown section"),
        ("version=1\n[deny_ip]\n10.0.0.1 # home", 3, "line of its own"),
        ("version=1\n[deny_port]\ntcp:22:egress", 3, "22:tcp"),
        ("version=1\n[deny_path]\n/" + "x" * 9000, 3, "longer than 8192"),
        ("version=1\n[deny_path]\n/a\0b", 3, "NUL"),
        ("version=1\r\n[deny_path]\r\n", 1, "carriage return"),
        ("\ufeffversion=1", 1, "byte order mark"),
        ("version=1".encode("utf-16"), 1, "UTF-16"),
        (b"version=1\n[deny_path]\n/\xff", 3, "not UTF-8"),
    ],
)
def test_a_mistake_is_explained(text: str | bytes, line: int, words: str) -> None:
    assert any(at == line and words in message for at, message in problems_of(text))


@pytest.mark.parametrize("section", sorted(UNSUPPORTED))
def test_a_section_that_is_not_enforced_is_an_error_never_ignored(section: str) -> None:
    ((line, message),) = problems_of(f"version=6\n[{section}]\nsha256:00\n/x\n")
    assert line == 2
    assert f"section [{section}] is not supported: " in message


def test_many_errors_end_in_one_line_that_says_so() -> None:
    found = problems_of("version=1\n[deny_path]\n" + "x\n" * 5000)
    assert len(found) == 101
    assert "stopped" in found[-1][1]


def test_many_warnings_are_counted_not_listed() -> None:
    found = warnings_of("[deny_path]\n" + "/a\n" * 5000)
    assert len(found) == 101
    assert "4899 more" in found[-1][1]


def test_more_rules_than_a_policy_may_have_are_refused() -> None:
    lines = "\n".join(f"1:{number}" for number in range(1, 1_000_002))
    assert "1,000,000 rules" in problems_of(f"version=1\n[deny_inode]\n{lines}")[0][1]
