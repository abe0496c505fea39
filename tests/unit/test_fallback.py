"""The hold in audit, the state of the next boot, and the timer: what their files and words mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.cli.main import run
from aegis_tools.control import bootclock, bootstate, fallback, relogin, timer
from aegis_tools.control.bootstate import BootState
from aegis_tools.control.store import Store
from aegis_tools.errors import CommandError, StateError
from aegis_tools.kernel.features import read_host_features
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Mode

HELD = {"format": 1, "since": 5, "reason": "crash-loop", "detail": "x", "mode_before": "enforce"}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path)
    Store(found).prepare()
    return found


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o600)


def test_nothing_to_resume_is_said_and_no_error(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--root", str(paths.root), "resume"]) == 0
    assert "nothing to resume" in capsys.readouterr().out


def test_a_hold_survives_a_reset_and_is_lifted_where_nothing_is_loaded(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    put(paths.fallback, json.dumps(HELD).encode())
    with pytest.raises(fallback.HeldError, match="crash-loop") as caught:
        fallback.check(paths)
    assert "aegisbpf resume" in caught.value.hint
    assert run(["--root", str(paths.root), "--json", "resume"]) == 0
    assert json.loads(capsys.readouterr().out)["resumed"] is True
    fallback.check(paths)
    assert "resume" in paths.history.read_text()


@given(data=st.binary(max_size=200))
def test_a_damaged_hold_still_holds_and_gives_no_leave_to_enforce(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    paths = Paths(tmp_path_factory.getbasetemp())
    paths.state.mkdir(parents=True, exist_ok=True)
    put(paths.fallback, data)
    found = fallback.read(paths)
    assert found is not None
    assert (found.reason, found.mode_before) == ("damaged", Mode.AUDIT)


def test_what_a_terminal_would_obey_is_escaped(paths: Paths) -> None:
    put(paths.fallback, json.dumps({**HELD, "detail": "\x1b[2J"}).encode())
    found = fallback.read(paths)
    assert found is not None
    assert "\x1b" not in found.meaning


def test_a_hold_that_others_can_change_is_an_error_and_still_no_leave(paths: Paths) -> None:
    put(paths.fallback, json.dumps(HELD).encode())
    paths.fallback.chmod(0o666)
    with pytest.raises(StateError):
        fallback.check(paths)
    assert fallback.why_held(paths)


@given(
    st.builds(
        BootState,
        st.sampled_from(Mode),
        st.dictionaries(st.sampled_from(["rules", "deny_inode_map"]), st.integers(1, 1 << 24)),
        st.sampled_from([0, 4096, 1 << 20, 1 << 30]),
        st.lists(st.text("ab:/", max_size=9), max_size=3).map(tuple),
    )
)
def test_the_state_of_the_next_boot_is_read_as_it_was_written(state: BootState) -> None:
    assert bootstate.parse(state.to_bytes()) == state


@given(st.binary(max_size=200))
def test_anything_else_is_no_state_of_the_next_boot(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        bootstate.parse(data)


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "off"},
        {"capacities": {"rules": 0}},
        {"capacities": {"config": 5}},
        {"capacities": {"rules": True}},
        {"ringbuf_bytes": 4097},
        {"ringbuf_bytes": 64},
        {"format": 2},
        {"forced": "rule"},
        {"forced": [1]},
    ],
)
def test_sizes_that_no_load_takes_are_refused(change: dict[str, object]) -> None:
    top = {**json.loads(BootState().to_bytes()), **change}
    with pytest.raises(ValueError):  # noqa: PT011
        bootstate.parse(json.dumps(top).encode())


def test_a_damaged_mode_is_audit_and_the_next_setting_repairs_it(paths: Paths) -> None:
    put(paths.boot, b"{")
    with pytest.raises(StateError, match="stays in audit"):
        bootstate.read_boot_state(paths)
    bootstate.keep(paths, None, Mode.ENFORCE)
    assert bootstate.read_boot_state(paths).mode is Mode.ENFORCE


def test_what_was_forced_is_kept_until_another_policy_and_absent_in_older_files(
    paths: Paths,
) -> None:
    bootstate.keep(paths, None, Mode.ENFORCE, forced=("a",))
    bootstate.keep(paths, None)
    assert bootstate.read_boot_state(paths).forced == ("a",)
    bootstate.keep(paths, None, forced=())
    assert bootstate.read_boot_state(paths).forced == ()
    top = json.loads(BootState().to_bytes())
    del top["forced"]
    assert bootstate.parse(json.dumps(top).encode()).forced == ()


class Recorder:
    """Takes programs' command lines instead of starting them."""

    def __init__(self, *, failing: str = "", answer: str = "") -> None:
        self.started: list[list[str]] = []
        self._failing = failing
        self._answer = answer

    def __call__(self, argv: object, *, timeout: float = 60) -> str:
        del timeout
        self.started.append(list(argv))  # type: ignore[call-overload]
        if self.started[-1][0] == self._failing:
            raise CommandError(f"{self._failing} failed", detail="no bus")
        return self._answer


