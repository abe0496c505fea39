"""Soaks on this kernel's own maps: in the foreground, killed and gone on, with a canary missed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from edit_support import Host
from kernel_support import NO_LSM
from soak_foreground import Begun, an_agent, is_alive, touch, until
from soak_host import killed_at

from aegis_tools.cli.soak_report import FAILED, UNDECIDED
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.errors import NotLoadedError, StateError, UsageError
from aegis_tools.kernel import loader
from aegis_tools.kernel.pins import Pins
from aegis_tools.soak import begin, canary, columns, gate, plan, reading, running, work
from aegis_tools.soak.agent import look
from aegis_tools.soak.folder import folder
from aegis_tools.soak.plan import Wanted
from aegis_tools.soak.state import Agent

VERDICTS = (0, FAILED, UNDECIDED)
SHADOW = ("soak", "start", "--scenario", "shadow", "--foreground")


def manual_rules(host: Host) -> list[str]:
    with Live(Pins(host.paths.pins)) as live:
        return [record.text for record in live.manual_rules().values()]


def test_a_soak_in_the_foreground_ends_by_itself_and_leaves_nothing_behind(
    host: Host, files: dict[str, Path]
) -> None:
    host("policy", "apply", files["policy"])
    with an_agent(host.paths):
        process = host.start(*SHADOW, "--duration", "12", "--interval", "1")
        until(lambda: reading.running(host.paths))
        for _ in range(20):
            touch(files["a"], 5)
            time.sleep(0.2)
        out, err = process.communicate(timeout=60)
    assert process.returncode == UNDECIDED, err
    assert (b"has ended: " in out, err) == (True, b"")
    (name,) = reading.soaks(host.paths)
    soak = reading.read_soak(host.paths, name)
    assert (soak.problems, soak.result and soak.result.state) == ((), "done")
    assert len(soak.samples) == 13
    assert {one.canary for one in soak.samples} == {"ok"}
    assert {one.agent for one in soak.samples} == {"running"}
    assert {one.map_deny_path for one in soak.samples} == {3}
    assert [one.kind for one in soak.happened] == ["begun", "ended"]
    assert all(one.cpu_pct is not None and one.mem_mb for one in soak.samples[1:])
    last = soak.samples[-1]
    assert (last.audits, last.events) == (100 + 13 - 1, 100 + 13 - 1)
    assert {hit.rule for hit in soak.hits} == {f"path:{files['a']}"}
    assert soak.hits[-1].audits == 100
    at = folder(host.paths, name)
    assert reading.running(host.paths) == ""
    assert manual_rules(host) == []
    assert {one.name for one in at.path.iterdir()} == {
        "soak.json", "samples.csv", "happened.ndjson", "hits.csv", "state.json", "result.json",
        "verdict.json", "report.json", "report.md", "report.html",
    }  # fmt: skip
    head = at.samples.read_text().split("\n", 1)[0]
    assert head.startswith("timestamp,cpu_pct,mem_mb,blocks,ringbuf_drops,map_deny_path,")


def test_a_sampler_that_was_killed_is_gone_on_with(host: Host) -> None:
    process = host.start(*SHADOW, "--duration", "14", "--interval", "1")
    name = until(lambda: reading.running(host.paths))
    until(lambda: len(columns_of(host, name)) >= 4)
    process.kill()
    process.communicate()
    assert host("soak", "status")["running"] is True
    time.sleep(4)
    assert host("soak", "status")["state"] == "running"

    host("soak", "sample", "--until-end", code=UNDECIDED)
    soak = reading.read_soak(host.paths, name)
    assert soak.result is not None
    assert soak.result.state == "done"
    assert soak.samples[-1].boot_s - soak.samples[0].boot_s >= 14  # type: ignore[operator]
    assert [one.kind for one in soak.happened] == ["begun", "gap", "ended"]


def columns_of(host: Host, name: str) -> list[columns.Sample]:
    path = folder(host.paths, name).samples
    return columns.parse(path.read_text())[0] if path.exists() else []


def test_a_rule_that_is_gone_is_one_miss_and_is_made_again(host: Host) -> None:
    begun = Begun(host.paths)
    assert begun.first.sample.canary == "ok"
    host("block", "del", str(canary.path_of(begun.at.path)))
    made = begun.step().made
    assert made is not None
    assert made.sample.canary == "miss"
    assert begun.kinds() == ["canary-miss", "rule-restored"]
    assert begun.step().made.sample.canary == "ok"  # type: ignore[union-attr]
    assert begun.kinds() == ["canary-miss", "rule-restored"]
    assert (begun.at.evidence / "first-maps.json").is_file()


def test_entries_that_were_removed_are_a_miss_and_are_made_again(host: Host) -> None:
    begun = Begun(host.paths)
    with Live(Pins(host.paths.pins)) as live:
        for name in ("deny_inode_map", "deny_path_map", "audit_path_map"):
            inner = live.inner(name)
            if inner is not None:
                with inner:
                    for key, _ in list(inner.items()):
                        inner.delete(key)
    assert begun.step().made.sample.canary == "miss"  # type: ignore[union-attr]
    assert begun.step().made.sample.canary == "ok"  # type: ignore[union-attr]
    assert begun.kinds() == ["canary-miss", "rule-restored"]


def test_a_load_in_the_place_of_another_takes_the_rule_and_is_no_miss(host: Host) -> None:
    begun = Begun(host.paths)
    host("reset")
    made = begun.step().made
    assert made is not None
    assert (made.sample.canary, made.sample.mode, made.sample.blocks) == ("none", "none", None)
    loader.load(Pins(host.paths.pins), NO_LSM, loader.LoadOptions())
    assert begun.step().made.sample.canary == "ok"  # type: ignore[union-attr]
    assert begun.kinds() == ["mode", "mode", "rule-restored"]


def test_a_load_between_two_turns_takes_the_rule_and_is_no_miss(host: Host) -> None:
    begun = Begun(host.paths)
    host("reset")
    loader.load(Pins(host.paths.pins), NO_LSM, loader.LoadOptions())
    assert begun.step().made.sample.canary == "ok"  # type: ignore[union-attr]
    assert begun.kinds() == ["rule-restored"]


def test_a_beginning_that_fails_leaves_nothing(host: Host) -> None:
    made = plan.plan(host.paths, Wanted("shadow", 600, foreground=True))
    host("config", "set", "disabled", "on")
    with pytest.raises(StateError, match="the soak cannot begin"):
        begin.begin(host.paths, made)
    assert reading.soaks(host.paths) == []
    assert not host.paths.soak_running.exists()
    assert manual_rules(host) == []


def test_a_canary_that_somebody_removed_is_put_back(host: Host) -> None:
    begun = Begun(host.paths)
    canary.path_of(begun.at.path).unlink()
    assert begun.step().made.sample.canary == "miss"  # type: ignore[union-attr]
    assert begun.step().made.sample.canary == "ok"  # type: ignore[union-attr]


def test_a_command_that_takes_its_time_keeps_no_turn_from_being_made(host: Host) -> None:
    begun = Begun(host.paths, interval_s=60)
    host("block", "del", str(canary.path_of(begun.at.path)))
    with locked(host.paths.lock, "a command that takes its time"):
        assert begun.step().made.sample.canary == "miss"  # type: ignore[union-attr]
    assert begun.step().made.sample.canary == "ok"  # type: ignore[union-attr]
    assert begun.kinds() == ["canary-miss", "reading-failed", "rule-restored"]


def test_an_event_that_the_agent_does_not_take_is_a_miss(host: Host) -> None:
    with an_agent(host.paths) as agent:
        begun = Begun(host.paths)
        with Live(Pins(host.paths.pins)) as live:
            ring = live.map("events").id
        now = [0.0]

        def sleep(seconds: float) -> None:
            now[0] += seconds

        def attempt() -> canary.Tried:
            return canary.attempt(
                host.paths, begun.at.path, reader=ring, sleep=sleep, clock=lambda: now[0]
            )

        agent.process.send_signal(signal.SIGSTOP)
        tried = attempt()
        assert tried == ("miss", "the agent has not taken its event within 15 s")
        agent.process.send_signal(signal.SIGCONT)
        # One that has died meanwhile is told as that.
        agent.kill()
        assert attempt().result == "ok"
        host("config", "set", "event-sample-rate", "0")
        assert canary.attempt(host.paths, begun.at.path, reader=ring).result == "ok"


def test_an_agent_that_dies_is_in_the_rows_and_a_new_one_is_told(host: Host) -> None:
    with an_agent(host.paths) as agent:
        begun = Begun(host.paths)
        agent.kill()
        for _ in range(2):
            sample = begun.step().made.sample  # type: ignore[union-attr]
            assert (sample.agent, sample.cpu_pct) == ("dead", None)
        assert begun.at.samples.read_text().count(",DAEMON_DEAD,0,") == 2
        assert begun.kinds() == ["crash"]
    with an_agent(host.paths) as agent:
        assert begun.step().made.sample.cpu_pct is None  # type: ignore[union-attr]
        assert begun.step().made.sample.agent_pid == agent.process.pid  # type: ignore[union-attr]
    assert begun.step().made.sample.agent == "stopped"  # type: ignore[union-attr]
    assert begun.kinds() == ["crash", "restart"]


def test_ctrl_c_ends_it_in_order_and_its_workload_with_it(host: Host) -> None:
    process = host.start(*SHADOW, "--duration", "600", "--interval", "1", "--workload", "database")
    name = until(lambda: reading.running(host.paths))
    until(lambda: len(columns_of(host, name)) >= 2)
    worker = until(lambda: worker_of(process.pid))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.count(b"warning: no ") == len(err.splitlines()) == 2
    assert f"{name} has ended: ".encode() in out
    soak = reading.read_soak(host.paths, name)
    assert soak.result is not None
    assert soak.result.state == "stopped"
    assert [one.kind for one in soak.happened] == ["begun", "stopped"]
    assert not is_alive(worker)
    assert manual_rules(host) == []


def test_stress_reads_what_rules_deny_at_a_bounded_rate_and_spares_the_canary(
    host: Host, files: dict[str, Path]
) -> None:
    host("policy", "apply", files["policy"])
    words = ("soak", "start", "--foreground", "--scenario", "stress", "--workload", "stress")
    process = host.start(*words, "--duration", "10", "--interval", "1")
    out, err = process.communicate(timeout=60)
    assert process.returncode in VERDICTS, err
    (name,) = reading.soaks(host.paths)
    soak = reading.read_soak(host.paths, name)
    last = {hit.rule: hit.audits for hit in soak.hits}
    assert set(last) == {f"path:{files['a']}", f"path:{files['b']}"}
    assert 50 < sum(last.values()) <= 11 * 100
    assert {one.canary for one in soak.samples} == {"ok"}
    assert b"has ended: " in out
    Begun(host.paths)
    assert work.denied_files(host.paths) == [str(files["a"]), str(files["b"])]


def worker_of(pid: int) -> int:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(word) for word in path.read_text().split()]
    return next((p for p in found if b"soak.work" in Path(f"/proc/{p}/cmdline").read_bytes()), 0)


def test_a_workload_ends_with_a_sampler_that_is_killed(host: Host) -> None:
    process = host.start(*SHADOW, "--duration", "600", "--interval", "1", "--workload", "idle")
    worker = until(lambda: worker_of(process.pid))
    until(lambda: len(columns_of(host, reading.running(host.paths))) >= 2)
    process.kill()
    process.communicate()
    until(lambda: not is_alive(worker))
    host("soak", "stop")


def test_one_soak_at_a_time(host: Host) -> None:
    begun = Begun(host.paths)
    assert host.any(*SHADOW, "--duration", "60")["running"] == begun.id
    host("soak", "stop")
    assert host.any("soak", "stop")["message"] == "no soak is running"
    assert host("soak", "sample")["running"] is False
    assert [one["state"] for one in host("soak", "list")["soaks"]] == ["stopped"]


def test_denials_are_expected_of_live_rules_only(host: Host, files: dict[str, Path]) -> None:
    host("policy", "apply", files["policy"])
    other = files["a"].parent / "other"
    other.write_text("x")
    host("block", "add", str(other))
    live = [row["rule"] for row in host("rule", "list")["rules"]]
    gate.check_expected(host.paths, live)
    gate.check_expected(host.paths, [])
    for word in ("nosuchrule", ""):
        with pytest.raises(UsageError, match=f"no live rule has the id '{word}'") as refused:
            gate.check_expected(host.paths, [*live, word])
        assert refused.value.hint == "see the ids: aegisbpf rule list"


def test_what_does_not_fit_is_refused_and_nothing_is_left_of_it(host: Host) -> None:
    def refused(error: type[Exception], text: str, **given: object) -> None:
        values = {"scenario": "shadow", "duration_s": 600, "foreground": True, **given}
        with pytest.raises(error, match=text):
            plan.plan(host.paths, Wanted(**values))  # type: ignore[arg-type]

    refused(StateError, "whose mode is enforce: it is audit", scenario="enforce")
    refused(UsageError, "no live rule denies", scenario="stress", workload="stress")
    refused(UsageError, "lasts from 10 s", duration_s=5)
    refused(UsageError, "is shorter than the interval", interval_s=601)
    refused(UsageError, "turns at most", duration_s=86400 * 100, interval_s=1)
    refused(UsageError, "nothing to override", override="because")
    refused(UsageError, "only a soak that enforces asks whose", expected=("path:/x",))
    refused(UsageError, "systemd does not run here", foreground=False)
    host("config", "set", "disabled", "on")
    refused(StateError, "its hooks do not work")
    host("reset")
    refused(NotLoadedError, "not loaded")
    assert not host.paths.soaks.exists()


def test_wherever_a_beginning_is_killed_whoever_comes_next_undoes_it(host: Host) -> None:
    wanted = Wanted("shadow", 600, foreground=True)
    for at in range(1, 400, 6):
        killed = killed_at(at, lambda: begin.begin(host.paths, plan.plan(host.paths, wanted)))
        name = reading.running(host.paths)
        if name and folder(host.paths, name).settings.exists():
            assert running.step(host.paths).made is not None  # it had begun
            host("soak", "stop")
            shutil.rmtree(folder(host.paths, name).path)  # ids have seconds
        else:
            assert running.step(host.paths).identifier == ""
            assert reading.soaks(host.paths) == []
        assert reading.running(host.paths) == ""
        assert manual_rules(host) == []
        if not killed:
            assert at > 60
            return
    raise AssertionError("it makes fewer calls than that")


def test_the_seeds_sampler_adds_its_row(host: Host, tmp_path: Path) -> None:
    log = tmp_path / "metrics.csv"
    command = f"{Path.cwd()}/scripts/soak_monitor.sh --root {host.paths.root} --csv {log}"
    dead = subprocess.run(
        ["/bin/sh", "-c", command], env={"PATH": "/usr/bin:/bin"}, check=False, capture_output=True
    )
    assert (dead.returncode, dead.stderr) == (1, b"")
    with an_agent(host.paths):
        done = subprocess.run(["/bin/sh", "-c", command], env={}, check=False, capture_output=True)
        with_ring = look(host.paths, Agent()).rss or 0
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    header, first, second = log.read_text().splitlines()
    assert header == ",".join(columns.SEED)
    assert first.split(",")[1:] == ["DAEMON_DEAD", "0", "0", "0", "0", "0", "0"]
    samples, problems = columns.parse(log.read_text())
    assert (len(samples), problems) == (2, [])
    assert samples[1].mem_mb is not None
    assert 5 < samples[1].mem_mb < 100
    assert with_ring / (1 << 20) - samples[1].mem_mb > 0.4  # a ring of 256 KiB is there twice
    assert len(second.split(",")) == 8
    assert not host.paths.soaks.exists()


def test_a_turn_takes_little_of_the_processor(host: Host, files: dict[str, Path]) -> None:
    host("policy", "apply", files["policy"])
    begun = Begun(host.paths)
    host.start("soak", "sample").communicate()
    before = os.times()
    for _ in range(3):
        process = host.start("soak", "sample")
        assert process.communicate()[1] == b""
    after = os.times()
    used = (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )
    print(f"{used / 3:.3f} s of processor time a turn")
    assert len(begun.soak().samples) == 5
    assert used / 3 < 0.4
