"""A real Prometheus and a real Alertmanager that watch machines with our rules, in a hurry."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vmharness.kernels import HarnessError

RULES = Path(__file__).resolve().parent.parent.parent / "prometheus" / "aegisbpf.rules.yml"
METRICS_PORT = 9635
HURRY = 15
"""Where a rule waits for five minutes, 20 s have to do."""
SCRAPE_SECONDS = 5
START_SECONDS = 60
END_SECONDS = 20
DURATION = re.compile(r"(for: |\[)(\d+)([mh])\b")
ROUTES = {
    "route": {"receiver": "nobody", "group_by": ["alertname", "instance"], "group_wait": "0s"},
    "receivers": [{"name": "nobody"}],
}


def hurried(rules: str) -> str:
    """Return the rules with shorter waits and ranges, and else as they are."""

    def shorter(found: re.Match[str]) -> str:
        seconds = int(found[2]) * {"m": 60, "h": 3600}[found[3]]
        return f"{found[1]}{max(seconds // HURRY, 1)}s"

    return DURATION.sub(shorter, rules)


@contextmanager
def watched(targets: Mapping[str, int], folder: Path) -> Iterator[str]:
    """Scrape ports of this host's loopback until the block ends.

    Args:
        targets: The ports, by the name that alerts have for the machine.
        folder: For configuration, data and logs.

    Yields:
        Where Alertmanager answers: ``http://127.0.0.1:PORT``.

    Raises:
        HarnessError: One of the two does not start.
    """
    with ExitStack() as stack:
        alerts, own = _free_port(), _free_port()
        routes = _write(folder / "alertmanager.yml", json.dumps(ROUTES))
        stack.enter_context(
            _running(
                ["prometheus-alertmanager", f"--config.file={routes}", "--cluster.listen-address=",
                 f"--storage.path={folder / 'alerts'}", f"--web.listen-address=127.0.0.1:{alerts}"],
                folder / "alertmanager.log", alerts,
            )
        )  # fmt: skip
        rules = _write(folder / "rules.yml", hurried(RULES.read_text(encoding="utf-8")))
        config = _write(folder / "prometheus.yml", json.dumps(_config(targets, alerts, rules)))
        stack.enter_context(
            _running(
                ["prometheus", f"--config.file={config}", "--log.level=warn",
                 f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{own}"],
                folder / "prometheus.log", own,
            )
        )  # fmt: skip
        yield f"http://127.0.0.1:{alerts}"


def _config(targets: Mapping[str, int], alerts: int, rules: Path) -> dict[str, object]:
    every = f"{SCRAPE_SECONDS}s"
    found = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": name}}
        for name, port in targets.items()
    ]
    return {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(rules)],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alerts}"]}]}]},
        "scrape_configs": [{"job_name": "aegisbpf", "static_configs": found}],
    }


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@contextmanager
def _running(argv: list[str], log: Path, port: int) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *argv],
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            _until_ready(process, port, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > end:
                text = log.read_text(encoding="utf-8", errors="replace")
                raise HarnessError(f"{log.stem} does not start", detail=text) from None
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
