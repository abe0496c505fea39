"""``aegisbpf block clear-stale`` and ``restore``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aegis_tools.cli.duration import parse_duration
from aegis_tools.cli.editing import editing, record
from aegis_tools.cli.output import App, plain
from aegis_tools.control import files, stale, undo
from aegis_tools.control.resolve import Rules
from aegis_tools.control.stale_classes import CLASSES
from aegis_tools.errors import StateError, UsageError
from aegis_tools.policy import strictjson

_SHOWN = 50


def clear_stale(app: App, arguments: argparse.Namespace) -> int:
    """Remove what matches nothing any more."""
    if arguments.undo is not None:
        return restore(app, arguments)
    older_than = parse_duration(arguments.older_than) if arguments.older_than else 0
    if arguments.older_than and not older_than:
        raise UsageError("--older-than 0 would remove every rule", hint="use: aegisbpf block clear")
    now, saved = time.time(), ""
    with editing(app, "block clear-stale") as editor:
        if not arguments.dry_run:
            editor.heal()
        found = stale.survey(
            editor.live,
            editor.names,
            editor.identify,
            mounted=stale.read_mounts(),
            now=now,
            older_than=older_than,
        )
        if found.findings and not arguments.dry_run:
            content = undo.undo_of(editor.live.all_entries(), found.findings)
            saved = str(undo.save(app.paths, content, now=now))
            editor.replace(
                lambda rules: stale.take_out(rules.maps, found.findings),
                removed=[one.uid for one in found.findings if not one.map],
                refill=True,
            )
            record(app, "block clear-stale", stale.counts(found.findings), f"undo file: {saved}")
        problem = editor.names.problem
    data = {
        "changed": bool(found.findings),
        "dry_run": arguments.dry_run,
        "findings": [one.to_dict() for one in found.findings],
        "cannot_tell": list(found.unsure),
        "undo": saved,
        "note": problem,
    }
    app.show(data, lambda: "\n".join(_text(found, saved, dry_run=arguments.dry_run)))
    return 0


def _text(found: stale.Survey, saved: str, *, dry_run: bool) -> Iterable[str]:
    for one in found.findings[:_SHOWN]:
        rule = plain(one.rule)
        what = f"an entry of {rule}" if one.map else f"the rule {rule}"
        yield f"{one.why}: {plain(one.target)} ({what})"
    if len(found.findings) > _SHOWN:
        yield f"… and {len(found.findings) - _SHOWN} more (all of them: --json)"
    for target in found.unsure[:_SHOWN]:
        yield f"cannot tell: {plain(target)} (its file system is mounted, and no path is known)"
    for why, count in sorted(stale.counts(found.findings).items()):
        yield f"{count} {why}: {CLASSES[why]}"
    if not found.findings:
        yield "nothing is stale"
    elif dry_run:
        yield "dry run, nothing changed"
    else:
        yield f"removed; undo: aegisbpf block restore {saved}"


def restore(app: App, arguments: argparse.Namespace) -> int:
    """Put back what an undo file lists."""
    content = _read(arguments.undo)
    count = 0
    with editing(app, "block restore") as editor:

        def change(rules: Rules) -> None:
            nonlocal count
            count = undo.put_back(rules, content)

        if arguments.dry_run:
            count = undo.put_back(Rules(), content)
        else:
            editor.replace(change)
            record(app, "block restore", {"restored": count}, str(arguments.undo))
    verb = "dry run, would put back" if arguments.dry_run else "put back"
    app.show(
        {"changed": count > 0, "dry_run": arguments.dry_run, "restored": count},
        f"{verb} what was removed of {count} rules",
    )
    return 0


def _read(path: Path) -> Any:
    data = files.read_limited(path, undo.MAX_UNDO, what=f"undo file {files.named(path)}")
    try:
        content = strictjson.loads(data)
    except ValueError as error:
        raise StateError(
            f"{files.named(path)} is no undo file of clear-stale, or is damaged",
            hint="name one that clear-stale printed; see: aegisbpf history",
            detail=str(error),
        ) from error
    if not isinstance(content, dict):
        raise StateError(
            f"{files.named(path)} is no undo file of clear-stale", hint="name one it printed"
        )
    return content
