"""The monitors' agent as a process, and everybody whom it tells of limits."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from kernel_support import REPOSITORY
from notify_support import Daemon, Server, fields_of, owner_rule

from aegis_tools.cli.main import run
from aegis_tools.monitors.agent import heartbeat
from aegis_tools.monitors.notify import dbus, journal
from aegis_tools.paths import Paths

UID = 12345
SLICE = f"/user.slice/user-{UID}.slice"
PATIENCE = 60
"""Seconds until what never comes is a failure; what must be fast is judged by its times."""
Event = dict[str, Any]


def boot() -> float:
    """Return seconds of the boot clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def at(event: Event) -> float:
    """Return when an event was, in seconds of the boot clock."""
    told = datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()
    return told - time.time() + boot()


class Heard(NamedTuple):
    """An event as somebody was told of it."""

    by: str
    when: float
    event: Event


class Ears:
    """A bus, a journal's socket and a web server that take what they are told."""

    def __init__(self, folder: Path) -> None:
        self.heard: list[Heard] = []
        self.bus = Daemon(folder, owner_rule())
        self.server = Server()
        self._connection = self.bus.listen()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        journal.SOCKET.parent.mkdir(parents=True, exist_ok=True)
        self._socket.bind(str(journal.SOCKET))
        self._socket.settimeout(0.2)
        self._closing = False
        loops = (self._hear_bus, self._hear_journal, self._hear_server)
        self._threads = [threading.Thread(target=self._until_closed, args=(one,)) for one in loops]
        for thread in self._threads:
            thread.start()

    def _until_closed(self, hear: Callable[[], None]) -> None:
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                hear()

    def _take(self, by: str, text: str | bytes) -> None:
        self.heard.append(Heard(by, boot(), json.loads(text)))

    def _hear_bus(self) -> None:
        message = self._connection.receive(timeout=0.2)
        fields = {field.name: value for field, value in message.header.fields.items()}
        if fields.get("interface") == dbus.NAME and fields["member"] == "Limit":
            self._take("dbus", message.body[-1])

    def _hear_journal(self) -> None:
        fields = fields_of(self._socket.recv(1 << 16))
        self._take("journal", fields["AEGIS_EVENT"])

    def _hear_server(self) -> None:
        time.sleep(0.02)
        while self.server.requests:
            self._take("webhook", self.server.requests.pop(0)[2])

    def wait(self, wanted: Callable[[Event], bool]) -> dict[str, Heard]:
        """Return the first event that is wanted, as everybody heard it."""
        deadline = boot() + PATIENCE
        while boot() < deadline:
            found = {
                one.by: one
                for one in reversed(self.heard)
                if _is_limit(one.event) and wanted(one.event)
            }
            if len(found) == 3:
                return found
            time.sleep(0.02)
        raise AssertionError(self.heard)

    def close(self) -> None:
        """Hear no more."""
        self._closing = True
        for thread in self._threads:
            thread.join()
        self._connection.close()
        self._socket.close()
        journal.SOCKET.unlink()
        self.server.close()
        self.bus.stop()


def _is_limit(event: Event) -> bool:
    """Return whether it is no trouble, as a command of the test that is at work just then."""
    return bool(event["event"] == "limit")


def aegis(line: str) -> list[Any]:
    """Run a command of ``aegis-tools`` here: a program of its own takes seconds.

    Returns:
        What it wrote, line by line.
    """
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run(["--json", *line.split()]) == 0, (line, out.getvalue())
    return [json.loads(one) for one in out.getvalue().splitlines()]


def stored(line: str, count: int) -> list[Event]:
    """Return so many events of the store, once they are in it; it is written now and then."""
    deadline = boot() + PATIENCE
    while len(found := aegis(f"monitor query {line}")) < count:
        assert boot() < deadline, found
        time.sleep(0.2)
    return found


@contextmanager
def agent(monitors: dict[str, Any], ears: Ears, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the agent, with these monitors loaded; at its end they are gone again."""
    paths = Paths()
    hook = {"url": ears.server.url}
    settings = {
        paths.monitor_settings: {"version": 1, "monitors": monitors, "store": {"keep": "1d"}},
        paths.notify_config: {"version": 1, "webhook": hook, "burst": 20},
    }
    for path, content in settings.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "aegis_tools", "monitor", "run"],
            cwd=REPOSITORY,
            env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": ears.bus.address},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        _until(process, log, lambda: _follows(paths, process.pid, monitors))
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log.read_text()
        assert not any((paths.monitor_pins / name).exists() for name in monitors)
    finally:
        process.kill()
        process.wait()
        for path in settings:
            path.unlink()


def _follows(paths: Paths, pid: int, monitors: dict[str, Any]) -> bool:
    found = heartbeat.read(paths)
    if found is None or found["pid"] != pid:
        return False
    return all((paths.monitor_pins / name).is_dir() for name in monitors)


def _until(process: subprocess.Popen[bytes], log: Path, done: Callable[[], bool]) -> None:
    deadline = boot() + PATIENCE
    while not done():
        assert process.poll() is None, log.read_text()
        assert boot() < deadline, log.read_text()
        time.sleep(0.2)


def start(group: Path, program: str, *arguments: object, space: str = "") -> subprocess.Popen[str]:
    """Start a Python program as the user, in their cgroup and in a network namespace."""
    enter = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "-"]
    inside = ["ip", "netns", "exec", space] if space else []
    become = ["setpriv", f"--reuid={UID}", "--clear-groups"]
    return subprocess.Popen(
        [*enter, *inside, *become, sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )


def lines(process: subprocess.Popen[str]) -> Iterator[list[float]]:
    """Yield the numbers of each line that a program writes."""
    assert process.stdout is not None
    for line in process.stdout:
        yield [float(word) for word in line.split()]


def end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End programs, where they have not."""
    for one in processes:
        one.kill()
        one.communicate()
