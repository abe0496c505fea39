"""The probe: what counts as broken, and the sshd it starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aegis_tools.control.lockout import probe
from aegis_tools.control.lockout.probe import Absent, Outcome
from aegis_tools.control.lockout.tree import Tree
from aegis_tools.errors import CommandError


def fail(error: Exception) -> probe.Check:
    def check() -> None:
        raise error

    return check


def test_every_attempt_is_made_and_told_of() -> None:
    found = probe.attempt(
        [
            ("works", lambda: None),
            ("fails", fail(CommandError("sudo failed", detail="a\nPAM: no\n"))),
            ("missing", fail(Absent("not installed"))),
            ("denied", fail(PermissionError(1, "denied"))),
        ]
    )
    assert [(one.name, one.state) for one in found] == [
        ("works", "ok"), ("fails", "failed"), ("missing", "absent"), ("denied", "failed"),
    ]  # fmt: skip
    assert found[1].detail == "sudo failed: PAM: no"
    assert "failed  fails  (sudo failed: PAM: no)" in probe.as_text(found)


def test_only_what_worked_before_can_break() -> None:
    before = [
        Outcome("a", "ok"),
        Outcome("b", "failed"),
        Outcome("c", "absent"),
        Outcome("d", "ok"),
    ]
    after = [Outcome("a", "failed"), Outcome("b", "failed"), Outcome("c", "ok"), Outcome("d", "ok")]
    assert [one.name for one in probe.broken(before, after)] == ["a"]
    gone = [Outcome("a", "absent", "sshd is not installed"), Outcome("d", "ok")]
    assert [one.name for one in probe.broken(before, gone)] == ["a"]


def test_the_sshd_of_a_login_is_the_hosts_but_for_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "etc/ssh"
    folder.mkdir(parents=True)
    (folder / "sshd_config").write_text(
        "Port 22\nListenAddress 10.0.0.1\nUsePAM yes\nallowusers alice\nSubsystem sftp x\n"
    )
    lines = probe.sshd_config(Tree(str(tmp_path)), 4022, "/run/x/key.pub").splitlines()
    assert lines[0] == "ListenAddress 127.0.0.1:4022"
    assert "AuthorizedKeysFile /run/x/key.pub" in lines
    assert lines[-2:] == ["UsePAM yes", "Subsystem sftp x"]


def test_programs_are_run_with_a_time_limit(tmp_path: Path) -> None:
    asked: list[tuple[Sequence[str], float]] = []

    def runner(argv: Sequence[str], *, timeout: float = 60) -> str:
        asked.append((argv, timeout))
        return ""

    names = ("look up a host name", "look up an account", "run the Python of aegisbpf")
    probe.attempt([(n, c) for n, c in probe.checks(tmp_path, runner) if n in names])
    assert [argv[0] for argv, _ in asked[:2]] == ["getent", "getent"]
    assert all(0 < timeout <= 30 for _, timeout in asked)
