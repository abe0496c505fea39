"""The five monitors of a sandbox: loaded once, attached and detached as often as is measured."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aegis_tools.kernel.ringbuf import RingBuffer
from aegis_tools.monitors.choose import kernel_names
from aegis_tools.monitors.load import attach, load, unload
from aegis_tools.monitors.pins import MonitorPins
from aegis_tools.monitors.registry import Monitor
from aegis_tools.monitors.status import facts
from benchmarks.sandbox import REPOSITORY, Sandbox

_STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
_EMPTY_SECONDS = 0.005
_GIVE_UP_SECONDS = 60


@dataclass(frozen=True)
class Bench:
    """Monitors that are loaded in a sandbox.

    Attributes:
        box: The sandbox.
        monitors: Which.
    """

    box: Sandbox
    monitors: tuple[Monitor, ...]

    def pins(self, monitor: Monitor) -> MonitorPins:
        """Return the pins of one."""
        return MonitorPins(self.box.paths.monitor_pins, monitor.name)

    def facts(self, monitor: Monitor) -> dict[str, Any]:
        """Return what ``monitor status`` says of one."""
        return facts(self.box.paths.monitor_pins, monitor)

    def detach(self, monitor: Monitor) -> None:
        """End its programs' runs; its maps stay as they are."""
        pins = self.pins(monitor)
        for name in pins.names("links"):
            pins.path("links", name).unlink()

    @contextlib.contextmanager
    def attached(self, monitors: Sequence[Monitor]) -> Iterator[None]:
        """Attach monitors meanwhile."""
        try:
            for monitor in monitors:
                attach(self.pins(monitor))
            yield
        finally:
            for monitor in monitors:
                self.detach(monitor)

    @contextlib.contextmanager
    def emptied(self, monitors: Sequence[Monitor]) -> Iterator[None]:
        """Give the rings' room back meanwhile, without a look at what is in them.

        So the kernel's part of a record is paid for, and nothing else.
        """
        with contextlib.ExitStack() as stack:
            rings = [
                stack.enter_context(RingBuffer(self.pins(one).open_map(one.events)))
                for one in monitors
            ]
            over = threading.Event()
            worker = threading.Thread(target=_keep_empty, args=(rings, over))
            worker.start()
            try:
                yield
            finally:
                over.set()
                worker.join()

    @contextlib.contextmanager
    def recorded(self, monitors: Sequence[Monitor]) -> Iterator[subprocess.Popen[str]]:
        """Have ``monitor record`` store what they tell meanwhile."""
        names = [one.name for one in monitors]
        process = subprocess.Popen(
            self.box.command("monitor", "record", *names, "--keep-size", "64M"), cwd=REPOSITORY,
            env=self.box.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            if "storing in" not in line:
                raise SystemExit(f"monitor record: {line.strip()}")
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=_GIVE_UP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _keep_empty(rings: list[RingBuffer], over: threading.Event) -> None:
    while not over.wait(_EMPTY_SECONDS):
        for ring in rings:
            ring.discard()


@contextlib.contextmanager
def bench(box: Sandbox, monitors: Sequence[Monitor]) -> Iterator[Bench]:
    """Load monitors in a sandbox, detached; unload them afterwards."""
    made = Bench(box, tuple(monitors))
    base = box.paths.monitor_pins
    try:
        with kernel_names() as has:
            for monitor in monitors:
                load(base, monitor, has)
                made.detach(monitor)
        yield made
    finally:
        for monitor in monitors:
            unload(base, monitor.name)


@contextlib.contextmanager
def run_statistics() -> Iterator[None]:
    """Have the kernel count and time the runs of programs meanwhile."""
    before = _STATISTICS.read_text(encoding="ascii")
    _STATISTICS.write_text("1", encoding="ascii")
    try:
        yield
    finally:
        _STATISTICS.write_text(before, encoding="ascii")
