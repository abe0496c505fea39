"""Commit-confirm in real maps: what stands after a confirmation, a revert, a kill anywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from apply_support import Host, signed_bundles
from confirm_support import LATER, config, put, staged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aegis_tools.cli.mode import change_or_stay
from aegis_tools.cli.output import App
from aegis_tools.control import confirm, fallback
from aegis_tools.control.bootclock import boot_ns
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.control.pending import read_pending, write_pending
from aegis_tools.control.store import Store
from aegis_tools.errors import AegisError
from aegis_tools.kernel.layout import Config
from aegis_tools.kernel.pins import Pins
from aegis_tools.policy.model import Mode


def actions(host: Host) -> list[str]:
    return [entry["action"] for entry in host("history")["entries"]]


def healthless(host: Host) -> list[dict[str, object]]:
    return list(host("health", "--allow-fallback", code=6)["checks"])


def test_until_it_is_confirmed_a_boot_would_bring_the_old_policy(
    host: Host, files: dict[str, Path]
) -> None:
    first = staged(host, files)
    now = host.digest().hex()
    current, _ = Store(host.paths).records()
    assert now != first
    assert current is not None
    assert current.digest == first
    assert config(host, Config.DEADLINE) > boot_ns()
    for shown in (host("policy", "show")["summary"], host("mode")["meaning"],
                  host("stats")["meaning"]):  # fmt: skip
        assert "UNCONFIRMED, reverts in" in shown
    checks = host("health", "--allow-fallback")["checks"]
    assert any(c["name"] == "confirmed" and c["ok"] is None for c in checks)
    assert host("policy", "show")["rules"] == 1, "its name is known before it is current"
    host("policy", "confirm")
    current, previous = Store(host.paths).records()
    assert current is not None
    assert previous is not None
    assert (current.digest, previous.digest) == (now, first)
    assert config(host, Config.DEADLINE) == 0
    assert not host.paths.pending.exists()
    assert host("policy", "confirm", code=8)["error"] == "state"


def test_a_revert_brings_back_the_policy_with_all_that_was_made_by_hand(
    host: Host, files: dict[str, Path], tmp_path: Path
) -> None:
    by_hand, meanwhile = tmp_path / "by-hand", tmp_path / "meanwhile"
    for path in (by_hand, meanwhile):
        path.write_text("x")
    host("policy", "apply", files["policy"])
    host("block", "add", by_hand)
    host("network", "deny", "del", "--ip", "203.0.113.7")
    before = host("rule", "list")["rules"]
    host("policy", "apply", files["other"], "--confirm-within", "10m", "--reset")
    assert [rule["rule"] for rule in host("rule", "list")["rules"]] == ["only"]
    host("block", "add", meanwhile)
    done = host("policy", "revert")
    assert (done["reverted"], done["why"]) == (True, "by hand")
    after = host("rule", "list")["rules"]
    added = [rule["rule"] for rule in after if rule["target"] == str(meanwhile)]
    assert added == [f"manual:path:{meanwhile}"]
    assert [rule for rule in after if rule["rule"] not in added] == before
    assert not host("policy", "verify-live")["tampered"]
    assert host("policy", "revert")["reverted"] is False


def test_a_rule_that_was_removed_meanwhile_stays_away(host: Host, files: dict[str, Path]) -> None:
    host("policy", "apply", files["policy"])
    files["policy"].write_text(files["policy"].read_text() + "203.0.113.8\n")
    host("policy", "apply", files["policy"], "--confirm-within", "10m")
    host("block", "del", files["a"])
    host("policy", "revert")
    targets = {rule["target"] for rule in host("rule", "list")["rules"]}
    assert targets == {str(files["b"]), "203.0.113.7"}


def test_too_late_a_confirmation_is_refused_and_reverts(host: Host, files: dict[str, Path]) -> None:
    first = staged(host, files)
    with Live(Pins(host.paths.pins)) as live, pytest.raises(confirm.ExpiredError) as caught:
        confirm.confirm(host.paths, live, seams=LATER)
    assert "deadline has passed" in caught.value.message
    assert host.digest().hex() == first
    assert config(host, Config.DEADLINE) == 0
    assert not host.paths.pending.exists()


def test_nothing_is_reverted_before_its_time_and_once_after_it(
    host: Host, files: dict[str, Path]
) -> None:
    first = staged(host, files)
    assert confirm.revert_if_overdue(host.paths) is None
    assert host.digest().hex() != first
    done = confirm.revert_if_overdue(host.paths, seams=LATER)
    assert done is not None
    assert done.why == "not confirmed in time"
    assert host.digest().hex() == first
    assert confirm.revert_if_overdue(host.paths, seams=LATER) is None
    assert actions(host)[:2] == ["policy revert", "policy apply"]


def test_while_one_waits_others_are_refused_and_nothing_is_changed(
    host: Host, files: dict[str, Path]
) -> None:
    staged(host, files)
    put(host, Config.MODE, 0)
    before, record = host.digest(), host.paths.pending.read_bytes()
    for command in (
        ("policy", "apply", files["policy"]),
        ("policy", "apply", files["policy"], "--confirm-within", "60s"),
        ("policy", "rollback"),
        ("mode", "enforce"),
        ("mode", "enforce", "--confirm-within", "60s"),
        ("config", "set", "mode", "enforce"),
        ("rule", "demote", "only", "--confirm-within", "60s"),
    ):
        error = host(*command, code=8)
        assert error["error"] == "unconfirmed", command
        assert "policy confirm" in error["hint"]
    assert (host.digest(), host.paths.pending.read_bytes()) == (before, record)


def test_one_that_is_overdue_is_reverted_before_the_next_is_applied(
    host: Host, files: dict[str, Path]
) -> None:
    staged(host, files)
    pending = read_pending(host.paths)
    assert pending is not None
    write_pending(host.paths, replace(pending, deadline_ns=1))
    put(host, Config.DEADLINE, 1)
    plan = host("policy", "apply", files["policy"])["plan"]
    assert plan["changed"] is False, "it was reverted to this very policy"


def test_the_mode_is_kept_for_the_next_boot_when_it_is_confirmed(host: Host) -> None:
    put(host, Config.MODE, 1)  # what cannot be asked for here, where nothing can be refused
    host("mode", "audit", "--confirm-within", "60s")
    assert not host.paths.boot.exists()
    host("policy", "revert")
    assert config(host, Config.MODE) == 1
    host("mode", "audit", "--confirm-within", "60s")
    host("policy", "confirm")
    assert json.loads(host.paths.boot.read_bytes())["mode"] == "audit"


def test_audit_by_hand_wins_over_whatever_waits(host: Host, files: dict[str, Path]) -> None:
    staged(host, files)
    pending = read_pending(host.paths)
    assert pending is not None
    enforcing = [
        replace(side, mode=pending.was.mode.ENFORCE) for side in (pending.was, pending.now)
    ]
    put(host, Config.MODE, 1)
    write_pending(host.paths, replace(pending, was=enforcing[0], now=enforcing[1],
                                      boot_mode=Mode.ENFORCE))  # fmt: skip
    host("mode", "audit")
    host("policy", "confirm")
    assert config(host, Config.MODE) == 0
    assert json.loads(host.paths.boot.read_bytes())["mode"] == "audit"


@pytest.mark.parametrize("damage", ["removed", "cut", "hostile"])
def test_without_its_record_an_unconfirmed_change_still_ends(
    host: Host, files: dict[str, Path], damage: str
) -> None:
    first = staged(host, files)
    if damage == "removed":
        host.paths.pending.unlink()
    else:
        data = host.paths.pending.read_bytes()
        host.paths.pending.write_bytes(data[:50] if damage == "cut" else b'{"format": 1}')
    assert confirm.revert_if_overdue(host.paths) is None
    assert host("policy", "apply", files["policy"], code=8)["error"] == "unconfirmed"
    done = confirm.revert_if_overdue(host.paths, seams=LATER)
    assert done is not None
    assert host.digest().hex() == first
    assert config(host, Config.DEADLINE) == 0


@settings(max_examples=25, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.binary(max_size=80))
def test_a_hostile_record_is_never_believed_and_never_in_the_way(host: Host, data: bytes) -> None:
    Store(host.paths).prepare()
    host.paths.pending.write_bytes(data)
    host.paths.pending.chmod(0o600)
    confirm.revert_if_overdue(host.paths, seams=LATER)
    assert not host.paths.pending.exists()
    assert host.digest() == bytes(32)


def test_what_cannot_be_reverted_leaves_the_host_in_audit_until_a_policy_is_applied(
    host: Host, files: dict[str, Path]
) -> None:
    put(host, Config.MODE, 1)
    first = staged(host, files)
    stored = host.paths.bundles / f"{first}.policy"
    content = stored.read_bytes()
    stored.write_bytes(b"something else")
    with pytest.raises(AegisError):
        confirm.revert_if_overdue(host.paths, seams=LATER)
    assert config(host, Config.MODE) == 0
    pending = read_pending(host.paths)
    assert pending is not None
    assert pending.failed
    assert any(c["name"] == "reverted" for c in healthless(host))
    assert confirm.revert_if_overdue(host.paths, seams=LATER) is None, "not again every second"
    assert actions(host).count("policy revert") == 1
    write_pending(host.paths, replace(pending, deadline_ns=1))
    put(host, Config.DEADLINE, 1)
    files["policy"].write_bytes(content)
    host("policy", "apply", files["policy"])
    assert (host.digest().hex(), config(host, Config.DEADLINE)) == (first, 0)
    assert not host.paths.pending.exists()


def test_a_reset_forgets_what_waits_and_a_new_load_is_not_touched_by_it(
    host: Host, files: dict[str, Path]
) -> None:
    staged(host, files)
    record = host.paths.pending.read_bytes()
    host("reset")
    assert not host.paths.pending.exists()
    host("load", "--ringbuf-size", "4096")
    host.paths.pending.write_bytes(record)  # as if the state folder had been read-only
    host.paths.pending.chmod(0o600)
    put(host, Config.MODE, 1)
    confirm.revert_if_overdue(host.paths, seams=LATER)
    assert (host.digest(), config(host, Config.MODE)) == (bytes(32), 1)
    assert not host.paths.pending.exists()


def test_a_signed_policy_goes_back_to_the_bundle_before(
    host: Host, files: dict[str, Path], tmp_path: Path
) -> None:
    made = signed_bundles(host, files, tmp_path)
    host("policy", "apply", made["one"])
    before = host.digest()
    host("policy", "apply", made["two"], "--confirm-within", "60s")
    host("policy", "revert")
    assert host.digest() == before
    assert host("policy", "show")["serial"] == 1
    host("policy", "apply", made["two"])


def test_a_confirmation_that_could_not_be_recorded_is_one(
    host: Host, files: dict[str, Path]
) -> None:
    staged(host, files)
    new = host.digest().hex()
    stored = host.paths.bundles / f"{new}.policy"
    stored.rename(stored.with_suffix(".away"))
    host("policy", "confirm", code=8)
    assert host("mode")["unconfirmed"] is False
    stored.with_suffix(".away").rename(stored)
    done = confirm.revert_if_overdue(host.paths)
    assert done is not None
    assert done.finished
    current, _ = Store(host.paths).records()
    assert current is not None
    assert host.digest().hex() == current.digest == new


def test_of_two_at_once_one_is_refused(host: Host, files: dict[str, Path]) -> None:
    host("policy", "apply", files["policy"])
    apply = ("policy", "apply", files["other"], "--confirm-within", "10m")
    running = [host.start(*apply), host.start(*apply)]
    for process in running:
        process.communicate(timeout=60)
    assert sorted(process.returncode for process in running) == [0, 8]
    host("policy", "confirm")


def test_a_host_that_is_held_in_audit_does_not_enforce_until_it_is_resumed(
    host: Host, files: dict[str, Path]
) -> None:
    host("policy", "apply", files["policy"])
    put(host, Config.MODE, 1)
    with locked(host.paths.lock, command="test"), Live(Pins(host.paths.pins)) as live:
        assert fallback.enter(host.paths, live, "crash-loop", "5 starts in 60 s")
        assert not fallback.enter(host.paths, live, "deny-rate")
    assert config(host, Config.MODE) == 0
    for command in ("mode", "stats"):
        assert "crash-loop" in host(command)["held"]
    assert any(c["name"] == "held" and not c["ok"] for c in healthless(host))
    for command in (("mode", "enforce"), ("mode", "enforce", "--confirm-within", "60s"),
                    ("config", "set", "mode", "enforce")):  # fmt: skip
        assert host(*command, code=8)["error"] == "held"
    with Live(Pins(host.paths.pins)) as live:
        assert not change_or_stay(App(paths=host.paths), live, "enforce"), "as run --enforce does"
    assert config(host, Config.MODE) == 0
    host("policy", "apply", files["other"], "--confirm-within", "60s")
    assert host("resume", code=8)["error"] == "unconfirmed"
    host("policy", "revert")
    held = fallback.read(host.paths)
    assert held is not None
    assert held.mode_before.value == "enforce"
    host("mode", "audit")
    assert host("resume")["mode"] == "audit", "who said audit meanwhile is heard"
    assert host("resume")["resumed"] is False


def test_a_change_that_is_none_needs_no_confirmation(host: Host, files: dict[str, Path]) -> None:
    host("policy", "apply", files["policy"])
    host("policy", "apply", files["policy"], "--confirm-within", "60s")
    host("mode", "audit", "--confirm-within", "60s")
    assert not host.paths.pending.exists()
    assert config(host, Config.DEADLINE) == 0


def test_dry_runs_change_nothing(host: Host, files: dict[str, Path]) -> None:
    staged(host, files)
    before = host.paths.pending.read_bytes()
    assert host("policy", "confirm", "--dry-run")["pending"]["action"] == "policy apply"
    assert host("policy", "revert", "--dry-run")["dry_run"]
    host("policy", "apply", files["policy"], "--dry-run", "--confirm-within", "60s")
    assert host.paths.pending.read_bytes() == before
