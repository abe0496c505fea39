"""The monitors' agent as a service runs it: a process of its own, which a test looks at."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aegis_tools.cli.main import parser_of
from aegis_tools.cli.output import App
from aegis_tools.monitors.agent import heartbeat
from aegis_tools.paths import Paths

REPOSITORY = Path(__file__).resolve().parents[2]
ENTER = 'echo $$ > "$0"/cgroup.procs && exec "$@"'


def configure(paths: Paths, monitors: dict[str, Any], **more: Any) -> None:
    """Write the settings; nobody is notified but a web server, if one is named."""
    paths.etc.mkdir(parents=True, exist_ok=True)
    webhook = more.pop("webhook", None)
    told = {"version": 1, "journal": False, "dbus": False, "webhook": webhook}
    paths.notify_config.write_text(json.dumps(told))
    paths.monitor_settings.write_text(json.dumps({"version": 1, "monitors": monitors, **more}))


def until(holds: Callable[[], Any], seconds: float = 60.0, pause: float = 0.05) -> Any:
    """Return what a function returns as soon as that is something."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it never came to that"
        time.sleep(pause)
    return found


def inside(group: Path, *argv: str) -> list[str]:
    """Return a command that runs another one in a cgroup."""
    return ["sh", "-c", ENTER, str(group), *argv]


class Running:
    """The agent; in a cgroup, exactly its programs and the test's can be told of.

    Args:
        paths: Of the host.
        group: The cgroup; None for the test's own.
        following: Wait until it follows so many monitors.
    """

    def __init__(self, paths: Paths, group: Path | None, following: int) -> None:
        self.paths = paths
        argv = [sys.executable, "-m", "aegis_tools", "--root", str(paths.root), "--json"]
        argv += ["monitor", "run"]
        self.log = paths.root / "agent.log"
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                inside(group, *argv) if group else argv, cwd=REPOSITORY,
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        until(lambda: self.beat() is not None)
        until(lambda: len(self.read()) == following)

    def said(self, text: str) -> int:
        """Return how often it said something."""
        return self.log.read_text(encoding="utf-8").count(text)

    def hears(self, text: str, times: int = 1) -> None:
        """Wait until it has said something."""
        until(lambda: self.said(text) >= times)

    def read(self) -> list[str]:
        """Return the monitors whose rings it holds."""
        return sorted(
            path.stem
            for path in self.paths.run.glob("*-monitor.lock")
            if f'"pid": {self.process.pid},' in path.read_text()
        )

    def beat(self) -> dict[str, Any] | None:
        """Return its sign of life, if that is of this process."""
        assert self.process.poll() is None, self.log.read_text()
        found = heartbeat.read(self.paths)
        return found if found is not None and found["pid"] == self.process.pid else None

    def store(self) -> dict[str, Any]:
        """Return what it says of the store."""
        found = self.beat()
        assert found is not None
        return dict(found["store"] or {})

    def reload(self) -> None:
        """Have it read its settings anew."""
        self.process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """End it as it stands."""
        self.process.kill()
        self.process.communicate()

    def end(self, number: int = signal.SIGTERM) -> dict[str, Any]:
        """Have it end, and return what it counted."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == (130 if number == signal.SIGINT else 0), (
            self.log.read_text()
        )
        return dict(json.loads(out))


def query(paths: Paths, *argv: str) -> list[dict[str, Any]]:
    """Return what is stored."""
    out = io.StringIO()
    arguments = parser_of("monitor").parse_args(["query", "--limit", "1000000", *argv])
    arguments.run(App(paths, json=True, out=out, err=io.StringIO()), arguments)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def total(counts: dict[str, int]) -> int:
    """Return the sum of counts."""
    return sum(counts.values())


def events_of(facts: dict[str, Any]) -> int:
    """Return how many events were followed."""
    return sum(total(one["events"]) for one in facts["monitors"].values())
