"""Seed 001, T5.1 to T5.3: from what a user does to what is done about it, by the agent itself.

What counts is the time from the act, as the program of the test has it, to the event's own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest
from agent_support import (
    SLICE,
    UID,
    Ears,
    Event,
    Heard,
    aegis,
    agent,
    at,
    end,
    lines,
    start,
    stored,
)
from disk_support import loop_disk, run
from traffic_support import THERE, cable

from aegis_tools.monitors.profiles.enforce import system_hierarchy

# One machine: what differs between kernels, test_monitor_*.py have on all.
pytestmark = pytest.mark.once("7.2")
MB = 1_000_000
SOON = 2.0
"""Seconds from the act to the event."""
MONITORS = {"disk-io-monitor": {"only_uid": [UID]}, "network-monitor": {"only_uid": [UID]}}


@pytest.fixture(scope="module")
def group() -> Iterator[Path]:
    """Return the user's slice, as systemd would make it."""
    folder = system_hierarchy().path(SLICE)
    made = [one for one in (folder.parent, folder) if not one.is_dir()]
    for one in made:
        one.mkdir()
    yield folder
    for one in reversed(made):
        one.rmdir()


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory, group: Path) -> Iterator[Ears]:
    """Run the agent, and return those whom it tells."""
    folder = tmp_path_factory.mktemp("agent")
    ears = Ears(folder)
    [done] = aegis(f"profile create child --user {UID}")
    assert (done["profile"]["users"], group.is_dir()) == ([str(UID)], True)
    try:
        with agent(MONITORS, ears, folder / "log"):
            yield ears
    finally:
        aegis("profile delete child")
        ears.close()


def exceeded(
    ears: Ears, limit: str, action: str, act: float, *, done: str | None = None
) -> tuple[Event, dict[str, Heard]]:
    """Return the event after an act; everybody has heard the same one, and soon."""
    found = ears.wait(
        lambda e: e.get("limit") == limit and e["state"] != "ended" and e["action"] == action
        and at(e) >= act and (done is None or e["done"] == done)
    )  # fmt: skip
    event = found["dbus"].event
    assert all(one.event == event for one in found.values()), found
    late = {"event": at(event), **{by: one.when for by, one in found.items()}}
    print(limit, action, {by: round(when - act, 2) for by, when in late.items()})
    assert at(event) - act <= SOON, (event, late)
    assert event["profile"] == "child"
    return event, found


_EATER = """
import mmap, sys, time
total, step = int(sys.argv[1]), 10 * 10**6
kept = mmap.mmap(-1, total)
kept.madvise(14)  # MADV_HUGEPAGE
for place in range(0, total, step):
    print(time.clock_gettime(time.CLOCK_BOOTTIME), place, flush=True)
    kept[place:place + step] = b"x" * step
print(time.clock_gettime(time.CLOCK_BOOTTIME), total, flush=True)
time.sleep(60)
"""


@contextmanager
def eater(group: Path, size: int) -> Iterator[subprocess.Popen[str]]:
    process = start(group, _EATER, size)
    try:
        yield process
    finally:
        end([process])


@pytest.mark.seed("T5.1")
@pytest.mark.parametrize("action", ["alert", "throttle", "terminate"])
def test_t5_1_600_mb_against_500(action: str, ears: Ears, group: Path) -> None:
    aegis(f"profile set-memory-limit child 500MB --action {action}")
    with eater(group, 600 * MB) as process:
        # Before it may have been too much: the program and its files take some, too.
        act = next(when for when, place in lines(process) if place >= 400 * MB)
        # The kernel says that the limit was met before it has killed.
        done = "terminated" if action == "terminate" else None
        event, _ = exceeded(ears, "memory", action, act, done=done)
        assert event["threshold"] == 500 * MB
        if action == "alert":
            assert event["done"] == "nothing"
            assert event["process"]["pid"] == process.pid
            assert event["measured"] > 500 * MB
            assert any(place == 600 * MB for _, place in lines(process))
        elif action == "throttle":
            assert (event["done"], event["held"] > 0) == ("throttled", True)
            assert int((group / "memory.high").read_text()) == 500 * MB // 4096 * 4096
            assert process.poll() is None
        else:
            assert (event["done"], event["killed"]) == ("terminated", 1)
            assert process.wait(60) == -signal.SIGKILL
    aegis("profile set-memory-limit child --none")


_WRITER = """
import mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_DIRECT | os.O_SYNC)
page = mmap.mmap(-1, 65536)
for n in range(5):
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    os.pwrite(fd, page, n * 65536)
    print(began, time.clock_gettime(time.CLOCK_BOOTTIME), flush=True)
"""


