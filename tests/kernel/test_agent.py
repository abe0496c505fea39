"""The agent as a whole: its sign of life, reloading, the crash loop, overdue changes, a flood."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_support import REPOSITORY

from aegis_tools.agent.names import TOO_MANY, RuleIds, RuleNames
from aegis_tools.cli.main import run
from aegis_tools.control import bootclock, fallback, starts
from aegis_tools.control.confirm import look
from aegis_tools.control.heartbeat import read_heartbeat
from aegis_tools.control.live import Live
from aegis_tools.control.status import read_status
from aegis_tools.kernel.layout import Config, Stat
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Mode


class Agent:
    """A running agent; what it told systemd is in ``told``."""

    def __init__(self, paths: Paths, folder: Path, *argv: str) -> None:
        self.paths = paths
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(folder / f"notify-{time.monotonic_ns()}"))
        self.manager.settimeout(30)
        self.told: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aegis_tools", "--root", str(paths.root), "run", *argv],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                "NOTIFY_SOCKET": self.manager.getsockname(),
                "WATCHDOG_USEC": "30000000",
            },
        )

    def wait_for(self, message: str) -> None:
        """Wait until systemd is told that."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            self.told.append(self.manager.recv(4096).decode())
            if self.told[-1].startswith(message):
                return
        raise AssertionError(f"{message} is not among {self.told}")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> tuple[bytes, bytes]:
        self.process.terminate()
        out, err = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, err
        return out, err

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        self.manager.close()


