"""Converting, choosing the form, and the errors that reach the user."""

from __future__ import annotations

import pytest

from aegis_tools.errors import PolicyError, UsageError
from aegis_tools.policy.convert import convert
from aegis_tools.policy.load import is_yaml, parse_policy, require_policy
from aegis_tools.policy.model import Policy

TEXT = b"""version=2
[allow_cgroup]
/system.slice/backup.service
[deny_path]
/srv/secrets/
/srv/a b
[deny_port]
22:tcp:egress
22:tcp:bind
23
"""

YAML = """version: 2
allow_cgroups:
  - /system.slice/backup.service
rules:
  - directory: /srv/secrets/
  - path: /srv/a b
  - port: "22:tcp"
    operations: [egress]
  - port: "22:tcp"
    operations: [bind]
  - port: "23:any"
"""


def test_the_line_format_becomes_short_yaml() -> None:
    policy, _ = require_policy(TEXT, "policy.conf")
    assert convert(policy, "yaml") == YAML


def test_plain_yaml_becomes_the_line_format() -> None:
    policy, _ = require_policy(YAML.encode(), "policy.yaml")
    assert convert(policy, "text") == (
        "version=2\n\n[allow_cgroup]\n/system.slice/backup.service\n\n[deny_path]\n/srv/secrets/\n"
        "/srv/a b\n\n[deny_port]\n22:tcp:egress\n22:tcp:bind\n23:any\n"
    )


@pytest.mark.parametrize(
    ("rule", "lost"),
    [
        ("path: /a, id: mine", ["id mine"]),
        ("path: /a, operations: [write, modify]", ["operations write+modify"]),
        ("ip: 10.0.0.1, operations: [bind]", ["operations bind"]),
        ("path: /a, mode: audit", ["mode audit"]),
        ("path: /a, signal: kill", ["signal kill"]),
        ("directory: /a, depth: 2", ["depth 2"]),
        ("path: /a, owner: me, reason: why", ["owner", "reason"]),
        ("path: /a, expires: 2030-01-01", ["expires"]),
        ("path: '/a '", ["target (its last character is a blank)"]),
    ],
)
def test_what_the_line_format_would_lose_is_named(rule: str, lost: list[str]) -> None:
    text = f"version: 1\nrules:\n- path: /fine\n- {{{rule}}}\n"
    policy, _ = require_policy(text.encode(), "policy.yaml")
    with pytest.raises(PolicyError, match="line 4") as caught:
        convert(policy, "text")
    (loss,) = caught.value.data["losses"]
    assert loss == {"rule": policy.rules[1].id, "line": 4, "lost": lost}
    assert all(what in str(caught.value) for what in lost)
    assert convert(policy, "yaml")


def test_a_long_list_of_losses_stays_one_line() -> None:
    rules = "".join(f"- {{path: /{number}, owner: me}}\n" for number in range(50))
    policy, _ = require_policy(f"version: 1\nrules:\n{rules}".encode(), "policy.yaml")
    with pytest.raises(PolicyError, match="47 more rules") as caught:
        convert(policy, "text")
    assert "\n" not in caught.value.message
    assert len(caught.value.data["losses"]) == 50


def test_an_unknown_form_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="toml"):
        convert(Policy(()), "toml")


@pytest.mark.parametrize(
    ("data", "name", "yaml"),
    [
        (b"version: 1\n", "policy", True),
        (b"# comment\n\n---\nversion: 1\n", "policy", True),
        (b"{version: 1}", "stored.policy", True),
        (b"%YAML 1.1\n---\n", "-", True),
        (b"rules : []\n", "-", True),
        (b"version=1\n", "policy", False),
        (b"# version: 1\n[deny_path]\n", "policy", False),
        (b"", "policy", False),
        (b"\xff\xfe\0", "policy", False),
        (b"version=1\n", "p.YAML", True),
        (b"version=1\n", "p.yml", True),
        (b"version: 1\n", "p.conf", False),
    ],
)
def test_the_form_is_told_by_the_ending_or_the_first_line(
    data: bytes, name: str, yaml: bool
) -> None:
    assert is_yaml(data, name) is yaml


def test_the_error_for_the_user_names_the_first_mistake_and_carries_all() -> None:
    data = b"version=1\n[deny_path]\nrel\n/ok\n/ok\n[nope]\n"
    with pytest.raises(PolicyError, match=r"line 3: 'rel'.*1 more error") as caught:
        require_policy(data, "policy.conf")
    assert [problem["line"] for problem in caught.value.data["problems"]] == [3, 5, 6]
    assert "lint" in caught.value.hint


def test_a_good_policy_comes_with_its_warnings() -> None:
    policy, warnings = require_policy(b"version=1\n[deny_path]\n/ok\n/ok\n", "policy.conf")
    assert len(policy.rules) == 1
    assert [problem.line for problem in warnings] == [4]
    assert parse_policy(b"version=1\n", "x")[1] == []
