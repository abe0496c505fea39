"""Parsing what was written gives the policy back; and no input at all makes a parser fail."""

from __future__ import annotations

import time
from pathlib import Path

import policy_strategies as given_
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_tools.errors import PolicyError
from aegis_tools.policy.convert import convert, format_text, format_yaml
from aegis_tools.policy.lint import lint
from aegis_tools.policy.load import parse_policy
from aegis_tools.policy.model import Policy
from aegis_tools.policy.source import Problems, Stop
from aegis_tools.policy.text import parse_text
from aegis_tools.policy.tree import read
from aegis_tools.policy.yamlform import parse_yaml

EXAMPLES = Path(__file__).parents[2] / "policies" / "example"
bounded = settings(derandomize=True, deadline=None, max_examples=100)


@bounded
@given(given_.policies)
def test_yaml_says_every_policy(policy: Policy) -> None:
    again, problems = parse_yaml(format_yaml(policy).encode())
    assert problems == []
    assert given_.without_lines(again) == policy


@bounded
@given(given_.policies)
def test_any_other_yaml_reader_sees_the_same_text(policy: Policy) -> None:
    read_back = yaml.safe_load(format_yaml(policy)).get("rules", ())
    for rule, seen in zip(policy.rules, read_back, strict=True):
        assert seen[rule.kind.value] == rule.target
        assert seen.get("owner", "") == rule.owner
        assert seen.get("reason", "") == rule.reason
        assert seen.get("id", rule.id) == rule.id


@bounded
@given(given_.plain_policies)
def test_the_line_format_says_every_plain_policy(policy: Policy) -> None:
    again, problems = parse_text(format_text(policy).encode())
    assert problems == []
    assert given_.without_lines(again) == policy


@bounded
@given(given_.policies)
def test_the_line_format_refuses_what_it_would_lose(policy: Policy) -> None:
    try:
        text = format_text(policy)
    except PolicyError as error:
        losses = error.data["losses"]
    else:
        losses = []
    if losses:
        assert {entry["rule"] for entry in losses} <= {rule.id for rule in policy.rules}
        assert all(entry["lost"] for entry in losses)
        return
    assert given_.without_lines(parse_text(text.encode())[0]) == policy


@bounded
@given(given_.plain_policies)
def test_a_plain_policy_survives_the_way_through_yaml(policy: Policy) -> None:
    in_yaml = parse_policy(convert(policy, "yaml").encode(), "p.yaml")[0]
    assert in_yaml is not None
    assert convert(in_yaml, "text") == convert(policy, "text")


@bounded
@given(given_.policies)
def test_the_form_is_recognised_without_a_file_name(policy: Policy) -> None:
    again, _ = parse_policy(format_yaml(policy).encode(), "stored.policy")
    assert given_.without_lines(again) == policy


@bounded
@given(given_.policies)
def test_yaml_without_libyaml_reads_the_same(policy: Policy) -> None:
    text = format_yaml(policy)
    assert read(text, Problems(), pure=True) == read(text, Problems())


@bounded
@given(given_.policies)
def test_lint_takes_any_policy_and_points_at_its_rules(policy: Policy) -> None:
    known = {rule.id for rule in policy.rules} | {""}
    assert {problem.rule for problem in lint(policy, now=1.9e9)} <= known


def test_the_two_examples_say_the_same_as_far_as_the_line_format_goes() -> None:
    conf, conf_problems = parse_policy((EXAMPLES / "policy.conf").read_bytes(), "policy.conf")
    full, full_problems = parse_policy((EXAMPLES / "policy.yaml").read_bytes(), "policy.yaml")
    assert conf is not None
    assert full is not None
    assert conf_problems + full_problems + lint(conf) + lint(full, now=1.8e9) == []
    more = [rule for rule in full.rules if rule.id.startswith("demo-")]
    same = given_.without_lines(full._replace(rules=full.rules[: -len(more)]))
    assert same == given_.without_lines(conf)
    with pytest.raises(PolicyError) as caught:
        convert(full, "text")
    assert {entry["rule"] for entry in caught.value.data["losses"]} == {rule.id for rule in more}


