"""``aegisbpf policy confirm`` and ``policy revert``."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

from aegis_tools.cli.output import App
from aegis_tools.control import confirm as control
from aegis_tools.control.bootclock import boot_ns
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.control.pending import Pending
from aegis_tools.control.posture import read_posture
from aegis_tools.control.staging import Staged, stage_records
from aegis_tools.errors import NotLoadedError
from aegis_tools.kernel.pins import Pins


def confirm(app: App, arguments: argparse.Namespace) -> int:
    """Keep the change that waits for its confirmation."""
    with _live(app) as live:
        if arguments.dry_run:
            return _would(app, control.look(app.paths, live), "confirm")
        with locked(app.paths.lock, command="policy confirm"):
            kept = control.confirm(app.paths, live)
        state = _state(app, live)
    facts = {"confirmed": True, "action": kept.action, "digest": kept.now.digest, **state}
    app.show(facts, f"confirmed: {kept.action}; {state['summary']}")
    return 0


def revert(app: App, arguments: argparse.Namespace) -> int:
    """Undo the change that waits for its confirmation."""
    with _live(app) as live:
        if arguments.dry_run:
            return _would(app, control.look(app.paths, live), "revert")
        if arguments.if_overdue:
            done = control.revert_if_overdue(app.paths, retry_ns=0)
        else:
            with locked(app.paths.lock, command="policy revert"):
                done = control.revert(app.paths, live)
        state = _state(app, live)
    if done is None:
        text = "nothing is overdue" if arguments.if_overdue else "nothing waits for a confirmation"
        app.show({"reverted": False, **state}, f"{text}; {state['summary']}")
        return 0
    verb = "kept" if done.finished else "reverted"
    text = f"{verb}: {done.pending.action} ({done.why}); {state['summary']}"
    app.show({**done.to_dict(), **state}, text)
    return 0


@contextlib.contextmanager
def _live(app: App) -> Iterator[Live | None]:
    """Yield the loaded maps; None where nothing is loaded, and then there is a record at most."""
    with contextlib.ExitStack() as stack:
        try:
            live: Live | None = stack.enter_context(Live(Pins(app.paths.pins)))
        except NotLoadedError:
            live = None
        yield live


def _would(app: App, pending: Pending | None, verb: str) -> int:
    if pending is None:
        app.show({"dry_run": True, "pending": None}, "dry run: nothing waits for a confirmation")
        return 0
    facts = control.describe(pending, boot_ns())
    side = pending.now if verb == "confirm" else pending.was
    what = f"policy {side.digest[:16] or 'none'}, mode {side.mode.value}"
    text = f"dry run, would {verb}: {pending.action}, {facts['seconds_left']:.0f} s left; {what}"
    app.show({"dry_run": True, "pending": facts}, text)
    return 0


def _state(app: App, live: Live | None) -> dict[str, Any]:
    if live is None:
        return {"loaded": False, "summary": "nothing is loaded"}
    posture = read_posture(live, app.paths)
    summary = f"mode {posture.mode}: {posture.meaning}"
    return {"loaded": True, **posture.to_dict(), "summary": summary}


def tell_staged(app: App, staged: Staged) -> dict[str, Any]:
    """Say on stderr what must be known of an unconfirmed change, and return it for ``--json``."""
    if staged.no_timer and not app.json:
        app.note(
            f"warning: no timer ({staged.no_timer}): when the time is over nothing is refused, but "
            "the old policy comes back only with a running agent, or: aegisbpf policy revert"
        )
    facts = control.describe(staged.pending, boot_ns())
    return {"pending": facts, "timer": not staged.no_timer, "no_timer": staged.no_timer}


def edit_until(
    app: App,
    live: Live,
    arguments: argparse.Namespace,
    change: Callable[[], object],
    keys: Collection[int],
    *,
    back: Collection[int] = (),
    action: str,
    note: str,
) -> dict[str, Any]:
    """Edit rules by hand until the change is confirmed; return what ``--json`` says of it.

    The caller holds the lock and has settled; see ``staging.stage_records``.

    Raises:
        ProbeError: Afterwards nobody could log in any more, or the like; the change is undone.
    """
    from aegis_tools.cli import probing

    worked = probing.before(app, live, arguments, None)
    staged = stage_records(
        app.paths,
        live,
        change,
        keys,
        back=back,
        within=arguments.confirm_within,
        action=action,
        note=note,
    )
    return {**tell_staged(app, staged), **probing.after(app, live, worked)}
