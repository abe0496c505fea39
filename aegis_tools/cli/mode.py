"""``aegisbpf mode``."""

from __future__ import annotations

import argparse
from typing import Any

from aegis_tools.cli import types
from aegis_tools.cli.output import App
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.control.posture import MODES, Posture, read_posture
from aegis_tools.errors import UsageError
from aegis_tools.kernel.pins import Pins
from aegis_tools.policy.model import Mode


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("mode", nargs="?", choices=MODES, help="without it: print the mode")
    parser.add_argument("--dry-run", action="store_true", help="only say what would change")
    types.add_confirm_within(parser)
    parser.epilog = (
        "the mode stays over a reboot (aegisbpf boot)\n\n"
        "example: aegisbpf mode enforce --confirm-within 120s"
    )
    parser.set_defaults(run=run)


def run(app: App, arguments: argparse.Namespace) -> int:
    """Print or set the mode."""
    if arguments.confirm_within and arguments.mode is None:
        raise UsageError("--confirm-within needs a mode", hint="see: aegisbpf mode --help")
    types.check_forced(arguments)
    with Live(Pins(app.paths.pins)) as live:
        before = read_posture(live, app.paths)
        if arguments.mode is None:
            app.show(before.to_dict(), f"{before.mode}: {before.meaning}")
            return 0
        if arguments.dry_run:
            return _would(app, live, before, arguments)
        more: dict[str, Any] = {}
        forced: tuple[str, ...] = ()
        with locked(app.paths.lock, command=f"mode {arguments.mode}"):
            if arguments.mode == "enforce":
                forced = check_lockout(app, live, arguments)
            if arguments.confirm_within:
                changed, more = stage(app, live, arguments, forced)
            else:
                changed = change(app, live, arguments.mode)
        after = read_posture(live, app.paths)
        app.show({**after.to_dict(), "changed": changed, **more}, f"{after.mode}: {after.meaning}")
    return 0


def _would(app: App, live: Live, before: Posture, arguments: argparse.Namespace) -> int:
    from aegis_tools.control.fallback import check
    from aegis_tools.control.mode import check_can_enforce

    if arguments.mode == "enforce":
        check(app.paths)
        check_can_enforce(live)
        _lockouts(app, live, arguments)
    changed = arguments.mode != before.mode
    text = f"would change from {before.mode} to {arguments.mode}" if changed else "no change"
    app.show({**before.to_dict(), "would_change": changed}, text)
    return 0


def change(app: App, live: Live, mode: str) -> bool:
    """Set the mode for good, and remember it. The caller holds the lock."""
    from aegis_tools.control.hostmode import switch

    return switch(app.paths, live, Mode(mode))


def change_or_stay(app: App, live: Live, mode: str) -> bool:
    """Set the mode, or say why it stays: a service that starts again must not fail for it.

    The host stays in audit where it is held there, or would lock everybody out, and in whatever a
    change that is not confirmed yet has set. The caller holds the lock.
    """
    from aegis_tools.control.confirm import UnconfirmedError
    from aegis_tools.control.fallback import HeldError
    from aegis_tools.control.unattended import hold_if_locked_out

    try:
        if mode == "enforce":
            hold_if_locked_out(app.paths, live)
        return change(app, live, mode)
    except (HeldError, UnconfirmedError) as error:
        app.note(f"warning: the mode stays {read_posture(live).mode}: {error.message}")
        app.note(f"  next: {error.hint}")
        return False


def check_lockout(app: App, live: Live, arguments: argparse.Namespace) -> tuple[str, ...]:
    """Refuse to enforce live rules that would lock everybody out; return those that are forced."""
    from aegis_tools.control.remember import remember

    forced = _lockouts(app, live, arguments)
    if forced:
        note = f"forced past the lockout proof: {', '.join(forced)}"
        remember(app.paths, "mode", note=note)
    return forced


def _lockouts(app: App, live: Live, arguments: argparse.Namespace) -> tuple[str, ...]:
    from aegis_tools.control.lockout import check
    from aegis_tools.control.names import Names

    found = check.check_live(app.paths, live, Names(live, app.paths).name)
    if not arguments.i_know:
        check.refuse(found)
    return tuple(one.rule for one in found if one.enforce)


def stage(
    app: App, live: Live, arguments: argparse.Namespace, forced: tuple[str, ...]
) -> tuple[bool, dict[str, Any]]:
    """Set the mode until it is confirmed. The caller holds the lock."""
    from aegis_tools.cli import probing
    from aegis_tools.cli.confirm import tell_staged
    from aegis_tools.control import staging
    from aegis_tools.control.fallback import check
    from aegis_tools.control.hostmode import settle_first

    mode, within = arguments.mode, arguments.confirm_within
    wanted = Mode(mode)
    settle_first(app.paths, live)
    if read_posture(live).mode == mode:
        return change(app, live, mode), {}
    if wanted is Mode.ENFORCE:
        check(app.paths)
    worked = probing.before(app, live, arguments, wanted)
    staged = staging.stage_mode(app.paths, live, wanted, within=within, forced=forced)
    probed = probing.after(app, live, worked)
    return True, {**tell_staged(app, staged), **probed}
