"""The ring of a monitor taken to be read: by one process at a time, of which nothing is told."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from aegis_tools.control.lock import locked
from aegis_tools.errors import StateError
from aegis_tools.kernel.mountpaths import MountPaths
from aegis_tools.kernel.mounts import read_mounts
from aegis_tools.kernel.ringbuf import RingBuffer
from aegis_tools.monitors import filters
from aegis_tools.monitors.decode import Decoder, place
from aegis_tools.monitors.pins import MonitorPins
from aegis_tools.monitors.registry import Monitor
from aegis_tools.paths import Paths

AGENT = "monitor run"
"""The agent's command, by which others know who reads."""
PATIENCE = 0.5
"""Seconds to wait for another reader."""


class Taken(NamedTuple):
    """A ring that is read.

    Attributes:
        monitor: Whose.
        ring: To read from.
        number: Tells this load of the monitor from the next one.
    """

    monitor: Monitor
    ring: RingBuffer
    number: int


@contextlib.contextmanager
def take(
    paths: Paths, monitor: Monitor, command: str, timeout: float = PATIENCE
) -> Iterator[Taken]:
    """Read the ring of a monitor for the time of the block, as its only reader.

    Args:
        paths: Of which host.
        monitor: It is loaded.
        command: What reads, for others that are refused meanwhile.
        timeout: Seconds to wait for another reader.

    Raises:
        StateError: Another process reads it.
        KernelError: It is not loaded.
    """
    pins = MonitorPins(paths.monitor_pins, monitor.name)
    with only_reader(paths, monitor, command, timeout):
        number = number_of(pins)
        with RingBuffer(pins.open_map(monitor.events)) as ring, unseen(pins, os.getpid()):
            yield Taken(monitor, ring, number)


@contextlib.contextmanager
def only_reader(paths: Paths, monitor: Monitor, command: str, timeout: float) -> Iterator[None]:
    """Hold the right to read the ring of a monitor: what one reader takes, no other sees.

    Raises:
        StateError: Another process has it.
    """
    with contextlib.ExitStack() as stack:
        try:
            path = paths.run / f"{monitor.name}.lock"
            stack.enter_context(locked(path, command, timeout=timeout))
        except StateError as error:
            if "pid" not in error.data:
                raise
            pid, who = error.data["pid"], error.data["command"]
            hint = f"wait for it to end, or look at it with: ps -fp {pid}"
            if who == AGENT:
                hint = "it stores what it reads; look at that: aegisbpf monitor query --since 1m"
            raise StateError(
                f"{monitor.name} is being read by another command: {who} (process {pid})",
                hint=hint,
                data=error.data,
            ) from None
        yield


@contextlib.contextmanager
def unseen(pins: MonitorPins, pid: int) -> Iterator[None]:
    """Have a monitor say nothing of one process, which reads it, for the time of the block.

    What it prints and opens would come back to it as events, and make it print more.

    Args:
        pins: Of the monitor.
        pid: Of the process: what any of its threads does is not told.
    """
    with pins.open_map("filter") as opened:
        filters.leave_out(opened, pid)
        try:
            yield
        finally:
            filters.leave_out(opened, 0)


def number_of(pins: MonitorPins) -> int:
    """Return what tells a load of a monitor from the next one; 0 where it is not loaded."""
    try:
        return pins.folder.stat().st_ino
    except OSError:
        return 0


def new_decoder() -> Decoder:
    """Return a decoder that knows where this host's file systems are mounted."""
    return Decoder(place(MountPaths(read_mounts, time.monotonic).locate))
