"""Soaks where rules refuse: the canary at EPERM, an agent that leaks and one that does not."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from battery import refused, searched_once
from kernel_support import REPOSITORY

from aegis_tools.cli.soak_report import code_of
from aegis_tools.control.heartbeat import read_heartbeat
from aegis_tools.kernel import loader
from aegis_tools.kernel.cgroups import mount_point
from aegis_tools.kernel.features import read_features
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths
from aegis_tools.soak import canary, reading, running
from aegis_tools.soak.folder import folder
from aegis_tools.soak.reading import Soak

FOLDER = Path("/sys/fs/bpf/soak-test")
SECONDS = 120
INTERVAL = 2
PATIENCE = 300
CPU = {"cpu_sustained", "cpu_p99", "slowness"}
"""What an emulated processor may fail: each of its seconds is many of a real one's, or few."""
LEAKING = """
import sys, threading, time
from aegis_tools.cli.main import run
kept = []
def leak():
    while True:
        kept.append(b"x" * (128 << 10))
        time.sleep(1)
threading.Thread(target=leak, daemon=True).start()
sys.exit(run(sys.argv[1:]))
"""
"""An agent that keeps 128 KiB more every second: 10 GiB a day."""

pytestmark = [pytest.mark.once, pytest.mark.timeout(900)]


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    """Return a root that enforces: ``secret`` is refused."""
    Path("/sys/kernel/rcu_expedited").write_text("1")
    FOLDER.mkdir()
    paths = Paths(tmp_path / "root")
    paths.bpffs.parent.mkdir(parents=True)
    paths.bpffs.symlink_to(FOLDER)
    (tmp_path / "secret").write_text("x")
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"version: 1\nrules:\n  - {{id: r1, path: {tmp_path / 'secret'}}}\n")
    loader.load(Pins(paths.pins), read_features(), loader.LoadOptions(), require_lsm=True)
    with searched_once(paths):
        aegis(paths, "policy", "apply", str(policy), "--mode", "enforce")
        yield paths
    Pins(paths.pins).remove_all()
    FOLDER.rmdir()


def command(paths: Paths, *words: str) -> list[str]:
    return [sys.executable, "-m", "aegis_tools", "--json", "--root", str(paths.root), *words]


