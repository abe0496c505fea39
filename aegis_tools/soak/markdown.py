"""A soak's report as Markdown: what is filed, and pasted into a review."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aegis_tools.control.files import printable
from aegis_tools.soak import words
from aegis_tools.soak.chart import sparkline
from aegis_tools.soak.verdict import span
from aegis_tools.soak.words import amount, interval, number

LONGEST = 300
MOST_RULES = 10
WIDEST = 60
MOST_TOLD = 40
CURVES = (
    ("cpu", "CPU", "%"), ("memory", "Memory", "MB"), ("lost", "Lost events", ""),
    ("fill", "Map fill", "%"),
)  # fmt: skip


def to_markdown(report: Mapping[str, Any]) -> str:
    """Return the report as a page of Markdown."""
    return "\n".join(_page(report)) + "\n"


def _page(report: Mapping[str, Any]) -> Iterator[str]:
    verdict, advice = report["verdict"], report["recommendation"]
    yield f"# {_cell(words.title(report))}"
    yield ""
    yield f"**{verdict['text']}.** {_cell(advice['text'])}"
    for text in warnings(report):
        yield ""
        yield f"> {_cell(text)}"
    yield ""
    yield from _head(report)
    yield from _section("Criteria", _criteria(report))
    yield from _section("Figures", _figures(report))
    yield from _section("Over time", _curves(report))
    yield from _section("Matches by rule", _rules(report["denials"]))
    yield from _section("What happened", _told(report))
    yield from _section("Recommendation", _advice(advice))
    yield from _section("Evidence", _evidence(report))
    yield from _section("Problems with the files", map(_item, report["samples"]["problems"]))


def warnings(report: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know before anything else."""
    found = []
    if report["soak"]["override"]:
        found.append(words.overridden(report))
    if told := words.state(report):
        found.append(f"{told[0].upper()}{told[1:]}.")
    if report["verdict"]["short"]:
        least = span(report["verdict"]["minimum_s"])
        found.append(f"Short: {span(report['soak']['length_s'])}, where {least} are asked for.")
    return found


