"""``aegisbpf mode``."""

from __future__ import annotations

import argparse

from aegis_tools.cli.output import App
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.control.mode import set_mode
from aegis_tools.control.posture import MODES, read_posture
from aegis_tools.kernel.pins import Pins
from aegis_tools.policy.model import Mode


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("mode", nargs="?", choices=MODES, help="without it: print the mode")
    parser.add_argument("--dry-run", action="store_true", help="only say what would change")
    parser.epilog = "example: aegisbpf mode audit"
    parser.set_defaults(run=run)


def run(app: App, arguments: argparse.Namespace) -> int:
    """Print or set the mode."""
    with Live(Pins(app.paths.pins)) as live:
        before = read_posture(live)
        if arguments.mode is None:
            app.show(before.to_dict(), f"{before.mode}: {before.meaning}")
            return 0
        if arguments.dry_run:
            changed = arguments.mode != before.mode
            text = (
                f"would change from {before.mode} to {arguments.mode}" if changed else "no change"
            )
            app.show({**before.to_dict(), "would_change": changed}, text)
            return 0
        with locked(app.paths.lock, command=f"mode {arguments.mode}"):
            changed = change(app, live, arguments.mode)
        after = read_posture(live)
        app.show({**after.to_dict(), "changed": changed}, f"{after.mode}: {after.meaning}")
    return 0


def change(app: App, live: Live, mode: str) -> bool:
    """Set the mode and remember it. The caller holds the lock."""
    from aegis_tools.control.remember import remember

    before = read_posture(live).mode
    changed = set_mode(live, Mode(mode))
    if changed:
        remember(app.paths, "mode", note=f"{before} -> {mode}")
    return changed
