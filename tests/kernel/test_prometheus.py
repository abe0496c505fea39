"""A real Prometheus scrapes a real endpoint: our series arrive, rules load, an alert fires."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_support import NO_LSM, REPOSITORY
from metrics_support import values
from promql_support import dashboard_queries, with_values

from aegis_tools.cli.main import run
from aegis_tools.kernel import loader
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths

LIMIT = 60.0
CONFIG = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
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

    def until(self, what: str, found: Any) -> Any:
        """Return what ``found`` gives as soon as it gives something."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            try:
                if result := found():
                    return result
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.2)
        raise AssertionError(f"{what}: not within {LIMIT:.0f} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ended(process: subprocess.Popen[Any]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=20)


@pytest.fixture
def endpoint(paths: Paths, tmp_path: Path) -> Iterator[str]:
    """Serve a host in the audit fallback with a rule that was hit; return ``ADDRESS:PORT``."""
    loader.load(Pins(paths.pins), NO_LSM, loader.LoadOptions())
    secret = tmp_path / 'a "secret"'
    secret.write_text("x")
    policy = tmp_path / "policy.conf"
    policy.write_text(f"version=1\n[deny_path]\n{secret}\n")
    assert run(["--root", str(paths.root), "policy", "apply", str(policy)]) == 0
    os.close(os.open(secret, os.O_RDONLY))
    command = [sys.executable, "-m", "aegis_tools", "--root", str(paths.root), "metrics"]
    process = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        yield urllib.parse.urlsplit(process.stderr.readline().split()[-1]).netloc
    finally:
        ended(process)
        if process.stderr is not None:
            process.stderr.close()
    assert process.returncode == 0


@pytest.fixture
def prometheus(endpoint: str, tmp_path: Path) -> Iterator[Api]:
    """Run a Prometheus of the test's own, with our rules, until it has scraped."""
    rules = REPOSITORY / "prometheus" / "aegisbpf.rules.yml"
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.format(rules=rules, target=endpoint))
    port = free_port()
    log = (tmp_path / "prometheus.log").open("wb")
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ],
        stdout=log,
        stderr=log,
        cwd=tmp_path,
    )
    api = Api(port)
    try:
        api.until("ready", lambda: api.get("/-/ready"))
        api.until("a scrape", lambda: api.query("aegisbpf_up == 1"))
        yield api
    finally:
        ended(process)
        log.close()


def test_a_real_prometheus_has_our_series_and_fires_our_alert(
    prometheus: Api, endpoint: str
) -> None:
    api = prometheus
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=30) as answer:
        exported = values(answer.read().decode())
    stored = set(api.get("/api/v1/label/__name__/values"))
    assert {name for name, _ in exported} - stored == set()
    (hit,) = api.query('aegisbpf_rule_hits_total{action="audit", rule!="other"}')
    assert hit["metric"]["rule"].endswith('/a "secret"')
    assert hit["value"][1] == "1"

    groups = api.get("/api/v1/rules")["groups"]
    rules = api.until("rules", lambda: all_evaluated(api))
    assert len(groups) == 1
    assert [rule for rule in rules if rule["health"] != "ok"] == []

    firing = 'ALERTS{alertname="AegisBPFAuditFallback", alertstate="firing"}'
    (alert,) = api.until("the alert", lambda: api.query(firing))
    assert alert["metric"]["severity"] == "critical"
    told = [found["labels"]["alertname"] for found in api.get("/api/v1/alerts")["alerts"]]
    assert "AegisBPFMapNearFull" not in told
    (target,) = api.get("/api/v1/targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")

    # Prometheus parses and answers every query of the dashboard, or says what is wrong with it.
    assert len([api.query(with_values(query)) for query in dashboard_queries()]) > 30


def all_evaluated(api: Api) -> list[dict[str, Any]]:
    rules = [rule for group in api.get("/api/v1/rules")["groups"] for rule in group["rules"]]
    return rules if all(rule["health"] != "unknown" for rule in rules) else []
