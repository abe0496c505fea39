"""An incident's record as a page: what a person reads the morning after, and files away."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aegis_tools.control.files import printable

TITLES = {
    "blocking": "Enforcement blocking legitimate work",
    "crash-loop": "Agent crash loop",
    "performance": "Performance degradation",
    "map-full": "BPF map full",
    "kernel-upgrade": "Kernel without BPF LSM after an upgrade",
    "break-glass": "Break-glass: enforcement ended by hand",
}
_RESULTS = {
    "": "still open",
    "recovered": "recovered",
    "not-recovered": "NOT recovered",
    "nothing-to-do": "nothing was wrong",
}
_PROVENANCE = (
    ("text", "Rule"), ("id", "Id"), ("operations", "Operations"), ("since", "Since"),
    ("applied_by", "Applied by"), ("signers", "Signed by"), ("policy", "Policy"),
    ("serial", "Serial"), ("hits", "Hits"), ("processes", "Processes"),
)  # fmt: skip
_SUMMARY = ("root_cause", "affected_service", "resolution", "prevention")
"""Facts that stand at the top."""
_FOR_ANOTHER_RUN = ("refusers", "met", "settled", "giving_back")
"""Facts from which a procedure goes on; the JSON has them, and no reader needs them."""
_SHORT = 300


def to_markdown(record: Mapping[str, Any]) -> str:
    """Return ``Record.to_dict()`` as Markdown. It cannot raise on a record that was read."""
    return "\n".join(_page(record)) + "\n"


def _page(record: Mapping[str, Any]) -> Iterator[str]:
    yield f"# Incident: {TITLES.get(record['scenario'], record['scenario'])}"
    yield ""
    yield from _table(("", ""), _head(record))
    yield from _section("Timeline", _timeline(record))
    yield from _section("Rules", _rules(record["rules"]))
    yield from _section("Affected processes", (f"- {_cell(one)}" for one in processes(record)))
    yield from _section("Evidence", _evidence(record))
    yield from _section("Follow-ups", (f"- [ ] {_cell(one)}" for one in record["follow_ups"]))


def _head(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Id", _cell(record["id"])
    yield "Host", _cell(f"{record['host']}, Linux {record['kernel']}")
    yield "Began", _cell(record["began"])
    yield "Ended", _cell(record["ended"] or "-")
    yield "Duration", span(record["duration_seconds"])
    yield "Result", f"**{_RESULTS[record['result']]}**"
    by = record["by"]
    yield (
        "By",
        _cell(f"{by['sudo_user']} (uid {by['uid']})" if by["sudo_user"] else f"uid {by['uid']}"),
    )
    for name in _SUMMARY:
        if name in record["facts"]:
            yield name.replace("_", " ").capitalize(), _cell(record["facts"][name])


def _timeline(record: Mapping[str, Any]) -> Iterator[str]:
    marks = {True: "", False: "**failed:** ", None: "**begun, and cut off:** "}
    rows = (
        (
            _cell(one["time"][11:19]),
            f"+{one['seconds']:.1f} s",
            "did" if one["changes"] else "saw",
            f"{marks[one['ok']]}{_cell(one['message'])}",
        )
        for one in record["actions"]
    )
    yield from _table(("UTC", "After", "", "What"), rows)


def _rules(rules: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for number, one in enumerate(rules):
        if number:
            yield ""
        known = [(label, _cell(one[name])) for name, label in _PROVENANCE if one.get(name)]
        others = [(name, _cell(one[name])) for name in one if name not in dict(_PROVENANCE)]
        yield from _table(("", ""), [*known, *others])


def processes(record: Mapping[str, Any]) -> list[str]:
    """Return the processes that rules or facts name, each once."""
    found = [one.get("processes", []) for one in record["rules"]]
    found.append(record["facts"].get("processes", []))
    flat = (str(one) for many in found if isinstance(many, list) for one in many)
    return list(dict.fromkeys(flat))


def _evidence(record: Mapping[str, Any]) -> Iterator[str]:
    facts = [(_cell(name.replace("_", " ")), _cell(value))
             for name, value in record["facts"].items()
             if name not in (*_SUMMARY, *_FOR_ANOTHER_RUN) and not _is_empty(value)]  # fmt: skip
    yield from _table(("Fact", "Value"), facts)
    if facts and record["files"]:
        yield ""
    for one in record["files"]:
        cut = ", cut" if one["cut"] else ""
        yield f"- {_cell(one['name'])} ({one['bytes']} bytes{cut}), SHA-256 {one['sha256'][:16]}…"


def span(seconds: float | None) -> str:
    """Return ``1 min 4 s`` for 64 seconds; ``-`` for None."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
    body = list(lines)
    if body:
        yield from ("", f"## {title}", "", *body)


def _table(header: Sequence[str], rows: Any) -> Iterator[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if lines:
        yield f"| {' | '.join(header)} |"
        yield f"|{'---|' * len(header)}"
        yield from lines


def _cell(value: Any) -> str:
    """Return a value as text that Markdown takes for nothing else."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&])", r"\\\1", printable(_words(value), _SHORT))


def _words(value: Any) -> str:
    """Return JSON as a person would write it; what is empty is left out."""
    if isinstance(value, Mapping):
        pairs = ((str(name).replace("_", " "), one) for name, one in value.items())
        return ", ".join(f"{name} {_words(one)}" for name, one in pairs if not _is_empty(one))
    if isinstance(value, list):
        between = "; " if any(isinstance(one, Mapping) for one in value) else ", "
        return between.join(map(_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | Mapping) and not value)
