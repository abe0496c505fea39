"""Beginning and ending: what a death in between leaves, the units, the workloads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from soak_host import WALL, Host, killed_at

from aegis_tools.cli.main import run
from aegis_tools.cli.soak_report import FAILED, UNDECIDED
from aegis_tools.cli.soak_run import warning_of
from aegis_tools.errors import AegisError, StateError
from aegis_tools.paths import Paths
from aegis_tools.soak import (
    evidence,
    finish,
    gate,
    plan,
    reading,
    running,
    status,
    unit,
    work,
    workload,
)
from aegis_tools.soak.settings import PolicyFacts, Settings, new_id

OOPS = "BUG: kernel NULL pointer dereference"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path, duration=180)


def ended(host: Host) -> None:
    """Assert that the soak has ended, and that nothing of it is left to do."""
    soak = reading.read_soak(host.paths, host.settings.id)
    assert soak.problems == ()
    assert soak.result is not None
    assert [one.kind for one in soak.happened] == ["ended"]
    assert reading.running(host.paths) == ""
    assert json.loads(host.at.verdict.read_bytes())["soak"] == host.settings.id
    assert host.at.report_html.is_file()
    assert not list(host.at.path.glob(".*"))


def test_a_soak_ends_with_the_turn_at_its_time(host: Host) -> None:
    for _ in range(3):
        assert running.step(host.paths, seams=host.seams).ended is None
        host.later(60)
    done = running.step(host.paths, seams=host.seams)
    assert done.ended is not None
    assert done.ended.problems == ()
    ended(host)
    assert len(host.rows()) == 4
    assert running.step(host.paths, seams=host.seams).identifier == ""
    ended(host)


def test_wherever_the_last_turn_is_killed_the_soak_ends_all_the_same(tmp_path: Path) -> None:
    for at in range(1, 200):
        host = Host(tmp_path / str(at), duration=60)
        host.turns(1)
        killed = killed_at(at, lambda h=host: running.step(h.paths, seams=h.seams))  # type: ignore[misc]
        running.step(host.paths, seams=host.seams)
        assert running.step(host.paths, seams=host.seams).identifier == ""
        ended(host)
        shutil.rmtree(host.paths.root)
        if not killed:
            assert at > 40
            return
    raise AssertionError("it makes fewer calls than that")


def test_one_that_is_stopped_says_so(host: Host) -> None:
    host.turns(2)
    finish_of = running.stop(host.paths, seams=host.seams)
    assert finish_of.verdict is not None
    soak = reading.read_soak(host.paths, host.settings.id)
    assert soak.result is not None
    assert (soak.result.state, soak.result.ended) == ("stopped", WALL + 120)
    with pytest.raises(StateError, match="no soak is running"):
        running.stop(host.paths, seams=host.seams)


def test_a_beginning_that_was_killed_is_no_soak(host: Host) -> None:
    host.at.settings.unlink()
    plan.check_free(host.paths)
    assert running.step(host.paths, seams=host.seams).identifier == ""
    assert not host.at.path.exists()
    assert not host.paths.soak_running.exists()


def test_who_asks_while_a_soak_begins_is_told_so(host: Host) -> None:
    host.at.settings.unlink()
    with pytest.raises(StateError, match="is beginning just now"):
        status.read(host.paths, status.wanted(host.paths, ""))


def test_a_soak_that_is_beginning_is_listed_as_that_and_one_without_settings_as_damaged(
    host: Host,
) -> None:
    host.at.settings.unlink()
    assert [one["state"] for one in status.overview(host.paths)] == ["beginning"]
    host.paths.soak_running.unlink()
    assert [one["state"] for one in status.overview(host.paths)] == ["damaged"]


def test_what_is_wrong_with_the_rest_keeps_no_soak_from_ending(host: Host) -> None:
    host.turns(2)
    host.at.report_html.mkdir()
    found = running.stop(host.paths, seams=host.seams)
    assert [problem.split(":")[0] for problem in found.problems] == ["the report"]
    assert reading.running(host.paths) == ""


def test_settings_that_are_damaged_keep_it_from_going_on_and_not_from_being_stopped(
    host: Host,
) -> None:
    host.turns(1)
    host.at.settings.write_bytes(b"{}")
    with pytest.raises(StateError, match="settings of the running soak are damaged"):
        running.step(host.paths, seams=host.seams)
    found = running.stop(host.paths, seams=host.seams)
    assert found.verdict is None
    assert reading.running(host.paths) == ""
    assert status.overview(host.paths)[0]["state"] == "damaged"


def test_turns_in_the_foreground_keep_their_rhythm_and_make_up_for_nothing(host: Host) -> None:
    host.turn()
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(round(seconds, 3))
        host.later(seconds + (150 if len(waited) == 2 else 0.25))
        return False

    found = running.follow(
        host.paths, host.settings, wait, tell=lambda _: None, warn=pytest.fail, seams=host.seams
    )
    assert found is not None
    assert waited == [60, 59.75]
    assert host.told("gap") == ["no turn was made for 210 s"]


@pytest.mark.parametrize(
    ("says", "words", "code"),
    [("", ["--until-end"], UNDECIDED), (OOPS, ["--until-end"], FAILED), (OOPS, [], 0)],
)
def test_turns_to_the_end_have_the_exit_code_of_the_verdict_and_one_turn_has_not(
    host: Host, says: str, words: list[str], code: int
) -> None:
    host.turns(1)
    if says:
        host.says(says)
    assert run(["--root", str(host.paths.root), "soak", "sample", *words]) == code
    assert reading.running(host.paths) == ""


def test_who_waits_can_stop_it_and_somebody_elses_end_is_no_error(host: Host) -> None:
    host.turn()
    told = {"tell": lambda _: None, "warn": pytest.fail}
    found = running.follow(host.paths, host.settings, lambda _: True, **told, seams=host.seams)  # type: ignore[arg-type]
    assert found is not None
    assert found.identifier == host.settings.id

    def none(_: float) -> bool:
        return False

    again = running.follow(host.paths, host.settings, none, **told, seams=host.seams)  # type: ignore[arg-type]
    assert again is None


def test_a_turn_that_cannot_be_written_down_is_told_and_the_next_one_is_made(host: Host) -> None:
    host.turn()
    host.at.samples.rename(host.at.path / "kept")
    host.at.samples.mkdir()
    warned: list[AegisError] = []

    def wait(seconds: float) -> bool:
        host.later(seconds)
        if len(warned) == 2 and host.at.samples.is_dir():
            host.at.samples.rmdir()
            (host.at.path / "kept").rename(host.at.samples)
        return False

    running.follow(
        host.paths, host.settings, wait, tell=lambda _: None,
        warn=warned.append, seams=host.seams,
    )  # fmt: skip
    for error in warned:
        text = warning_of(error)
        assert text.startswith("aegisbpf: cannot write the samples: it is a folder (")
        assert str(host.at.samples) in text
    assert len(host.rows()) == 2


def test_status_says_how_far_it_is(host: Host) -> None:
    host.turns(2)
    found = status.read(host.paths, host.settings.id, clock=lambda: host.wall)
    assert (found.state, found.elapsed_s, found.left_s, found.age_s) == ("running", 60, 120, 60)
    assert not found.late
    assert status.read(host.paths, host.settings.id, clock=lambda: host.wall + 200).late
    assert status.wanted(host.paths, "") == host.settings.id
    assert found.to_dict()["progress"] == pytest.approx(1 / 3, abs=1e-6)
    host.paths.soak_running.unlink()
    assert status.read(host.paths, host.settings.id).state == "left"


def shadow(paths: Paths, digest: str, number: int) -> None:
    """Write a soak in shadow that ended at once."""
    started = WALL + number
    settings = Settings(
        id=new_id("shadow", started), scenario="shadow", started=started, duration_s=600,
        interval_s=60, policy=PolicyFacts(digest) if digest else None,
    )  # fmt: skip
    folder = paths.soaks / settings.id
    folder.mkdir(parents=True)
    (folder / "soak.json").write_bytes(settings.to_bytes())
    (folder / "result.json").write_bytes(finish.Result("done", started + 600).to_bytes())


def test_no_enforcement_without_a_shadow_of_the_same_policy(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    same, other = "aa" * 32, "bb" * 32
    assert "never watched" in gate.passed_shadow(paths, same)[1]
    shadow(paths, other, 1)
    assert "never watched" in gate.passed_shadow(paths, same)[1]
    shadow(paths, same, 2)
    found, reason = gate.passed_shadow(paths, same)
    assert found == ""
    assert reason.startswith(f"its soak in shadow {new_id('shadow', WALL + 2)} ended with: ")
    assert "no policy is live" in gate.passed_shadow(paths, "")[1]
    with pytest.raises(StateError, match="needs one in shadow that passed"):
        gate.check(paths, same, "")
    assert gate.check(paths, same, "a trial") == ""


def test_the_timer_fires_at_the_interval_and_not_much_later(tmp_path: Path) -> None:
    changes = unit.plan(Paths(tmp_path), Path("/usr/bin/aegisbpf"), 300)
    assert [change.path.name for change in changes] == [
        "aegis-soak.service", "aegis-soak.timer", "interval.conf",
    ]  # fmt: skip
    for interval, first in ((10, 10), (300, 60)):
        for change in unit.plan(Paths(tmp_path), Path("/bin/true"), interval):
            change.path.parent.mkdir(parents=True, exist_ok=True)
            change.path.write_bytes(change.data)
        timer = tmp_path / "etc/systemd/system" / unit.TIMER
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(timer)],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert (done.stderr, done.returncode) == ("", 0)
        text = unit.drop_in(Paths(tmp_path)).read_text()
        assert text.split("[Timer]\n")[1].splitlines() == [
            "OnActiveSec=", f"OnActiveSec={first}s", f"OnUnitActiveSec={interval}s",
            f"AccuracySec={min(1000, 10 * interval)}ms",
        ]  # fmt: skip


def test_systemd_is_told_to_run_a_workload_within_its_limits() -> None:
    said: list[list[str]] = []

    def run(argv: list[str], *, timeout: float = 60) -> str:
        del timeout
        said.append(list(argv))
        return ""

    workload.start(Paths(), "developer", 600.7, run)  # type: ignore[arg-type]
    stop, start = said
    assert stop == ["systemctl", "stop", "aegis-soak-workload.service"]
    assert start[:2] == ["systemd-run", "--quiet"]
    for limit in ("CPUQuota=60%", "MemoryMax=512M", "RuntimeMaxSec=660", "TasksMax=128"):
        assert f"--property={limit}" in start
    assert start[-4:] == ["aegis_tools.soak.work", "--seconds=600", "--cpu-percent=50", "developer"]


@pytest.mark.parametrize("name", ["idle", "developer", "git", "web", "database"])
def test_a_workload_works_within_its_share_and_leaves_nothing_behind(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    argv = [
        sys.executable,
        "-m",
        "aegis_tools.soak.work",
        "--seconds=1.5",
        "--cpu-percent=30",
        name,
    ]
    begun = time.monotonic()
    done = subprocess.run(argv, check=False, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert time.monotonic() - begun >= 1.5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["developer", "git", "web", "database"])
def test_a_round_of_a_workload_does_something(name: str, tmp_path: Path) -> None:
    with work.WORK[name](tmp_path, Paths(tmp_path)) as round_:
        round_()
        round_()
    made = {path.suffix for path in tmp_path.rglob("*")}
    assert made >= {"developer": {".o"}, "git": {".c"}, "web": {".html"}, "database": {".db"}}[name]
    if name in ("developer", "git"):
        log = ["git", "-C", str(tmp_path / "src"), "log", "--oneline"]
        assert len(subprocess.run(log, check=True, capture_output=True).stdout.splitlines()) == 2


def test_a_host_without_a_compiler_compiles_python(tmp_path: Path) -> None:
    work._compile_python(tmp_path)
    assert len(list(tmp_path.rglob("*.pyc"))) > 20


def test_a_workload_pauses_for_what_it_took() -> None:
    assert work.pause_after(took=1.0, cpu=1.0, share=0.5) == 1.0
    assert work.pause_after(took=3.0, cpu=1.0, share=0.5) == work.PAUSE_SECONDS
    stop = threading.Event()
    stop.set()
    assert work.work("idle", Paths(), 100, 0.5, stop) == 0


def test_stress_reads_regular_files_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    (tmp_path / "link").symlink_to(path)
    found = [work.is_regular(str(one)) for one in (path, tmp_path / "link", tmp_path, "a\0b")]
    assert found == [True, False, False, False]
    work.read_start(str(tmp_path / "missing"))
    work.read_start(str(path))


def test_evidence_says_what_could_not_be_had_and_holds_no_secret(host: Host) -> None:
    def says(argv: list[str], *, timeout: float = 60) -> str:
        del argv, timeout
        return "password=hunter2\nbpf: something\n"

    names = evidence.collect(host.paths, host.at, evidence.FIRST, runner=says)  # type: ignore[arg-type]
    assert names == ["first-kernel-log.txt", "first-problems.txt"]
    text = (host.at.evidence / "first-kernel-log.txt").read_text()
    assert "hunter2" not in text
    assert "bpf: something" in text
    assert "Aegis is not loaded" in (host.at.evidence / "first-problems.txt").read_text()


def test_the_first_failure_collects_evidence_and_the_second_does_not(host: Host) -> None:
    host.turns(1)
    host.says("BUG: kernel NULL pointer dereference")
    running.step(host.paths, seams=host.seams)
    collected = host.at.evidence / "first-problems.txt"
    assert collected.is_file()
    collected.unlink()
    host.says("BUG: once more")
    host.later(60)
    running.step(host.paths, seams=host.seams)
    assert not collected.exists()
