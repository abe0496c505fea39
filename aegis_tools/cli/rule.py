"""``aegisbpf rule list``, ``promote`` and ``demote``."""

from __future__ import annotations

import argparse
import time
from typing import Any

from aegis_tools.cli import types
from aegis_tools.cli.duration import parse_duration
from aegis_tools.cli.editing import audit_note, editing, reading, record
from aegis_tools.cli.output import App, plain, table
from aegis_tools.control import promote as control
from aegis_tools.control.bootclock import boot_ns
from aegis_tools.control.bootstate import keep_demoted
from aegis_tools.control.edit import Editor
from aegis_tools.control.live import Live
from aegis_tools.control.names import Names
from aegis_tools.control.rows import Row, list_rows, moment
from aegis_tools.control.steady import read_steady
from aegis_tools.kernel.layout import uid_of
from aegis_tools.policy.model import Kind, Mode, Rule
from aegis_tools.policy.targets import FILE_KINDS


def build(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    parser.epilog = "example: aegisbpf rule promote no-shadow --dry-run"
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=type(parser))
    listing = commands.add_parser(
        "list",
        help="list the live rules with mode and hits",
        epilog="example: aegisbpf rule list --mode audit",
    )
    listing.add_argument("--mode", choices=("audit", "enforce"), help="only rules of this mode")
    listing.set_defaults(run=list_)
    for name, text in (
        ("promote", "let rules that audit refuse, live"),
        ("demote", "let rules that refuse only audit, live"),
    ):
        shape = argparse.RawDescriptionHelpFormatter
        command = commands.add_parser(name, help=text, epilog=_EPILOGS[name], formatter_class=shape)
        command.add_argument("rules", nargs="+", metavar="ID", help="of aegisbpf rule list")
        command.add_argument("--dry-run", action="store_true", help="only show the evidence")
        types.add_confirm_within(command)
        if name == "promote":
            command.add_argument(
                "--clean-for",
                type=parse_duration,
                metavar="TIME",
                help="take no match for so long as enough (default: none since it is live)",
            )
            command.add_argument("--force", action="store_true", help="although it still matches")
        command.set_defaults(run=globals()[name])


_EPILOGS = {
    "promote": "The policy file goes on saying audit: an apply keeps the promotion and shows it, "
    "--reset drops it.\n\nexample: aegisbpf rule promote no-shadow --clean-for 7d",
    "demote": "It stays so over applies and reboots, until it is promoted again.\n\n"
    "example: aegisbpf rule demote no-shadow",
}


def list_(app: App, arguments: argparse.Namespace) -> int:
    """List the live rules."""
    rows = reading(app, _rows)
    found = [row for row in rows if arguments.mode in (None, row.mode)]
    cells = [
        (
            plain(row.rule),
            row.mode,
            row.hits,
            moment(row.last) if row.last else "never",
            row.source,
            plain(row.target),
        )
        for row in found
    ]
    app.show(
        lambda: {"rules": [row.to_dict() for row in found]},
        lambda: (
            table(cells, ("RULE", "MODE", "HITS", "LAST HIT", "SOURCE", "TARGET")) or "no rules"
        ),
    )
    return 0


def _rows(live: Live, names: Names) -> list[Row]:
    files = list_rows(live, names, FILE_KINDS)
    network = list_rows(live, names, set(Kind) - FILE_KINDS)
    return sorted([*files, *network], key=lambda row: row.rule)


def promote(app: App, arguments: argparse.Namespace) -> int:
    """Let rules refuse."""
    return _change(app, arguments, Mode.ENFORCE)


def demote(app: App, arguments: argparse.Namespace) -> int:
    """Let rules only audit."""
    return _change(app, arguments, Mode.AUDIT)


