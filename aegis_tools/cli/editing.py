"""What commands that change single rules have in common."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from aegis_tools.cli.output import App
from aegis_tools.cli.reading import read_live
from aegis_tools.control.edit import Editor
from aegis_tools.control.files import ensure_folder
from aegis_tools.control.history import Entry, History
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.control.names import Names
from aegis_tools.errors import StateError, UsageError
from aegis_tools.kernel.inode_keys import Identifier
from aegis_tools.kernel.layout import Config
from aegis_tools.kernel.pins import Pins
from aegis_tools.policy.model import Kind, Mode
from aegis_tools.policy.targets import canonical

_T = TypeVar("_T")


@contextlib.contextmanager
def editing(app: App, command: str) -> Iterator[Editor]:
    """Hold the lock and yield an editor of what is live."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(app.paths.lock, command=command))
        live = stack.enter_context(Live(Pins(app.paths.pins)))
        yield Editor(
            live,
            Names(live, app.paths),
            lambda: stack.enter_context(Identifier(live.pins)),
            now_ns=time.time_ns(),
            by=os.getuid(),
        )


def reading(app: App, read: Callable[[Live, Names], _T]) -> _T:
    """Return what ``read`` finds of one policy, without the lock."""
    return read_live(app, lambda live: read(live, Names(live, app.paths)))


def record(app: App, action: str, counts: Mapping[str, int], note: str) -> None:
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
                uid=os.getuid(),
                sudo_user=os.environ.get("SUDO_USER", ""),
                counts=counts,
                note=note,
            )
        )
    except StateError as error:
        raise StateError(
            "it is done, but could not be written to the history",
            hint=error.hint,
            detail=f"{error.message} {error.detail}",
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
    """Return why a new rule refuses nothing yet; empty where it does."""
    if live.pins.is_fallback():
        return "AUDIT FALLBACK: nothing can be refused on this boot"
    if mode is Mode.ENFORCE and not live.config(Config.MODE):
        return "mode audit: matches are logged, nothing is refused (aegisbpf mode enforce)"
    return ""
