"""``aegisbpf network deny``: addresses, networks and ports denied by hand."""

from __future__ import annotations

import argparse

from aegis_tools.cli import types
from aegis_tools.cli.editing import (
    add_rules,
    begin,
    editing,
    gone_text,
    record,
    remove_rows,
    show_rows,
    target_of,
)
from aegis_tools.cli.output import App, table
from aegis_tools.control.manual import manual_rule
from aegis_tools.control.merge import NETWORK_MAPS
from aegis_tools.control.rows import list_rows
from aegis_tools.errors import PolicyError, UsageError
from aegis_tools.policy.model import NET_OPS, Kind, Mode, Op, Rule, Signal
from aegis_tools.policy.targets import default_operations

NETWORK_KINDS = (Kind.IP, Kind.CIDR, Kind.PORT, Kind.IP_PORT)
DIRECTIONS = {"egress": Op.EGRESS, "bind": Op.BIND, "both": NET_OPS}
_OPTIONS = (
    ("--ip", Kind.IP, "ADDRESS", "10.0.0.1 or 2001:db8::1"),
    ("--cidr", Kind.CIDR, "NETWORK", "10.0.0.0/8"),
    ("--port", Kind.PORT, "PORT", "22, or 22:tcp"),
    ("--ip-port", Kind.IP_PORT, "ADDRESS:PORT", "10.0.0.1:443, [2001:db8::1]:443:tcp"),
)
_EXAMPLE = "aegisbpf network deny add --ip-port 203.0.113.7:23:tcp"


def build(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    parser.epilog = f"example: {_EXAMPLE}"
    top = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=type(parser))
    deny = top.add_parser("deny", help="add, del, list, clear", epilog=f"example: {_EXAMPLE}")
    commands = deny.add_subparsers(required=True, metavar="COMMAND", parser_class=type(parser))
    command = commands.add_parser(
        "add",
        help="deny addresses, networks and ports",
        description="Each --ip, --cidr, --port and --ip-port is a rule of its own: --ip A\n"
        "--port N denies all ports of A, and port N of everybody. One port of A: --ip-port A:N",
        epilog=f"example: {_EXAMPLE}",
    )
    _targets(command)
    command.add_argument(
        "--direction", choices=DIRECTIONS, help="default: both for --port, else egress"
    )
    command.add_argument("--mode", choices=("audit", "enforce"), default="enforce")
    command.add_argument("--signal", choices=[s.value for s in Signal], default="none")
    command.set_defaults(run=add)
    command = commands.add_parser(
        "del",
        help="remove every rule for these, the policy's too (until the next apply)",
        epilog="example: aegisbpf network deny del --ip 203.0.113.7",
    )
    _targets(command)
    command.add_argument("--missing-ok", action="store_true", help="no rule is no error")
    command.set_defaults(run=delete)
    command = commands.add_parser(
        "list", help="one rule a line", epilog="example: aegisbpf network deny list --json"
    )
    command.set_defaults(run=show)
    command = commands.add_parser(
        "clear",
        help="remove every network rule that is live; file rules and cgroups stay",
        epilog="example: aegisbpf network deny clear --dry-run",
    )
    command.add_argument("--dry-run", action="store_true", help="say what would be done")
    command.set_defaults(run=clear)


def _targets(command: argparse.ArgumentParser) -> None:
    for option, kind, metavar, text in _OPTIONS:
        command.add_argument(
            option, dest=kind.value, metavar=metavar, action="append", default=[], help=text
        )
    command.add_argument(
        "--protocol", choices=("tcp", "udp", "any"), help="for --port and --ip-port (default: any)"
    )
    command.add_argument("--dry-run", action="store_true", help="say what would be done")
    types.add_confirm_within(command)


