"""Make a change that has to be confirmed; see control.confirm for what becomes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from aegis_tools.control import bootclock, fallback, timer
from aegis_tools.control.apply import Prepared, accept, make_live
from aegis_tools.control.bootclock import SYSTEM, Seams
from aegis_tools.control.confirm import revert_now
from aegis_tools.control.limits import check_within
from aegis_tools.control.live import Live
from aegis_tools.control.mode import check_can_enforce, read_mode, set_mode
from aegis_tools.control.pending import Pending, Side, write_pending
from aegis_tools.control.remember import remember
from aegis_tools.control.restore import removed_by_hand
from aegis_tools.control.store import Store
from aegis_tools.errors import AegisError, StateError
from aegis_tools.kernel.layout import Config, ManualRule
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Mode


@dataclass(frozen=True)
class Staged:
    """A change that is live and waits for its confirmation.

    Attributes:
        pending: The change.
        no_timer: Why no timer will revert it; empty where one will.
    """

    pending: Pending
    no_timer: str


def stage(
    paths: Paths,
    live: Live,
    prepared: Prepared,
    *,
    within: int,
    action: str,
    mode: Mode | None = None,
    seams: Seams = SYSTEM,
) -> Staged:
    """Make a policy live until the deadline. The caller holds the lock and has settled.

    Args:
        paths: Where things are.
        live: The loaded maps.
        prepared: What is to be live.
        within: Seconds to wait for the confirmation, counted from before the commit.
        action: The command, for the history.
        mode: The host's mode with it; None to leave it.
        seams: Time and other programs.

    Raises:
        PolicyError, KernelError, StateError: What was live still is, or is again.
    """
    record = accept(paths, prepared)
    kept = prepared.rules.maps["manual_rules"]
    dropped = [r for uid, r in live.manual_rules().items() if uid.to_bytes(8, "little") not in kept]
    was = _present(paths, live, tuple(dropped))
    now = Side(record.digest, mode or was.mode, record.serial)
    pending = _make(paths, action, (was, now), within, seams)
    pending = replace(pending, record=record, boot_mode=mode, forced=prepared.forced)

    def change() -> None:
        make_live(live, prepared, mode)

    note = prepared.source.note
    return _begin(paths, live, pending, change, note=note, seams=seams)


def stage_mode(
    paths: Paths,
    live: Live,
    mode: Mode,
    *,
    within: int,
    action: str = "mode",
    forced: tuple[str, ...] = (),
    seams: Seams = SYSTEM,
) -> Staged:
    """Set the mode until the deadline, ``forced`` past the lockout proof; see :func:`stage`."""
    if mode is Mode.ENFORCE:
        check_can_enforce(live)
    Store(paths).prepare()
    was = _present(paths, live, ())
    made = _make(paths, action, (was, replace(was, mode=mode)), within, seams)
    pending = replace(made, boot_mode=mode, forced=forced)
    note = f"{was.mode.value} -> {mode.value}"
    change = lambda: set_mode(live, mode)  # noqa: E731
    return _begin(paths, live, pending, change, note=note, seams=seams)


def stage_records(
    paths: Paths,
    live: Live,
    change: Callable[[], object],
    keys: Collection[int],
    *,
    back: Collection[int] = (),
    within: int,
    action: str,
    note: str,
    seams: Seams = SYSTEM,
) -> Staged:
    """Edit single rules by hand until the deadline; see :func:`stage`.

    Args:
        paths: Where things are.
        live: The loaded maps.
        change: Does it.
        keys: Under which the kernel keeps the records that it makes, alters or removes.
        back: Uids of the policy's rules that it removes.
        within: Seconds to wait for the confirmation.
        action: The command, for the history.
        note: What is done, for the history.
        seams: Time and other programs.
    """
    Store(paths).prepare()
    records = live.manual_rules()
    now = _present(paths, live, ())
    manual = tuple(records[key] for key in keys if key in records)
    was = replace(now, manual=manual, absent=frozenset(keys), back=frozenset(back))
    pending = _make(paths, action, (was, now), within, seams)
    return _begin(paths, live, pending, change, note=note, seams=seams)


def _make(
    paths: Paths, action: str, sides: tuple[Side, Side], within: int, seams: Seams
) -> Pending:
    return Pending(
        action=action,
        since=int(seams.wall()),
        boot_id=bootclock.boot_id(paths),
        deadline_ns=seams.boot_ns() + check_within(within) * 10**9,
        was=sides[0],
        now=sides[1],
    )


def _present(paths: Paths, live: Live, dropped: tuple[ManualRule, ...]) -> Side:
    info = live.info()
    digest = info.bundle.hex() if any(info.bundle) else ""
    removed = removed_by_hand(live, Store(paths))
    return Side(digest, read_mode(live), info.serial, dropped, frozenset(removed))


def _begin(
    paths: Paths,
    live: Live,
    pending: Pending,
    change: Callable[[], object],
    *,
    note: str,
    seams: Seams,
) -> Staged:
    if pending.now.mode is Mode.ENFORCE:
        fallback.check(paths)
    write_pending(paths, pending)
    try:
        seconds = pending.left(seams.boot_ns())
        no_timer = timer.arm(paths, seconds, runner=seams.run)
        live.set_config(Config.DEADLINE, pending.deadline_ns)
        change()
        words = f"unconfirmed, reverts in {max(seconds, 0):.0f} s"
        text = f"{words}; {note}" if note else words
        remember(paths, pending.action, record=pending.record, note=text)
    except BaseException as error:
        with contextlib.suppress(AegisError, OSError):
            revert_now(paths, live, pending, "it could not be made live", seams=seams)
        if isinstance(error, StateError):
            raise StateError(
                f"the change was undone, because it could not be recorded: {error.message}",
                hint="does it deny this program its own files? see: aegisbpf policy plan FILE",
                detail=error.detail,
            ) from error
        raise
    return Staged(pending, no_timer)
