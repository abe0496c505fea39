"""Set the host's mode for good: in the kernel now, and on every boot to come."""

from __future__ import annotations

from dataclasses import replace

from aegis_tools.control import bootstate, fallback
from aegis_tools.control.bootclock import SYSTEM, Seams
from aegis_tools.control.confirm import UnconfirmedError, look_to_revert, require_settled
from aegis_tools.control.live import Live
from aegis_tools.control.mode import read_mode, set_mode
from aegis_tools.control.pending import write_pending
from aegis_tools.control.remember import remember
from aegis_tools.errors import StateError
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Mode


def switch(
    paths: Paths, live: Live, mode: Mode, *, action: str = "mode", seams: Seams = SYSTEM
) -> bool:
    """Set the mode; return whether it was another. The caller holds the lock.

    Audit is set first and recorded afterwards, whatever else is going on: neither the confirmation
    nor the revert of a change that waits brings enforce back then, nor does ``resume``.

    Raises:
        KernelError: ``enforce`` was asked for where nothing can be refused.
        HeldError: ``enforce`` was asked for while the host is held in audit.
        UnconfirmedError: ``enforce`` was asked for while a change waits for its confirmation.
        StateError: The mode is set, but could not be recorded.
    """
    before = read_mode(live)
    if mode is Mode.ENFORCE:
        fallback.check(paths)
        settle_first(paths, live, seams=seams)
        changed = set_mode(live, mode)
    else:
        changed = set_mode(live, mode)
        _no_way_back(paths, live)
        fallback.forget_mode(paths, Mode.ENFORCE, mode)
    try:
        # What was forced past the proof once has to be forced again.
        bootstate.keep(paths, live, mode, forced=None if mode is Mode.ENFORCE else ())
    except StateError as error:
        raise StateError(
            f"the mode is {mode.value} now, but could not be recorded: a reboot brings the old one "
            f"({error.message})",
            hint=error.hint,
            detail=error.detail,
        ) from error
    if changed:
        remember(paths, action, note=f"{before.value} -> {mode.value}")
    return changed


def settle_first(paths: Paths, live: Live, *, seams: Seams = SYSTEM) -> None:
    """Let no change wait, nor one be left that cannot be reverted. The caller holds the lock.

    Raises:
        UnconfirmedError: There is one.
    """
    left = require_settled(paths, live, seams=seams)
    if left is not None:
        raise UnconfirmedError(left, seams.boot_ns())


def _no_way_back(paths: Paths, live: Live) -> None:
    pending = look_to_revert(paths, live)
    if pending is None or pending.lost or pending.confirmed:
        return
    sides = (replace(side, mode=Mode.AUDIT) for side in (pending.was, pending.now))
    was, now = sides
    boot_mode = Mode.AUDIT if pending.boot_mode else None
    write_pending(paths, replace(pending, was=was, now=now, boot_mode=boot_mode))