def environment(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what the soak ran on, and how: a name, and its text."""
    soak, host, policy = report["soak"], report["host"], report["policy"]
    yield (
        "Duration",
        f"{_when(soak['started'])} to {_when(soak['ended'])} UTC "
        f"({span(soak['length_s'])} of {span(soak['duration_s'])})",
    )
    yield "Mode", _MODES.get(soak["mode"], soak["mode"])
    yield "Workload", soak["workload"]
    parts = [host["name"], _cpu(host), f"{host['memory_mb'] / 1024:.1f} GiB memory"]
    parts += [f"Linux {host['kernel']}", host["virtualised"] and f"virtual ({host['virtualised']})"]
    yield "System", ", ".join(part for part in parts if part)
    yield "Aegis", host["version"] or "not known"
    if policy is None:
        yield "Policy", "none was live"
    else:
        signers = ", ".join(policy["signers"]) or "unsigned"
        yield "Policy", f"{policy['digest']}, serial {policy['serial']}"
        yield "Signed by", signers
    samples = report["samples"]
    yield (
        "Samples",
        f"{number(samples['made'])} of {number(samples['due'])} due, "
        f"one in {span(soak['interval_s'])}",
    )
    if soak["expected"]:
        yield "Expected denials", ", ".join(soak["expected"])
    if soak["note"]:
        yield "Note", soak["note"]
    yield "Soak", soak["id"]


_MODES = {"audit": "audit only", "enforce": "enforce", "held": "held in audit", "none": "none"}


def _cpu(host: Mapping[str, Any]) -> str:
    many = words.plural(host["cpus"], "CPU") if host["cpus"] else ""
    return " x ".join(part for part in (many, host["cpu_model"]) if part)


def _when(rfc3339: str) -> str:
    return f"{rfc3339[:10]} {rfc3339[11:16]}"


def _head(report: Mapping[str, Any]) -> Iterator[str]:
    yield from _table(("", ""), ((name, _cell(text)) for name, text in environment(report)))


def _criteria(report: Mapping[str, Any]) -> Iterator[str]:
    rows = (
        (
            f"**{one['status']}**" if one["status"] != "PASS" else "PASS",
            _cell(one["title"]),
            _cell(amount(one["value"], one["unit"])),
            _cell(interval(one["low"], one["high"])),
            _cell(one["limit"] or "-"),
            number(one["samples"]),
            _cell(one["why"]),
        )
        for one in words.ranked(report["criteria"])
    )
    header = ("", "Criterion", "Value", words.confidence(report), "Limit", "Samples", "Why")
    yield from _table(header, rows)


def figures(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what was measured, each in one line."""
    found = report["figures"]
    for name, label, unit in (
        ("cpu", "CPU", "%"),
        ("memory", "Memory", "MB"),
        ("probe", "Open and close of a file", "µs"),
    ):
        if found[name]:
            spread = found[name]
            told = ", ".join(f"{word} {number(spread[key])}" for key, word in _SPREAD)
            yield label, f"{told} {unit}"
    if found["events"] is not None or found["lost"] is not None:
        yield "Events", f"{number(found['events'])} in all, {number(found['lost'])} lost"
    yield (
        "Matches",
        f"{number(found['blocks'])} denied, {number(found['audits'])} let through "
        "(the canary's too)",
    )
    yield (
        "Stability",
        f"{words.plural(found['crashes'], 'crash').replace('crashs', 'crashes')}, "
        f"{words.plural(found['restarts'], 'restart')} of the agent, "
        f"{words.plural(found['reboots'], 'boot')} of the host",
    )
    if found["bpf_ns_a_run"] is not None:
        yield "BPF programs", f"{number(found['bpf_ns_a_run'])} ns a run"


_SPREAD = (("mean", "mean"), ("p95", "p95"), ("p99", "p99"), ("max", "most"))


def _figures(report: Mapping[str, Any]) -> Iterator[str]:
    yield from _table(("", ""), ((name, _cell(text)) for name, text in figures(report)))


def curves(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, line of blocks and largest value of what is drawn in letters."""
    series = report["series"]
    # Hardly a column without a sample, or a short soak looks like one with gaps.
    turns = int(0.8 * series["end"] / report["soak"]["interval_s"])
    width = min(WIDEST, max(1, turns))
    return [
        (label, sparkline(points, series["end"], width), f"most {amount(top, unit)}")
        for name, label, unit in CURVES
        if (points := series[name])
        for top in [max(one[3] for one in points)]
    ]


def _curves(report: Mapping[str, Any]) -> Iterator[str]:
    lines = [f"{label:<12} {drawn}  {most}" for label, drawn, most in curves(report)]
    if lines:
        yield from ("```text", *lines, "```", "", "The plots are in `report.html`.")


def _rules(denials: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows = (
        (_cell(one["rule"]), number(one["blocks"]), number(one["audits"]),
         "yes" if one["expected"] else "")
        for one in denials[:MOST_RULES]
    )  # fmt: skip
    yield from _table(("Rule", "Denied", "Let through", "Expected"), rows)
    if len(denials) > MOST_RULES:
        yield f"\n{len(denials) - MOST_RULES} more rules matched."


def _told(report: Mapping[str, Any]) -> Iterator[str]:
    told = report["happened"]
    shown = told if len(told) <= MOST_TOLD else sorted(
        sorted(told, key=lambda one: one["tone"] == "info")[:MOST_TOLD],
        key=lambda one: one["after_s"],
    )  # fmt: skip
    rows = (
        (_when(one["time"]), words.after(one["after_s"]), words.KINDS[one["kind"]][2],
         _cell(one["text"]))
        for one in shown
    )  # fmt: skip
    yield from _table(("UTC", "After", "What", ""), rows)
    left = len(told) - len(shown) + report["happened_left_out"]
    if left:
        yield f"\n{number(left)} more in the soak's `happened.ndjson`."


def _advice(advice: Mapping[str, Any]) -> Iterator[str]:
    yield _cell(advice["text"])
    if advice["commands"]:
        yield from ("", "```sh", *advice["commands"], "```")


def _evidence(report: Mapping[str, Any]) -> Iterator[str]:
    for one in report["evidence"]:
        yield _item(f"evidence/{one['name']} ({number(one['bytes'])} bytes)")


def _item(text: str) -> str:
    return f"- {_cell(text)}"


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    body = list(lines)
    if body:
        yield from ("", f"## {title}", "", *body)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if lines:
        yield f"| {' | '.join(header)} |"
        yield f"|{'---|' * len(header)}"
        yield from lines


def _cell(value: object) -> str:
    """Return a text that Markdown takes for nothing else."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&])", r"\\\1", printable(str(value), LONGEST))
