"""``aegisbpf incident list``, ``show``, ``note``, ``close`` and ``bundle``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from aegis_tools.cli.output import App, table
from aegis_tools.errors import StateError, UsageError
from aegis_tools.incident.content import Content
from aegis_tools.incident.markdown import span, to_markdown
from aegis_tools.incident.record import Record
from aegis_tools.incident.shelf import EVIDENCE, Found, Shelf

LAST = "last"


def run_list(app: App, arguments: argparse.Namespace) -> int:
    """List what is recorded here."""
    found = [one for one, _ in zip(Shelf(app.paths).all(), range(arguments.limit), strict=False)]
    app.show(
        {"incidents": [_summary(one) for one in found]},
        lambda: (
            table(map(_row, found), ("INCIDENT", "RESULT", "TOOK", "LAST"))
            or "no incident is recorded here"
        ),
    )
    return 0


def _summary(one: Found) -> dict[str, Any]:
    if one.content is None:
        return {"id": one.id, "fault": one.fault}
    names = ("id", "scenario", "host", "began", "ended", "duration_seconds", "result")
    top = one.content.to_dict()
    last = one.content.actions[-1]["message"] if one.content.actions else ""
    return {**{name: top[name] for name in names}, "last": last, "fault": ""}


def _row(one: Found) -> tuple[str, str, str, str]:
    if one.content is None:
        return one.id, "unreadable", "-", one.fault
    held = one.content
    text = "-"
    if held.actions:
        text = _MARKS[held.actions[-1]["ok"]] + str(held.actions[-1]["message"])
    short = text if len(text) <= 60 else f"{text[:59]}…"
    return held.id, held.result or "OPEN", span(held.duration), short


_MARKS = {True: "", False: "failed: ", None: "cut off: "}


def run_show(app: App, arguments: argparse.Namespace) -> int:
    """Show one incident."""
    shelf = Shelf(app.paths)
    held = shelf.read(_id(shelf, arguments.id))
    top = held.to_dict()
    if arguments.markdown:
        page = to_markdown(top)
        app.write({"id": held.id, "markdown": page}, page)
        return 0
    folder = str(shelf.folder(held.id) / EVIDENCE)
    app.show({**top, "evidence_folder": folder}, lambda: _text(held, folder))
    return 0


def _text(held: Content, folder: str) -> str:
    state = held.result or f"OPEN; end it with: aegisbpf incident close {held.id}"
    lines = [f"{held.id}: {state}", table(_about(held)), ""]
    lines.append(table(_action(one) for one in held.actions) or "  nothing was done")
    for rule in held.rules:
        lines += ["", f"  rule {rule.get('id', '?')}"]
        lines.append(table((f"    {name}", _short(value)) for name, value in rule.items()
                           if value and name != "id"))  # fmt: skip
    facts = [(f"  {name}", _short(value)) for name, value in held.facts.items()]
    lines += ["", table(facts)] if facts else []
    lines += ["", *(f"  to do: {one}" for one in held.follow_ups)] if held.follow_ups else []
    lines += ["", f"  evidence in {folder}"] if held.files else []
    lines += [f"    {one['name']} ({one['bytes']} bytes)" for one in held.files]
    return "\n".join(lines)


def _about(held: Content) -> Iterator[tuple[str, str]]:
    top = held.to_dict()
    who = held.by["sudo_user"] or f"uid {held.by['uid']}"
    yield "  host", f"{held.host}, Linux {held.kernel}"
    yield "  began", f"{top['began']} by {who}"
    if held.duration is not None:
        yield "  took", span(held.duration)


def _action(one: dict[str, Any]) -> tuple[str, str, str, str]:
    done = "did" if one["changes"] else "saw"
    verb = {True: done, False: "FAILED", None: "CUT OFF"}[one["ok"]]
    return f"  {one['time'][11:19]}Z", f"+{one['seconds']:.1f} s", verb, one["message"]


def _short(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(one, str | int) for one in value):
        value = ", ".join(map(str, value))
    text = str(value)
    return text if len(text) <= 160 else f"{text[:159]}…"


def run_note(app: App, arguments: argparse.Namespace) -> int:
    """Add a line to a record, also of an incident that has ended."""
    text = arguments.text.strip()
    if not text:
        raise UsageError("a note cannot be empty", hint="aegisbpf incident note last 'what I saw'")
    with Record.open(app.paths, _id(Shelf(app.paths), arguments.id)) as record:
        record.saw("note", text)
        _check(record)
    app.show({"id": record.id, "noted": text}, f"noted: {record.id}")
    return 0


def run_close(app: App, arguments: argparse.Namespace) -> int:
    """End an incident; one that has ended stays as it is."""
    with Record.open(app.paths, _id(Shelf(app.paths), arguments.id)) as record:
        changed = not record.result
        if changed:
            record.close(arguments.result)
            _check(record)
    facts = {"id": record.id, "changed": changed, "result": record.result}
    text = f"closed: {record.id}" if changed else f"{record.id} has ended already"
    app.show(facts, f"{text}: {record.result}")
    return 0


def run_bundle(app: App, arguments: argparse.Namespace) -> int:
    """Pack the evidence."""
    from aegis_tools.incident.bundle import write_bundle

    identifier = _id(Shelf(app.paths), arguments.id) if arguments.id else ""
    made = write_bundle(app.paths, arguments.output, identifier)
    for problem in made.problems:
        app.note(f"warning: {problem}")
    app.show(
        made._asdict(),
        f"{arguments.output}: {len(made.names)} files, {made.bytes} bytes, without secrets; "
        "look through it before it leaves the house",
    )
    return 0


def _id(shelf: Shelf, word: str) -> str:
    if word != LAST:
        return word
    found = shelf.ids()
    if not found:
        raise UsageError("no incident is recorded here", hint="run: aegisbpf diagnose")
    return found[0]


def _check(record: Record) -> None:
    if record.problem:
        raise StateError(
            f"the record is as it was: {record.problem}", hint="free some space, then run it again"
        )