def aegis(paths: Paths, *words: str, code: int | None = 0) -> dict[str, Any]:
    done = subprocess.run(
        command(paths, *words), cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    found = dict(json.loads(done.stdout))
    wanted = code_of(found["verdict"]["status"]) if code is None else code
    assert done.returncode == wanted, done.stdout + done.stderr
    return found


@contextmanager
def an_agent(paths: Paths, *before: str) -> Iterator[None]:
    """Run an agent, ready, for the time of the block."""
    words = ["--root", str(paths.root), "run"]
    process = subprocess.Popen(
        [sys.executable, *(before or ("-m", "aegis_tools")), *words],
        cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + PATIENCE
        while not (read_heartbeat(paths) or {}).get("ready"):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def soak(paths: Paths, *words: str) -> tuple[Soak, dict[str, Any]]:
    """Run a soak in the foreground to its end; return its files, and its verdict."""
    start = ("soak", "start", "--foreground", f"--duration={SECONDS}", f"--interval={INTERVAL}")
    found = aegis(paths, *start, *words, code=None)
    verdict = {one["id"]: one["status"] for one in found["verdict"]["criteria"]}
    print(found["soak"], found["verdict"]["text"], verdict)
    return reading.read_soak(paths, found["soak"]), found["verdict"]


def failed(verdict: dict[str, Any]) -> set[str]:
    return {one["id"] for one in verdict["criteria"] if one["status"] == "FAIL"}


def status_of(verdict: dict[str, Any], name: str) -> str:
    (found,) = (one for one in verdict["criteria"] if one["id"] == name)
    print(found)
    return str(found["status"])


def test_a_soak_that_enforces_begins_with_a_reason_only_and_every_turn_is_refused(
    paths: Paths, tmp_path: Path
) -> None:
    words = ("soak", "start", "--foreground", "--scenario", "enforce", "--duration", "60")
    answer = aegis(paths, *words, code=8)
    assert "needs one in shadow that passed" in answer["message"]
    assert not reading.soaks(paths)

    with an_agent(paths):
        process = subprocess.Popen(
            command(paths, *words[:-1], str(SECONDS), f"--interval={INTERVAL}",
                    "--override", "a trial", "--expect", "r1"),
            cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        while not (name := reading.running(paths)):
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        at = folder(paths, name)
        while not at.settings.exists():
            time.sleep(0.1)
        with refused():
            canary.path_of(at.path).read_bytes()
        for _ in range(20):
            with contextlib.suppress(PermissionError):
                (tmp_path / "secret").read_bytes()
            time.sleep(0.1)
        out, err = process.communicate(timeout=SECONDS + PATIENCE)
    verdict = json.loads(out)["verdict"]
    assert process.returncode == code_of(verdict["status"]), err
    found = reading.read_soak(paths, name)
    print(verdict["text"], [(one["id"], one["status"]) for one in verdict["criteria"]])
    assert found.problems == ()
    assert {one.canary for one in found.samples} == {"ok"}
    assert {one.mode for one in found.samples} == {"enforce"}
    assert {one.agent for one in found.samples} == {"running"}
    assert len(found.samples) >= SECONDS / INTERVAL / 2  # beside other machines turns come late
    assert (found.samples[-1].blocks or 0) >= 20 + len(found.samples)
    assert {hit.rule for hit in found.hits} == {"r1"}
    kinds = [one.kind for one in found.happened if one.kind != "gap"]
    assert kinds == ["begun", "override", "ended"]
    assert found.settings.override == "a trial"
    assert failed(verdict) <= CPU, verdict
    assert status_of(verdict, "canary") == "PASS"
    assert status_of(verdict, "crashes") == "PASS"
    assert not canary.path_of(at.path).exists()


def test_an_agent_that_leaks_is_caught(paths: Paths) -> None:
    aegis(paths, "mode", "audit")
    with an_agent(paths, "-c", LEAKING):
        found, verdict = soak(paths, "--scenario", "shadow")
    assert verdict["status"] == "FAIL"
    assert status_of(verdict, "mem_growth") == "FAIL"
    first, last = found.samples[0].mem_mb, found.samples[-1].mem_mb
    assert first is not None
    assert last is not None
    assert last - first > 0.1 * SECONDS / 2
    evidence = {path.name for path in folder(paths, found.settings.id).evidence.iterdir()}
    assert {"end-maps.json", "end-programs.json"} <= evidence


def test_whoever_is_exempt_from_every_rule_misses_the_canary(paths: Paths) -> None:
    words = ("soak", "start", "--foreground", "--scenario", "enforce", "--override", "x")
    process = subprocess.Popen(
        command(paths, *words, "--duration", "600", "--interval", "1"),
        cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (name := reading.running(paths)) or not folder(paths, name).settings.exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    assert running.step(paths).made.sample.canary == "ok"  # type: ignore[union-attr]

    base = mount_point()
    assert base is not None
    group = base / "soak-test"
    group.mkdir()
    (group / "cgroup.procs").write_text(str(os.getpid()))
    aegis(paths, "allow", "cgroup", "add", "/soak-test")
    made = running.step(paths).made
    assert made is not None
    assert made.sample.canary == "miss"
    assert "it was opened" in "".join(one.text for one in made.happened)

    (base / "cgroup.procs").write_text(str(os.getpid()))
    assert running.step(paths).made.sample.canary == "ok"  # type: ignore[union-attr]
    aegis(paths, "mode", "audit")
    assert running.step(paths).made.sample.canary == "ok"  # type: ignore[union-attr]
    aegis(paths, "soak", "stop")
    group.rmdir()
    kinds = [one.kind for one in reading.read_soak(paths, name).happened]
    assert kinds.count("canary-miss") == 1
    assert kinds[-2:] == ["mode", "stopped"]
    assert (folder(paths, name).evidence / "first-maps.json").is_file()