def test_the_timer_runs_our_own_python_one_second_after_the_deadline(paths: Paths) -> None:
    (paths.root / "run/systemd/system").mkdir(parents=True)
    recorder = Recorder()
    assert not timer.arm(paths, 120, runner=recorder)
    stop, start = recorder.started
    assert stop == ["systemctl", "stop", "aegisbpf-revert.timer"]
    assert start[0] == "systemd-run"
    assert "--on-active=121s" in start
    assert "--timer-property=AccuracySec=1s" in start
    assert start[-len(timer.command(paths)) :] == timer.command(paths)
    assert timer.command(paths)[-3:] == ["policy", "revert", "--if-overdue"]
    assert timer.command(Paths())[1:3] == ["-m", "aegis_tools"]
    assert "--root" not in timer.command(Paths())


def test_without_systemd_no_program_is_started_and_the_reason_is_told(paths: Paths) -> None:
    recorder = Recorder()
    assert "systemd" in timer.arm(paths, 120, runner=recorder)
    timer.disarm(paths, runner=recorder)
    assert not recorder.started


def test_a_systemd_that_refuses_is_told_and_no_error(paths: Paths) -> None:
    (paths.root / "run/systemd/system").mkdir(parents=True)
    assert "no bus" in timer.arm(paths, 5, runner=Recorder(failing="systemd-run"))
    timer.disarm(paths, runner=Recorder(failing="systemctl"))


def test_an_sshd_that_systemd_gave_up_on_is_started_again(paths: Paths) -> None:
    (paths.root / "run/systemd/system").mkdir(parents=True)
    line = "ssh.service loaded failed failed OpenBSD Secure Shell server\n"
    recorder = Recorder(answer=line)
    assert relogin.start_failed(paths, runner=recorder) == ["ssh.service"]
    asked, reset, start = recorder.started
    assert {"ssh.service", "sshd.service", "--state=failed"} <= set(asked)
    assert reset[1:] == ["reset-failed", "ssh.service"]
    assert (start[1], start[-1]) == ("start", "ssh.service")


def test_an_sshd_that_runs_is_left_alone_and_a_systemd_that_refuses_is_no_error(
    paths: Paths,
) -> None:
    recorder = Recorder()
    assert relogin.start_failed(paths, runner=recorder) == []
    assert not recorder.started, "without systemd"
    (paths.root / "run/systemd/system").mkdir(parents=True)
    assert relogin.start_failed(paths, runner=recorder) == []
    assert len(recorder.started) == 1
    assert relogin.start_failed(paths, runner=Recorder(failing="systemctl")) == []


def test_the_kernel_command_line_below_a_root_switches_us_off_as_well(paths: Paths) -> None:
    assert not read_host_features(paths.root).disabled
    (paths.root / "proc").mkdir()
    (paths.root / "proc/cmdline").write_text("quiet aegisbpf.disable=1 ro\n")
    assert read_host_features(paths.root).disabled
    for command in (["load"], ["load", "--dry-run"], ["boot"], ["boot", "--dry-run"], ["run"]):
        assert run(["--root", str(paths.root), *command]) in (5, 6)
    assert not paths.bpffs.exists()


@pytest.mark.parametrize("name", ["run/aegisbpf.disable", "etc/aegisbpf.disable"])
def test_a_broken_glass_keeps_everything_from_loading_and_says_how_to_come_back(
    paths: Paths, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (paths.root / name).parent.mkdir(exist_ok=True)
    (paths.root / name).touch()
    for command in (["load"], ["boot"], ["run"]):
        assert run(["--root", str(paths.root), *command]) in (5, 6)
    assert not paths.bpffs.exists()
    told = capsys.readouterr().err
    assert f"/{name}" in told
    assert "rm -f /run/aegisbpf.disable /etc/aegisbpf.disable" in told


def test_the_boot_id_is_the_kernels_own_unless_a_root_has_one(paths: Paths) -> None:
    own = bootclock.boot_id(paths)
    assert len(own) == 36
    other = "00000000-0000-4000-8000-000000000001"
    (paths.root / "proc/sys/kernel/random").mkdir(parents=True)
    (paths.root / bootclock.BOOT_ID).write_text(f"{other}\n")
    assert bootclock.boot_id(paths) == other
    (paths.root / bootclock.BOOT_ID).write_text("nonsense")
    assert bootclock.boot_id(paths) == own
