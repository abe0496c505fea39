"""A real Prometheus scrapes a real endpoint: our series arrive, rules load, an alert fires."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_support import NO_LSM, REPOSITORY
from metrics_support import values
from prometheus_support import Api, ended, prometheus
from promql_support import dashboard_queries, with_values

from aegis_tools.cli.main import run
from aegis_tools.kernel import loader
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths


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
def api(endpoint: str, tmp_path: Path) -> Iterator[Api]:
    """Run a Prometheus of the test's own, with our rules, until it has scraped."""
    with prometheus(endpoint, tmp_path) as found:
        found.until("a scrape", lambda: found.query("aegisbpf_up == 1"))
        yield found


def test_a_real_prometheus_has_our_series_and_fires_our_alert(api: Api, endpoint: str) -> None:
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=30) as answer:
        exported = values(answer.read().decode())
    stored = set(api.get("/api/v1/label/__name__/values"))
    assert {name for name, _ in exported} - stored == set()
    (hit,) = api.query('aegisbpf_rule_hits_total{action="audit", rule!="other"}')
    assert hit["metric"]["rule"].endswith('/a "secret"')
    assert hit["value"][1] == "1"

    groups = api.get("/api/v1/rules")["groups"]
    rules = api.until("rules", lambda: all_evaluated(api))
    assert len(groups) == 2
    assert [rule for rule in rules if rule["health"] != "ok"] == []

    firing = 'ALERTS{alertname="AegisBPFAuditFallback", alertstate="firing"}'
    (alert,) = api.until("the alert", lambda: api.query(firing))
    assert alert["metric"]["severity"] == "critical"
    assert api.states("AegisBPFMapNearFull") == []
    (target,) = api.get("/api/v1/targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")

    # Prometheus parses and answers every query of the dashboard, or says what is wrong with it.
    assert len([api.query(with_values(query)) for query in dashboard_queries()]) > 60


def all_evaluated(api: Api) -> list[dict[str, Any]]:
    rules = [rule for group in api.get("/api/v1/rules")["groups"] for rule in group["rules"]]
    return rules if all(rule["health"] != "unknown" for rule in rules) else []
