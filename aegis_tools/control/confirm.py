"""Commit-confirm: a change that undoes itself unless somebody confirms it in time.

Order of the effects, and what a death after each leaves:
  pending written     the old policy and mode; the record is dropped when it is overdue
  timer armed         the same
  deadline armed      the same; past the deadline in audit, until the record is dropped
  slot, mode          the new ones until the deadline, then audit, then the old ones
  confirmed written   the new ones; whoever looks next finishes the rest
  deadline cleared    the new ones, for good
  current, boot mode  and after a reboot
  pending removed     done

A revert has its own order: policy, mode, deadline, record. Each step can be done again, so one
that died is simply repeated. Nothing enforces in between what neither side would.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

from aegis_tools.control import bootclock, bootstate, capacity, fallback, files, relogin, timer
from aegis_tools.control.bootclock import SYSTEM, Seams
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.control.mode import read_mode, set_mode
from aegis_tools.control.pending import (
    Pending,
    Side,
    overdue,
    read_pending,
    remove_pending,
    write_pending,
)
from aegis_tools.control.remember import remember
from aegis_tools.control.restore import restore
from aegis_tools.control.store import Store
from aegis_tools.errors import AegisError, NotLoadedError, StateError
from aegis_tools.kernel.layout import Config
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Mode

RETRY_NS = 60 * 10**9
"""How long a revert that failed is left alone by those who look once a second."""


@dataclass(frozen=True)
class Reverted:
    """What became of an unconfirmed change.

    Attributes:
        pending: The change.
        why: ``not confirmed in time``, ``reverted by reboot`` …
        finished: It had been confirmed, and is now whole instead of gone.
    """

    pending: Pending
    why: str
    finished: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {
            "reverted": not self.finished,
            "why": self.why,
            "digest": (self.pending.now if self.finished else self.pending.was).digest,
            "mode": (self.pending.now if self.finished else self.pending.was).mode.value,
        }


class UnconfirmedError(StateError):
    """A change waits for its confirmation."""

    code = "unconfirmed"

    def __init__(self, pending: Pending, now_ns: int) -> None:
        super().__init__(
            f"a change is not confirmed yet ({pending.action}, reverts in "
            f"{max(pending.left(now_ns), 0):.0f} s)",
            hint="keep it: aegisbpf policy confirm; or undo it: aegisbpf policy revert",
            data=describe(pending, now_ns),
        )


class ExpiredError(StateError):
    """It is too late to confirm."""

    code = "expired"


def describe(pending: Pending, now_ns: int) -> dict[str, Any]:
    """Return a change as ``--json`` prints it."""
    return {
        "action": pending.action,
        "since": pending.since,
        "deadline_boot_ns": pending.deadline_ns,
        "seconds_left": round(pending.left(now_ns), 3),
        "was": {"digest": pending.was.digest, "mode": pending.was.mode.value},
        "now": {"digest": pending.now.digest, "mode": pending.now.mode.value},
        "failed": pending.failed,
    }


def look(paths: Paths, live: Live | None) -> Pending | None:
    """Return the change that waits, even where its record is gone or damaged.

    Then the kernel's deadline tells that there is one, and what the next boot would apply is what
    it reverts to.

    Raises:
        StateError: The record is damaged and the kernel has no deadline.
    """
    deadline = live.config(Config.DEADLINE) if live is not None else 0
    try:
        pending = read_pending(paths)
    except StateError:
        if not deadline:
            raise
        pending = None
    if pending is not None or not deadline or live is None:
        return pending
    return _lost(paths, live, deadline)


def _lost(paths: Paths, live: Live, deadline: int) -> Pending:
    mode = Mode.AUDIT
    with contextlib.suppress(StateError):
        mode = bootstate.read_boot_state(paths).mode
    current, _ = Store(paths).records()
    was = Side(current.digest, mode, current.serial) if current else Side("", mode)
    info = live.info()
    now = Side(info.bundle.hex() if any(info.bundle) else "", read_mode(live), info.serial)
    return Pending("unknown", 0, bootclock.boot_id(paths), deadline, was, now, lost=True)


def require_settled(paths: Paths, live: Live, *, seams: Seams = SYSTEM) -> Pending | None:
    """Let no change wait before another is made. The caller holds the lock.

    One that is overdue is reverted, one whose confirmation died is finished.

    Returns:
        A change that could not be reverted; whoever replaces all of it calls :func:`forget` then.

    Raises:
        UnconfirmedError: One waits, and has time left.
    """
    try:
        pending = look(paths, live)
    except StateError:  # damaged, and nothing of it in the kernel
        remove_pending(paths)
        return None
    if pending is None:
        return None
    now = seams.boot_ns()
    if not _is_due(paths, pending, now):
        raise UnconfirmedError(pending, now)
    try:
        settle(paths, live, seams=seams)
    except AegisError:
        return pending
    return None


def forget(paths: Paths, live: Live | None, why: str, *, seams: Seams = SYSTEM) -> None:
    """Drop the record of a change that something else has replaced. The caller holds the lock.

    Raises:
        StateError: It cannot be removed.
    """
    if live is not None:
        live.set_config(Config.DEADLINE, 0)
    if files.exists(paths.pending):
        remove_pending(paths)
        timer.disarm(paths, runner=seams.run)
        remember(paths, "policy revert", note=why)


def confirm(paths: Paths, live: Live | None, *, seams: Seams = SYSTEM) -> Pending:
    """Keep the change that waits. The caller holds the lock.

    Returns:
        It.

    Raises:
        ExpiredError: It is too late, or the change was not whole; it is reverted now.
        StateError: Nothing waits; or it is confirmed and could not be recorded, which whoever
            looks next does.
    """
    pending = look(paths, live)
    if pending is None:
        raise StateError(
            "there is nothing to confirm", hint="see what became of it: aegisbpf policy history"
        )
    if not pending.confirmed:
        why = _why_not(paths, live, pending, seams.boot_ns())
        if why:
            revert_now(paths, live, pending, why, seams=seams)
            raise ExpiredError(
                f"cannot confirm: {why}; the host is back to what it was",
                hint="see: aegisbpf policy show; then apply it again",
                data={"was": pending.was.to_dict()},
            )
        pending = replace(pending, confirmed=True)
        write_pending(paths, pending)
    _finish(paths, live, pending, seams)
    return pending


def _why_not(paths: Paths, live: Live | None, pending: Pending, now_ns: int) -> str:
    """Return why a change cannot be confirmed; empty where it can."""
    reasons = {
        "its record is gone": pending.lost,
        "the machine was rebooted": pending.boot_id != bootclock.boot_id(paths),
        "the deadline has passed": overdue(pending, now_ns),
        "nothing is loaded": live is None,
    }
    why = next((text for text, is_so in reasons.items() if is_so), "")
    if why or live is None:
        return why
    if not _has_begun(live, pending) or not _is_live(live, pending.now):
        return "the change is not live"
    if live.info().editing:
        return "the change was cut short"
    cut = read_mode(live) is not pending.now.mode and fallback.read(paths) is None
    return "the change was cut short" if cut else ""


def _is_live(live: Live, side: Side) -> bool:
    return live.info().bundle == bytes.fromhex(side.digest or "00" * 32)


def _has_begun(live: Live, pending: Pending) -> bool:
    """Return whether the kernel knows of the change: its deadline is armed first, cleared last.

    Not so after a reset and a new load, nor where the change died before it touched the kernel.
    """
    return live.config(Config.DEADLINE) == pending.deadline_ns


def _finish(paths: Paths, live: Live | None, pending: Pending, seams: Seams) -> None:
    same_boot = live is not None and pending.boot_id == bootclock.boot_id(paths)
    if live is not None and same_boot:
        live.set_config(Config.DEADLINE, 0)
    if pending.record is not None:
        store = Store(paths)
        store.set_current(pending.record)
        store.prune(live=[pending.now.digest])
    whole = pending.record is not None or pending.boot_mode is not None
    felt = pending.forced if pending.now.mode is Mode.ENFORCE else ()
    sizes = live if same_boot else None
    bootstate.keep(paths, sizes, pending.boot_mode, forced=felt if whole else None)
    remove_pending(paths)
    timer.disarm(paths, runner=seams.run)
    capacity.note(paths, now=seams.wall())
    _remember(paths, pending, "policy confirm", note=pending.action)


def revert(
    paths: Paths,
    live: Live | None,
    *,
    why: str = "by hand",
    seams: Seams = SYSTEM,
) -> Reverted | None:
    """Undo the change that waits, deadline or not. The caller holds the lock.

    Returns:
        What was undone; None where nothing waits.

    Raises:
        AegisError: The old policy cannot be brought back; the host is in audit.
    """
    pending = look_to_revert(paths, live)
    if pending is None:
        return None
    if pending.confirmed:
        _finish(paths, live, pending, seams)
        return Reverted(pending, "its confirmation had begun", finished=True)
    revert_now(paths, live, pending, why, seams=seams)
    return Reverted(pending, why)


def settle(paths: Paths, live: Live | None, *, seams: Seams = SYSTEM) -> Reverted | None:
    """Revert a change whose time is over, finish one that is confirmed; leave any other.

    The caller holds the lock. See :func:`revert`.
    """
    pending = look_to_revert(paths, live)
    if pending is None or not _is_due(paths, pending, seams.boot_ns()):
        return None
    other_boot = pending.boot_id != bootclock.boot_id(paths)
    why = "reverted by reboot" if other_boot else "not confirmed in time"
    return revert(paths, live, why=why, seams=seams)


def look_to_revert(paths: Paths, live: Live | None) -> Pending | None:
    """Return what :func:`look` does; a damaged record without a deadline is dropped."""
    try:
        return look(paths, live)
    except StateError:
        remove_pending(paths)
        remember(paths, "policy revert", note="dropped a damaged record of an unconfirmed change")
        return None


def _is_due(paths: Paths, pending: Pending, now_ns: int) -> bool:
    other_boot = pending.boot_id != bootclock.boot_id(paths)
    return pending.confirmed or other_boot or overdue(pending, now_ns)


def revert_if_overdue(
    paths: Paths, *, seams: Seams = SYSTEM, timeout: float = 10, retry_ns: int = RETRY_NS
) -> Reverted | None:
    """Revert a change whose time is over. Takes the lock only if there is one; cheap without.

    The agent calls it once a second, the timer once, and again while it fails.

    Args:
        paths: Where things are.
        seams: Time and other programs.
        timeout: Seconds to wait for the lock.
        retry_ns: How long a revert that failed is left alone.

    Returns:
        What was undone; None where nothing was overdue.

    Raises:
        AegisError: As :func:`revert`, or the lock is held by somebody else.
    """
    with contextlib.ExitStack() as stack:
        live = _open(paths, stack)
        deadline = live.config(Config.DEADLINE) if live is not None else 0
        if not deadline and not files.exists(paths.pending):
            return None
        pending = _quietly(paths, live)
        now = seams.boot_ns()
        if pending is not None and not _is_due(paths, pending, now):
            return None
        if pending is not None and pending.failed and now - pending.failed_ns < retry_ns:
            return None
        stack.enter_context(locked(paths.lock, command="policy revert", timeout=timeout))
        return settle(paths, live, seams=seams)


def _quietly(paths: Paths, live: Live | None) -> Pending | None:
    with contextlib.suppress(StateError):
        return look(paths, live)
    return None


def _open(paths: Paths, stack: contextlib.ExitStack) -> Live | None:
    try:
        return stack.enter_context(Live(Pins(paths.pins)))
    except NotLoadedError:
        return None


def revert_now(
    paths: Paths,
    live: Live | None,
    pending: Pending,
    why: str,
    *,
    seams: Seams = SYSTEM,
) -> None:
    """Undo a change that was looked up already; see :func:`revert`."""
    same_boot = pending.boot_id == bootclock.boot_id(paths)
    started: list[str] = []
    if (
        live is not None
        and same_boot
        and (_is_live(live, pending.was) or _is_live(live, pending.now))
    ):
        try:
            _revert_kernel(paths, live, pending, seams)
        finally:  # also where the host is only in audit now
            started = relogin.start_failed(paths, runner=seams.run)
    fallback.forget_mode(paths, pending.now.mode, pending.was.mode)
    remove_pending(paths)
    timer.disarm(paths, runner=seams.run)
    again = f"; started again: {', '.join(started)}" if started else ""
    _remember(paths, pending, "policy revert", note=f"{pending.action}: {why}{again}")


def _revert_kernel(paths: Paths, live: Live, pending: Pending, seams: Seams) -> None:
    held = fallback.read(paths) is not None
    mode = Mode.AUDIT if held else pending.was.mode
    if mode is Mode.AUDIT:
        set_mode(live, mode)
    try:
        restore(paths, live, pending.was, now=seams.wall())
    except AegisError as error:
        set_mode(live, Mode.AUDIT)
        _remember_failure(paths, pending, error, seams)
        raise
    live.set_config(Config.MODE, int(mode is Mode.ENFORCE))
    live.set_config(Config.DEADLINE, 0)


def _remember_failure(paths: Paths, pending: Pending, error: AegisError, seams: Seams) -> None:
    with contextlib.suppress(AegisError, OSError):
        if not pending.lost:
            failed = replace(pending, failed=error.message, failed_ns=seams.boot_ns())
            write_pending(paths, failed)
        if not pending.failed:
            note = f"the host is in audit: {error.message}"
            remember(paths, "policy revert", result=error.code, note=note)


def _remember(paths: Paths, pending: Pending, action: str, *, note: str) -> None:
    remember(paths, action, record=pending.record, note=note)
