"""What a host takes and goes back to, by its keys, settings and history as they are now."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from apply_support import Host

from aegis_tools.cli.main import run


def test_a_rollback_to_an_unsigned_policy_is_refused_where_keys_are_trusted(
    host: Host, files: Any, signed: Any
) -> None:
    host("policy", "apply", files["policy"], "--allow-unsigned")
    assert host("policy", "history")["entries"][0]["note"] == "--allow-unsigned"
    host("policy", "apply", signed["one"])
    before = host.digest()
    for extra in ((), ("--dry-run",)):
        assert host("policy", "rollback", *extra, code=4)["error"] == "trust_unsigned"
    assert host.digest() == before
    entry = host("policy", "history")["entries"][0]
    assert (entry["action"], entry["result"]) == ("policy rollback", "trust_unsigned")
    host("policy", "rollback", "--allow-unsigned")
    assert host.digest() != before
    entry = host("policy", "history")["entries"][0]
    assert (entry["action"], entry["note"]) == ("policy rollback", "--allow-unsigned")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("revoked", "unknown_signer"),
        ("threshold", "under_threshold"),
        ("group", "wrong_group"),
        ("emptied", "unknown_signer"),
    ],
)
def test_a_rollback_is_judged_by_the_keys_and_settings_of_now(
    host: Host, signed: Any, tmp_path: Path, change: str, code: str
) -> None:
    host("policy", "apply", signed["one"])
    host("policy", "apply", signed["two"])
    before = host.digest()
    k1 = next(key["keyid"] for key in host("keys", "list")["keys"])
    if change in ("revoked", "threshold"):
        host("keys", "add", tmp_path / "k2.pub")
    if change in ("revoked", "emptied"):
        host("keys", "remove", k1, "--force")
    if change == "threshold":
        host("keys", "trust", "--threshold", "2")
    if change == "group":
        host("keys", "trust", "--group", "web")
    for extra in ((), ("--allow-unsigned",)):
        error = host("policy", "rollback", *extra, code=4)
        assert error["error"] == f"trust_{code}"
        assert error["hint"]
    assert host.digest() == before


def test_a_rollback_to_an_expired_policy_works_and_warns(
    host: Host, files: Any, signed: Any, tmp_path: Path
) -> None:
    short = tmp_path / "short.bundle"
    sign = ("policy", "sign", files["policy"], "--key", signed["k1"], "--output")
    host(*sign, short, "--expires", "2s")
    host("policy", "apply", short)
    first = host.digest()
    files["policy"].write_text("version=1\n[deny_port]\n4444:tcp\n")
    host(*sign, signed["two"])
    host("policy", "apply", signed["two"])
    time.sleep(2.1)
    assert host("policy", "apply", short, code=4)["error"] == "trust_expired"
    plan = host("policy", "rollback")["plan"]
    assert any("expired" in problem["message"] for problem in plan["problems"])
    assert host.digest() == first
    assert "expired" in host("policy", "history")["entries"][0]["note"]
    checks = {c["name"]: c for c in host("health", "--check-config")["checks"]}
    assert checks["policy-validity"]["ok"] is None
    assert "expired" in checks["policy-validity"]["message"]


@pytest.mark.parametrize("left", ["accepted", "threshold", "required"])
def test_a_host_that_lost_its_keys_still_refuses_unsigned_policies(
    host: Host, files: Any, signed: Any, left: str
) -> None:
    if left == "accepted":
        host("policy", "apply", signed["one"])
    elif left == "threshold":
        host("keys", "trust", "--threshold", "2")
    else:
        host("keys", "trust", "--require-signature", "yes")
    for path in host.paths.keys.iterdir():
        path.unlink()
    before = host.digest()
    error = host("policy", "apply", files["policy"], code=4)
    assert error["error"] == "trust_unsigned"
    assert "trusts no key now" in error["message"]
    assert "keys add" in error["hint"]
    assert host.digest() == before
    assert host("keys", "list")["unsigned_accepted"] is False
    host("policy", "apply", files["policy"], "--allow-unsigned")


def test_a_list_of_no_keys_says_whether_policies_need_a_signature(
    host: Host, signed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed() -> str:
        capsys.readouterr()
        assert run(["--root", str(host.paths.root), "keys", "list"]) == 0
        return capsys.readouterr().out

    assert "1 of 1 must sign" in listed()
    key = host("keys", "list")["keys"][0]["keyid"]
    host("keys", "remove", key, "--force")
    assert "policies need no signature" in listed()
    assert " of 0" not in listed()
    host("keys", "trust", "--threshold", "2")
    assert "no policy is accepted" in listed()
    assert "need no signature" not in listed()
    host("keys", "add", signed["k1"].with_suffix(".pub"))
    assert "only 1 can" in listed()


@pytest.mark.usefixtures("signed")
def test_a_status_says_which_policies_are_accepted_as_the_list_of_keys_does(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    def status() -> str:
        capsys.readouterr()
        run(["--root", str(host.paths.root), "status"])
        return capsys.readouterr().out

    assert "1 of 1 must sign" in status()
    assert host("keys", "trust", "--threshold", "2", "--dry-run")["dry_run"] is True
    assert "1 of 1 must sign" in status()
    host("keys", "trust", "--threshold", "2")
    assert "only 1 can: no policy is accepted" in status()
    checks = {one["name"]: one for one in host("health", "--check-config", code=4)["checks"]}
    assert checks["trust"]["ok"] is False
    assert "only 1 can" in checks["trust"]["message"]
    key = host("keys", "list")["keys"][0]["keyid"]
    host("keys", "remove", key, "--force")
    assert "no policy is accepted until a key is trusted" in status()


def test_check_config_judges_the_current_policy_by_the_keys_of_now(
    host: Host, files: Any, signed: Any, tmp_path: Path
) -> None:
    def failed(code: int) -> list[str]:
        report = host("health", "--check-config", code=code)
        return [check["name"] for check in report["checks"] if check["ok"] is False]

    host("policy", "apply", signed["one"])
    assert failed(0) == []
    host("keys", "add", tmp_path / "k2.pub")
    host("keys", "trust", "--threshold", "2")
    assert failed(4) == ["policy"]
    host("keys", "trust", "--threshold", "1")
    host("policy", "apply", files["policy"], "--allow-unsigned")
    assert failed(4) == ["policy"]


def test_without_a_policy_nothing_is_said_to_be_applied(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    assert host("policy", "verify-live")["applied"] is False
    capsys.readouterr()
    assert run(["--root", str(host.paths.root), "policy", "verify-live"]) == 0
    assert "no policy is applied" in capsys.readouterr().out


def test_a_history_that_others_can_change_stops_an_apply_before_anything_changes(
    host: Host, files: Any
) -> None:
    host("policy", "apply", files["policy"])
    before = host.digest()
    host.paths.history.chmod(0o666)
    files["policy"].write_text("version=1\n[deny_port]\n4444:tcp\n")
    error = host("policy", "apply", files["policy"], code=8)
    assert "others can change the history" in error["message"]
    assert "chmod" in error["hint"]
    assert host.digest() == before
    assert "others can change" in host("history")["note"]
    host.paths.history.chmod(0o600)
    host("policy", "apply", files["policy"])


def test_two_policies_signed_one_after_the_other_can_both_be_applied(
    host: Host, files: Any, signed: Any, tmp_path: Path
) -> None:
    serials = []
    for number in range(3):
        files["policy"].write_text(f"version=1\n[deny_port]\n{4000 + number}:tcp\n")
        bundle = tmp_path / f"{number}.bundle"
        sign = ("policy", "sign", files["policy"], "--key", signed["k1"], "--output", bundle)
        serials.append(host(*sign)["serial"])
    assert serials == sorted(set(serials))
    for number in range(3):
        plan = host("policy", "apply", tmp_path / f"{number}.bundle")["plan"]
        assert not any("leaps" in problem["message"] for problem in plan["problems"])


def test_a_dry_run_of_reset_serials_says_what_would_be_known_and_writes_nothing(
    host: Host, signed: Any
) -> None:
    host("policy", "apply", signed["two"])
    host.paths.serials.write_text("damaged")
    assert host("keys", "reset-serials", "--dry-run")["groups"] == {"default": 2}
    assert host.paths.serials.read_text() == "damaged"
    assert host("keys", "reset-serials")["groups"] == {"default": 2}
