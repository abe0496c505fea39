"""process-monitor as the tests of it read it: what certain processes did, and no others."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monitor_facts import run_facts

from aegis_tools.kernel.mountpaths import MountPaths
from aegis_tools.kernel.mounts import read_mounts
from aegis_tools.kernel.ringbuf import RingBuffer
from aegis_tools.monitors import follow
from aegis_tools.monitors.choose import kernel_names
from aegis_tools.monitors.decode import Decoder, place
from aegis_tools.monitors.filters import Filter
from aegis_tools.monitors.follow import Follower, Told
from aegis_tools.monitors.load import load, unload
from aegis_tools.monitors.pins import MonitorPins
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.monitors.status import counters
from aegis_tools.paths import Paths

PROCESS = MONITORS["process-monitor"]
RING = 1 << 24
"""Room for what a busy machine does while a test lasts."""


class Seen:
    """What has been told so far, by process.

    Args:
        ring: Of the monitor.
    """

    def __init__(self, ring: RingBuffer) -> None:
        self._follower = Follower([(PROCESS, ring)])
        self._decoder = Decoder(place(MountPaths(read_mounts, time.monotonic).locate))
        self._told = Told()
        self._events: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """Return all events, those that have come since as well."""
        while batch := self._follower.batch(0):
            self._events += follow.events(batch, self._decoder, self._told, follow.boot_offset)
        assert self._told.damaged == 0, self._told.last
        return self._events

    def of(self, pid: int, event: str = "") -> list[dict[str, Any]]:
        """Return the events of a process, of one kind if it is named."""
        return [e for e in self.read() if e["pid"] == pid and event in ("", e["event"])]

    def one(self, pid: int, event: str) -> dict[str, Any]:
        """Return the only event of a kind of a process.

        It is told a moment after Popen knows of an exec: descriptors are closed before.
        """
        end = time.monotonic() + 10
        while not self.of(pid, event) and time.monotonic() < end:
            time.sleep(0.001)
        [found] = self.of(pid, event)
        return found


@contextmanager
def watching(paths: Paths, wanted: Filter | None = None, ring: int = RING) -> Iterator[Seen]:
    """Load process-monitor for the time of the block."""
    with kernel_names() as has:
        load(paths.monitor_pins, PROCESS, has, ring_bytes=ring, wanted=wanted)
    try:
        pins = MonitorPins(paths.monitor_pins, PROCESS.name)
        with RingBuffer(pins.open_map(PROCESS.events)) as opened:
            yield Seen(opened)
    finally:
        unload(paths.monitor_pins, PROCESS.name)


def status_of(pid: int) -> dict[str, str]:
    """Return /proc/PID/status as it stands there."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def kinds(events: Iterable[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


def check_everything(paths: Paths) -> None:
    """What a program's children did is told of, once, in order, field by field; nothing else is."""
    with watching(paths) as seen, open_folder() as folder:
        before = datetime.now(timezone.utc)
        facts = run_facts("process_activity", folder)
        after = datetime.now(timezone.utc)
        known = dict(facts["processes"])
        family = {facts["pid"], *known}
        events = [e for e in seen.read() if e["pid"] in known or e["ppid"] in family]
        count = counters(MonitorPins(paths.monitor_pins, PROCESS.name))
    assert {event["pid"] for event in events} == set(known)
    for pid, wanted in known.items():
        told = [event for event in events if event["pid"] == pid]
        assert len(told) == len(wanted), (told, wanted)
        for event, fact in zip(told, wanted, strict=True):
            assert without_own(event) == as_told(fact, event["tid"]), (event, fact)
            least, most = fact.get("age", (0, 1))
            assert least <= round(event.get("age_seconds", 0) * 1e9) <= most
    times = [datetime.fromisoformat(event["time"].replace("Z", "+00:00")) for event in events]
    assert times == sorted(times)
    assert before.replace(microsecond=0) <= times[0]
    assert times[-1] <= after
    assert {event["cgroup"] for event in events} == {facts["cgroup"]}
    assert count["seen"] == count["sent"]


OWN = ("time", "monitor", "cgroup", "cause_known", "age_seconds")
"""Fields of an event that its process does not know exactly, or that all have."""


def without_own(event: dict[str, Any]) -> dict[str, Any]:
    assert (event["monitor"], event["cause_known"]) == (PROCESS.name, True)
    return {name: value for name, value in event.items() if name not in OWN}


def as_told(fact: dict[str, Any], tid: int) -> dict[str, Any]:
    """Return a fact as an event has it; ``tid`` stands in where it may be any thread's."""
    rest = {name: value for name, value in fact.items() if name != "age"}
    return {"cut": False, **rest, "tid": fact["tid"] or tid}


@contextmanager
def open_folder() -> Iterator[Path]:
    """Make a folder that any user may look into."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def copy_of_true(folder: Path, name: str) -> str:
    program = folder / name
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    return str(program)


def check_drops(paths: Paths, folder: Path) -> None:
    """What the ring has no room for is counted, and what comes once there is some is told of."""
    program = copy_of_true(folder, "drops-of-many")
    wanted = Filter(commands=frozenset({"drops-of-many"}))
    with watching(paths, wanted, ring=4096) as seen:
        each = f"for n in $(seq 30); do '{program}'; done"
        subprocess.run(["sh", "-c", each], check=True)
        told = counters(MonitorPins(paths.monitor_pins, PROCESS.name))
        assert told["sent"] + told["dropped"] + told["busy"] == 60
        assert told["dropped"] > 20
        assert len(seen.read()) == told["sent"] > 10
        subprocess.run([program], check=True)
        assert kinds(seen.read())[-2:] == ["exec", "exit"]
