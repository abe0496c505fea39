"""The report as one HTML page that needs nothing else: no network, no script.

Everything a host or a person named is escaped, and a policy in the page lets no script run, no
style in but its own, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aegis_tools.soak import markdown, plots, svg, words
from aegis_tools.soak.chart import Panel
from aegis_tools.soak.markup import Element, add, html, make
from aegis_tools.soak.words import amount, interval, number

STYLE = Path(__file__).with_name("page.css")
POLICY = "default-src 'none'; style-src '{}'; base-uri 'none'; form-action 'none'"


def render(report: Mapping[str, Any]) -> str:
    """Return the page of what ``aegis_tools.soak.report.build`` returned."""
    title = words.title(report)
    root, body = document(f"{report['verdict']['text']}: {title}")
    _header(add(body, "header"), report, title)
    main = add(body, "main")
    _criteria(main, report)
    add(main, "h2", "Over time", id="plots")
    found = plots.panels(report)
    for panel in found:
        _figure(main, panel)
    _signs(main, report)
    _told(main, report)
    _rules(main, report)
    _about(main, report)
    _footer(add(body, "footer"))
    return html(root)


def document(title: str) -> tuple[Element, Element]:
    """Return an empty page, and its body."""
    style = STYLE.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    root = make("html", lang="en")
    head = add(root, "head")
    add(head, "meta", charset="utf-8")
    policy = {"http-equiv": "Content-Security-Policy", "content": POLICY.format(f"sha256-{digest}")}
    head.append(Element("meta", policy))
    add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    add(head, "meta", name="robots", content="noindex")
    add(head, "title", title)
    # As it is: it is ours, and the policy names it by its digest.
    sheet = add(head, "style")
    sheet.text = style
    return root, add(root, "body")


def tag(parent: Element, text: str, tone: str, **attributes: str) -> None:
    """Append a status."""
    add(parent, "span", text, class_=f"tag {tone}", **attributes)


def _header(header: Element, report: Mapping[str, Any], title: str) -> None:
    verdict, advice = report["verdict"], report["recommendation"]
    heading = add(header, "h1", f"{title} ")
    tag(heading, verdict["status"], words.TONES[verdict["status"]], id="verdict")
    for text in words.beside(report):
        tag(heading, text, "warn")
    add(header, "p", advice["text"], class_="lead", id="advice")
    if report["soak"]["override"]:
        add(header, "p", words.overridden(report), class_="stop")
    if advice["commands"]:
        add(header, "pre", "", id="commands").text = "\n".join(advice["commands"])


def table(parent: Element, headings: Iterable[tuple[str, str]], **attributes: str) -> Element:
    """Append a table with headings (text, class), and return its body."""
    found = add(add(parent, "div", class_="wide"), "table", **attributes)
    row = add(add(found, "thead"), "tr")
    for text, kind in headings:
        add(row, "th", text, class_=kind or None, scope="col")
    return add(found, "tbody")


def _criteria(main: Element, report: Mapping[str, Any]) -> None:
    add(main, "h2", "Criteria")
    between = words.confidence(report)
    headings = [("", ""), ("Criterion", ""), ("Value", "number"), (between, "number"),
                ("Limit", "number"), ("Samples", "number"), ("Why", "")]  # fmt: skip
    body = table(main, headings, id="criteria", class_="rows")
    for one in words.ranked(report["criteria"]):
        tone = words.TONES[one["status"]]
        row = add(body, "tr", class_=tone, id=f"criterion-{one['id']}")
        tag(add(row, "td"), one["status"], tone)
        add(row, "th", one["title"], scope="row")
        add(row, "td", amount(one["value"], one["unit"]), class_="number")
        span = interval(one["low"], one["high"])
        add(row, "td", span if span != "-" else "", class_="number", data_label="interval")
        add(row, "td", one["limit"], class_="number", data_label="limit")
        add(row, "td", number(one["samples"]), class_="number", data_label="samples")
        add(row, "td", one["why"], class_="why")


def _figure(main: Element, panel: Panel) -> None:
    figure = add(main, "figure", id=f"plot-{panel.id}")
    caption = add(figure, "figcaption")
    add(caption, "h3", panel.title)
    if panel.unit:
        add(caption, "span", f" {panel.unit}", class_="soft")
    if not panel.none:
        add(caption, "p", panel.words)
    _legend(figure, panel)
    add(figure, "div", class_="frame").append(svg.draw(panel))


def _legend(figure: Element, panel: Panel) -> None:
    keys: list[tuple[str, str, int | None]]
    keys = [(line.tone, line.name, None) for line in panel.lines]
    keys += [(tone, name, None) for tone, name in panel.keys]
    if panel.bars:
        keys += [(tone, name, sum(counts)) for name, tone, counts in panel.bars.layers]
    if panel.gaps and not panel.none:
        keys.append(("gapped", "no samples", None))
    if len(keys) < 2 and not panel.bars and not panel.gaps:
        return
    legend = add(figure, "ul", class_="legend")
    for tone, name, count in keys:
        entry = add(legend, "li", name, class_=tone)
        if count is not None:
            add(entry, "span", f" {number(count)}", class_="n")


def _signs(main: Element, report: Mapping[str, Any]) -> None:
    """Say what the letters above the plots stand for: those that are there."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in report["happened"]:
        sign, _, text = words.KINDS[one["kind"]]
        if one["kind"] not in plots.NOT_MARKED:
            texts = found.setdefault((sign, one["tone"]), [])
            texts += [text] if text not in texts else []
    if found:
        legend = add(main, "ul", class_="legend", id="signs")
        for (sign, tone), texts in found.items():
            entry = add(legend, "li", class_=f"sign {tone}")
            add(entry, "b", sign).tail = f" {', '.join(texts)}"
        if len(report["happened"]) > 1:
            entry = add(legend, "li", class_="sign idle")
            add(entry, "b", "+").tail = " several, close together"


