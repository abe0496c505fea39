"""What is observed of real maps, what is recommended, and that it becomes live: or nothing does."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from check_support import Checks, rule, sockaddr
from confirm_support import config
from edit_support import Host
from kernel_support import NO_LSM, start_python
from storm_support import policy_of, ready_agent, storm

from aegis_tools.control import bootstate
from aegis_tools.control.heartbeat import read_heartbeat
from aegis_tools.control.lock import locked
from aegis_tools.control.sizes import FILE_RECORD, NET_RECORD, events_in
from aegis_tools.control.tune.adjust import carry_out
from aegis_tools.control.tune.advise import advise
from aegis_tools.control.tune.observe import observe
from aegis_tools.errors import KernelError
from aegis_tools.kernel import loader
from aegis_tools.kernel.layout import POLICY_MAPS, SAMPLE_ALL, Config, Stat
from aegis_tools.kernel.pins import Pins
from aegis_tools.kernel.ringbuf import open_ring
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Kind, Op

BURST = 2000
SMALL_RING = 1 << 16
INTERRUPTED_AT = """
import os, signal, sys
from aegis_tools.cli.main import main
wanted, part = sys.argv[1:3]
signal.signal(signal.SIGINT, signal.default_int_handler)
def end(event, arguments):
    global wanted
    if event == wanted and part in " ".join(map(str, arguments)):
        wanted = ""
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(end)
sys.argv[1:] = ["--root", sys.argv[3], "--json", *sys.argv[4:]]
main()
"""
"""Is interrupted before its first effect of a kind on a path, as by Ctrl-C."""
INSTANTS = [
    ("mmap.__new__", ""),
    ("os.mkdir", "staging-"),
    ("os.symlink", ""),
    ("os.rename", "staging-"),
    ("os.rename", "upgrade/object"),
    ("os.rename", "upgrade/links/"),
    ("os.rename", "upgrade/maps/slot_info"),
    ("os.rmdir", "upgrade/progs"),
]


def ring(host: Host) -> int:
    with host.live() as live:
        return live.map("events").max_entries


def dropped(host: Host) -> int:
    with host.live() as live:
        return live.stats()[Stat.RINGBUF_DROPS]


def capacity(host: Host, name: str) -> int:
    with host.live() as live:
        return live.capacity(name)


def item(answer: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in answer["recommendations"] if one["name"] == name)


@pytest.fixture
def stormy(paths: Paths, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Host:
    """Return a host with a ring of 64 KiB that watches the files of ``tmp_path/files``."""
    loader.load(Pins(paths.pins), NO_LSM, loader.LoadOptions(ringbuf_bytes=SMALL_RING))
    host = Host(paths, capsys)
    host("policy", "apply", policy_of(tmp_path / "files"))
    return host


@pytest.fixture
def agent(stormy: Host, tmp_path: Path) -> Iterator[None]:
    with ready_agent(stormy.paths, tmp_path / "events"):
        yield


@pytest.fixture
def crowded(host: Host, tmp_path: Path) -> Host:
    """Return a host whose maps have room for 512, and 450 rules."""
    host("policy", "apply", crowd(tmp_path))
    return host


def crowd(folder: Path, port: int = 1000) -> Path:
    """Write a policy of 450 rules."""
    policy = folder / f"crowd{port}.conf"
    rules = "".join(f"203.0.113.{n % 250}:{port + n}:tcp\n" for n in range(450))
    policy.write_text(f"version=1\n[deny_ip_port]\n{rules}")
    return policy


@pytest.mark.parametrize("network", [False, True], ids=["file", "network"])
def test_an_event_takes_of_the_ring_what_is_said_of_its_kind(
    checks: Checks, tmp_path: Path, network: bool
) -> None:
    (tmp_path / "secret").touch()
    checks.apply(rule(Kind.PATH, tmp_path / "secret"), rule(Kind.IP, "127.0.0.7", Op.EGRESS))
    with open_ring(checks.pins.path("maps", "events")) as events:
        before = events.produced
        if network:
            with socket.socket() as opened:
                assert not checks.net(opened, sockaddr("127.0.0.7"))
        else:
            assert not checks.file(tmp_path / "secret")
        assert events.produced - before == (NET_RECORD if network else FILE_RECORD)
    checks.events()


def test_an_agent_that_hangs_is_told_and_no_ring_is_large_enough(
    stormy: Host, agent: None, tmp_path: Path
) -> None:
    del agent
    pid = int((read_heartbeat(stormy.paths) or {})["pid"])
    os.kill(pid, signal.SIGSTOP)
    try:
        with storm(tmp_path / "files", BURST):
            pass
        advice = stormy("tune", "--seconds", "1")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (advice["observed"]["reader"], advice["observed"]["reader_stuck"]) == (False, True)
    assert not advice["would_change"]
    assert "systemctl restart aegisbpf" in advice["notes"][0]


def test_a_ring_holds_as_many_events_as_is_said(stormy: Host, tmp_path: Path) -> None:
    with storm(tmp_path / "files", BURST):
        pass
    with stormy.live() as live:
        found = live.stats()
    assert found[Stat.EVENTS] == events_in(SMALL_RING)
    assert found[Stat.RINGBUF_DROPS] > 0


def test_a_storm_asks_for_a_larger_ring_gets_it_and_nothing_is_dropped_any_more(
    stormy: Host, agent: None, tmp_path: Path
) -> None:
    del agent
    with storm(tmp_path / "files", BURST):
        advice = stormy("tune", "--seconds", "3")
        assert (advice["would_change"], advice["changed"]) == (True, False)
        seen = advice["observed"]
        assert seen["mean"]["dropped"] > 0
        assert (seen["files"], seen["record_bytes"], seen["reader"]) == (1, FILE_RECORD, True)
        assert seen["peak"] >= seen["busiest"]["sent"]
        assert seen["agent"]["events"] > 0
        wanted = item(advice, "ring")
        size = wanted["wanted"]
        assert size >= BURST * FILE_RECORD
        assert advice["commands"] == [wanted["command"]]
        assert wanted["command"] == f"aegisbpf load --replace --ringbuf-size={size}"
        assert advice["undo"] == [f"aegisbpf load --replace --ringbuf-size={SMALL_RING}"]
        dry = stormy("tune", "--seconds", "3", "--apply", "--dry-run")
        assert (dry["would_change"], dry["changed"], ring(stormy)) == (True, False, SMALL_RING)

        done = stormy("tune", "--seconds", "3", "--apply")
        assert (done["changed"], done["applied"]) == (True, ["replaced"])
        size = item(done, "ring")["wanted"]
        assert ring(stormy) == size
        before = dropped(stormy)
        for _ in range(20):  # the agent starts anew, which takes its time on a busy host
            again = stormy("tune", "--seconds", "3", "--apply")
            assert (again["would_change"], again["changed"]) == (False, False)
            assert again["observed"]["mean"]["dropped"] == 0
            if again["observed"]["agent"]["events"]:
                break
        assert again["observed"]["agent"]["events"] > 0
    assert dropped(stormy) == before
    assert bootstate.read_boot_state(stormy.paths).ringbuf_bytes == size
    undo = done["undo"][0].split()[1:]
    assert stormy(*undo)["changed"] is True
    assert ring(stormy) == SMALL_RING


def test_a_rate_that_was_lowered_is_raised_where_all_can_be_told_of(
    stormy: Host, agent: None, tmp_path: Path
) -> None:
    del agent
    stormy("config", "set", "event-sample-rate", "0.001")
    with storm(tmp_path / "files", BURST):
        done = stormy("tune", "--seconds", "2", "--apply")
    assert done["applied"] == ["replaced", "rate"], done
    assert done["undo"][-1] == "aegisbpf config set event-sample-rate 0.001"
    assert item(done, "event-sample-rate")["wanted"] > 0.002
    assert config(stormy, Config.SAMPLE) > 0.002 * SAMPLE_ALL
    notes = [entry["note"] for entry in stormy("history")["entries"]]
    assert any("(tune)" in note for note in notes)


def test_a_quiet_host_stays_as_it_is(stormy: Host, agent: None) -> None:
    del agent
    for words in ((), ("--apply",)):
        found = stormy("tune", "--seconds", "1", *words)
        assert (found["would_change"], found["changed"], found["commands"]) == (False, False, [])
    assert "nothing to do" in stormy.text("tune", "--seconds", "1", "--apply")
    assert ring(stormy) == SMALL_RING


def test_where_nobody_reads_the_ring_stays(stormy: Host, tmp_path: Path) -> None:
    with storm(tmp_path / "files", BURST):
        found = stormy("tune", "--seconds", "1", "--apply")
    assert (found["changed"], ring(stormy)) == (False, SMALL_RING)
    assert found["observed"]["mean"]["dropped"] > 0
    assert "nobody reads the events" in found["notes"][0]


def test_maps_that_are_nearly_full_get_room_and_keep_what_they_hold(crowded: Host) -> None:
    rules, digest = crowded("rule", "list")["rules"], crowded.digest()
    advice = crowded("tune", "--seconds", "1")
    names = [one["name"] for one in advice["recommendations"] if one["changed"]]
    assert names == ["rules", "deny_ip_port_v4_map"]
    assert advice["commands"] == [
        "aegisbpf load --replace --max-rules=1024 --max-network-entries=1024"
    ]
    done = crowded("tune", "--seconds", "1", "--apply")
    assert done["applied"] == ["replaced"]
    assert (crowded("rule", "list")["rules"], crowded.digest()) == (rules, digest)
    sizes = {spec.name: capacity(crowded, spec.name) for spec in POLICY_MAPS}
    raised = {"rules", "deny_ipv4_map", "deny_ipv6_map", "deny_cidr_v4_map", "deny_cidr_v6_map",
              "deny_ip_port_v4_map", "deny_ip_port_v6_map"}  # fmt: skip
    assert sizes == {name: 1024 if name in raised else 512 for name in sizes}
    assert ring(crowded) == loader.RINGBUF_BYTES
    assert crowded("tune", "--seconds", "1", "--apply")["changed"] is False
    assert crowded("capacity")["over"] == []
    assert bootstate.read_boot_state(crowded.paths).capacities == sizes


def test_the_command_that_is_named_does_the_same(crowded: Host) -> None:
    (command,) = crowded("tune", "--seconds", "1")["commands"]
    crowded(*command.split()[1:])
    assert crowded("tune", "--seconds", "1")["would_change"] is False


def test_what_was_enlarged_meanwhile_does_not_become_smaller(crowded: Host) -> None:
    with crowded.live() as live:
        advice = advise(observe(crowded.paths, live, seconds=0.1, stretch=2))
    crowded("load", "--replace", "--max-rules", "4096", "--max-network-entries", "1024")
    with locked(crowded.paths.lock, "test"):
        assert carry_out(crowded.paths, NO_LSM, advice) == (False, False)
    assert capacity(crowded, "rules") == 4096


def test_what_does_not_fit_into_memory_is_not_done(crowded: Host) -> None:
    with crowded.live() as live:
        advice = advise(observe(crowded.paths, live, seconds=0.1, stretch=2))
    assert advice.memory.fits
    lacking = replace(advice, memory=advice.memory._replace(room=advice.memory.after - 1))
    with locked(crowded.paths.lock, "test"), pytest.raises(KernelError, match="there is room for"):
        carry_out(crowded.paths, NO_LSM, lacking)
    assert capacity(crowded, "rules") == 512


def test_sizes_stay_while_a_change_waits(crowded: Host, tmp_path: Path) -> None:
    crowded("policy", "apply", crowd(tmp_path, port=2000), "--confirm-within", "10m")
    words = ("tune", "--seconds", "1", "--apply")
    assert crowded(*words, "--dry-run")["would_change"] is True
    assert crowded(*words, code=8)["error"] == "unconfirmed"
    assert capacity(crowded, "rules") == 512
    crowded("policy", "confirm")
    assert crowded(*words)["changed"] is True


def test_nothing_loaded_is_said(crowded: Host) -> None:
    Pins(crowded.paths.pins).remove_all()
    assert crowded("tune", "--seconds", "1", code=6)["error"] == "not_loaded"


def test_interrupted_at_any_instant_it_is_as_it_was_or_done_and_a_repetition_finishes(
    crowded: Host,
) -> None:
    rules, digest = crowded("rule", "list")["rules"], crowded.digest()
    pins = Pins(crowded.paths.pins)
    hooks = pins.names("links")
    for event, path in INSTANTS:
        words = ("tune", "--seconds", "1", "--apply")
        process = start_python(INTERRUPTED_AT, event, path, crowded.paths.root, *words)
        process.communicate(timeout=120)
        assert process.returncode == 130, (event, path)
        assert pins.names("links") == hooks
        assert (crowded("rule", "list")["rules"], crowded.digest()) == (rules, digest)
        crowded("load")
        assert (pins.stagings(), pins.upgrade.base.exists()) == ([], False)
        counts = "upgrade" in path
        assert (capacity(crowded, "rules") == 1024) is counts, (event, path)
        assert crowded(*words)["changed"] is not counts
        assert capacity(crowded, "rules") == 1024
        crowded("load", "--replace", "--max-rules", "512", "--max-network-entries", "512")
