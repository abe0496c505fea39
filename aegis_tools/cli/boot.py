"""``aegisbpf boot``."""

from __future__ import annotations

import argparse

from aegis_tools.cli.load import add_size_options, size_options
from aegis_tools.cli.output import App, plain
from aegis_tools.control import boot as control
from aegis_tools.control.lock import locked
from aegis_tools.kernel import loader
from aegis_tools.kernel.features import check_enabled, mount_securityfs, read_host_features


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_size_options(parser)
    parser.add_argument(
        "--allow-unsigned", action="store_true", help="although this host asks for signatures"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.epilog = (
        "Loads, applies the stored policy after verifying it, and sets the mode that was set for\n"
        "good. A change that was not confirmed before the reboot is dropped. Harmless where it\n"
        "was done before. Where the policy cannot be used, nothing is denied.\n\n"
        "example: aegisbpf boot"
    )
    parser.set_defaults(run=run)


def run(app: App, arguments: argparse.Namespace) -> int:
    """Do what is done at boot."""
    features = read_host_features(app.paths.root)
    check_enabled(features)
    if arguments.dry_run:
        return _would(app)
    mount_securityfs()
    features = read_host_features(app.paths.root)
    given = size_options(arguments)
    asked = None if given == loader.LoadOptions() else given
    with locked(app.paths.lock, command="boot"):
        booted = control.boot(
            app.paths, features, asked=asked, allow_unsigned=arguments.allow_unsigned
        )
    if not app.json:
        for note in booted.notes:
            app.note(f"warning: {note}")
    app.show(booted.to_dict(), lambda: as_text(booted))
    return 0


def as_text(booted: control.Booted) -> str:
    """Return what a boot led to, a line a fact."""
    lines = ["loaded" if booted.loaded.fresh else "already loaded"]
    if booted.loaded.fallback:
        why = f" ({booted.loaded.reason})" if booted.loaded.reason else ""
        lines.append(f"AUDIT FALLBACK: nothing can be refused{why}")
    lines.append(f"policy: {plain(booted.name)} {booted.digest[:16]}" if booted.digest else
                 "policy: none is stored")  # fmt: skip
    lines.append(f"mode: {booted.mode.value}")
    if booted.held:
        lines.append(f"HELD IN AUDIT, {booted.held}: aegisbpf resume")
    if booted.pending is not None:
        lines.append("a change of this boot is UNCONFIRMED and left alone: aegisbpf policy confirm")
    return "\n".join(lines)


def _would(app: App) -> int:
    facts = control.foresee(app.paths)
    text = f"dry run, would load, apply {facts['policy'] or 'no policy'}, set mode {facts['mode']}"
    app.show({"dry_run": True, **facts}, text)
    return 0
