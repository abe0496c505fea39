"""What commands that change single rules have in common."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from aegis_tools.cli import types
from aegis_tools.cli.output import App, plain
from aegis_tools.cli.reading import read_live
from aegis_tools.control import capacity
from aegis_tools.control.edit import Editor
from aegis_tools.control.files import ensure_folder
from aegis_tools.control.history import Entry, History
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.control.lockout.check import check_added, refuse
from aegis_tools.control.manual import mode_key
from aegis_tools.control.names import Names
from aegis_tools.control.posture import read_posture
from aegis_tools.errors import AegisError, StateError, UsageError
from aegis_tools.kernel.inode_keys import Identifier
from aegis_tools.kernel.layout import uid_of
from aegis_tools.kernel.pins import Pins
from aegis_tools.policy.model import Kind, Mode, Policy, Rule
from aegis_tools.policy.targets import canonical

if TYPE_CHECKING:
    from aegis_tools.control.edit import Added
    from aegis_tools.control.lockout.model import Refusal
    from aegis_tools.control.rows import Row

_T = TypeVar("_T")

UNCONFIRMED = "UNCONFIRMED, keep it: aegisbpf policy confirm"


@contextlib.contextmanager
def editing(app: App, command: str, *, forced: bool = False) -> Iterator[Editor]:
    """Hold the lock and yield an editor of what is live.

    Args:
        app: The command's.
        command: Who holds the lock.
        forced: Leave the lockout proof out.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(app.paths.lock, command=command))
        live = stack.enter_context(Live(Pins(app.paths.pins)))
        yield Editor(
            live,
            Names(live, app.paths),
            lambda: stack.enter_context(Identifier(live.pins)),
            now_ns=time.time_ns(),
            by=os.getuid(),
            check=lambda rules, identify: [] if forced else check_added(app.paths, rules, identify),
        )


def reading(app: App, read: Callable[[Live, Names], _T]) -> _T:
    """Return what ``read`` finds of one policy, without the lock."""
    return read_live(app, lambda live: read(live, Names(live, app.paths)))


def record(
    app: App, action: str, counts: Mapping[str, int], note: str, *, result: str = "ok"
) -> None:
    """Add a line to the history. The caller holds the lock.

    Raises:
        StateError: It cannot be written; what was done is done.
    """
    try:
        ensure_folder(app.paths.state)
        History(app.paths.history).append(
            Entry(
                time=int(time.time()),
                action=action,
                result=result,
                uid=os.getuid(),
                sudo_user=os.environ.get("SUDO_USER", ""),
                counts=counts,
                note=note,
            )
        )
        capacity.note(app.paths, now=time.time())
    except StateError as error:
        raise StateError(
            f"it is done, but could not be written to the history ({error.message})",
            hint=error.hint,
            detail=error.detail,
        ) from error


def target_of(kind: Kind, text: str) -> str:
    """Return a canonical target.

    Raises:
        UsageError: The text is none.
    """
    try:
        return canonical(kind, text)
    except ValueError as error:
        raise UsageError(f"{text!r}: {error}", hint="see the examples of --help") from None


def file_target(text: str) -> tuple[Kind, str]:
    """Return kind and target of a path, a directory (``/x/``) or ``dev:ino``."""
    if text[:1].isdigit():
        return Kind.INODE, target_of(Kind.INODE, text)
    kind = Kind.DIRECTORY if text.endswith("/") else Kind.PATH
    return kind, target_of(kind, text)


def audit_note(live: Live, mode: Mode = Mode.ENFORCE) -> str:
    """Return why a new rule refuses nothing now; empty where it does."""
    posture = read_posture(live)
    if posture.state == "auditing" and mode is Mode.ENFORCE:
        return "mode audit: matches are logged, nothing is refused (aegisbpf mode enforce)"
    if not posture.enforcing:
        return posture.meaning
    return "" if mode is Mode.ENFORCE else "this rule only audits: matches are logged, not refused"


def added_line(one: Added, note: str, *, dry_run: bool, refused: bool = False) -> str:
    """Return a line for one rule of an ``add``.

    Args:
        one: What became of it.
        note: Why nothing is refused now; empty where it is.
        dry_run: Nothing was changed.
        refused: The lockout proof would refuse it.
    """
    if refused:
        return f"dry run, would be refused, and all with it: {plain(one.rule.target)}"
    words = {
        "added": "added" if note else "denied",
        "changed": "changed",
        "unchanged": "already there" if note else "already denied",
        "covered": ("already covered by " if note else "already denied by ")
        + ", ".join(map(plain, one.by)),
    }
    would = "dry run, would be " if dry_run and one.state in ("added", "changed") else ""
    text = f"{would}{words[one.state]}: {plain(one.rule.target)}"
    text += " (audit only: nothing is refused)" if note else ""
    return text + "".join(f" ({plain(problem.message)})" for problem in one.problems)


def begin(app: App, editor: Editor, arguments: argparse.Namespace) -> None:
    """Put right what others left, before anything is looked at. A dry run changes nothing.

    Raises:
        UnconfirmedError: This change is to be confirmed, and another waits.
    """
    if arguments.dry_run:
        return
    if arguments.confirm_within:
        from aegis_tools.control.hostmode import settle_first

        settle_first(app.paths, editor.live)
    editor.heal()


