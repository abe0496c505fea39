"""What the seed has done on a machine, and its lines: a shell with ``aegis-tools`` and ``sudo``."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from battery import loop_ext4
from disk_support import Counters
from kernel_support import REPOSITORY

from aegis_tools.cli.main import run
from aegis_tools.kernel.ringbuf import RingBuffer
from aegis_tools.monitors.pins import MonitorPins
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.paths import Paths


class Machine:
    """Runs lines in which ``aegis-tools`` and ``sudo`` are programs.

    Args:
        folder: For them; others may look into it.
    """

    def __init__(self, folder: Path) -> None:
        programs = {
            "sudo": 'exec "$@"',
            "aegis-tools": f'PYTHONPATH="{REPOSITORY}" exec "{sys.executable}" -m aegis_tools "$@"',
        }
        for name, line in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{line}\n")
            (folder / name).chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}

    def __call__(self, line: str) -> str:
        """Run a line from the repository's folder; return what it wrote."""
        done = subprocess.run(
            ["bash", "-c", line], cwd=REPOSITORY, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    @staticmethod
    def monitor(line: str) -> Any:
        """Run an ``aegis-tools monitor`` command; a program of its own takes seconds here."""
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert run(["--json", "monitor", *line.split()]) == 0
        return json.loads(out.getvalue())

    def status(self) -> dict[str, dict[str, Any]]:
        """Return what ``monitor status`` says, by monitor."""
        return {row["monitor"]: row for row in self.monitor("status")["monitors"]}


class Ran(NamedTuple):
    """A process that ended: its id, when it began and ended in UTC (RFC 3339), what it wrote."""

    pid: int
    began: str
    ended: str
    out: str


def now() -> str:
    at = time.time_ns() // 1000
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at // 10**6)) + f".{at % 10**6:06d}Z"


def shell(script: str, **more: Any) -> Ran:
    """Run lines of the seed by a shell."""
    began = now()
    process = subprocess.Popen(
        ["bash", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, **more
    )
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return Ran(process.pid, began, now(), out)


class Serving:
    """A web server of one page, and who asked it for that."""

    PAGE = bytes(200_000)

    def __init__(self, family: int, address: str) -> None:
        self.peers = peers = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                peers.append(self.client_address[:2])
                self.send_response(200)
                self.end_headers()
                self.wfile.write(Serving.PAGE)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.HTTPServer):
            address_family = family

        self.server = Server((address, 0), Handler)
        self.port = self.server.server_address[1]
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))

    def __enter__(self) -> Serving:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


class Fetched(NamedTuple):
    """One run of curl: what it says of itself, whom the server saw, and what ss shows of both."""

    ran: Ran
    facts: dict[str, Any]
    peer: tuple[str, int]
    ss: list[str]


def fetch(family: int, address: str, host: str) -> Fetched:
    with Serving(family, address) as serving:
        url = f"http://{host}:{serving.port}/"
        ran = shell(f"exec curl --silent --output /dev/null --write-out '%{{json}}' '{url}'")
        ss = ["ss", "--no-header", "--tcp", "--numeric", "--all", f"sport = :{serving.port}"]
        shown = subprocess.run(ss, check=True, capture_output=True, text=True).stdout
    [peer] = serving.peers
    waits = [line.split()[-2:] for line in shown.splitlines() if "TIME-WAIT" in line]
    return Fetched(ran, json.loads(ran.out), peer, *waits)


class Written(NamedTuple):
    """What was done with a disk."""

    ran: Ran
    device: str
    counted: Counters
    pending: str


def write(machine: Machine, folder: Path) -> Written:
    """T2.5's lines, with a disk of our own in the place of /tmp.

    Without barriers: a sync may find its transaction committed and ask for a flush alone, which
    the kernel counts as a write of nothing. Flushes are of test_monitor_disk_io.py.
    """
    with loop_ext4(folder, size=160 << 20) as mounted:
        machine(f"mount --options remount,barrier=0 {mounted}")
        text = machine(f"findmnt --noheadings --output SOURCE {mounted}")
        disk = Path("/sys/class/block", Path(text.strip()).name)
        begin = Counters.of(disk.name)
        ran = shell(
            f"exec unshare --mount bash -ec 'mount --bind {mounted} /tmp\n"
            "dd if=/dev/zero of=/tmp/test.dat bs=1M count=100 2>&1\nsync\nrm /tmp/test.dat\nsync'"
        )
        counted = Counters.of(disk.name).since(begin)
        pending = machine("sudo bpftool map dump name PENDING_IO")
        device = (disk / "dev").read_text(encoding="ascii").strip()
    return Written(ran, device, counted, pending)


def forget_what_waits() -> None:
    """Make room in the rings: what the machine did until now is of no interest."""
    for monitor in MONITORS.values():
        pins = MonitorPins(Paths().monitor_pins, monitor.name)
        with RingBuffer(pins.open_map(monitor.events)) as ring:
            while ring.read(1 << 16):
                pass


def time_between(began: str, ended: str) -> float:
    """Return nanoseconds."""
    first, last = (datetime.fromisoformat(text[:-1]) for text in (began, ended))
    return (last - first).total_seconds() * 1e9


def wait_for(gone: Callable[[], bool]) -> None:
    """Wait for the kernel to free what nobody uses."""
    end = time.monotonic() + 120
    while not gone():
        assert time.monotonic() < end, "it is still there"
        time.sleep(0.2)
