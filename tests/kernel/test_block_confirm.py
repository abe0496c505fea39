"""Rules made by hand that wait for a confirmation, and what becomes of them without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from apply_support import Host
from confirm_support import LATER, config

from aegis_tools.control import confirm
from aegis_tools.kernel.layout import Config

WITHIN = ("--confirm-within", "10m")


def rules_of(host: Host) -> list[dict[str, Any]]:
    return [{**row, "hits": 0, "last": 0} for row in host("rule", "list")["rules"]]


@pytest.fixture
def ruled(host: Host, files: dict[str, Path]) -> Host:
    """A host with a policy, a rule of it that was promoted by hand, and a rule made by hand."""
    files["policy"].write_text(f"version: 1\nrules:\n  - {{id: r1, path: {files['a']}, "
                               "mode: audit}\n")  # fmt: skip
    host("policy", "apply", files["policy"].rename(files["policy"].with_suffix(".yaml")))
    host("rule", "promote", "r1", "--force")
    host("block", "add", files["b"], "--operations", "write")
    return host


@pytest.mark.parametrize(
    "change",
    [
        ("block", "add", "/srv"),
        ("block", "add", "{b}"),
        ("block", "del", "{a}"),
        ("block", "del", "{b}"),
        ("block", "del", "{a}", "{b}"),
        ("network", "deny", "add", "--ip", "203.0.113.9"),
    ],
    ids=" ".join,
)
def test_a_block_change_is_undone_unless_it_is_confirmed(
    ruled: Host, files: dict[str, Path], change: tuple[str, ...]
) -> None:
    words, before = [word.format(**files) for word in change], rules_of(ruled)
    told = ruled(*words, *WITHIN)
    assert told["changed"]
    assert told["pending"]["action"] == " ".join(words[: 3 if words[0] == "network" else 2])
    after = rules_of(ruled)
    assert after != before
    assert config(ruled, Config.DEADLINE)
    assert confirm.revert_if_overdue(ruled.paths, seams=LATER) is not None
    assert rules_of(ruled) == before
    assert config(ruled, Config.DEADLINE) == 0
    ruled(*words, *WITHIN)
    ruled("policy", "confirm")
    assert confirm.revert_if_overdue(ruled.paths, seams=LATER) is None
    assert rules_of(ruled) == after


def test_network_rules_come_back_as_well(ruled: Host) -> None:
    ruled("network", "deny", "add", "--ip", "203.0.113.9")
    before = rules_of(ruled)
    ruled("network", "deny", "del", "--ip", "203.0.113.9", *WITHIN)
    ruled("policy", "revert")
    assert rules_of(ruled) == before


def test_what_was_removed_before_stays_away_after_a_revert(
    ruled: Host, files: dict[str, Path]
) -> None:
    ruled("block", "del", files["a"])
    before = rules_of(ruled)
    ruled("block", "del", files["b"], *WITHIN)
    ruled("policy", "revert")
    assert rules_of(ruled) == before


def test_a_change_that_changes_nothing_or_is_refused_waits_for_nothing(
    ruled: Host, files: dict[str, Path]
) -> None:
    ruled("block", "add", files["b"], "--operations", "write", *WITHIN)
    ruled("block", "del", "/no/such", *WITHIN, code=3)
    ruled("block", "del", files["a"], "/no/such", *WITHIN, code=3)
    ruled("block", "del", files["a"], *WITHIN, "--dry-run")
    ruled("block", "add", "/srv", "--i-know-this-locks-me-out", code=2)
    assert not ruled.paths.pending.exists()
    assert config(ruled, Config.DEADLINE) == 0


def test_one_change_waits_at_a_time(ruled: Host, files: dict[str, Path]) -> None:
    ruled("block", "add", "/srv", *WITHIN)
    assert ruled("block", "del", files["b"], *WITHIN, code=8)["error"] == "unconfirmed"
    ruled("block", "del", files["b"])
    ruled("policy", "revert")
    assert str(files["b"]) not in {row["target"] for row in rules_of(ruled)}


def test_what_nobody_gets_back_in_without_is_refused_and_nothing_waits(ruled: Host) -> None:
    before = rules_of(ruled)
    assert ruled("block", "add", "/bin/sh", *WITHIN, code=3)["error"] == "lockout"
    assert not ruled.paths.pending.exists()
    told = ruled("block", "add", "/bin/sh", *WITHIN, "--i-know-this-locks-me-out")
    assert told["pending"]["action"] == "block add"
    ruled("policy", "revert")
    assert rules_of(ruled) == before