def add_rules(app: App, command: str, rules: Sequence[Rule], arguments: argparse.Namespace) -> int:
    """Make rules by hand live and print what became of each; at least one, all of one mode."""
    dry_run, more = arguments.dry_run, dict[str, Any]()
    types.check_forced(arguments)
    with editing(app, command, forced=arguments.i_know) as editor:
        begin(app, editor, arguments)
        later = dry_run or bool(arguments.confirm_within)
        with _telling_of_a_part(app, editor, command, len(rules)):
            done = editor.add(rules, dry_run=later)
        note = audit_note(editor.live, rules[0].mode)
        made = [one for one in done if one.state in ("added", "changed")]
        if made and not dry_run:
            more = _keep(app, editor, command, made, arguments)
    data = {
        "changed": bool(made),
        "dry_run": dry_run,
        "note": note,
        "problems": warn(app, rules),
        "refusals": warn_of_lockouts(app, editor.refusals),
        "rules": [_added_dict(one) for one in done],
        **more,
    }
    refused = {found.rule for found in editor.refusals if dry_run and found.enforce}
    app.show(
        data,
        lambda: "\n".join(
            added_line(one, note, dry_run=dry_run, refused=one.rule.id in refused) for one in done
        ),
    )
    if note and made and not app.json:
        app.note(note)
    if more and not app.json:
        app.note(UNCONFIRMED)
    return 0


@contextlib.contextmanager
def _telling_of_a_part(app: App, editor: Editor, command: str, wanted: int) -> Iterator[None]:
    """Where an ``add`` ends half-way, write what was added, and say so."""
    try:
        yield
    except BaseException as error:
        if editor.made:
            result = error.code if isinstance(error, AegisError) else "interrupted"
            with contextlib.suppress(StateError):
                note = ", ".join(editor.made)
                record(app, command, {"added": len(editor.made)}, note, result=result)
        if editor.made and isinstance(error, AegisError):
            error.message += f"; {len(editor.made)} of {wanted} rules were added before"
            error.data = {**error.data, "added": editor.made}
        raise


def _keep(
    app: App, editor: Editor, command: str, made: list[Added], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Record rules that were added; or add them now, until that is confirmed."""
    note = ", ".join(one.rule.id for one in made)
    if not arguments.confirm_within:
        record(app, command, {"added": len(made)}, note)
        return {}
    from aegis_tools.cli.confirm import edit_until

    refuse(editor.refusals)
    rules = [one.rule for one in made]
    return edit_until(
        app,
        editor.live,
        arguments,
        lambda: editor.add(rules),
        {uid_of(rule.id) for rule in rules},
        action=command,
        note=note + (f" ({types.FORCE})" if arguments.i_know else ""),
    )


def remove_rows(
    app: App, editor: Editor, command: str, gone: Sequence[Row], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Remove the rules of rows, for good or until that is confirmed."""
    uids, note = {row.uid for row in gone}, ", ".join(row.rule for row in gone)
    if not gone or arguments.dry_run:
        return {}
    if not arguments.confirm_within:
        editor.remove(uids)
        record(app, command, {"removed": len(gone)}, note)
        return {}
    from aegis_tools.cli.confirm import edit_until

    modes = {int.from_bytes(mode_key(row.rule), "little") for row in gone}
    return edit_until(
        app,
        editor.live,
        arguments,
        lambda: editor.remove(uids),
        uids | modes,
        back=uids,
        action=command,
        note=note,
    )


def _added_dict(one: Added) -> dict[str, object]:
    return {
        "rule": one.rule.id,
        "target": one.rule.target,
        "state": one.state,
        "by": list(one.by),
        "problems": [problem.message for problem in one.problems],
    }


def gone_text(gone: Iterable[Row], *, dry_run: bool, pending: bool = False) -> str:
    """Return a line for each row that a ``del`` removed, and whether the policy still has one."""
    verb = "dry run, would remove" if dry_run else "removed"
    lines = [f"{verb}: {plain(row.target)} ({plain(row.rule)})" for row in gone]
    if any(row.source == "policy" for row in gone):
        lines.append("the policy still has it: the next apply brings it back (drift until then)")
    if pending:
        lines.append(UNCONFIRMED)
    return "\n".join(lines or ["nothing to remove"])


def show_rows(
    app: App,
    kinds: Collection[Kind],
    text: Callable[[list[Row]], str],
    order: Callable[[list[Row]], list[Row]] = list,
) -> int:
    """Print the live rules of some kinds, and a note where those of the policy have no name."""
    from aegis_tools.control.rows import list_rows

    rows, note = reading(app, lambda live, names: (list_rows(live, names, kinds), names.problem))
    if note and not app.json:
        app.note(f"note: {note}")
    rows = order(rows)
    app.show({"rules": [row.to_dict() for row in rows], "note": note}, lambda: text(rows))
    return 0


def warn_of_lockouts(app: App, refusals: Iterable[Refusal]) -> list[dict[str, object]]:
    """Tell a person on stderr what was let pass though it locks out, and return it for JSON."""
    found = list(refusals)
    if not app.json:
        for refusal in found:
            app.note(f"warning: {refusal.text()}")
    return [refusal.to_dict() for refusal in found]


def warn(app: App, rules: Iterable[Rule]) -> list[str]:
    """Tell a person on stderr what is dangerous to deny, and return it."""
    from aegis_tools.policy.lint import dangers

    found = [problem.message for problem in dangers(Policy(tuple(rules)))]
    if not app.json:
        for message in found:
            app.note(f"warning: {message}")
    return found
