"""``aegisbpf allow``: cgroups that no rule refuses anything to."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from aegis_tools.cli.editing import editing, reading, record
from aegis_tools.cli.output import App
from aegis_tools.control import manual
from aegis_tools.control.edit import Editor
from aegis_tools.control.live import Live
from aegis_tools.control.names import Names
from aegis_tools.control.resolve import Rules
from aegis_tools.errors import PolicyError, UsageError
from aegis_tools.kernel.cgroups import cgroup_id, cgroup_path
from aegis_tools.kernel.layout import uid_of
from aegis_tools.policy import targets

_YES = (1).to_bytes(8, "little")


def build(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands, under ``cgroup`` and, shorter, without it."""
    parser.epilog = "example: aegisbpf allow cgroup list"
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=type(parser))
    group = commands.add_parser(
        "cgroup",
        help="add, del, list (the word cgroup may be left out)",
        epilog="example: aegisbpf allow cgroup add /system.slice",
    )
    for parent in (
        group.add_subparsers(required=True, metavar="COMMAND", parser_class=type(parser)),
        commands,
    ):
        _build_in(parent)


def _build_in(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, run, text in (
        ("add", add, "exempt a cgroup and all below it from every rule"),
        ("del", delete, "end an exemption, the policy's too (until the next apply)"),
    ):
        command = commands.add_parser(
            name, help=text, epilog=f"example: aegisbpf allow cgroup {name} /system.slice"
        )
        command.add_argument("cgroups", metavar="CGROUP", nargs="+", help="path, or cgid:N")
        command.add_argument("--dry-run", action="store_true", help="say what would be done")
        if name == "del":
            command.add_argument("--missing-ok", action="store_true", help="none is no error")
        command.set_defaults(run=run)
    command = commands.add_parser(
        "list", help="one cgroup a line", epilog="example: aegisbpf allow cgroup list"
    )
    command.set_defaults(run=show)


def _canonical(text: str) -> str:
    try:
        return targets.cgroup(text)
    except ValueError as error:
        raise UsageError(f"{text!r}: {error}", hint="example: /system.slice") from None


def _existing(text: str) -> int:
    number = cgroup_id(text)
    if number is None:
        raise PolicyError(f"there is no cgroup {text}", hint="list them: systemd-cgls")
    return number


def record_uid(text: str) -> int:
    """Return under which number the kernel keeps the record of a cgroup allowed by hand."""
    return uid_of(f"{manual.PREFIX}{manual.CGROUP}{text}")


def add(app: App, arguments: argparse.Namespace) -> int:
    """Exempt cgroups."""
    wanted = {text: _existing(text) for text in map(_canonical, arguments.cgroups)}
    with editing(app, "allow cgroup add") as editor:
        known = {row["id"] for row in rows(editor.live, editor.names)}
        new = {text: number for text, number in wanted.items() if number not in known}
        if new and not arguments.dry_run:
            _allow(editor, new)
            record(app, "allow cgroup add", {"added": len(new)}, ", ".join(new))
    verb = "dry run, would be allowed" if arguments.dry_run else "allowed"
    app.show(
        {"changed": bool(new), "dry_run": arguments.dry_run, "added": list(new)},
        "\n".join(f"{verb if text in new else 'already allowed'}: {text}" for text in wanted),
    )
    return 0


def _allow(editor: Editor, wanted: dict[str, int]) -> None:
    now, by = time.time_ns(), os.getuid()

    def change(rules: Rules) -> None:
        for text, number in wanted.items():
            rules.maps["allow_cgroup_map"][number.to_bytes(8, "little")] = _YES
            kept = manual.cgroup_record(text, now_ns=now, uid=by)
            rules.maps["manual_rules"][record_uid(text).to_bytes(8, "little")] = kept.pack()

    editor.replace(change)


def rows(live: Live, names: Names) -> list[dict[str, Any]]:
    """Return the allowed cgroups: path, id, and whether by hand or by the policy."""
    by_hand = {cgroup_id(text): text for text in manual.cgroups_of(live.manual_rules().values())}
    policy = names.policy()
    texts = policy.allow_cgroups if policy else ()
    by_policy = {cgroup_id(text): text for text in texts}
    found = []
    for key in live.entries("allow_cgroup_map"):
        number = int.from_bytes(key, "little")
        text = by_hand.get(number) or by_policy.get(number) or cgroup_path(number)
        source = "manual" if number in by_hand else "policy"
        found.append({"cgroup": text or f"cgid:{number}", "id": number, "source": source})
    return sorted(found, key=lambda row: str(row["cgroup"]))


def delete(app: App, arguments: argparse.Namespace) -> int:
    """End exemptions."""
    wanted = list(map(_canonical, arguments.cgroups))
    with editing(app, "allow cgroup del") as editor:
        found = rows(editor.live, editor.names)
        gone = [r for r in found if r["cgroup"] in wanted or r["id"] in map(cgroup_id, wanted)]
        records = manual.cgroups_of(editor.live.manual_rules().values())
        texts = [text for text in wanted if text in records]
        texts += [row["cgroup"] for row in gone if row["source"] == "manual"]
        missing = [
            text
            for text in wanted
            if text not in texts and cgroup_id(text) not in {row["id"] for row in gone}
        ]
        if missing and not arguments.missing_ok:
            raise PolicyError(
                f"{missing[0]} is not allowed", hint="see: aegisbpf allow cgroup list"
            )
        if (gone or texts) and not arguments.dry_run:
            _forbid(editor, [row["id"] for row in gone], texts)
            record(app, "allow cgroup del", {"removed": len(gone)}, ", ".join(wanted))
    lines = [f"removed: {row['cgroup']}" for row in gone] or ["nothing to remove"]
    if any(row["source"] == "policy" for row in gone):
        lines.append("the policy still has it: the next apply brings it back (drift until then)")
    if arguments.dry_run:
        lines.append("dry run, nothing changed")
    app.show(
        {"changed": bool(gone), "dry_run": arguments.dry_run, "removed": gone, "missing": missing},
        "\n".join(lines),
    )
    return 0


def _forbid(editor: Editor, numbers: list[int], texts: list[str]) -> None:
    def change(rules: Rules) -> None:
        for number in numbers:
            rules.maps["allow_cgroup_map"].pop(number.to_bytes(8, "little"), None)
        for text in texts:
            rules.maps["manual_rules"].pop(record_uid(text).to_bytes(8, "little"), None)

    editor.replace(change)


def show(app: App, arguments: argparse.Namespace) -> int:
    """List the allowed cgroups."""
    del arguments
    found, note = reading(app, lambda live, names: (rows(live, names), names.problem))
    if note and not app.json:
        app.note(f"note: {note}")
    app.show({"cgroups": found, "note": note}, "\n".join(str(row["cgroup"]) for row in found))
    return 0
