"""The monitors under a flood, and for long: the plan's T4.3 and T4.4, by counts instead of hours.

Its `stress-ng --all 4` takes every kind of memory and device there is; here it is a few kinds of
work, each of a known amount, so that what is done with monitors is what is done without.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from battery import loop_ext4
from kernel_support import REPOSITORY

from aegis_tools.kernel.ringbuf import RingBuffer
from aegis_tools.monitors.choose import kernel_names
from aegis_tools.monitors.filters import Filter
from aegis_tools.monitors.load import load, unload
from aegis_tools.monitors.pins import MonitorPins
from aegis_tools.monitors.registry import MONITORS, Monitor
from aegis_tools.monitors.status import counters, facts
from aegis_tools.paths import Paths
from benchmarks.process import resident

pytestmark = pytest.mark.once("6.12")

FLOOD = {"fork": 20, "pipe": 1500, "sock": 6, "hdd": 400, "malloc": 400}
"""Operations of each kind of stress-ng's work."""
SCRATCH = {"process-monitor": "CMDLINE_BUF", "filesystem-monitor": "FILENAME_BUF"}
HELD = ("PENDING_IO", "QUEUED_IO")
FLAT_KIB = 12 << 10
"""Of the recorder: pages that SQLite keeps, and records that wait to be stored."""
BATCHES, BATCH = 12, 500
"""Of records, between two looks at their reader's memory."""
GROWTH_KIB = 16
"""Of the reader, by batch: a fraction of what its records take as lines."""
LOADS = 4


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """Return a root whose BPF file system is the machine's."""
    (tmp_path / "sys/fs").mkdir(parents=True)
    (tmp_path / "sys/fs/bpf").symlink_to("/sys/fs/bpf")
    return Paths(tmp_path)


@contextlib.contextmanager
def loaded(paths: Paths, *names: str, wanted: Filter | None = None) -> Iterator[list[Monitor]]:
    """Load monitors for the time of the block."""
    monitors = [MONITORS[name] for name in names]
    try:
        with kernel_names() as has:
            for one in monitors:
                load(paths.monitor_pins, one, has, wanted=wanted)
        yield monitors
    finally:
        for name in names:
            unload(paths.monitor_pins, name)