@pytest.fixture
def agent(paths: Paths, loaded: Pins, tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    del loaded
    started: list[Agent] = []

    def start(*argv: str, until: str = "READY=1") -> Agent:
        started.append(Agent(paths, tmp_path, *argv))
        started[-1].wait_for(until)
        return started[-1]

    yield start
    for one in started:
        one.close()


def until(check: Callable[[], Any]) -> Any:
    """Wait until it is true."""
    end = time.monotonic() + 30
    while not (found := check()) and time.monotonic() < end:
        time.sleep(0.05)
    assert found
    return found


def deny(paths: Paths, folder: Path) -> Path:
    path = folder / "secret"
    path.write_text("x")
    policy = folder / "policy.conf"
    policy.write_text(f"version=1\n[deny_path]\n{path}\n")
    assert run(["--root", str(paths.root), "policy", "apply", str(policy)]) == 0
    return path


def touch(path: Path, times: int) -> None:
    for _ in range(times):
        os.close(os.open(path, os.O_RDONLY))


def test_it_is_ready_when_the_hooks_work_and_feeds_the_watchdog(
    paths: Paths, agent: Callable[..., Agent]
) -> None:
    one = agent()
    one.wait_for("WATCHDOG=1")
    found = until(lambda: read_heartbeat(paths))
    assert (found["pid"], found["ready"], found["starts_in_window"]) == (one.process.pid, True, 1)
    one.end()
    one.wait_for("STOPPING=1")
    assert read_heartbeat(paths) is None
    assert starts.read_starts(paths) == []


def test_an_agent_that_was_killed_does_not_run_from_that_instant(
    paths: Paths, agent: Callable[..., Agent]
) -> None:
    one = agent()
    until(lambda: read_heartbeat(paths))
    assert read_status(paths).agent["running"] is True
    one.kill()
    found = read_status(paths).agent
    assert found["running"] is False
    agent()
    until(lambda: read_status(paths).agent["running"])


@pytest.mark.usefixtures("loaded")
def test_an_event_without_a_rule_says_why_there_is_none(paths: Paths, pins: Pins) -> None:
    with Live(pins) as live:
        assert RuleNames(RuleIds(paths, live).read, time.monotonic).get(0) == TOO_MANY


def test_a_reload_opens_its_files_anew_and_loses_no_event(
    paths: Paths, tmp_path: Path, agent: Callable[..., Agent]
) -> None:
    secret = deny(paths, tmp_path)
    (folder := tmp_path / "log").mkdir(mode=0o700)
    one = agent(f"--events-file={folder / 'events.ndjson'}")
    touch(secret, 1)
    until(lambda: (folder / "events.ndjson").stat().st_size)
    (folder / "events.ndjson").rename(folder / "moved")
    one.process.send_signal(signal.SIGHUP)
    one.wait_for("RELOADING=1")
    one.wait_for("READY=1")
    subprocess.run(["/bin/cat", str(secret)], check=True, stdout=subprocess.DEVNULL)
    one.end()
    names = [
        json.loads(line)["comm"] for line in (folder / "events.ndjson").read_bytes().splitlines()
    ]
    assert names == ["cat"]
    assert len((folder / "moved").read_bytes().splitlines()) == 1


def test_it_reads_on_where_larger_maps_take_the_place_of_its_own(
    paths: Paths, tmp_path: Path, agent: Callable[..., Agent]
) -> None:
    secret, one = deny(paths, tmp_path), agent()
    words = ("load", "--replace", "--max-deny-inodes", "99")
    assert run(["--root", str(paths.root), *words]) == 0
    one.wait_for("RELOADING=1")
    one.wait_for("READY=1")
    assert (read_heartbeat(paths) or {})["pid"] == one.process.pid
    subprocess.run(["/bin/cat", str(secret)], check=True, stdout=subprocess.DEVNULL)
    assert run(["--root", str(paths.root), "load", "--replace", "--max-deny-inodes", "98"]) == 0
    one.wait_for("RELOADING=1")
    one.wait_for("READY=1")
    out, err = one.end()
    assert [json.loads(line)["comm"] for line in out.splitlines()] == ["cat"], err
    assert b"the maps were replaced" in err
    assert not [text for text in one.told if text.startswith("STOPPING")]


def test_the_fifth_start_without_an_orderly_end_puts_the_host_into_audit(
    paths: Paths, pins: Pins, agent: Callable[..., Agent]
) -> None:
    with Live(pins) as live:
        live.set_config(Config.MODE, 1)
        for number in range(1, 5):
            agent().kill()
            assert fallback.read(paths) is None, number
            assert live.config(Config.MODE) == 1
        last = agent()
        found = fallback.read(paths)
        assert found is not None
        assert (found.reason, found.mode_before) == ("crash-loop", Mode.ENFORCE)
        assert live.config(Config.MODE) == 0
        assert b"HELD IN AUDIT" in last.end()[1]
        assert run(["--root", str(paths.root), "health", "--allow-fallback"]) != 0
        assert run(["--root", str(paths.root), "run", "--audit", "--event-sample-rate=9"]) == 2


def test_a_full_folder_does_not_keep_the_agent_from_running(
    paths: Paths, tmp_path: Path, agent: Callable[..., Agent]
) -> None:
    secret = deny(paths, tmp_path)
    paths.starts.mkdir()  # nothing can be renamed over it
    paths.agent_status.mkdir()
    one = agent()
    touch(secret, 1)
    one.wait_for("WATCHDOG=1")
    out, err = one.end()
    assert len(out.splitlines()) == 1
    assert err.count(b"crash loop would not be noticed") == 1


def test_it_undoes_a_change_that_nobody_confirmed(
    paths: Paths, pins: Pins, tmp_path: Path, agent: Callable[..., Agent]
) -> None:
    deny(paths, tmp_path)
    with Live(pins) as live:
        was = live.info().bundle
        other = tmp_path / "other.conf"
        other.write_text("version=1\n[deny_ip]\n203.0.113.7\n")
        argv = ["--root", str(paths.root), "policy", "apply", str(other), "--confirm-within=60s"]
        assert run(argv) == 0
        agent()
        pending = look(paths, live)
        assert pending is not None
        assert live.info().bundle != was
        data = json.loads(paths.pending.read_bytes())
        past = bootclock.boot_ns() - 1
        paths.pending.write_text(json.dumps({**data, "deadline_boot_ns": past}))
        live.set_config(Config.DEADLINE, past)
        until(lambda: live.info().bundle == was)
        until(lambda: not paths.pending.exists())


def test_more_refusals_than_the_threshold_put_the_host_into_audit_and_name_the_rule(
    paths: Paths, pins: Pins, tmp_path: Path, agent: Callable[..., Agent]
) -> None:
    secret = deny(paths, tmp_path)
    touch(secret, 1)
    with Live(pins) as live:
        live.set_config(Config.MODE, 1)
        one = agent("--deny-rate-threshold=1000", "--deny-rate-seconds=1")
        stats = live.map("block_stats")
        key = int(Stat.BLOCKS).to_bytes(4, "little")
        per_cpu = list(stats.get_per_cpu(key))

        def flood() -> bool:
            """The audit fallback refuses nothing, so the counter is moved as a hook would."""
            per_cpu[0] = (int.from_bytes(per_cpu[0], "little") + 50_000).to_bytes(8, "little")
            stats.set(key, b"".join(per_cpu))
            return fallback.read(paths) is not None

        until(flood)
        found = fallback.read(paths)
        assert found is not None
        assert found.reason == "deny-rate"
        assert "refusals a second" in found.detail
        until(lambda: live.config(Config.MODE) == 0)
        assert b"HELD IN AUDIT" in one.end()[1]


def memory_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1])
    raise AssertionError("no Anonymous line")


def test_in_a_flood_memory_stays_and_every_event_is_written_or_counted(
    paths: Paths, pins: Pins, tmp_path: Path, agent: Callable[..., Agent]
) -> None:
    secret = deny(paths, tmp_path)
    (folder := tmp_path / "log").mkdir(mode=0o700)
    one = agent(f"--events-file={folder / 'events.ndjson'}")
    touch(secret, 20_000)
    before = memory_kib(one.process.pid)
    touch(secret, 100_000)
    after = memory_kib(one.process.pid)
    one.end()
    with Live(pins) as live:
        counted = live.stats()
    lines = (folder / "events.ndjson").read_bytes().splitlines()
    received = sum(json.loads(line).get("count", 1) for line in lines)
    assert counted[Stat.AUDITS] == 120_000
    assert received + counted[Stat.RINGBUF_DROPS] == 120_000
    assert after - before < 4096
