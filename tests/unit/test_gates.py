"""Gates: a host passes when it is no worse than before; each way of being worse has its reason."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.rollout.gates import Limits, judge, rates

DIGEST = "d" * 64


def sample(**changes: Any) -> dict[str, Any]:
    """Return a host that is well; names with dots are changed below."""
    found: dict[str, Any] = {
        "boot_id": "b",
        "boot_seconds": 100.0,
        "loaded": True,
        "failed": [],
        "mode": {"held": ""},
        "policy": {"digest": DIGEST},
        "pending": {"seconds_left": 60.0},
        "counters": {"blocks": 10, "audits": 10, "ringbuf_drops": 0},
        "fullest_map": {"name": "rules", "utilization": 0.1},
        "agent": {"running": True, "starts_in_window": 1},
    }
    for path, value in changes.items():
        at = found
        *folders, name = path.split("__")
        for folder in folders:
            at = at[folder]
        at[name] = value
    return found


def reasons(now: dict[str, Any], *, base_rate: float = 0.0, **limits: Any) -> list[str]:
    """Judge a host that refused ``base_rate`` times a second in the ten seconds before."""
    usual = 10 - int(base_rate * 10)
    before = sample(boot_seconds=90.0, counters__blocks=usual, counters__audits=usual)
    return judge(before, sample(), now, Limits(**limits), digest=DIGEST)


def test_a_host_that_is_as_before_passes() -> None:
    assert reasons(sample(boot_seconds=160.0)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boot_id": "c"}, "booted again"),
        ({"loaded": False}, "nothing is loaded"),
        ({"counters": None}, "nothing is loaded"),
        ({"policy__digest": "e" * 64}, "another policy is live: eeeeeeeeeeee"),
        ({"policy": None}, "another policy is live: none"),
        ({"failed": [{"name": "attached", "message": "12 of 15"}]}, "not healthy: 12 of 15"),
        ({"mode__held": "crash-loop"}, "held in audit: crash-loop"),
        ({"agent__running": False}, "agent does not run"),
        ({"agent__starts_in_window": 2}, "agent was started again"),
        ({"counters__ringbuf_drops": 1}, "1 events lost"),
        ({"fullest_map__utilization": 0.95}, "rules is 95% full"),
        ({"pending": None}, "does not wait any more"),
        ({"counters__blocks": 100, "boot_seconds": 110.0}, "9.0 refusals a second"),
        ({"counters__blocks": 100, "boot_seconds": 101.0}, "9.0 refusals a second"),
        ({"counters__audits": 130, "boot_seconds": 110.0}, "12.0 would-be refusals a second"),
    ],
)
def test_each_way_of_being_worse_has_its_reason(change: dict[str, Any], words: str) -> None:
    found = reasons(sample(**change))
    assert len(found) == 1
    assert words in found[0]


def test_what_was_wrong_before_is_no_reason() -> None:
    sick = {"failed": [{"name": "enforceable", "message": "fallback"}], "agent": {"running": False}}
    before, now = sample(**copy.deepcopy(sick)), sample(**copy.deepcopy(sick))
    assert judge(before, before, now, Limits(), digest=DIGEST) == []


@pytest.mark.parametrize(("base_rate", "passes"), [(0.0, False), (2.0, False), (3.0, True)])
def test_refusals_are_measured_against_the_hosts_own(base_rate: float, passes: bool) -> None:
    now = sample(counters__blocks=110, boot_seconds=110.0)  # 10 a second
    assert (reasons(now, base_rate=base_rate) == []) == passes


def test_limits_are_what_is_asked_for() -> None:
    now = sample(counters__ringbuf_drops=5, fullest_map__utilization=0.5)
    assert reasons(now, drops=5) == []
    assert len(reasons(now, drops=4, map_fill=0.4)) == 2


def test_a_few_matches_in_the_first_moment_are_no_rate() -> None:
    assert reasons(sample(counters__blocks=15, boot_seconds=100.5)) == []


def test_would_be_refusals_are_measured_against_the_hosts_own() -> None:
    now = sample(counters__audits=510, boot_seconds=110.0)  # 50 a second
    assert len(reasons(now, base_rate=10.0)) == 1
    assert reasons(now, base_rate=14.0) == []


def test_a_change_that_would_be_undone_before_the_watch_ends_is_told_at_once() -> None:
    def judged(left: float) -> list[str]:
        return judge(sample(), sample(), sample(), Limits(), digest=DIGEST, left=left)

    assert judged(59.0) == []
    assert "confirm_within is too short" in judged(61.0)[0]


@given(st.integers(0, 2**63), st.integers(0, 2**63), st.floats(0, 1e9), st.floats(0, 1e9))
def test_a_rate_is_never_negative_nor_an_error(a: int, b: int, s: float, t: float) -> None:
    found = rates(
        sample(counters__blocks=a, boot_seconds=s), sample(counters__blocks=b, boot_seconds=t)
    )
    assert min(found) >= 0


@pytest.mark.parametrize("change", [{"counters": None}, {"boot_id": "c"}])
def test_a_host_without_counters_or_with_others_has_no_rate(change: dict[str, Any]) -> None:
    now = sample(**{"counters__blocks": 90, "boot_seconds": 110.0, **change})
    assert rates(sample(), now) == (0, 0, 0)
