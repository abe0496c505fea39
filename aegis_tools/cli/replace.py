"""``aegisbpf load --replace``."""

from __future__ import annotations

import argparse

from aegis_tools.cli.output import App
from aegis_tools.control import replace as control
from aegis_tools.control.lock import locked
from aegis_tools.kernel.features import check_enabled, mount_securityfs, read_host_features
from aegis_tools.kernel.loader import LoadOptions
from aegis_tools.kernel.pins import Pins


def replace(app: App, arguments: argparse.Namespace, options: LoadOptions) -> int:
    """Put this version's programs in the place of those that are loaded."""
    features = read_host_features(app.paths.root)
    if arguments.dry_run:
        check_enabled(features)
        found = control.plan(Pins(app.paths.pins), options)
    else:
        mount_securityfs()
        with locked(app.paths.lock, command=control.ACTION):
            found = control.carry_out(app.paths, features, options)
    changed = found.needed and not arguments.dry_run
    app.show(
        {
            "fresh": False,
            "dry_run": arguments.dry_run,
            "changed": changed,
            "would_change": found.needed,
            "hooks": Pins(app.paths.pins).names("links"),
            **found.to_dict(),
        },
        _text(found, dry_run=arguments.dry_run),
    )
    return 0


def _text(found: control.Replacement, *, dry_run: bool) -> str:
    if not found.needed:
        return f"already loaded: object {found.after[:16]}"
    verb = "dry run, would replace" if dry_run else "replaced"
    maps = f"over new maps ({found.new_maps})" if found.new_maps else "over the same maps"
    return (
        f"{verb}: object {found.before[:16] or 'unknown'} by {found.after[:16]}, {maps}; "
        "what is refused stays refused meanwhile"
    )
