"""A rule on a running service's file, a map filled to the brim: for real, and recovered."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib import error, request

import pytest
from battery import can_read, in_child, opened_without_end, searched_once

from aegis_tools.cli.main import run
from aegis_tools.control import bootstate
from aegis_tools.control.live import Live
from aegis_tools.kernel import loader
from aegis_tools.kernel.features import read_features
from aegis_tools.kernel.layout import Config, uid_key
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Mode

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = Path("/sys/fs/bpf/incident-test")
SMALL = dict.fromkeys(("deny_inode_map", "deny_path_map", "deny_dir_map", "rules"), 8)

pytestmark = [pytest.mark.once, pytest.mark.timeout(900)]


class Service(http.server.BaseHTTPRequestHandler):
    """Answers 200 where it can read its files, and 503 where it cannot."""

    needs: tuple[Path, ...] = ()

    def do_GET(self) -> None:
        try:
            for path in self.needs:
                path.read_bytes()
            self.send_response(200)
        except OSError:
            self.send_response(503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    """Run a little service that needs two files; return its address."""
    for name in ("first", "second", "secret"):
        (tmp_path / name).write_text(name)
    Service.needs = tmp_path / "first", tmp_path / "second"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def answers(address: str) -> bool:
    try:
        with request.urlopen(address, timeout=30) as found:
            return bool(found.status == 200)
    except error.HTTPError as refused:
        refused.close()
        return False


@contextlib.contextmanager
def loaded(tmp_path: Path, options: loader.LoadOptions) -> Iterator[Paths]:
    Path("/sys/kernel/rcu_expedited").write_text("1")
    FOLDER.mkdir()
    paths = Paths(tmp_path / "root")
    paths.bpffs.parent.mkdir(parents=True)
    paths.bpffs.symlink_to(FOLDER)
    loader.load(Pins(paths.pins), read_features(), options, require_lsm=True)
    try:
        with searched_once(paths):
            yield paths
    finally:
        Pins(paths.pins).remove_all()
        FOLDER.rmdir()


@pytest.fixture
def paths(tmp_path: Path, service: str) -> Iterator[Paths]:
    """Return a root that enforces: r1 on what the service needs first, r2 on a secret."""
    del service
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"version: 1\nrules:\n  - {{id: r1, path: {tmp_path / 'first'}}}\n"
                      f"  - {{id: r2, path: {tmp_path / 'secret'}}}\n")  # fmt: skip
    with loaded(tmp_path, loader.LoadOptions()) as paths:
        assert run(["--root", str(paths.root), "block", "add", str(tmp_path / "by-hand")]) == 0
        words = ("policy", "apply", str(policy), "--mode", "enforce")
        assert run(["--root", str(paths.root), *words]) == 0
        yield paths


class Host:
    """Runs commands, and returns their documents."""

    def __init__(self, paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
        self.paths, self._capsys = paths, capsys

    def __call__(self, *words: str, code: int = 0) -> dict[str, Any]:
        self._capsys.readouterr()
        status = run(["--root", str(self.paths.root), "--json", *words])
        out = self._capsys.readouterr().out
        assert status == code, out
        return dict(json.loads(out))

    def live(self) -> dict[str, Any]:
        """Return every entry of what is live, and the mode."""
        with Live(Pins(self.paths.pins)) as live:
            return {**live.all_entries(), "mode": live.config(Config.MODE)}


@pytest.fixture
def host(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Host:
    return Host(paths, capsys)


@contextlib.contextmanager
def agent(paths: Paths, events: Path) -> Iterator[None]:
    """Run the agent, which writes events to a file."""
    argv = [sys.executable, "-m", "aegis_tools", "--root", str(paths.root), "run"]
    process = subprocess.Popen(
        [*argv, "--events-file", str(events)], cwd=REPOSITORY, stdout=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 120
        while not paths.agent_status.exists():
            assert time.monotonic() < end, "no agent"
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(60)


def but_for_r1(live: dict[str, Any]) -> dict[str, Any]:
    """Return what is live without what says how r1 acts."""
    own = uid_key("r1")
    maps = {name: dict(found) for name, found in live.items() if isinstance(found, dict)}
    assert maps["rules"].pop(own)
    maps["manual_rules"] = {
        key: value for key, value in maps["manual_rules"].items() if b"mode:r1" not in value
    }
    return maps


def incident(host: Host, service: str, *more: str, code: int = 0) -> dict[str, Any]:
    words = ("--probe-url", service, "--probe-for", "10s", "--no-probe", *more)
    return host("incident", "blocking", *words, code=code)


def test_a_service_that_a_rule_hits_answers_again_and_only_that_rule_is_gone(
    host: Host, service: str, tmp_path: Path
) -> None:
    events, secret = tmp_path / "events.jsonl", tmp_path / "secret"
    before = host.live()
    with agent(host.paths, events):
        assert not can_read(secret)
        for _ in range(3):
            assert not answers(service)
        end = time.monotonic() + 60
        while not events.exists() or b'"rule":"r1"' not in events.read_bytes():
            assert time.monotonic() < end, "no event"
            time.sleep(0.2)
    began = time.monotonic()
    again = ("--reenforce", "--confirm-within", "100s", "--file", str(events))
    answer = incident(host, service, *again)
    took = time.monotonic() - began
    assert answers(service)
    first_audit = next(one for one in answer["steps"] if one["action"] == "audit")
    print(f"recovered in {took:.1f} s; audit step {first_audit['seconds']} s", file=sys.stderr)
    assert took < 120
    assert (answer["rule"], answer["result"], answer["mode"]) == ("r1", "recovered", "enforce")
    assert answer["pending"]["action"] == "incident blocking"
    [rule] = [one for one in answer["record"]["rules"] if one["id"] == "r1"]
    assert rule["hits"]["refused_lately"] >= 3
    assert rule["hits"]["during_probe"] >= 1
    assert rule["operations"]
    assert rule["processes"]
    assert "policy apply by" in rule["applied_by"]
    after = host.live()
    assert (but_for_r1(after), after["mode"]) == (but_for_r1(before), 1)

    waiting = incident(host, service, *again)  # before it is confirmed: nothing new
    assert (waiting["changed"], waiting["id"]) == (False, answer["id"])
    assert "aegisbpf policy confirm" in waiting["next"]
    host("policy", "confirm")
    host("incident", "close", answer["id"])
    assert bootstate.read_boot_state(host.paths).mode is Mode.ENFORCE
    healthy = incident(host, service, *again)
    assert (healthy["result"], healthy["changed"]) == ("nothing-to-do", False)
    assert host.live() == after
    assert not can_read(secret)
    assert answers(service)


def test_where_the_service_fails_again_the_host_goes_back_to_audit_and_the_next_run_finds_why(
    host: Host, service: str, tmp_path: Path
) -> None:
    host("block", "add", str(tmp_path / "second"))
    before = host.live()
    assert not answers(service)
    failed = incident(host, service, "--reenforce", code=3)
    assert "back to audit at once" in failed["message"]
    assert answers(service)
    now = host.live()
    assert (now["mode"], but_for_r1(now)) == (0, but_for_r1(before))
    assert host("policy", "history")["entries"]
    answer = incident(host, service, "--reenforce")
    assert answer["rule"] == f"manual:path:{tmp_path / 'second'}"
    assert answer["mode"] == "enforce"
    assert answers(service)
    host("policy", "revert")
    assert host.live()["mode"] == 0, "unconfirmed, it audits again"


def test_killed_halfway_the_service_answers_and_another_run_does_the_rest(
    host: Host, service: str, tmp_path: Path
) -> None:
    for part, again in (("boot.json", True), ("record.json", False)):
        if not again:
            host("rule", "promote", "r1", "--force")
            host("incident", "close", "last")
            host("mode", "enforce")
        assert not answers(service)

        def end(event: str, arguments: tuple[object, ...], part: str = part) -> None:
            if event == "os.rename" and part in " ".join(map(str, arguments)):
                os.kill(os.getpid(), signal.SIGKILL)

        def work() -> None:
            sys.addaudithook(end)
            incident(host, service)

        assert in_child(work, seconds=300) == -signal.SIGKILL
        assert answers(service), "the first effect of all"
        answer = incident(host, service, "--reenforce")
        assert (answer["rule"], answer["mode"]) == ("r1", "enforce")
        assert answers(service)
        assert not can_read(tmp_path / "secret")
        host("policy", "confirm")


def test_a_map_filled_to_the_brim_under_traffic_has_room_again_and_no_open_gets_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, policy, larger = tmp_path / "secret", tmp_path / "p.yaml", tmp_path / "q.yaml"
    secret.write_text("secret")
    names = [f"  - {{id: f{n}, path: {tmp_path / f'file{n}'}}}\n" for n in range(20)]
    rule = f"version: 1\nrules:\n  - {{id: s, path: {secret}}}\n"
    policy.write_text(rule)
    larger.write_text(rule + "".join(names))
    for number in range(20):
        (tmp_path / f"file{number}").write_text("x")
    with loaded(tmp_path, loader.LoadOptions(capacities=SMALL)) as paths:
        host = Host(paths, capsys)
        host("policy", "apply", str(policy), "--mode", "enforce")
        gone = tmp_path / "gone"
        gone.mkdir()
        added = 0
        for number in range(12):  # until the map says that it is full
            path = (gone if number < 3 else tmp_path) / f"by-hand{number}"
            path.write_text("x")
            if run(["--root", str(paths.root), "block", "add", str(path)]):
                break
            added += 1
        assert 3 < added < 12
        assert host("policy", "apply", str(larger), code=3)["error"] == "policy"
        for path in gone.iterdir():
            path.unlink()
        gone.rmdir()
        with opened_without_end(secret) as counts:
            began = time.monotonic()
            answer = host("incident", "map-full", "--policy", str(larger), "--no-probe")
            took = time.monotonic() - began
        print(f"room in {took:.1f} s; {counts[1]} opens, {counts[0]} let through", file=sys.stderr)
        assert counts[0] == 0
        assert counts[1] > 100
        states = {one["action"]: one["state"] for one in answer["steps"]}
        assert (states["clear-stale"], states["enlarge"], states["apply"]) == ("done",) * 3
        assert not can_read(tmp_path / "file7")
        assert not can_read(secret)
        undone = host("block", "restore", answer["record"]["facts"]["cleared"]["undo"])
        assert undone["restored"] == 3
        again = host("incident", "map-full", "--policy", str(larger), "--no-probe")
        assert (again["result"], again["changed"]) == ("nothing-to-do", False)
        sizes = bootstate.read_boot_state(paths).capacities
        assert sizes["deny_inode_map"] > 8
