"""What is asked of a soak that is to begin, and refused before the host is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aegis_tools.errors import NotLoadedError, StateError, UsageError
from aegis_tools.paths import Paths
from aegis_tools.soak.plan import BYTES_BESIDE, Wanted, bytes_of, check_room, plan


def refusal(tmp_path: Path, **given: Any) -> UsageError:
    """Return why such a soak may not begin; nothing is loaded on that host."""
    values: dict[str, Any] = {"scenario": "shadow", "duration_s": 600, "foreground": True, **given}
    with pytest.raises(UsageError) as refused:
        plan(Paths(tmp_path), Wanted(**values))
    assert list(tmp_path.iterdir()) == []
    return refused.value


@pytest.mark.parametrize("scenario", ["shadow", "stress"])
def test_denials_are_expected_by_a_soak_that_enforces_only(tmp_path: Path, scenario: str) -> None:
    for rules in (("path:/srv/secret",), ("",)):
        refused = refusal(tmp_path, scenario=scenario, expected=rules)
        assert "only a soak that enforces" in refused.message
        assert refused.hint == "leave --expect out"


@pytest.mark.parametrize("option", ["note", "override", "expected"])
def test_a_text_that_no_report_could_have_is_refused_with_its_option(
    tmp_path: Path, option: str
) -> None:
    scenario = "shadow" if option == "note" else "enforce"
    name = {"expected": "expect"}.get(option, option)
    for text, why in (("x" * 2001, "has 2001 characters, and 2000 is the most"),
                      ("x\udcff", r"is no UTF-8: x\xff")):  # fmt: skip
        given = {option: (text,) if option == "expected" else text}
        assert refusal(tmp_path, scenario=scenario, **given).message == f"--{name} {why}"


def test_more_rules_than_settings_have_are_refused(tmp_path: Path) -> None:
    rules = tuple(f"path:/{number}" for number in range(1001))
    refused = refusal(tmp_path, scenario="enforce", expected=rules)
    assert refused.message == "--expect is given 1001 times, and 1000 is the most"


def test_texts_of_just_the_size_are_taken(tmp_path: Path) -> None:
    wanted = Wanted("enforce", 600, expected=("x" * 2000,), override="y" * 2000,
                    note="ü" * 2000, foreground=True)  # fmt: skip
    with pytest.raises(NotLoadedError):
        plan(Paths(tmp_path), wanted)


def test_a_soak_shorter_than_its_interval_is_told_which_is_which(tmp_path: Path) -> None:
    refused = refusal(tmp_path, duration_s=30)
    assert "30 s is shorter than the interval" in refused.message
    assert "60 s, the default" in refused.message
    assert refused.hint.endswith("--interval 3s")
    refused = refusal(tmp_path, duration_s=600, interval_s=601)
    assert refused.message.endswith("601 s")


def test_fewer_turns_are_advised_only_where_they_would_fit() -> None:
    wanted = Wanted("shadow", 14 * 86400, 5)
    needed = bytes_of(wanted.duration_s, wanted.interval_s)
    check_room(wanted, needed, 2 * needed)
    for free, interval, hint in (
        (2 * needed - 1, 5, "free some space, or make turns less often: --interval 5m"),
        (2 * needed - 1, 300, "free some space"),
        (2 * BYTES_BESIDE, 5, "free some space"),
    ):
        with pytest.raises(StateError) as refused:
            check_room(Wanted("shadow", 14 * 86400, interval), needed, free)
        assert refused.value.hint == hint
