"""Rules made by hand: kept and brought back, whatever the kernel's bytes say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.control import manual
from aegis_tools.kernel.layout import MANUAL_RULE, ManualRule
from aegis_tools.policy.model import Kind, Mode, Op, Signal
from aegis_tools.policy.targets import canonical

KINDS = [kind.value for kind in Kind]


def record(text: str, operations: int = 1) -> ManualRule:
    return ManualRule(1, 0, operations, 1, 15, 0, text)


def test_a_rule_survives_the_kernel() -> None:
    rule = manual.manual_rule(Kind.PATH, "/srv/ä b", Op.READ | Op.WRITE)
    rule = rule._replace(mode=Mode.AUDIT, signal=Signal.TERM)
    kept = manual.to_record(rule, now_ns=5, uid=7)
    assert manual.to_rule(ManualRule.unpack(kept.pack())) == rule


def test_text_that_is_no_canonical_target_is_no_rule() -> None:
    for text in ("port:abc", "ip:1.2.3", "cidr:10.0.0.1/8", "path:relative", "inode:1", "x:y", ""):
        assert manual.to_rule(record(text, 63)) is None, text


def test_operations_of_another_kind_are_no_rule() -> None:
    assert manual.to_rule(record("path:/x", int(Op.EGRESS))) is None
    assert manual.to_rule(record("ip:192.0.2.1", int(Op.READ))) is None


@given(st.binary(min_size=MANUAL_RULE.size, max_size=MANUAL_RULE.size))
def test_no_bytes_lead_to_more_than_no_rule(data: bytes) -> None:
    rule = manual.to_rule(ManualRule.unpack(data))
    assert rule is None or canonical(rule.kind, rule.target) == rule.target


@given(st.sampled_from(KINDS), st.text(max_size=30), st.integers(0, 2**32 - 1))
def test_no_text_behind_a_kind_leads_to_more_than_no_rule(kind: str, text: str, ops: int) -> None:
    found = ManualRule.unpack(record(f"{kind}:{text}", ops).pack())
    rule = manual.to_rule(found)
    assert rule is None or canonical(rule.kind, rule.target) == rule.target
