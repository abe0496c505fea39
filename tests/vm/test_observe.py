"""What is told of real refusals: why agrees with the hooks, events name files, health sees it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from battery import (
    FILE_OPS,
    NET_OPS,
    Host,
    Kind,
    Mode,
    Op,
    Rule,
    Stat,
    bind_mount,
    can_read,
    file_rule,
    net_rule,
    refused,
    touch,
)

from aegis_tools.agent.decode import ACTIONS, REASONS, Decoder
from aegis_tools.agent.enrich import place_of
from aegis_tools.control.posture import read_posture
from aegis_tools.control.why import file_findings, net_findings, verdicts
from aegis_tools.control.whyfile import Tables, look_at, survives
from aegis_tools.kernel.cgroups import cgroup_path
from aegis_tools.kernel.inode_keys import Identifier
from aegis_tools.kernel.mountpaths import MountPaths
from aegis_tools.kernel.mounts import read_mounts

Outcome = tuple[int, str, str]
FLAGS = {Op.READ: os.O_RDONLY, Op.WRITE: os.O_WRONLY}


def expected_file(host: Host, path: Path, op: Op) -> Outcome | None:
    """What ``aegisbpf why`` would say."""
    posture = read_posture(host.live)
    with Tables(host.live) as tables, Identifier(host.pins) as identifier:
        file, remark = look_at(str(path), identifier, read_mounts())
        assert remark == ""
        found = file_findings(tables.get, file, op, host.live.info().walk)
        spared = survives(host.live, file)
        (verdict,) = verdicts(found, tables.get, posture, survival=spared) or [None]
    return (verdict.finding.uid, verdict.action, verdict.reason) if verdict else None


def happened(host: Host, action: Callable[[], object]) -> Outcome | None:
    """What the hooks said to an action."""
    host.events()
    not_permitted = False
    try:
        action()
    except PermissionError:
        not_permitted = True
    except OSError:
        pass
    events = [event for event in host.events() if event.pid == os.getpid()]
    if not events:
        assert not not_permitted
        return None
    event, *again = events
    assert not (again and not_permitted)  # an overlay asks again, for the file behind it
    assert not_permitted == (ACTIONS[event.action] != "AUDIT")
    return event.rule, ACTIONS[event.action], REASONS[event.reason]


def make_tree(base: Path) -> list[Path]:
    """Return directories and files of a small tree with links of both kinds."""
    found = []
    for folder in ("", "a", "a/b", "a/b/c", "d"):
        (base / folder).mkdir(exist_ok=True)
        for name in ("one", "two"):
            (base / folder / name).write_text("x")
            found.append(base / folder / name)
    (base / "d/hard").hardlink_to(base / "a/b/one")
    (base / "d/soft").symlink_to(base / "a/b/c/two")
    return [*found, base / "d/hard", base / "d/soft"]


def random_rules(pick: random.Random, base: Path, files: list[Path]) -> list[Rule]:
    rules = []
    modes = (Mode.AUDIT, Mode.ENFORCE)
    for path in pick.sample(files, 5):
        ops = pick.choice((Op.READ, Op.WRITE, FILE_OPS))
        rules.append(file_rule(path, ops, mode=pick.choice(modes)))
    for folder in pick.sample(("a", "a/b", "a/b/c", "d"), 2):
        ops = pick.choice((Op.READ, Op.WRITE, FILE_OPS))
        depth = pick.choice((1, 2, 32))
        rules.append(file_rule(base / folder, ops, mode=pick.choice(modes), depth=depth))
    return rules


@pytest.mark.parametrize("seed", range(4))
def test_why_agrees_with_the_hooks_about_files(host: Host, place: Path, seed: int) -> None:
    pick = random.Random(seed)
    files = make_tree(place)
    shown = place / "shown"
    shown.mkdir()
    host.apply(*random_rules(pick, place, files), mode=pick.choice((Mode.ENFORCE, Mode.AUDIT)))
    with bind_mount(place / "a/b", shown):
        for path in (*files, shown / "one", shown / "c/two"):
            for op, flags in FLAGS.items():
                wanted = expected_file(host, path, op)
                assert happened(host, lambda p=path, f=flags: touch(p, f)) == wanted, (path, op)


def test_why_agrees_about_a_replaced_file(host: Host, place: Path) -> None:
    path = place / "file"
    path.write_text("x")
    host.apply(file_rule(path))
    (place / "new").write_text("y")
    with contextlib.suppress(PermissionError):
        (place / "new").rename(path)
    wanted = expected_file(host, path, Op.READ)
    assert wanted is not None
    assert happened(host, lambda: touch(path)) == wanted


def expected_net(host: Host, address: str, port: int, op: Op, protocol: str) -> Outcome | None:
    posture = read_posture(host.live)
    with Tables(host.live) as tables:
        found = net_findings(tables.get, address, port, op, (protocol,))
        (verdict,) = verdicts(found, tables.get, posture, survival=False) or [None]
    return (verdict.finding.uid, verdict.action, verdict.reason) if verdict else None


def open_socket(address: str, protocol: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    found = socket.socket(family, kind)
    found.setblocking(False)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_why_agrees_with_the_hooks_about_addresses(host: Host, seed: int) -> None:
    pick = random.Random(seed)
    modes = (Mode.AUDIT, Mode.ENFORCE)
    targets = [
        (Kind.IP, "10.1.2.3"), (Kind.IP, "127.0.0.1"), (Kind.IP, "::1"), (Kind.CIDR, "10.0.0.0/8"),
        (Kind.CIDR, "10.1.2.0/24"), (Kind.CIDR, "::/0"), (Kind.PORT, "7001:tcp"),
        (Kind.PORT, "7002:any"), (Kind.IP_PORT, "10.1.2.3:7001:any"),
        (Kind.IP_PORT, "[::1]:7003:udp"),
    ]  # fmt: skip
    rules = [
        net_rule(kind, target, pick.choice((Op.EGRESS, Op.BIND, NET_OPS)), mode=pick.choice(modes))
        for kind, target in pick.sample(targets, 6)
    ]
    host.apply(*rules)
    for address in ("10.1.2.3", "10.9.9.9", "127.0.0.1", "0.0.0.0", "::1", "::ffff:10.1.2.3"):
        for port in (7001, 7002, 7003):
            for protocol in ("tcp", "udp"):
                for op in (Op.EGRESS, Op.BIND):
                    wanted = expected_net(host, address, port, op, protocol)
                    with open_socket(address, protocol) as opened:
                        act = opened.connect if op is Op.EGRESS else opened.bind
                        found = happened(host, lambda a=act, p=port, h=address: a((h, p)))
                    assert found == wanted, (address, port, protocol, op)


def decoder() -> Decoder:
    locate = MountPaths(read_mounts, time.monotonic).locate
    return Decoder(place=lambda number: place_of(cgroup_path(number) or ""), locate=locate)


def test_an_event_has_the_path_as_it_is_seen_from_the_root(host: Host, place: Path) -> None:
    path = place / "folder" / b"na\xffme".decode("utf-8", "surrogateescape")
    path.parent.mkdir()
    path.write_text("x")
    host.apply(file_rule(path.parent, depth=1))
    host.ring.drain()
    with refused():
        touch(path)
    (record,) = host.ring.drain()
    event = decoder().decode(record)
    assert event["path"] == f"{place}/folder/na\\xffme"
    assert event["action"] == "BLOCK"
    assert event["inode"] == f"{host.identify(path).dev}:{host.identify(path).ino}"
    assert event["cgroup"].startswith("/")


def test_a_path_too_deep_for_an_event_says_that_it_was_cut(host: Host, tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*(f"level{n}" for n in range(45)))
    folder.mkdir(parents=True)
    path = folder / "file"
    path.write_text("x")
    host.apply(file_rule(path))
    host.ring.drain()
    with refused():
        touch(path)
    (record,) = host.ring.drain()
    shown = decoder().decode(record)["path"]
    assert shown.startswith("…/level")
    assert shown.endswith("/level44/file")


def aegis(*argv: str) -> tuple[int, str]:
    found = subprocess.run(
        [sys.executable, "-m", "aegis_tools", *argv], capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    return found.returncode, found.stdout


def test_an_event_says_what_was_refused_by_which_policy(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    policy = tmp_path / "policy.conf"
    policy.write_text(f"version=1\n[deny_path]\n{path}\n[deny_ip_port]\n127.0.0.1:7007:udp\n")
    dropped = host.live.stats()[Stat.RINGBUF_DROPS]  # while nobody read
    assert aegis("policy", "apply", str(policy), "--mode", "enforce")[0] == 0
    digest = json.loads(aegis("policy", "show", "--json")[1])["digest"]
    process = subprocess.Popen(
        [sys.executable, "-m", "aegis_tools", "run"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    list(iter_until(process, b"events follow"))
    assert process.stdout is not None
    with refused():
        touch(path)
    first = json.loads(process.stdout.readline())
    assert Path(first["exe"]).samefile("/proc/self/exe")
    for _ in range(300):  # all of them fit into the ring, however slow its reader is
        with refused():
            touch(path)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, refused():
        sender.sendto(b"x", ("127.0.0.1", 7007))
    process.send_signal(signal.SIGTERM)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    events = [first, *map(json.loads, out.splitlines())]
    assert {event["bundle"] for event in events} == {digest}
    assert {event["action"] for event in events} == {"BLOCK"}
    assert {event["hook"] for event in events} == {"open", "sendmsg"}
    opens = [event for event in events if event["hook"] == "open"]
    lost = host.live.stats()[Stat.RINGBUF_DROPS] - dropped
    assert (sum(event["count"] for event in opens), lost) == (301, 0), (said, opens)
    assert {(event["path"], event["rule"]) for event in opens} == {(str(path), f"path:{path}")}
    (sent,) = (event for event in events if event["hook"] == "sendmsg")
    assert (sent["address"], sent["port"], sent["protocol"]) == ("127.0.0.1", 7007, "udp")
    known = json.loads(aegis("events", "--schema")[1])["properties"]
    assert {name for event in events for name in event} <= set(known)


def test_run_tells_of_refusals_and_leaving_it_ends_none(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    host.apply(file_rule(path))
    process = subprocess.Popen(
        [sys.executable, "-m", "aegis_tools", "run"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    assert process.stdout is not None
    said = list(iter_until(process, b"events follow"))
    assert any(b"matches of enforcing rules are refused" in line for line in said)
    with refused():
        touch(path)
    line = process.stdout.readline()
    assert b'"action":"BLOCK"' in line
    assert json.loads(line)["path"] == str(path)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert not can_read(path)


def iter_until(process: subprocess.Popen[bytes], text: bytes) -> Iterator[bytes]:
    assert process.stderr is not None
    for line in process.stderr:
        yield line
        if text in line:
            return


def test_health_is_good_here(host: Host) -> None:
    del host
    code, out = aegis("health", "--json")
    report = json.loads(out)
    assert code == 0, report
    good = {check["name"] for check in report["checks"] if check["ok"]}
    assert {"lsm-active", "working", "attached", "loaded", "objects", "btf"} <= good


def test_health_sees_when_hooks_are_gone(host: Host, kernel_name: str) -> None:
    if kernel_name == "5.10":  # a detached program cannot be attached again there
        return
    assert aegis("detach")[0] == 0
    try:
        assert aegis("health")[0] == 6
    finally:
        assert aegis("attach")[0] == 0
    assert aegis("health")[0] == 0
    assert host.pins.is_attached()


def test_the_mode_is_switched_live(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    host.apply(file_rule(path))
    assert not can_read(path)
    assert aegis("mode", "audit")[0] == 0
    assert can_read(path)
    assert aegis("mode", "enforce")[0] == 0
    assert not can_read(path)
