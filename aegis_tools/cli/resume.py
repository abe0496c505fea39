"""``aegisbpf resume``."""

from __future__ import annotations

import argparse
import contextlib

from aegis_tools.cli.output import App
from aegis_tools.control import fallback, starts
from aegis_tools.control.hostmode import settle_first
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.control.unattended import check_lockout
from aegis_tools.errors import NotLoadedError
from aegis_tools.kernel.pins import Pins


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.epilog = (
        "A host falls back to audit when its agent crashes again and again, or denies more than\n"
        "its threshold; and at boot where its policy would lock everybody out by now. It stays\n"
        "there until this command, which is refused while the policy still would.\n\n"
        "example: aegisbpf resume"
    )
    parser.set_defaults(run=run)


def run(app: App, arguments: argparse.Namespace) -> int:
    """Set the mode that was set before the host fell back to audit."""
    if arguments.dry_run:
        found = fallback.read(app.paths)
        text = f"dry run, would set mode {found.mode_before.value}" if found else _NOTHING
        app.show({"dry_run": True, "fallback": found.to_dict() if found else None}, text)
        return 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(app.paths.lock, command="resume"))
        try:
            live: Live | None = stack.enter_context(Live(Pins(app.paths.pins)))
        except NotLoadedError:
            live = None
        if live is not None and fallback.read(app.paths) is not None:
            settle_first(app.paths, live)
            check_lockout(app.paths, live)
        found = fallback.leave(app.paths, live)
        if found is not None:
            starts.forget(app.paths)
    if found is None:
        app.show({"resumed": False}, _NOTHING)
        return 0
    text = f"resumed: mode {found.mode_before.value}; it was held: {found.meaning}"
    if live is None:
        text = f"the host is not held any more ({found.meaning}); nothing is loaded"
    app.show({"resumed": True, "mode": found.mode_before.value, **found.to_dict()}, text)
    return 0


_NOTHING = "nothing to resume: the host is not held in audit"