@contextmanager
def slow_disk(folder: Path, milliseconds: int) -> Iterator[str]:
    """Yield a disk whose requests take so long: a loop over device-mapper's delay over a file.

    device-mapper passes on what it is asked without a request of its own; the loop above has some.
    """
    run("modprobe", "dm-delay")
    with loop_disk(folder) as quick:
        sectors = run("blockdev", "--getsz", quick)
        run("dmsetup", "create", "slow", "--table", f"0 {sectors} delay {quick} 0 {milliseconds}")
        try:
            run("dmsetup", "mknodes", "slow")
            device = run("losetup", "--find", "--show", "--direct-io=on", "/dev/mapper/slow")
            try:
                os.chown(device, UID, UID)
                yield device
            finally:
                os.chown(device, 0, 0)
                run("losetup", "--detach", device)
        finally:
            run("dmsetup", "remove", "--retry", "slow")


@pytest.mark.seed("T5.2")
def test_t5_2_a_disk_that_takes_200_ms_against_100(ears: Ears, group: Path, tmp_path: Path) -> None:
    aegis("profile set-disk-latency-alert child 100ms")
    with slow_disk(tmp_path / "disk", 200) as device:
        number = Path(device).stat().st_rdev
        process = start(group, _WRITER, device)
        writes = lines(process)
        first = next(writes)
        event, _ = exceeded(ears, "disk-latency", "alert", first[0])
        took = [after - before for before, after in (first, *writes)]
        end([process])
    assert event["process"] == {"pid": process.pid, "comm": event["process"]["comm"], "uid": UID}
    assert event["device"] == f"{os.major(number)}:{os.minor(number)}"
    assert 0.19 <= event["measured"] / 1e9 <= max(took)
    query = f"--monitor disk-io-monitor --event complete --profile child --pid {process.pid}"
    found = stored(query, len(took))
    assert [one["device"] for one in found] == [event["device"]] * len(took)
    # A timer of the kernel's is a jiffy (4 ms) early at times.
    assert min(one["latency_ns"] for one in found) >= 190_000_000
    assert max(one["latency_ns"] for one in found) >= event["measured"]
    aegis("profile set-disk-latency-alert child --none")


_SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], 5000)) as server:
    print(0, flush=True)
    c, _ = server.accept()
    try:
        while True:
            c.sendall(b"x" * 65536)
    except OSError:
        pass
"""
_DOWNLOAD = """
import socket, sys, time
now = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
print(now(), 0, flush=True)
s = socket.create_connection((sys.argv[1], 5000))
got = 0
while True:
    print(now(), got * 8, flush=True)
    until = now() + float(sys.argv[2])
    while now() < until:
        got += len(s.recv(1 << 20))
"""


@contextmanager
def download(group: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Download without end; each so many seconds it is written when, and how many bits came."""
    with cable(f"aegis{os.getpid()}") as (near, far):
        server = subprocess.Popen(
            ["ip", "netns", "exec", far, sys.executable, "-c", _SERVER, THERE],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        next(lines(server))
        client = start(group, _DOWNLOAD, THERE, seconds, space=near)
        try:
            yield client
        finally:
            end([client, server])


@pytest.mark.seed("T5.3")
def test_t5_3_a_download_against_10_mbps(ears: Ears, group: Path) -> None:
    aegis("profile set-bandwidth-limit child 10Mbps")
    with download(group, 2) as client:
        said = lines(client)
        act, _ = next(said)
        event, _ = exceeded(ears, "bandwidth", "throttle", act)
        assert (event["done"], event["held"] > 0) == ("throttled", True)
        # Of each 8 seconds, 2 seconds apart.
        came = [next(said) for _ in range(8)]
        spans = zip(came, came[4:], strict=False)
        rates = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in spans]
        print(rates)
    assert 9_500_000 <= median(rates) <= 10_500_000, rates
    aegis("profile set-bandwidth-limit child --none")


@pytest.mark.seed("T5.3")
def test_t5_3_who_downloads_is_ended_and_not_who_came_last(ears: Ears, group: Path) -> None:
    aegis("profile set-bandwidth-limit child 10Mbps --action terminate")
    with download(group, 2) as client:
        act, _ = next(lines(client))
        late = start(group, "import time; time.sleep(60)")
        try:
            event, _ = exceeded(ears, "bandwidth", "terminate", act, done="terminated")
            assert event["process"]["pid"] == client.pid
            assert client.wait(60) == -signal.SIGKILL
            assert late.poll() is None
        finally:
            end([late])
    aegis("profile set-bandwidth-limit child --none")