def targets(arguments: argparse.Namespace) -> list[tuple[Kind, str]]:
    """Return the canonical targets that the options name.

    Raises:
        UsageError: There is none, or one is malformed.
    """
    found = []
    for _, kind, _, _ in _OPTIONS:
        for text in getattr(arguments, kind.value):
            word = text
            if arguments.protocol and kind in (Kind.PORT, Kind.IP_PORT):
                word = _with_protocol(kind, text, arguments.protocol)
            found.append((kind, target_of(kind, word)))
    if not found:
        raise UsageError(
            "name at least one of --ip, --cidr, --port, --ip-port", hint=f"example: {_EXAMPLE}"
        )
    return list(dict.fromkeys(found))


def _with_protocol(kind: Kind, text: str, protocol: str) -> str:
    plain = text if kind is Kind.PORT else text.rpartition("]")[2].lstrip(":") or text
    colons = plain.count(":") if text.startswith("[") or kind is Kind.PORT else text.count(":") - 1
    if colons > 0:
        raise UsageError(
            f"{text!r} names a protocol already", hint="leave --protocol off, or the protocol there"
        )
    return f"{text}:{protocol}"


def make_rules(arguments: argparse.Namespace) -> list[Rule]:
    """Return the rules that the options of ``network deny add`` mean."""
    operations = DIRECTIONS[arguments.direction] if arguments.direction else None
    return [
        manual_rule(kind, target, operations or default_operations(kind))._replace(
            mode=Mode(arguments.mode), signal=Signal(arguments.signal)
        )
        for kind, target in targets(arguments)
    ]


def add(app: App, arguments: argparse.Namespace) -> int:
    """Deny addresses and ports by hand."""
    rules = make_rules(arguments)
    return add_rules(app, "network deny add", rules, arguments)


def delete(app: App, arguments: argparse.Namespace) -> int:
    """Remove rules by what they name."""
    wanted = targets(arguments)
    types.check_forced(arguments)
    with editing(app, "network deny del") as editor:
        begin(app, editor, arguments)
        rows = list_rows(editor.live, editor.names, NETWORK_KINDS)
        gone = [row for row in rows if (row.kind, row.target) in wanted]
        there = {(row.kind, row.target) for row in gone}
        missing = [target for kind, target in wanted if (kind, target) not in there]
        if arguments.confirm_within and missing and not arguments.missing_ok:
            raise _nothing_for(missing, 0, {"missing": missing})
        more = remove_rows(app, editor, "network deny del", gone, arguments)
    data = {
        "changed": bool(gone),
        "dry_run": arguments.dry_run,
        "removed": [row.to_dict() for row in gone],
        "missing": missing,
        **more,
    }
    if missing and not arguments.missing_ok:
        raise _nothing_for(missing, len(gone), data)
    app.show(data, gone_text(gone, dry_run=arguments.dry_run, pending=bool(more)))
    return 0


def _nothing_for(missing: list[str], removed: int, data: dict[str, object]) -> PolicyError:
    others = f" ({removed} other rules are removed)" if removed else ""
    return PolicyError(
        f"no network rule names {missing[0]}{others}",
        hint="see: aegisbpf network deny list",
        data=data,
    )


def show(app: App, arguments: argparse.Namespace) -> int:
    """List the network rules."""
    del arguments
    return show_rows(
        app,
        NETWORK_KINDS,
        lambda rows: table(
            (r.target, r.kind.value, "+".join(r.to_dict()["operations"]), r.mode, r.hits, r.rule)
            for r in rows
        ),
    )


def clear(app: App, arguments: argparse.Namespace) -> int:
    """Remove all network rules."""
    with editing(app, "network deny clear") as editor:
        if arguments.dry_run:
            count = len(editor.uids_in(NETWORK_KINDS, NETWORK_MAPS))
        else:
            count = editor.clear(NETWORK_KINDS, NETWORK_MAPS)
            record(app, "network deny clear", {"removed": count}, "")
    verb = "dry run, would remove" if arguments.dry_run else "removed"
    text = f"{verb} {count} network rules; file rules and cgroups stay"
    app.show({"changed": count > 0, "removed": count, "dry_run": arguments.dry_run}, text)
    return 0
