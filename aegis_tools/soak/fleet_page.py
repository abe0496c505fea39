"""The fleet's report as one HTML page; needs no network and no script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from aegis_tools.soak import words
from aegis_tools.soak.fleet import FIGURES, MISSING, rounded
from aegis_tools.soak.markup import Element, add, html, make
from aegis_tools.soak.page import document, table, tag
from aegis_tools.soak.verdict import span
from aegis_tools.soak.words import amount, number, plural

SHOWN = ("cpu_p99", "mem_level", "mem_growth", "drops", "canary", "matches_an_hour")
"""The figures that have a column."""
_TONES = {**words.TONES, MISSING: "bad"}
_WIDTH, _LEFT, _RIGHT, _ROW = 960, 210, 150, 34
_INNER = _WIDTH - _LEFT - _RIGHT


def render(report: Mapping[str, Any]) -> str:
    """Return the page of what ``aegis_tools.soak.fleet.build`` returned."""
    summary = report["summary"]
    root, body = document(f"Soak of {summary['text']}")
    header = add(body, "header")
    heading = add(header, "h1", f"Soak of {plural(summary['hosts'], 'host')} ")
    tag(heading, summary["status"], _TONES[summary["status"]], id="verdict")
    add(header, "p", _lead(report), class_="lead", id="lead")
    main = add(body, "main")
    _hosts(main, report)
    _figures(main, report)
    _environment(main, report)
    text = (
        "A host sticks out where a figure lies very far from the hosts' median, by what is usual "
        "among them (robust z: by the median absolute deviation; 5 or more, of few hosts up to "
        "15), or where its verdict is worse than that of most. Times are UTC. The same for "
        "programs: fleet.json."
    )
    add(add(body, "footer"), "p", text)
    return html(root)


def _lead(report: Mapping[str, Any]) -> str:
    summary = report["summary"]
    counts = ", ".join(f"{count} {status}" for status, count in summary["counts"].items())
    running = f"; {summary['running']} still running" if summary["running"] else ""
    if not summary["outliers"]:
        return f"{counts}{running}. No host sticks out."
    verb = "sticks" if summary["outliers"] == 1 else "stick"
    return f"{counts}{running}. {plural(summary['outliers'], 'host')} {verb} out, and come first."


def _hosts(main: Element, report: Mapping[str, Any]) -> None:
    add(main, "h2", "Hosts")
    shown = [name for name in SHOWN if any(name in row["figures"] for row in report["hosts"])]
    headings = [("Host", ""), ("Verdict", ""), ("Why it sticks out", ""), ("Lasted", "number"),
                *((_heading(name), "number") for name in shown)]  # fmt: skip
    body = table(main, headings, id="hosts", class_="rows")
    for row in report["hosts"]:
        line = add(body, "tr", class_="bad" if row["outlier"] else None)
        name = add(line, "th", scope="row", class_="any")
        if row["page"]:
            add(name, "a", row["host"], href=quote(row["page"]))
        else:
            name.text = row["host"]
        verdict = add(line, "td")
        tag(verdict, row["status"], _TONES[row["status"]])
        if row["status"] not in (row["text"], MISSING):
            add(verdict, "div", row["text"].removeprefix(row["status"]).lstrip(", "), class_="soft")
        why = add(line, "td", class_="why")
        for text in row["why"]:
            add(why, "div", text)
        length = span(row["soak"]["length_s"]) if row["soak"] else ""
        add(line, "td", length, class_="number", data_label="lasted")
        for figure in shown:
            value = row["figures"].get(figure)
            text = "" if value is None else number(rounded(figure, value))
            add(line, "td", text, class_="number", data_label=FIGURES[figure].title.lower())


def _heading(name: str) -> str:
    figure = FIGURES[name]
    return f"{figure.title} {figure.unit}".rstrip()


def _figures(main: Element, report: Mapping[str, Any]) -> None:
    """Draw every figure of every host on a line: one dot a host."""
    for scenario in report["scenarios"]:
        drawn = [one for one in report["figures"] if one["scenario"] == scenario]
        add(main, "h2", f"Figures of the {words.SCENARIOS[scenario].lower()} soaks")
        figure = add(main, "figure", id=f"figures-{scenario}")
        caption = add(figure, "figcaption")
        add(caption, "p", "A dot a host, from the least to the most; the bar is the median. "
            "Hosts that stick out by a figure are red and named.")  # fmt: skip
        rows = [
            row for row in report["hosts"] if row["soak"] and row["soak"]["scenario"] == scenario
        ]
        add(figure, "div", class_="frame").append(_dots(drawn, rows))


def _dots(figures: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> Element:
    height = len(figures) * _ROW + 6
    words_ = "; ".join(
        f"{one['title']}: median {amount(rounded(one['id'], one['median']), one['unit'])}"
        for one in figures
    )  # fmt: skip
    root = make("svg", viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=words_)
    for place, one in enumerate(figures):
        middle = place * _ROW + _ROW / 2 + 2
        add(root, "text", one["title"], class_="name", x=_LEFT - 14, y=middle + 4)
        add(root, "path", class_="grid", d=f"M{_LEFT} {middle}h{_INNER}")
        low, high = (rounded(one["id"], one[end]) for end in ("low", "high"))
        told = f"{number(low)} to {amount(high, one['unit'])}"
        add(root, "text", told, x=_LEFT + _INNER + 14, y=middle + 4)
        _row_of_dots(root, one, rows, middle)
    return root


def _row_of_dots(
    root: Element, one: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], middle: float
) -> None:
    wide = one["high"] - one["low"]

    def x(value: float) -> float:
        return round(_LEFT + (_INNER * (value - one["low"]) / wide if wide else _INNER / 2), 1)

    add(root, "path", class_="line c6", d=f"M{x(one['median'])} {middle - 9}v18")
    prefix = f"{one['title']}: "
    far = []
    for row in rows:
        value = row["figures"].get(one["id"])
        if value is None:
            continue
        outlier = any(text.startswith(prefix) for text in row["why"])
        dot = add(root, "circle", class_="dot bad" if outlier else "dot c1", cx=x(value),
                  cy=middle, r=5 if outlier else 4,
                  fill_opacity=None if outlier else 0.45)  # fmt: skip
        add(dot, "title", f"{row['host']}: {amount(value, one['unit'])}")
        if outlier:
            far.append((x(value), row["host"]))
    for at, host in far[:6]:
        anchor = "end" if at > _LEFT + _INNER / 2 else "start"
        shift = -9 if anchor == "end" else 9
        add(root, "text", host[:24], class_="level bad", x=at + shift, y=middle - 5,
            text_anchor=anchor)  # fmt: skip


def _environment(main: Element, report: Mapping[str, Any]) -> None:
    add(main, "h2", "What ran")
    found = add(main, "dl", class_="card", id="environment")
    for label, name in (("Policy", "policies"), ("Kernel", "kernels"), ("Aegis", "versions")):
        for one in report[name]:
            add(found, "dt", label)
            add(found, "dd", f"{one['value'] or 'none'}: {plural(one['hosts'], 'host')}")
