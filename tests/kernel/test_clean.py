"""The evidence for enforcing, and going back bound to a plan: refused before anything changes."""

from __future__ import annotations

import time
from pathlib import Path

from apply_support import Host


def enforce(host: Host, policy: Path, clean_for: str, *, code: int = 3) -> str:
    words = ("policy", "plan", policy, "--mode", "enforce", "--clean-for", clean_for)
    found = host(*words, code=code)
    if not code:
        return str(found["mode"])
    assert found["error"] == "not_clean"
    return str(found["message"])


def test_only_what_was_watched_and_did_not_match_may_enforce(
    host: Host, files: dict[str, Path]
) -> None:
    host("policy", "apply", files["policy"])
    assert "live as it is now" in enforce(host, files["policy"], "1h")
    assert "and 2 more" in enforce(host, files["policy"], "1h")
    assert "not the policy that was watched" in enforce(host, files["other"], "0s")
    time.sleep(1.1)
    assert enforce(host, files["policy"], "1s", code=0) == "audit → enforce"
    assert host("policy", "plan", files["policy"], "--clean-for", "1h")["changed"] is False
    files["a"].read_text()
    assert "it matched" in enforce(host, files["policy"], "1s")
    refused = ("policy", "apply", files["policy"], "--mode", "enforce", "--clean-for", "1h")
    assert host(*refused, code=3)["error"] == "not_clean"
    assert host("mode")["mode"] == "audit"


def test_a_rollback_is_bound_to_the_plan_that_was_seen(host: Host, files: dict[str, Path]) -> None:
    host("policy", "apply", files["policy"])
    before = host.digest()
    host("policy", "apply", files["other"])
    seen = host("policy", "rollback", "--mode", "audit", "--dry-run")["plan"]
    assert (seen["after"], seen["mode"]) == (before.hex(), "")
    assert host("policy", "rollback", "--plan", "0" * 64, code=9)["error"] == "drift"
    host("policy", "rollback", "--plan", seen["digest"])
    assert host.digest() == before
