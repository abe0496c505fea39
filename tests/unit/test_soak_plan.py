"""What is asked of a soak that is to begin, and refused before anything of the host is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aegis_tools.errors import UsageError
from aegis_tools.paths import Paths
from aegis_tools.soak.plan import Wanted, plan


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
