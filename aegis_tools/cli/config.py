"""``aegisbpf config get`` and ``set``."""

from __future__ import annotations

import argparse

from aegis_tools.cli.output import App
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.control.settings import SETTINGS, change, setting, shown
from aegis_tools.kernel.pins import Pins


def build(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    width = max(len(known.name) for known in SETTINGS) + 2
    listing = [f"  {s.name.ljust(width)}{s.help}" for s in SETTINGS]
    parser.epilog = "\n".join(["settings:", *listing, "", "example: aegisbpf config get"])
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", parser_class=type(parser), title="commands"
    )
    read = commands.add_parser(
        "get", help="print a setting, or all", epilog="example: aegisbpf config get mode"
    )
    read.add_argument("key", nargs="?", help="the setting")
    read.set_defaults(run=get)
    write = commands.add_parser(
        "set",
        help="change a setting, live",
        epilog="example: aegisbpf config set event-sample-rate 0.1",
    )
    write.add_argument("key", help="the setting")
    write.add_argument("value", help="its new value")
    write.add_argument("--dry-run", action="store_true", help="only say what would change")
    write.set_defaults(run=set_)


def get(app: App, arguments: argparse.Namespace) -> int:
    """Print one setting, or all."""
    wanted = [setting(arguments.key)] if arguments.key else list(SETTINGS)
    with Live(Pins(app.paths.pins)) as live:
        values = {known.name: known.get(live) for known in wanted}
    if arguments.key:
        app.show(values, shown(values[arguments.key]))
    else:
        app.show(values, "\n".join(f"{name}={shown(value)}" for name, value in values.items()))
    return 0


def set_(app: App, arguments: argparse.Namespace) -> int:
    """Change one setting and remember it."""
    from aegis_tools.cli.editing import record

    known = setting(arguments.key)
    with Live(Pins(app.paths.pins)) as live:
        before = shown(known.get(live))
        if arguments.dry_run:
            text = f"would change {known.name} from {before} to {arguments.value}"
            app.show({known.name: known.get(live), "would_set": arguments.value}, text)
            return 0
        with locked(app.paths.lock, command=f"config set {known.name}"):
            changed = change(live, app.paths, known.name, arguments.value)
            value = known.get(live)
            if changed and known.name != "mode":  # which writes its own line
                note = f"{known.name}: {before} -> {shown(value)}"
                record(app, "config set", {}, note)
    text = f"{known.name}: {before} -> {shown(value)}" if changed else "no change"
    app.show({known.name: value, "changed": changed}, text)
    return 0