SAMPLES = [path.read_bytes() for path in sorted(EXAMPLES.iterdir())] + [
    b"version=1\n[deny_path]\n/a\n[deny_port]\n1:tcp\n1:udp:bind\n[deny_ip_port]\n[::1]:1:udp\n",
    b"{version: 1, rules: [{path: /a, operations: [read]}, {inode: '1:2', id: x}]}",
    b"version: 1\nrules:\n- &a {path: /x}\n- *a\n- <<: {path: !!str x}\n",
]
SCRAPS = (
    rb": [ ] { } - # / *a &a !!map ... ? | ~ ' .. rules: <<: %YAML [deny_ip] --- \x 99999"
).split()
BYTES = [b"\n", b" ", b"\xff", b"\0", b"\r\n", b"\t", b"\xef\xbb\xbf", b"\xc2\x85", b"\xe2\x80\xa8"]
scraps = st.sampled_from([*SCRAPS, *BYTES, b'"\\U99999999"']) | st.binary(max_size=6)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = draw(st.sampled_from(SAMPLES))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 0, 1, 3, 40])))
        data = data[:start] + draw(scraps) + data[end:]
    return data


@settings(derandomize=True, deadline=None, max_examples=600)
@given(damaged() | st.binary(max_size=80) | st.lists(scraps).map(b"".join))
def test_no_input_gets_anything_but_a_policy_or_errors(data: bytes) -> None:
    for parse, write in ((parse_text, format_text), (parse_yaml, format_yaml)):
        policy, problems = parse(data)
        assert (policy is None) == any(problem.error for problem in problems)
        assert all(0 <= problem.line <= data.count(b"\n") + 1 for problem in problems)
        assert all(problem.message.isprintable() for problem in problems)
        if policy is not None:
            assert all(problem.message.isprintable() for problem in lint(policy))
            again = parse(write(policy).encode())[0]
            assert given_.without_lines(again) == given_.without_lines(policy)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(damaged() | st.lists(scraps).map(b"".join))
def test_the_pure_yaml_reader_stops_cleanly_too(data: bytes) -> None:
    problems = Problems()
    try:
        read(data.decode("utf-8", "replace"), problems, pure=True)
    except Stop:
        assert problems.failed


JUNK = (b"x\n", b"x", b"[", b"- ", b"{", b"&a ", b"\n", b"\xfe", b"#")
TEN_MEGABYTES = [
    *(piece * (10_000_000 // len(piece)) for piece in JUNK),
    b"version: 1\nrules:\n" + b"- a\n" * 100_000,
    b"version=1\n[deny_path]\n" + b"x\n" * 900_000,
]


@pytest.mark.parametrize("data", TEN_MEGABYTES, ids=lambda data: repr(data[:9]))
@pytest.mark.parametrize("parse", [parse_text, parse_yaml])
def test_ten_megabytes_of_junk_are_refused_soon_with_few_words(parse, data) -> None:  # type: ignore[no-untyped-def]
    start = time.monotonic()
    policy, problems = parse(data)
    assert time.monotonic() - start < 5
    assert policy is None
    assert 1 <= len(problems) <= 101
    assert all(len(problem.message) < 400 for problem in problems)


def test_a_large_policy_is_parsed_at_once() -> None:
    lines = "".join(f"271:{number}\n" for number in range(1, 65537))
    data = f"version=1\n[deny_inode]\n{lines}".encode()
    best = 9.0
    for _ in range(5):
        start = time.perf_counter()
        policy, _ = parse_text(data)
        best = min(best, time.perf_counter() - start)
    assert policy is not None
    assert len(policy.rules) == 65536
    assert best < 0.3, "it takes 0.04 s on an idle machine"
