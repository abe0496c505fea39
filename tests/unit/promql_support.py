"""The names in PromQL, and the queries of the dashboard."""

from __future__ import annotations

import json
import re
from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[2] / "prometheus"
DASHBOARDS = (_FOLDER / "grafana-dashboard.json", _FOLDER / "aegis-monitors-dashboard.json")
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_WORD = re.compile(r"\b[a-zA-Z_]\w*\b(?!\s*\()")
_OPERATORS = {"and", "or", "unless", "bool", "by", "without", "on", "ignoring"}


def metrics_in(query: str) -> list[str]:
    """Return the metrics that a query asks for."""
    bare = _GROUPING.sub(" ", _TEXT.sub('""', query))
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    return [word for word in _WORD.findall(bare) if word not in _OPERATORS]


def labels_of(query: str) -> set[str]:
    """Return the labels that a query names, in selectors and in groupings."""
    bare = _TEXT.sub('""', query)
    found = {word for inner in _GROUPING.findall(bare) for word in re.findall(r"\w+", inner)}
    for inner in re.findall(r"\{([^}]*)\}", bare):
        found.update(re.findall(r"(\w+)\s*[=!]", inner))
    return found


def dashboard_queries() -> list[str]:
    """Return every query of the dashboards, those of their variables included."""
    return [query for path in DASHBOARDS for query in _queries(path)]


def _queries(path: Path) -> list[str]:
    board = json.loads(path.read_text(encoding="utf-8"))
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    for variable in board["templating"]["list"]:
        match = re.fullmatch(r"label_values\((\w+), \w+\)", variable["query"])
        found += [match.group(1)] if match else []
    return found


def with_values(query: str) -> str:
    """Return a query with the variables of its dashboard filled in."""
    named = query.replace("$instance", ".*").replace("$monitor", ".*")
    return named.replace("$__rate_interval", "1m")
