"""``aegisbpf service install``, ``remove``, ``status`` and ``print``."""

from __future__ import annotations

import argparse

from aegis_tools.cli.output import App, table
from aegis_tools.control import service
from aegis_tools.control.lock import locked
from aegis_tools.control.service import Change
from aegis_tools.errors import KernelError, UsageError


def build(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    kinds = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=type(parser))
    install = kinds.add_parser(
        "install", help="write the systemd units and have them started at boot"
    )
    install.add_argument("--now", action="store_true", help="start them, too")
    install.add_argument("--no-enable", action="store_true", help="only write the files")
    install.epilog = (
        "Boot applies the stored policy in the mode that was set last. Options of the agent\n"
        "belong into a drop-in: systemctl edit aegisbpf\n\nexample: aegisbpf service install --now"
    )
    remove = kinds.add_parser("remove", help="stop the units and remove them")
    remove.epilog = (
        "What the kernel enforces stays until: aegisbpf reset\n\nexample: aegisbpf service remove"
    )
    for parser_, function in ((install, run_install), (remove, run_remove)):
        parser_.add_argument("--dry-run", action="store_true", help="only say what would be done")
        parser_.set_defaults(run=function)
    status = kinds.add_parser("status", help="what systemd says of the units")
    status.epilog = "exit codes: 0 all run, 6 not\n\nexample: aegisbpf service status --json"
    status.set_defaults(run=run_status)
    show = kinds.add_parser("print", help="print a unit as it would be installed")
    show.add_argument("unit", nargs="?", default="aegisbpf.service", help="default: %(default)s")
    show.epilog = "example: aegisbpf service print aegisbpf-boot.service"
    show.set_defaults(run=run_print)
    parser.epilog = "example: aegisbpf service install --dry-run"


def run_install(app: App, arguments: argparse.Namespace) -> int:
    """Write the units; enable and start them as asked."""
    executable = service.program()
    systemd = service.has_systemd(app.paths)
    enable = systemd and not arguments.no_enable
    changes = service.plan_install(app.paths, executable)
    if not arguments.dry_run:
        with locked(app.paths.lock, command="service install"):
            service.carry_out(changes)
        if systemd:
            service.reload()
        if enable:
            service.enable(now=arguments.now)
    _show(app, changes, dry_run=arguments.dry_run, enabled=enable)
    if not systemd and not arguments.dry_run:
        app.note("warning: systemd does not run here, so nothing was enabled or started")
    return 0


def run_remove(app: App, arguments: argparse.Namespace) -> int:
    """Stop and remove the units."""
    changes = service.plan_remove(app.paths, service.program())
    systemd = service.has_systemd(app.paths)
    if changes and not arguments.dry_run:
        if systemd:
            service.disable()
        with locked(app.paths.lock, command="service remove"):
            service.carry_out(changes)
        if systemd:
            service.reload()
    _show(app, changes, dry_run=arguments.dry_run, enabled=False)
    return 0


def _show(app: App, changes: list[Change], *, dry_run: bool, enabled: bool) -> None:
    facts = {
        "dry_run": dry_run,
        "changed": any(change.verb != "keep" for change in changes) and not dry_run,
        "enabled": enabled and not dry_run,
        "files": [{"path": str(c.path), "action": c.verb} for c in changes],
    }
    would = "would " if dry_run else ""
    lines = [f"{would}{c.verb} {c.path}{_purpose(c)}" for c in changes if c.verb != "keep"]
    nothing = "the files are in place as they should be" if changes else "no file of ours is there"
    app.show(facts, "\n".join(lines) or f"nothing to do: {nothing}")


def _purpose(change: Change) -> str:
    return f" -> {change.target} (a name that runbooks use)" if change.target else ""


def run_status(app: App, arguments: argparse.Namespace) -> int:
    """Say what systemd says."""
    del arguments
    if not service.has_systemd(app.paths):
        raise KernelError("systemd does not run here", hint="start the agent: aegisbpf run")
    found, optional = service.states(), service.states(service.OPTIONAL)
    runs = all(state.get("ActiveState") == "active" for state in found.values())
    rows = [
        (unit, s.get("ActiveState", "?"), s.get("SubState", "?"), s.get("UnitFileState", "") or "-")
        for unit, s in {**found, **optional}.items()
    ]
    data = {"running": runs, "units": found, "optional": optional}
    app.show(data, table(rows, ("UNIT", "ACTIVE", "SUB", "AT BOOT")))
    return 0 if runs else KernelError.exit_code


def run_print(app: App, arguments: argparse.Namespace) -> int:
    """Print a unit."""
    found = service.units(service.program())
    if arguments.unit not in found:
        raise UsageError(f"there is no unit {arguments.unit}", hint=f"units: {', '.join(found)}")
    text = found[arguments.unit].decode()
    app.write({"unit": arguments.unit, "text": text}, text)
    return 0
