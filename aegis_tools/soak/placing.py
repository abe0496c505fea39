"""Putting the canary and its rule in place, and away: seldom done, and costly to import."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aegis_tools.control import files, manual
from aegis_tools.control.edit import Editor
from aegis_tools.control.live import Live
from aegis_tools.control.names import Names
from aegis_tools.control.remember import try_to_remember
from aegis_tools.errors import NotLoadedError
from aegis_tools.kernel.inode_keys import Identifier
from aegis_tools.kernel.layout import uid_of
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Kind, Op, Rule
from aegis_tools.soak.canary import is_placed, path_of

TEXT = b"This file is tried by every turn of a soak; a rule denies it.\n"
_WHAT = "file that a soak tries"


def rule(folder: Path) -> Rule:
    """Return the rule that denies the canary of a soak."""
    return manual.manual_rule(Kind.PATH, str(path_of(folder)), Op.READ)


def place(paths: Paths, folder: Path) -> bool:
    """Make the file and its rule whole; return whether anything of the rule was missing.

    The caller holds the lock of the kernel's state. No proof is asked for that it locks nobody
    out: nobody but the soak has use for the file.

    Raises:
        AegisError: Nothing is loaded, or the kernel refused.
    """
    if not path_of(folder).is_file():
        files.write_atomic(path_of(folder), TEXT, what=_WHAT)
    wanted = rule(folder)
    with _editing(paths) as editor:
        missing = editor.add((wanted,))[0].state != "unchanged"
    if missing:
        try_to_remember(paths, "soak", f"made {wanted.id}")
    return missing


def remove(paths: Paths, folder: Path) -> None:
    """Take the rule away, then the file; nothing is no error.

    The caller holds the lock of the kernel's state.

    Raises:
        AegisError: The kernel refused.
    """
    wanted = rule(folder)
    try:
        with _editing(paths) as editor:
            if is_placed(editor.live, wanted.id):
                editor.remove({uid_of(wanted.id)})
                try_to_remember(paths, "soak", f"removed {wanted.id}")
    except NotLoadedError:
        pass
    files.remove(path_of(folder), what=_WHAT)


@contextmanager
def _editing(paths: Paths) -> Iterator[Editor]:
    with Live(Pins(paths.pins)) as live, Identifier(live.pins) as identify:
        names, by = Names(live, paths), os.getuid()
        yield Editor(live, names, lambda: identify, now_ns=time.time_ns(), by=by)
