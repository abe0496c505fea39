"""What the hooks add to a call that no rule matches, in instructions: the same in every run.

Times on an emulated processor say nothing, and no time holds on another machine; so it is counts
and their ratios that must not grow (docs/adr/0024). The figures are made anew, where more is worth
it, by `benchmarks.budget`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.budget import CALLS, MANY, POLICIES, misses

BUDGETS = Path(__file__).with_name("budget")
SLACK = 1.03
"""Of what was measured: another point release of a kernel, another length of a path."""
TENTH = 1.10
AIMED = ("inode", "name")
"""Rules with which open is to be within a tenth of no program at all."""

Counts = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def counted() -> Counts:
    """Count once, with every policy."""
    found = misses()
    print(json.dumps(found, indent=1))
    return found


@pytest.fixture(scope="module")
def budget(kernel_name: str) -> Counts:
    """Return what this kernel took when it was last looked at."""
    kept: Counts = json.loads((BUDGETS / f"{kernel_name}-calls.json").read_text())
    return kept


def test_a_second_count_of_the_same_is_the_same(counted: Counts) -> None:
    for call in CALLS:
        assert abs(counted["none again"][call]) <= 0.002 * counted["none"][call]


def test_a_miss_takes_no_more_instructions_than_it_did(counted: Counts, budget: Counts) -> None:
    assert set(counted) == set(budget)
    over = {
        f"{call}, {policy}": f"{added:.0f} instructions, {budget[policy][call]:.0f} before"
        for policy, _, _ in POLICIES
        for call, added in counted[policy].items()
        if added > SLACK * budget[policy][call]
    }
    assert not over, f"{over}; where it is worth it: python -m benchmarks.budget"


@pytest.mark.parametrize("policy", AIMED)
def test_an_open_that_misses_is_within_a_tenth_of_no_program(policy: str, counted: Counts) -> None:
    none = counted["none"]["open"]
    assert none + counted[policy]["open"] <= TENTH * none


def test_a_miss_takes_as_many_instructions_with_many_rules(counted: Counts) -> None:
    for policy, kind, count in POLICIES:
        if count == MANY and kind != "cidr":  # in a trie, which gets deeper
            for call, added in counted[policy].items():
                assert added <= 1.1 * counted[kind][call], (policy, call)
