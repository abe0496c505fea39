"""``aegisbpf block``: files denied by hand, and what can be removed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from aegis_tools.cli import types
from aegis_tools.cli.editing import (
    add_rules,
    begin,
    editing,
    file_target,
    gone_text,
    record,
    remove_rows,
    show_rows,
)
from aegis_tools.cli.output import App, plain
from aegis_tools.errors import PolicyError, UsageError
from aegis_tools.policy.model import MAX_DEPTH, OPEN_OPS, Kind, Mode, Op, Rule, Signal
from aegis_tools.policy.targets import FILE_KINDS

if TYPE_CHECKING:
    from aegis_tools.control.edit import Editor
    from aegis_tools.control.rows import Row

SORTS = ("path", "id", "hits", "access-time")


def build(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    parser.epilog = "example: aegisbpf block add /srv/secrets/ --dry-run"
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=type(parser))
    _build_add(commands)
    _build_del(commands)
    _build_list(commands)
    command = commands.add_parser(
        "clear",
        help="remove every file rule that is live; network rules and cgroups stay",
        epilog="example: aegisbpf block clear && aegisbpf policy apply /etc/aegisbpf/policy.conf",
    )
    _dry_run(command)
    command.set_defaults(run=clear)
    _build_stale(commands)


def _dry_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dry-run", action="store_true", help="say what would be done")


def _targets(command: argparse.ArgumentParser, more: str) -> None:
    command.add_argument("paths", metavar="PATH", nargs="*", help=f"absolute path{more}")
    command.add_argument(
        "--inode", metavar="D:I", action="append", default=[], help="device and inode number"
    )


def _build_add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "add",
        help="deny files, directories (trailing slash) or inodes",
        epilog="example: aegisbpf block add /etc/crontab /srv/secrets/ --operations read,write",
    )
    _targets(command, "; the file need not exist, its directory must; /srv/x/ covers a directory")
    command.add_argument(
        "--operations", metavar="OPS", help="of read,write,exec,modify (default: read,write,exec)"
    )
    command.add_argument("--mode", choices=("audit", "enforce"), default="enforce")
    command.add_argument("--signal", choices=[s.value for s in Signal], default="none")
    command.add_argument(
        "--depth", type=int, default=0, metavar="N",
        help=f"directories only: levels below that are covered, 1 to {MAX_DEPTH}",
    )  # fmt: skip
    _dry_run(command)
    types.add_confirm_within(command)
    command.set_defaults(run=add)


def _build_del(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "del",
        help="remove every rule for a path or inode, the policy's too (until the next apply)",
        epilog="example: aegisbpf block list | grep ^/srv/ | aegisbpf block del -",
    )
    _targets(command, ", D:I, or - for one a line on stdin")
    command.add_argument("--missing-ok", action="store_true", help="no rule is no error")
    _dry_run(command)
    types.add_confirm_within(command)
    command.set_defaults(run=delete)


def _build_list(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "list",
        help="one path (or D:I) a line",
        epilog="example: aegisbpf block list --sort-by=access-time --last-accessed",
    )
    command.add_argument(
        "--sort-by", choices=SORTS, default="path",
        help="access-time: most recent first, never used last; hits: most first",
    )  # fmt: skip
    command.add_argument(
        "--last-accessed", action="store_true", help="add a tab and the time of the last match"
    )
    command.set_defaults(run=show)


def _build_stale(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from aegis_tools.control.stale_classes import CLASSES

    explained = "\n".join(f"  {name.ljust(16)}{text}" for name, text in CLASSES.items())
    command = commands.add_parser(
        "clear-stale",
        help="remove rules and entries that match nothing any more",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Removes, and says of each why:\n{explained}\nWhat is removed goes to a "
        "file from which `aegisbpf block restore` brings it back.",
        epilog="example: aegisbpf block clear-stale --older-than 7d --dry-run",
    )
    command.add_argument(
        "--older-than", metavar="TIME", help="also rules not hit for 30m, 12h, 7d, 4w"
    )
    command.add_argument("--undo", metavar="FILE", type=types.path, help="put back what FILE lists")
    _dry_run(command)
    command.set_defaults(run=_lazily("clear_stale"))
    command = commands.add_parser(
        "restore",
        help="put back what clear-stale removed",
        epilog="example: aegisbpf block restore /var/lib/aegisbpf/undo/NAME.json",
    )
    command.add_argument("undo", metavar="UNDOFILE", type=types.path)
    _dry_run(command)
    command.set_defaults(run=_lazily("restore"))


def _lazily(name: str):  # type: ignore[no-untyped-def]
    def call(app: App, arguments: argparse.Namespace) -> int:
        from aegis_tools.cli import stale

        return int(getattr(stale, name)(app, arguments))

    return call


def _given(arguments: argparse.Namespace) -> list[tuple[Kind, str]]:
    words: list[str] = []
    for word in arguments.paths:
        if word == "-":
            words += [line.rstrip("\n") for line in sys.stdin if line.strip()]
        else:
            words.append(word)
    found = [file_target(word) for word in words]
    found += [file_target(word) if word[:1].isdigit() else _no_inode(word)
              for word in arguments.inode]  # fmt: skip
    if not found and "-" not in arguments.paths:
        raise UsageError("name a path, or --inode D:I", hint="see: aegisbpf block --help")
    return list(dict.fromkeys(found))


def _no_inode(word: str) -> tuple[Kind, str]:
    raise UsageError(
        f"{word!r}: an inode is written dev:ino", hint="example: aegisbpf block del --inode 2049:17"
    )


def make_rules(arguments: argparse.Namespace) -> list[Rule]:
    """Return the rules that the options of ``block add`` mean.

    Raises:
        UsageError: They mean none.
    """
    from aegis_tools.control.manual import manual_rule

    operations: Op = OPEN_OPS
    if arguments.operations is not None:
        from aegis_tools.control.rows import file_operations

        try:
            operations = file_operations(arguments.operations)
        except ValueError as error:
            raise UsageError(str(error), hint="example: --operations read,write") from None
    targets = _given(arguments)
    if arguments.depth and (
        not 0 < arguments.depth <= MAX_DEPTH
        or any(kind is not Kind.DIRECTORY for kind, _ in targets)
    ):
        raise UsageError(
            f"--depth is from 1 to {MAX_DEPTH}, and for directories only",
            hint="example: aegisbpf block add /srv/secrets/ --depth 2",
        )
    return [
        manual_rule(kind, target, operations)._replace(
            mode=Mode(arguments.mode), signal=Signal(arguments.signal), depth=arguments.depth
        )
        for kind, target in targets
    ]


def add(app: App, arguments: argparse.Namespace) -> int:
    """Deny files by hand."""
    rules = make_rules(arguments)
    return add_rules(app, "block add", rules, arguments)


def delete(app: App, arguments: argparse.Namespace) -> int:
    """Remove rules by what they name."""
    from aegis_tools.control.rows import list_rows

    targets = [target for _, target in _given(arguments)]
    types.check_forced(arguments)
    with editing(app, "block del") as editor:
        begin(app, editor, arguments)
        gone = list_rows(editor.live, editor.names, FILE_KINDS, set(targets))
        missing = _missing(editor, targets, gone)
        near = _near(editor, missing)
        if arguments.confirm_within and missing and not arguments.missing_ok:
            raise _nothing_for(missing, near, [], {"missing": missing})
        more = remove_rows(app, editor, "block del", gone, arguments)
        problem = editor.names.problem
    data = {
        "changed": bool(gone),
        "dry_run": arguments.dry_run,
        "removed": [row.to_dict() for row in gone],
        "missing": missing,
        "note": problem,
        **more,
    }
    if missing and not arguments.missing_ok:
        raise _nothing_for(missing, near, gone, data)
    app.show(data, lambda: gone_text(gone, dry_run=arguments.dry_run, pending=bool(more)))
    return 0


def _missing(editor: Editor, targets: Iterable[str], gone: list[Row]) -> list[str]:
    """Return the targets that no row answers, a number being answered by a path's row too."""
    from aegis_tools.control.rows import list_rows

    there = {row.target for row in gone}
    return [
        target
        for target in targets
        if target not in there
        and (
            target.startswith("/") or not list_rows(editor.live, editor.names, FILE_KINDS, {target})
        )
    ]


