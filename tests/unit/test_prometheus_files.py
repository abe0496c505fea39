"""Alert rules and dashboard: they ask for what is exported, and lead to what is written."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from metrics_support import exposed, reading, values
from monitor_metrics_support import exposed as monitors_exposed
from promql_support import DASHBOARDS, dashboard_queries, labels_of, metrics_in

from aegis_tools.incident.scenarios import ORDER

REPOSITORY = Path(__file__).resolve().parents[2]
PROMETHEUS = REPOSITORY / "prometheus"
FILES = ("aegisbpf", "aegis-monitors")


def read(name: str) -> Any:
    return yaml.safe_load((PROMETHEUS / name).read_text(encoding="utf-8"))


RULES, MONITOR_RULES = (read(f"{file}.rules.yml")["groups"][0]["rules"] for file in FILES)
TESTS = [group for file in FILES for group in read(f"{file}.rules.test.yml")["tests"]]
ALERTS: list[dict[str, Any]] = [*RULES, *MONITOR_RULES]
QUERIES = dashboard_queries()
EXPORTED: dict[str, set[str]] = {}
for _name, _labels in values(exposed(reading()) + monitors_exposed()):
    EXPORTED.setdefault(_name, set()).update(dict(_labels))
SCRAPED = {"up": set[str](), **EXPORTED}
SEED = {
    "AegisBPFDaemonDown": ('up{job="aegisbpf"} == 0', "critical"),
    "AegisBPFHighEnforcementRate": ("rate(aegisbpf_blocks_total[5m]) > 100", "warning"),
    "AegisBPFMapNearFull": ("aegisbpf_map_utilization > 0.8", "warning"),
    "AegisBPFRingbufDropping": ("rate(aegisbpf_ringbuf_drops_total[5m]) > 10", "warning"),
}


def unknown(query: str) -> list[str]:
    """Return the metrics and labels of a query that are not exported."""
    found = []
    for metric in metrics_in(query):
        if metric not in SCRAPED:
            found.append(metric)
    known = {"instance", "job"}.union(*(SCRAPED[m] for m in metrics_in(query) if m in SCRAPED))
    return found + sorted(labels_of(query) - known)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_asks_for_what_is_exported(rule: dict[str, Any]) -> None:
    assert metrics_in(rule["expr"])
    assert unknown(rule["expr"]) == []


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_of_the_dashboard_asks_for_what_is_exported(query: str) -> None:
    assert metrics_in(query)
    assert unknown(query) == []


@pytest.mark.parametrize(
    "query",
    ["rate(aegisbpf_block_total[5m])", 'aegisbpf_mode{state="audit"}', "up2 == 1",
     "sum by (nobody) (aegisbpf_up)"],
)  # fmt: skip
def test_a_wrong_name_is_found(query: str) -> None:
    assert unknown(query)


@pytest.mark.parametrize("name", SEED)
def test_the_alerts_of_the_runbook_are_there_as_written(name: str) -> None:
    (rule,) = [rule for rule in ALERTS if rule["alert"] == name]
    assert (rule["expr"], rule["labels"]["severity"]) == SEED[name]


def runbook() -> dict[str, tuple[str, str]]:
    """Return, by alert, the anchor of the section that it is in, and what is said of it."""
    text = (REPOSITORY / "docs" / "runbook.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return {
        alert: (title.lower().replace(" ", "-"), body)
        for title, section in sections
        for alert, body in re.findall(
            r"^### (AegisBPF\w+)\n(.*?)(?=^### |\Z)", section, re.MULTILINE | re.DOTALL
        )
    }


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_leads_to_its_part_of_the_runbook(rule: dict[str, Any]) -> None:
    path, _, anchor = rule["annotations"]["runbook"].partition("#")
    section, body = runbook()[rule["alert"]]
    assert path == "docs/runbook.md"
    assert anchor == (rule["alert"].lower() if section == "other-alerts" else section)
    assert re.search(r"^```sh\naegisbpf ", body, re.MULTILINE)


def test_the_runbook_has_no_part_for_an_alert_that_is_none() -> None:
    assert sorted(runbook()) == sorted(rule["alert"] for rule in RULES)


def sections(document: str) -> dict[str, str]:
    """Return what is said of each alert that a document has a section of."""
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    found = re.findall(r"^### (Aegis\w+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    return dict(found)


@pytest.mark.parametrize("rule", MONITOR_RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_of_the_monitors_leads_to_its_section(rule: dict[str, Any]) -> None:
    path, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert path in ("docs/monitors.md", "docs/limits.md")
    assert anchor == rule["alert"].lower()
    assert re.search(r"^```sh\naegisbpf ", sections(path)[rule["alert"]], re.MULTILINE)


def test_no_document_has_a_section_for_an_alert_of_the_monitors_that_is_none() -> None:
    found = [alert for name in ("monitors", "limits") for alert in sections(f"docs/{name}.md")]
    assert sorted(found) == sorted(rule["alert"] for rule in MONITOR_RULES)


@pytest.mark.parametrize("scenario", ORDER)
def test_a_scenario_has_a_section_with_its_command_and_its_playbook(scenario: str) -> None:
    text = (REPOSITORY / "docs" / "runbook.md").read_text(encoding="utf-8")
    _, title, body = text.partition(f"\n## {scenario.capitalize().replace('-', ' ')}\n")
    assert title
    section = body.partition("\n## ")[0]
    for part in ("**Symptoms:**", "**What it does", "**Escalate**"):
        assert part in section
    assert re.search(rf"^```sh\naegisbpf incident {scenario}\b", section, re.MULTILINE)
    assert f"`runbook_{scenario.replace('-', '_')}.yml`" in text


@pytest.mark.parametrize("name", [str(rule["alert"]) for rule in ALERTS])
def test_an_alert_is_shown_to_fire_and_to_stay_silent(name: str) -> None:
    (own,) = [group for group in TESTS if group["name"] == name]
    shown = [bool(case["exp_alerts"]) for case in own["alert_rule_test"]]
    assert shown == [False, True]
    healthy = [group for group in TESTS if group["name"] == "a healthy host"]
    silent = [case["alertname"] for group in healthy for case in group["alert_rule_test"]]
    assert name in silent


@pytest.mark.parametrize("file", FILES)
def test_promtool_agrees(file: str) -> None:
    for command in (
        ("check", "rules", f"{file}.rules.yml"),
        ("test", "rules", f"{file}.rules.test.yml"),
    ):
        done = subprocess.run(
            ["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


ROWS = {
    "grafana-dashboard.json": [
        "State", "Denials by rule", "Map fill", "Events and the ring", "Agent", "Policy",
    ],
    "aegis-monitors-dashboard.json": [
        "State", "Events", "Lost and left out", "Disk latency", "What they cost",
        "Store and notifications", "Limits",
    ],
}  # fmt: skip


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: str(path.name))
def test_panels_have_their_own_numbers_places_and_descriptions(path: Path) -> None:
    panels = json.loads(path.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert all(x < 24 for x, _ in cells)
    assert [panel["title"] for panel in panels if panel["type"] == "row"] == ROWS[path.name]
    assert all(panel["description"] for panel in panels if panel["type"] != "row")


def test_dashboards_are_told_apart() -> None:
    boards = [json.loads(path.read_text(encoding="utf-8")) for path in DASHBOARDS]
    assert len({board["uid"] for board in boards}) == len(boards) == len(ROWS)