def _told(main: Element, report: Mapping[str, Any]) -> None:
    add(main, "h2", "What happened")
    body = table(main, [("UTC", ""), ("After", "number"), ("What", ""), ("", "")],
                 id="happened", class_="rows")  # fmt: skip
    for one in report["happened"]:
        row = add(body, "tr", class_=one["tone"])
        add(row, "td", f"{one['time'][:10]} {one['time'][11:19]}", class_="mono")
        add(row, "td", words.after(one["after_s"]), class_="number", data_label="after")
        text = words.KINDS[one["kind"]][2]
        add(row, "td", f"{text} ({one['class']})" if one["class"] else text)
        add(row, "td", one["text"], class_="why")
    if report["happened_left_out"]:
        left = number(report["happened_left_out"])
        add(main, "p", f"{left} more in the soak's happened.ndjson.", class_="soft")


def _rules(main: Element, report: Mapping[str, Any]) -> None:
    if not report["denials"]:
        return
    add(main, "h2", "Matches by rule")
    headings = [("Rule", ""), ("Denied", "number"), ("Let through", "number"), ("Expected", "")]
    body = table(main, headings, id="rules", class_="rows")
    for one in report["denials"]:
        row = add(body, "tr")
        add(row, "td", one["rule"], class_="any mono")
        add(row, "td", number(one["blocks"]), class_="number", data_label="denied")
        add(row, "td", number(one["audits"]), class_="number", data_label="let through")
        add(row, "td", "yes" if one["expected"] else "", data_label="expected")


def _about(main: Element, report: Mapping[str, Any]) -> None:
    add(main, "h2", "Figures")
    _pairs(main, list(markdown.figures(report)), "figures")
    add(main, "h2", "What ran, and where")
    _pairs(main, list(markdown.environment(report)), "environment")
    for name, heading, texts in (
        ("evidence", "Evidence", [f"evidence/{one['name']} ({number(one['bytes'])} bytes)"
                                  for one in report["evidence"]]),
        ("problems", "Problems with the soak's files", report["samples"]["problems"]),
    ):  # fmt: skip
        if texts:
            add(main, "h2", heading)
            found = add(main, "ul", class_="card", id=name)
            for text in texts:
                add(found, "li", text)


def _pairs(main: Element, pairs: Sequence[tuple[str, str]], name: str) -> None:
    found = add(main, "dl", class_="card", id=name)
    for label, text in pairs:
        add(found, "dt", label)
        add(found, "dd", text)


def _footer(footer: Element) -> None:
    text = (
        "A criterion passes only where its whole interval lies within the limit, and fails only "
        "where all of it lies beyond. Times are UTC. The same for programs: report.json."
    )
    add(footer, "p", text)
