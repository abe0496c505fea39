"""A soak's report for a terminal: the verdict first, then what it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aegis_tools.control.files import printable
from aegis_tools.soak import words
from aegis_tools.soak.markdown import curves, environment, figures
from aegis_tools.soak.words import amount, interval, number

MOST_TOLD = 12
MOST_RULES = 5
_LONGEST = 110


def to_text(report: Mapping[str, Any]) -> str:
    """Return the report in lines."""
    return "\n".join(line.rstrip() for line in _lines(report)) + "\n"


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    beside = "".join(f", {text}" for text in words.beside(report))
    yield f"{report['verdict']['status']}{beside}"
    yield f"  {_cell(words.title(report))}"
    yield f"  {_cell(report['recommendation']['text'], 400)}"
    for command in report["recommendation"]["commands"]:
        yield f"  next: {command}"
    if report["soak"]["override"]:
        yield f"  override: {_cell(report['soak']['override'])}"
    yield ""
    yield from _criteria(report)
    yield ""
    yield from _columns(curves(report))
    yield from _block("Figures", figures(report))
    yield from _block("Matches", _rules(report["denials"]))
    yield from _block("What happened", _told(report))
    yield from _block("What ran", environment(report))


def _criteria(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each criterion; where it is not well, the reason below it."""
    rows = [("", "CRITERION", "VALUE", words.confidence(report).upper(), "LIMIT", "SAMPLES")]
    criteria = words.ranked(report["criteria"])
    for one in criteria:
        rows.append((
            f"{words.SIGNS[one['status']]} {one['status']}", _cell(one["title"]),
            amount(one["value"], one["unit"]), interval(one["low"], one["high"]),
            one["limit"] or "-", number(one["samples"]),
        ))  # fmt: skip
    lines = list(_columns(rows))
    yield lines[0]
    for line, one in zip(lines[1:], criteria, strict=True):
        yield line
        if one["status"] in ("FAIL", "INCONCLUSIVE") and one["why"]:
            yield f"    {_cell(one['why'], 300)}"


def _rules(denials: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for one in denials[:MOST_RULES]:
        known = ", expected" if one["expected"] else ""
        yield (
            _cell(one["rule"], 60),
            f"{number(one['blocks'])} denied, {number(one['audits'])} let through{known}",
        )
    if len(denials) > MOST_RULES:
        yield f"{len(denials) - MOST_RULES} more rules", ""


def _told(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    found = [one for one in report["happened"] if one["kind"] not in ("begun", "ended")]
    worst = sorted(found, key=lambda one: one["tone"] == "info")[:MOST_TOLD]
    for one in sorted(worst, key=lambda one: one["after_s"]):
        text = f"{words.KINDS[one['kind']][2]}: {one['text']}".removesuffix(": ")
        yield words.after(one["after_s"]), _cell(text)
    left = len(found) - len(worst) + report["happened_left_out"]
    if left:
        yield "", f"{left} more: --format markdown"


def _block(title: str, pairs: Iterator[tuple[str, str]]) -> Iterator[str]:
    lines = list(_columns([(name, _cell(text)) for name, text in pairs]))
    if lines:
        yield from ("", title)
    yield from lines


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()


def _cell(text: str, longest: int = _LONGEST) -> str:
    return printable(text, longest)