@contextlib.contextmanager
def program(paths: Paths, *words: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a command of `monitor` until the block ends."""
    argv = ["--root", str(paths.root), "--json", "monitor", *words]
    process = subprocess.Popen(
        [sys.executable, "-m", "aegis_tools", *argv], cwd=REPOSITORY, text=True, **more
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def recording(paths: Paths) -> Iterator[subprocess.Popen[str]]:
    """Have `monitor record` store what all loaded ones tell."""
    pipe = subprocess.PIPE
    with program(paths, "record", stdout=pipe, stderr=pipe) as process:
        assert process.stderr is not None
        assert "storing in" in process.stderr.readline()
        yield process


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """End the recorder; return what it says it did."""
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    told: dict[str, Any] = json.loads(out)
    return told


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for what comes by itself."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def settle(look: Callable[[], object]) -> None:
    """Wait until nothing changes: the kernel lets go of links when it comes to it."""
    last: list[object] = [object()]

    def same() -> bool:
        last.append(look())
        return last[-1] == last[-2]

    time.sleep(0.5)
    until(same)


def flood(
    folder: Path, meanwhile: Callable[[], None] = lambda: None, *, part: int = 1
) -> dict[str, int]:
    """Do all of the flood's work, or a part of it; return how much of each kind was done."""
    words = [word for kind, ops in FLOOD.items()
             for word in (f"--{kind}", "1", f"--{kind}-ops", str(ops // part))]  # fmt: skip
    process = subprocess.Popen(
        ["stress-ng", *words, "--hdd-bytes", "1m", "--hdd-opts", "direct,wr-seq",
         "--malloc-bytes", "8m", "--temp-path", str(folder), "--timeout", "120", "--metrics"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while process.poll() is None:
        meanwhile()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    done = re.findall(r"metrc: \[\d+\] (\w+) +(\d+) ", out)
    return {kind: int(ops) for kind, ops in done if kind in FLOOD}


def detach(pins: MonitorPins) -> None:
    """Have a monitor see nothing more, and keep what it counted."""
    for name in pins.names("links"):
        pins.path("links", name).unlink()


def waiting(pins: MonitorPins, monitor: Monitor) -> int:
    """Return the bytes that nobody has read yet."""
    with RingBuffer(pins.open_map(monitor.events)) as ring:
        return ring.pending


def users(pins: MonitorPins, name: str) -> list[int]:
    """Return by processor how many are using a scratch buffer."""
    with pins.open_map(name) as opened:
        return [int.from_bytes(v[:8], "little") for v in opened.get_per_cpu(bytes(4))]


def everything() -> Counter[tuple[str, str]]:
    """Return what is loaded into the kernel, by kind and name; bpftool's own is always there."""
    found: Counter[tuple[str, str]] = Counter()
    for kind in ("prog", "map", "link"):
        out = subprocess.run(["bpftool", "--json", kind, "list"], check=True, capture_output=True)
        found.update((kind, one.get("name", one["type"])) for one in json.loads(out.stdout or "[]"))
    return found


def nothing_since(before: Counter[tuple[str, str]]) -> None:
    """Wait until what was not loaded before is gone; say what stays."""
    with contextlib.suppress(AssertionError):
        until(lambda: not everything() - before)
    assert not everything() - before


def slope(values: list[int]) -> float:
    """Return the growth from one value to the next, whatever single ones are (Theil and Sen)."""
    pairs = combinations(enumerate(values), 2)
    return statistics.median((b - a) / (later - sooner) for (sooner, a), (later, b) in pairs)


@pytest.mark.parametrize("names", [pytest.param(tuple(MONITORS), id="T4.3")])
def test_a_flood_is_told_of_or_counted_and_leaves_nothing_behind(
    names: tuple[str, ...], paths: Paths, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settle(everything)  # what earlier tests took away is let go of a moment later
    before, highest = everything(), 0
    with loop_ext4(tmp_path_factory.mktemp("disk")) as disk, loaded(paths, *names) as monitors:
        pins = {one.name: MonitorPins(paths.monitor_pins, one.name) for one in monitors}
        with recording(paths) as recorder:
            taken = {one.name: facts(paths.monitor_pins, one)["memory_bytes"] for one in monitors}

            def look() -> None:
                nonlocal highest
                highest = max(highest, resident(recorder.pid).own)

            flood(disk, part=4)  # the reader has met every kind of record
            early = resident(recorder.pid).own
            with_monitors = flood(disk, look)
            os.sync()
            told = [facts(paths.monitor_pins, one) for one in monitors]
            until(lambda: not any(
                facts(paths.monitor_pins, MONITORS["disk-io-monitor"])["entries"].values()
            ))  # fmt: skip
            for one in monitors:
                detach(pins[one.name])
            settle(lambda: [counters(each) for each in pins.values()])
            until(lambda: not any(waiting(pins[one.name], one) for one in monitors))
            counted = {name: counters(each) for name, each in pins.items()}
            stored = ended(recorder)
        for name, scratch in SCRATCH.items():
            assert set(users(pins[name], scratch)) == {0}
    without = flood(disk.parent)
    print(f"{early=} {highest=} {with_monitors=} {counted=} {stored=}")
    assert with_monitors == without
    for name, found in counted.items():
        kept = {key: found[key] for key in ("sent", "dropped", "busy", "filtered", "sampled_out")}
        assert found["seen"] == sum(kept.values()), (name, found)
        fate = [stored[what].get(name, 0) for what in ("stored", "dropped", "invalid")]
        assert found["sent"] == sum(fate), (name, found, stored)
    assert all(counted[name]["seen"] for name in names)
    assert counted["disk-io-monitor"]["untracked"] == 0
    assert highest < early + FLAT_KIB
    assert {row["monitor"]: row["memory_bytes"] for row in told} == taken
    nothing_since(before)
    assert not paths.monitor_pins.exists()


def kernel_kib() -> int:
    """Return what the kernel has of memory where programs and maps are (proc(5), meminfo)."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    fields = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return fields["SUnreclaim"] + fields["VmallocUsed"] + fields["Percpu"]


@pytest.mark.parametrize("times", [pytest.param(LOADS, id="T4.4")])
def test_monitors_that_come_and_go_leave_no_memory_behind(times: int, paths: Paths) -> None:
    names = ("process-monitor", "disk-io-monitor")

    def once() -> int:
        with loaded(paths, *names) as monitors:
            return sum(facts(paths.monitor_pins, one)["memory_bytes"] for one in monitors) >> 10

    settle(everything)
    before, taken, after = everything(), once(), []
    for _ in range(times):
        assert once() == taken
        after.append(kernel_kib())
    print(f"{taken=} {after=}")
    nothing_since(before)
    assert slope(after) < taken // 10


WORK = """
import ctypes, os, sys
file = os.open(sys.argv[1], os.O_RDONLY)
ctypes.CDLL(None).prctl(15, b"sustained")
for line in sys.stdin:
    for _ in range(int(line)):
        os.pread(file, 1, 0)
    print("done", flush=True)
"""


@pytest.mark.parametrize("batches", [pytest.param(BATCHES, id="T4.4")])
def test_memory_of_a_reader_does_not_grow_with_what_it_has_read(
    batches: int, paths: Paths, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    name, out, own = "filesystem-monitor", tmp_path / "out", []
    wanted = Filter(commands=frozenset({"sustained"}))
    with (
        loaded(paths, name, wanted=wanted),
        out.open("wb") as file,
        contextlib.ExitStack() as stack,
    ):
        reader = stack.enter_context(program(paths, "events", "--waiting", stdout=file))
        worker = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", WORK, str(tmp_path / "file")], text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )  # fmt: skip
        assert worker.stdin is not None
        assert worker.stdout is not None
        for number in range(batches):
            print(BATCH, file=worker.stdin, flush=True)
            assert worker.stdout.readline() == "done\n"
            until(partial(has_lines, out, (number + 1) * BATCH))
            own.append(resident(reader.pid).own)
        worker.stdin.close()
        counted = counters(MonitorPins(paths.monitor_pins, name))
    print(f"{own=} {counted=}")
    assert counted["sent"] == batches * BATCH
    assert counted["dropped"] == counted["busy"] == 0
    assert slope(own[batches // 3 :]) < GROWTH_KIB


def has_lines(path: Path, count: int) -> bool:
    """Return whether a file has so many lines."""
    return path.read_bytes().count(b"\n") == count