def _change(app: App, arguments: argparse.Namespace, mode: Mode) -> int:
    verb = "promote" if mode is Mode.ENFORCE else "demote"
    more: dict[str, Any] = {}
    types.check_forced(arguments)
    with editing(app, f"rule {verb}") as editor:
        names = dict.fromkeys(arguments.rules)
        rules = [_rule(editor, name)._replace(mode=mode) for name in names]
        found = _evidence(app, editor, arguments, rules, mode)
        wanted = [r for r, one in zip(rules, found, strict=True) if one.mode is not mode]
        if not arguments.dry_run:
            _refuse(arguments, found)
            if wanted and mode is Mode.ENFORCE:
                _prove(app, editor, wanted, arguments)
            if wanted:
                more = _carry_out(app, editor, wanted, arguments, verb)
        note = audit_note(editor.live) if mode is Mode.ENFORCE else ""
    _tell(app, arguments, found, wanted, {"verb": verb, "note": note, **more})
    return 0


def _rule(editor: Editor, name: str) -> Rule:
    rule = editor.names.get(uid_of(name))
    if rule is None:
        raise control.no_such(name)
    return rule


def _evidence(
    app: App, editor: Editor, arguments: argparse.Namespace, rules: list[Rule], mode: Mode
) -> list[control.Evidence]:
    live, now, boot = editor.live, time.time_ns(), boot_ns()
    policy = editor.names.policy()
    said = {rule.id: rule for rule in policy.rules} if policy else {}
    since = read_steady(
        app.paths,
        [said.get(rule.id, rule) for rule in rules],
        applied_ns=live.info().applied_ns,
        records=live.manual_rules().values(),
    )
    if mode is Mode.AUDIT:
        return control.look(live, since, now_ns=now, boot_ns=boot)
    found = control.check(live, since, clean_for=arguments.clean_for, now_ns=now, boot_ns=boot)
    return [e._replace(objection="") if e.mode is mode else e for e in found]


def _refuse(arguments: argparse.Namespace, found: list[control.Evidence]) -> None:
    if not getattr(arguments, "force", False):
        control.refuse(found)


def _prove(app: App, editor: Editor, rules: list[Rule], arguments: argparse.Namespace) -> None:
    """Refuse to let rules refuse what getting back in needs."""
    from aegis_tools.control.lockout.check import check_lockout

    if not arguments.i_know:
        live, uids = editor.live, {uid_of(rule.id) for rule in rules}
        check_lockout(app.paths, live, live.all_entries(), editor.names.name, uids=uids)


def _carry_out(
    app: App, editor: Editor, rules: list[Rule], arguments: argparse.Namespace, verb: str
) -> dict[str, Any]:
    note = ", ".join(rule.id for rule in rules)
    note += " (--force)" if getattr(arguments, "force", False) else ""
    note += f" ({types.FORCE})" if arguments.i_know else ""
    if not arguments.confirm_within:
        control.set_rule_modes(editor, rules)
        keep_demoted(app.paths, editor.live)
        record(app, f"rule {verb}", {f"{verb}d": len(rules)}, note)
        return {}
    from aegis_tools.cli.confirm import edit_until
    from aegis_tools.control.hostmode import settle_first

    settle_first(app.paths, editor.live)
    return edit_until(
        app,
        editor.live,
        arguments,
        lambda: control.set_rule_modes(editor, rules),
        set().union(*map(control.keys_of, rules)),
        action=f"rule {verb}",
        note=note,
    )


def _tell(
    app: App,
    arguments: argparse.Namespace,
    found: list[control.Evidence],
    wanted: list[Rule],
    facts: dict[str, Any],
) -> None:
    verb, done = facts.pop("verb"), [rule.id for rule in wanted]
    lines = [one.line() + (f"; AGAINST IT: {one.objection}" if one.objection else "")
             for one in found]  # fmt: skip
    what = f"dry run, would {verb}" if arguments.dry_run else f"{verb}d"
    lines.append(f"{what}: {', '.join(done)}" if done else f"nothing to {verb}")
    if done and facts["note"]:
        lines.append(facts["note"])
    if facts.get("pending"):
        lines.append("UNCONFIRMED, keep it: aegisbpf policy confirm")
    evidence = [one.to_dict() for one in found]
    app.show(
        {f"{verb}d": [] if arguments.dry_run else done, "would": done, "evidence": evidence,
         **facts},
        "\n".join(lines),
    )  # fmt: skip
