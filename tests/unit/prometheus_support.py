"""A real Prometheus of a test's own: our rules, one target, and its query API."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
RULES = REPOSITORY / "prometheus" / "*.rules.yml"
LIMIT = 60.0
CONFIG = """\
global: {{scrape_interval: {interval}s, scrape_timeout: {interval}s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: aegisbpf
    static_configs: [{{targets: ["{target}"]}}]
"""


class Api:
    """The query API of a running Prometheus."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer; an error of Prometheus is one of the test."""
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        try:
            with urllib.request.urlopen(f"{self._base}{path}{query}", timeout=30) as answer:
                body = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 503:  # it is starting
                    raise ConnectionError from error
                raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        return json.loads(body)["data"] if path.startswith("/api") else body

    def query(self, query: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query."""
        return list(self.get("/api/v1/query", query=query)["result"])

    def states(self, alert: str) -> list[str]:
        """Return the states of an alert that is active, ``pending`` or ``firing``."""
        alerts = self.get("/api/v1/alerts")["alerts"]
        return [found["state"] for found in alerts if found["labels"]["alertname"] == alert]

    def until(self, what: str, found: Any, *, seconds: float = LIMIT) -> Any:
        """Return what ``found`` gives as soon as it gives something."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if result := found():
                    return result
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.2)
        raise AssertionError(f"{what}: not within {seconds:.0f} s")


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ended(process: subprocess.Popen[Any]) -> None:
    """End a process, by force if it does not listen."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=20)


@contextmanager
def prometheus(target: str, folder: Path, *, interval: int = 1) -> Iterator[Api]:
    """Run a Prometheus with our rules, as they are, until the block ends.

    Args:
        target: What it scrapes, ``ADDRESS:PORT``.
        folder: For its configuration, its data and its log.
        interval: Seconds between two scrapes.
    """
    config, port = folder / "prometheus.yml", free_port()
    config.write_text(CONFIG.format(rules=RULES, target=target, interval=interval))
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            api = Api(port)
            api.until("ready", lambda: api.get("/-/ready"))
            yield api
        finally:
            ended(process)
