"""``aegisbpf soak report`` and ``compare``: what a soak has shown."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aegis_tools.cli import types
from aegis_tools.cli.output import App, table
from aegis_tools.errors import StateError, UsageError

if TYPE_CHECKING:
    from aegis_tools.soak.brief import Brief
    from aegis_tools.soak.reading import Soak

FAILED, UNDECIDED = 30, 31
"""Exit codes of a report whose verdict is not PASS."""
VERDICTS = f"0 PASS, {FAILED} FAIL, {UNDECIDED} INCONCLUSIVE"
FORMATS = ("text", "markdown", "html", "json")
SCHEMA = Path(__file__).resolve().parent.parent / "soak" / "report.schema.json"
_LOCK_SECONDS = 20.0


def build_report(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``report``."""
    parser.add_argument(
        "id", metavar="ID", nargs="?", default="", help="a soak (default: the newest)"
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="(default: %(default)s)")
    parser.add_argument("--out", metavar="FILE", type=types.path, help="write it there")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of a report")
    parser.epilog = (
        "The files of a soak that has ended (report.html, .md, .json and verdict.json, in its\n"
        "folder) are made anew where they are not as they should be. FILE must not exist yet.\n\n"
        f"exit codes: {VERDICTS} or still running\n\n"
        "examples:\n"
        "  aegisbpf soak report\n"
        "  aegisbpf soak report --format html --out soak.html\n"
        "  aegisbpf soak report 20260115T100000Z-shadow --json | jq .verdict"
    )
    parser.set_defaults(run=run_report)


def build_compare(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``compare``."""
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), help="an id, or the report.json of a soak")
    parser.epilog = (
        "Figures differ where their intervals do not touch; else there is no difference.\n\n"
        "examples:\n"
        "  aegisbpf soak compare 20260101T100000Z-shadow 20260115T100000Z-shadow\n"
        "  aegisbpf soak compare web-01.json ./web-02.json --json"
    )
    parser.set_defaults(run=run_compare)


def run_report(app: App, arguments: argparse.Namespace) -> int:
    """Print a report, or write it into a file."""
    if arguments.schema:
        return _schema(app, arguments.out)
    soak = _soak(app, arguments.id)
    report = _made(app, soak)
    body = _body(report, arguments.format)
    if arguments.out is not None:
        _write(arguments.out, body)
        verdict = {"id": soak.settings.id, **report["verdict"], "file": str(arguments.out)}
        app.show(verdict, f"{report['verdict']['text']}: written to {arguments.out}")
    elif app.json and arguments.format in ("markdown", "html"):
        app.show({"id": soak.settings.id, arguments.format: body}, "")
    else:
        app.write(report, body)
    return exit_code(report)


def _schema(app: App, out: Path | None) -> int:
    text = SCHEMA.read_text(encoding="utf-8")
    if out is None:
        app.write(json.loads(text), text)
    else:
        _write(out, text, "schema")
        app.show({"file": str(out)}, f"the schema: written to {out}")
    return 0


def exit_code(report: Mapping[str, Any]) -> int:
    """Return the exit code of a report; a soak that runs has passed nothing yet."""
    running = report["soak"]["state"] == "running"
    return code_of(report["verdict"]["status"], running=running)


def code_of(status: str, *, running: bool = False) -> int:
    """Return the exit code of a verdict's status; empty for none."""
    if status == "FAIL":
        return FAILED
    return 0 if status == "PASS" and not running else UNDECIDED


def _soak(app: App, identifier: str) -> Soak:
    from aegis_tools.soak import reading

    wanted = identifier or reading.newest(app.paths)
    if not wanted:
        raise UsageError("there is no soak on this host", hint="run: aegisbpf soak start --help")
    return reading.read_soak(app.paths, wanted)


def _made(app: App, soak: Soak) -> dict[str, Any]:
    """Return the report; the files of a soak that has ended are brought up to date."""
    from aegis_tools.control.lock import locked
    from aegis_tools.soak.folder import folder
    from aegis_tools.soak.report import build, evidence_of, write_report
    from aegis_tools.soak.verdict import judge

    if not soak.running:
        try:
            with locked(app.paths.soak_lock, "soak report", timeout=_LOCK_SECONDS):
                return write_report(app.paths, soak)
        except StateError as error:
            app.note(f"the files of the soak are as they were: {error.message}")
    return build(soak, judge(soak), evidence=evidence_of(folder(app.paths, soak.settings.id)))


def _body(report: Mapping[str, Any], wanted: str) -> str:
    """Return the report in a format."""
    if wanted == "html":
        from aegis_tools.soak.page import render

        return render(report)
    if wanted == "markdown":
        from aegis_tools.soak.markdown import to_markdown

        return to_markdown(report)
    if wanted == "json":
        from aegis_tools.soak.report import to_json

        return to_json(report).decode()
    from aegis_tools.soak.glance import to_text

    return to_text(report)


def _write(path: Path, body: str, what: str = "report") -> None:
    from aegis_tools.control.files import named, write_new

    write_new(path, body.encode(), what=f"{what} {named(path)}", mode=0o644)


def run_compare(app: App, arguments: argparse.Namespace) -> int:
    """Print two soaks beside each other."""
    from aegis_tools.soak.compare import compare

    found = compare(_brief(app, arguments.a), _brief(app, arguments.b))
    app.show(found, lambda: _compared(found))
    return 0


def _brief(app: App, word: str) -> Brief:
    """Return the soak of an id, or of a file."""
    from aegis_tools.soak import brief

    if "/" in word or word.endswith(".json"):
        return brief.read(Path(word))
    return brief.brief(json.loads(_body(_made(app, _soak(app, word)), "json")))


def _compared(found: Mapping[str, Any]) -> str:
    from aegis_tools.control.files import printable
    from aegis_tools.soak.compare import told, verdict

    sides = ((name.upper(), *(printable(found[name][field]) for field in ("id", "host", "text")))
             for name in ("a", "b"))  # fmt: skip
    lines = [table(sides), ""]
    if found["conditions"]:
        rows = (
            (f"  {one['what']}", printable(one["a"]) or "-", printable(one["b"]) or "-")
            for one in found["conditions"]
        )
        lines += ["Not the same:", table(rows), ""]
    rows_ = (
        (*map(printable, (one["title"], told(one, "a"), told(one, "b"))), verdict(one))
        for one in found["criteria"]
    )
    lines.append(table(rows_, ("CRITERION", "A", "B", "")))
    return "\n".join(lines)
