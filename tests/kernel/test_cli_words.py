"""What commands say about themselves: nothing is "denied" where nothing is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from edit_support import Host

from aegis_tools.cli.main import run
from aegis_tools.kernel.pins import Pins


def test_an_added_rule_that_refuses_nothing_is_not_called_denied(
    host: Host, tmp_path: Path
) -> None:
    audit = "(audit only: nothing is refused)"
    path = tmp_path / "x"
    path.touch()
    assert host.text("block", "add", path, "--dry-run") == [
        f"dry run, would be added: {path} {audit}"
    ]
    first, again = (host.text("block", "add", path)[0] for _ in range(2))
    assert (first.split(" (")[0], again.split(" (")[0]) == (
        f"added: {path}",
        f"already there: {path}",
    )
    assert first.endswith(audit)
    assert host.text("network", "deny", "add", "--ip", "10.0.0.1") == [f"added: 10.0.0.1 {audit}"]


def test_dry_runs_warn_of_dangerous_targets_that_are_refused_without(
    host: Host, tmp_path: Path
) -> None:
    found = host("block", "add", "/usr/", "/dev/null", "--dry-run")
    assert len(found["problems"]) == len(found["refusals"]) == 2
    found = host("network", "deny", "add", "--cidr", "0.0.0.0/0", "--ip", "127.0.0.1",
                 "--port", "22", "--ip", "10.0.0.1", "--dry-run")  # fmt: skip
    assert len(found["problems"]) == 3
    policy = tmp_path / "policy.conf"
    policy.write_text("version=1\n[deny_cidr]\n0.0.0.0/0\n")
    (problem,) = host("policy", "plan", policy)["problems"]
    assert "every address" in problem["message"]
    assert any("every address" in line for line in host.text("policy", "plan", policy))
    assert host("policy", "apply", policy, code=3)["error"] == "lockout"


def test_a_plan_warns_of_a_mode_that_apply_refuses(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.conf"
    policy.write_text(f"version=1\n[deny_path]\n{tmp_path}/x\n")
    root = ["--root", str(host.paths.root), "policy"]
    assert run([*root, "plan", str(policy), "--mode", "enforce"]) == 0
    assert "policy apply refuses --mode enforce now: cannot enforce" in capsys.readouterr().err
    assert host("policy", "apply", policy, "--mode", "enforce", code=6)
    assert run([*root, "plan", str(policy)]) == 0
    assert "refuses" not in capsys.readouterr().err


def test_a_plan_names_missing_files_by_line_and_those_of_rules_by_hand_by_name(
    host: Host, tmp_path: Path
) -> None:
    names = [f"{tmp_path}/{name}" for name in "fbdace"]
    host("block", "add", *names)
    policy = tmp_path / "policy.conf"
    policy.write_text(f"version=1\n[deny_path]\n{tmp_path}/z\n{tmp_path}/y\n")
    problems = host("policy", "plan", policy)["problems"]
    assert [one["line"] for one in problems] == [3, 4, 0, 0, 0, 0, 0, 0]
    assert [one["rule"] for one in problems[2:]] == [
        f"manual:path:{name}" for name in sorted(names)
    ]


def test_a_second_boot_does_not_give_an_empty_reason(host: Host) -> None:
    assert "AUDIT FALLBACK: nothing can be refused" in host.text("boot")


def test_a_setting_that_was_changed_says_so_where_the_history_cannot_be_written(
    host: Host,
) -> None:
    host.paths.history.unlink(missing_ok=True)
    host.paths.history.mkdir(parents=True)
    failed = host("config", "set", "event-sample-rate", "0.5", code=8)
    assert failed["message"].startswith("it is done, but")
    assert host("config", "get", "event-sample-rate")["event-sample-rate"] == 0.5


def test_all_commands_agree_that_the_fallback_cannot_enforce(host: Host) -> None:
    refusal = "the audit fallback is loaded"
    assert refusal in host("mode", "enforce", code=6)["message"]
    assert refusal in host.text("stats")[0]
    health = {check["name"]: check for check in host("health", code=5)["checks"]}
    assert refusal in health["enforceable"]["message"]
    assert "AUDIT FALLBACK" in host.text("load")[0]


def test_names_are_escaped_for_a_terminal_and_ordinary_ones_come_back(
    host: Host, tmp_path: Path
) -> None:
    evil = f"{tmp_path}/a\x1b[2Jb\tc"
    plain = f"{tmp_path}/with  two ö"
    added = host.text("block", "add", evil, plain)
    assert added[0].startswith(f"added: {tmp_path}/a\\x1b[2Jb\\tc")
    assert host.text("block", "list") == [f"{tmp_path}/a\\x1b[2Jb\\tc", plain]
    assert evil in host.paths_listed()
    assert "\\x1b" in host.text("why", evil)[0]
    assert "\\tc" in host.text("block", "del", evil)[0]
    assert host.text("block", "del", plain) == [f"removed: {plain} (manual:path:{plain})"]


def test_what_list_prints_del_takes_whatever_its_spaces_are(host: Host, tmp_path: Path) -> None:
    names = [f"{tmp_path}/{name}" for name in ("no\u00a0break", "thin\u2009", "ideo\u3000graphic")]
    host("block", "add", *names)
    done = host.shell("aegisbpf block list | aegisbpf block del -", tmp_path / "bin")
    assert done.returncode == 0, done.stderr
    assert host.paths_listed() == []


def test_dry_runs_say_what_they_would_do_and_do_nothing(host: Host) -> None:
    pins = Pins(host.paths.pins)
    links = pins.names("links")
    assert host("detach", "--dry-run")["would_detach"] == links
    assert pins.names("links") == links
    host("detach")
    assert host("attach", "--dry-run")["would_attach"] == sorted(links)
    assert host("load", "--dry-run")["would_change"] is True
    assert pins.names("links") == []
    host("attach")
    assert host("load", "--dry-run")["would_change"] is False
    missing = host("survival", "refresh", "--dry-run")["would_add"]
    assert host("survival", "refresh", "--dry-run")["would_add"] == missing
    host("survival", "refresh")
    assert len(host("survival", "refresh", "--dry-run")["would_add"]) <= len(missing)


def test_a_load_says_which_hooks_it_attached_again(host: Host) -> None:
    pins = Pins(host.paths.pins)
    gone = pins.names("links")[0]
    pins.remove("links", gone)
    assert host("load")["attached_again"] == [gone]
    pins.remove("links", gone)
    assert host.text("load")[0].startswith("1 hooks attached again")
    assert host.text("load")[0].startswith("already loaded")


def test_what_is_exported_to_stdout_is_json_with_json(host: Host, tmp_path: Path) -> None:
    host("block", "add", tmp_path / "x")
    text = host("policy", "export", "-")["policy"]
    assert text.splitlines() == host.text("policy", "export", "-")