def _near(editor: Editor, missing: Iterable[str]) -> list[str]:
    """Return targets of rules that differ from missing ones by the slash at the end only."""
    known = {rule.target for rule in editor.names.all().values()} if missing else set()
    turned = (m.rstrip("/") if m.endswith("/") else f"{m}/" for m in missing)
    return [target for target in turned if target in known]


def _nothing_for(
    missing: list[str], near: list[str], gone: list[Row], data: dict[str, object]
) -> PolicyError:
    others = f" ({len(gone)} other rules are removed)" if gone else ""
    return PolicyError(
        f"no file rule names {missing[0]}"
        + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
        + others,
        hint=f"did you mean: aegisbpf block del {near[0]}" if near else "see: aegisbpf block list",
        data=data,
    )


def show(app: App, arguments: argparse.Namespace) -> int:
    """List the file rules."""
    return show_rows(
        app,
        FILE_KINDS,
        lambda rows: "\n".join(_lines(rows, times=arguments.last_accessed)),
        lambda rows: sort_rows(rows, arguments.sort_by),
    )


def sort_rows(rows: Iterable[Row], by: str) -> list[Row]:
    """Return rows in the order of ``--sort-by``; equal ones by target."""
    keys = {
        "path": lambda row: (row.target, row.rule),
        "id": lambda row: (row.rule, row.target),
        "hits": lambda row: (-row.hits, row.target),
        "access-time": lambda row: (-row.last, row.target),
    }
    return sorted(rows, key=keys[by])


def _lines(rows: Iterable[Row], *, times: bool) -> Iterable[str]:
    """Return one line a target: where several rules name it, of the one sorted first."""
    from aegis_tools.control.rows import moment

    last: dict[str, float] = {}
    for row in rows:
        last[row.target] = max(row.last, last.get(row.target, 0))
    for name, when in last.items():
        target = plain(name)
        yield f"{target}\t{moment(when) if when else 'never'}" if times else target


def clear(app: App, arguments: argparse.Namespace) -> int:
    """Remove all file rules."""
    from aegis_tools.control.merge import FILE_MAPS

    with editing(app, "block clear") as editor:
        if arguments.dry_run:
            count = len(editor.uids_in(FILE_KINDS, FILE_MAPS))
        else:
            count = editor.clear(FILE_KINDS, FILE_MAPS)
            record(app, "block clear", {"removed": count}, "")
        from_policy = any(editor.live.info().bundle)
    verb = "dry run, would remove" if arguments.dry_run else "removed"
    text = f"{verb} {count} file rules; network rules and cgroups stay"
    if count and from_policy:
        text += "\nthe policy still has its own: the next apply brings them back"
    app.show({"changed": count > 0, "removed": count, "dry_run": arguments.dry_run}, text)
    return 0
