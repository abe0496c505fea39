"""Carry out a change with GRUB: a drop-in of ours, and a menu that is checked before it counts.

grub-mkconfig writes its output over the menu that GRUB reads, which a power cut makes half a menu.
So it is given a file of ours; only a menu that is what was planned replaces the other, whole.
Whoever runs ``update-grub`` later gets the same from the same settings.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from aegis_tools.control import files
from aegis_tools.control.bootconfig import grub, verify
from aegis_tools.control.bootconfig.facts import MAX_TEXT
from aegis_tools.control.bootconfig.plan import Plan
from aegis_tools.control.bootconfig.record import NotRestoredError
from aegis_tools.errors import AegisError, BootError
from aegis_tools.kernel.run import Runner
from aegis_tools.paths import Paths

Check = Callable[[grub.Menu], None]
"""Raises BootError where a new menu is not what was wanted."""

SECONDS = 300
_TRIES = 3
_DROP_IN, _MENU = "drop-in for GRUB", "menu of GRUB"


def carry_out(paths: Paths, plan: Plan, runner: Runner) -> None:
    """Write or remove our list, and make the menu anew. The caller holds the lock.

    Raises:
        AegisError: It failed, and everything is as it was.
    """

    def check(menu: grub.Menu) -> None:
        verify.check(plan, menu.entries)

    change(paths, paths.grub_drop_in, plan.after.own, check, runner)


def change(paths: Paths, path: Path, text: str | None, check: Check, runner: Runner) -> None:
    """Write or remove one drop-in, and make the menu anew. The caller holds the lock.

    Args:
        paths: Where things are.
        path: The drop-in.
        text: What it is to hold; None to remove it.
        check: Raises where a new menu is not what was wanted.
        runner: Starts grub-mkconfig.

    Raises:
        AegisError: It failed, and everything is as it was.
    """
    before = _Before(path, _read(path, _DROP_IN), _read(paths.grub_menu, _MENU))
    new = None
    try:
        _put_drop_in(path, None if text is None else text.encode())
        new = _checked(paths, check, runner)
        _put_menu(paths, new)
    except BaseException as error:
        _restore(paths, before, new, error)
        raise
    finally:
        forget(paths)


def forget(paths: Paths) -> None:
    """Remove a menu that is not in place, and what grub-mkconfig leaves when it fails."""
    for name in (paths.grub_candidate.name, f"{paths.grub_candidate.name}.new"):
        paths.grub_candidate.with_name(name).unlink(missing_ok=True)


def _checked(paths: Paths, check: Check, runner: Runner) -> bytes:
    """Return a new menu that is what was wanted, made of what is there now."""
    for _ in range(_TRIES):
        before = _read(paths.grub_menu, _MENU)
        forget(paths)
        runner(["grub-mkconfig", "-o", str(paths.grub_candidate)], timeout=SECONDS)
        data = _read(paths.grub_candidate, _MENU) or b""
        check(grub.Menu(data.decode("utf-8", "surrogateescape")))
        if _read(paths.grub_menu, _MENU) == before:
            return data
    raise BootError(
        "somebody else changes the boot configuration all the time",
        hint="wait for it to end, then run the command again; see: ps -ef | grep grub",
    )


def _read(path: Path, what: str) -> bytes | None:
    return files.read_limited(path, MAX_TEXT, what=what, follow=True) if path.exists() else None


def _put_drop_in(path: Path, data: bytes | None) -> None:
    if data is None:
        files.remove(path, what=_DROP_IN)
        return
    path.parent.mkdir(mode=0o755, exist_ok=True)
    files.write_atomic(path, data, what=_DROP_IN, mode=0o644)


def _put_menu(paths: Paths, data: bytes) -> None:
    path = paths.grub_menu.resolve()
    files.write_atomic(path, data, what=_MENU, mode=stat.S_IMODE(path.stat().st_mode))


class _Before(NamedTuple):
    path: Path
    drop_in: bytes | None
    menu: bytes | None


def _restore(paths: Paths, before: _Before, new: bytes | None, cause: BaseException) -> None:
    """Put back what was there; a menu that is not ours was made by somebody else meanwhile."""
    path, drop_in, menu = before
    try:
        if _read(path, _DROP_IN) != drop_in:
            _put_drop_in(path, drop_in)
        if menu not in (None, new) and new == _read(paths.grub_menu, _MENU):
            _put_menu(paths, menu or b"")
    except (AegisError, OSError) as error:
        raise NotRestoredError(
            "the change failed, and the boot configuration could not be put back",
            hint=f"remove /{path.relative_to(paths.root)}, then run: update-grub",
            detail=f"{cause!r}; {error!r}",
        ) from cause
