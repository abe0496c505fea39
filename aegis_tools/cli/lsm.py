"""``aegisbpf lsm status``, ``enable`` and ``disable``."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aegis_tools.cli.output import App, table
from aegis_tools.control.bootclock import boot_id
from aegis_tools.control.bootconfig import verify
from aegis_tools.control.bootconfig.change import carry_out
from aegis_tools.control.bootconfig.facts import LOADERS, Facts, read_facts
from aegis_tools.control.bootconfig.plan import (
    Plan,
    document,
    nothing,
    plan_disable,
    plan_enable,
)
from aegis_tools.control.health import working
from aegis_tools.control.lock import locked
from aegis_tools.errors import BootError
from aegis_tools.kernel.features import mount_securityfs, read_features
from aegis_tools.kernel.pins import Pins
from aegis_tools.kernel.run import Runner, run

_VERIFY = "aegisbpf lsm status --verify-boot"


def build(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    kinds = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=type(parser))
    status = kinds.add_parser("status", help="what this boot has, and what the next one will have")
    status.add_argument(
        "--verify-boot",
        action="store_true",
        help="fail unless this boot is as configured, with every module of before",
    )
    status.epilog = (
        "pending: the next boot asks for it; active: this boot has it; working: our hook runs.\n"
        "exit codes: 0; with --verify-boot 5 where pending is not active, a module is gone,\n"
        "or our hook is loaded and does not run\n\n"
        f"example: {_VERIFY}"
    )
    status.set_defaults(run=run_status)
    enable = kinds.add_parser("enable", help="have bpf, and all that is active now, at next boot")
    enable.add_argument("--merge", action="store_true", help="build on an lsm= that others set")
    enable.epilog = (
        "Adds bpf to the modules that are active now. Nothing is done where the next boot has all\n"
        "of them anyway. Reboot yourself, then: aegisbpf lsm status --verify-boot\n"
        "exit codes: 0 done, or nothing to do; 5 refused or failed, and nothing is changed\n\n"
        "example: aegisbpf lsm enable --dry-run"
    )
    enable.set_defaults(run=run_enable, verb="enable")
    disable = kinds.add_parser("disable", help="take away what enable has set")
    disable.epilog = "example: aegisbpf lsm disable --dry-run"
    disable.set_defaults(run=run_disable, verb="disable")
    for one in (enable, disable):
        one.add_argument("--dry-run", action="store_true", help="only say what would change")
    for one in (status, enable, disable):
        one.add_argument("--loader", choices=LOADERS, help="default: the one that is found here")
    parser.epilog = "example: aegisbpf lsm status"


def _runner(app: App) -> Runner | None:
    """Return what starts the boot loader's tools: they know no other root."""
    return run if app.paths.root == Path("/") else None


def _facts(app: App, arguments: argparse.Namespace) -> Facts:
    active = read_features(app.paths.root).lsms
    return read_facts(app.paths, active, _runner(app), loader=arguments.loader)


def run_status(app: App, arguments: argparse.Namespace) -> int:
    """Say what is pending, active and working."""
    facts = _facts(app, arguments)
    works = working(Pins(app.paths.pins))
    shown = document(nothing(facts, "status"), facts, works, dry_run=False)
    if arguments.verify_boot:
        try:
            verify.check_boot(facts, boot_id(app.paths), works)
        except BootError as error:
            error.data.update(shown)
            raise
    app.show(shown, lambda: as_text(facts, shown))
    return 0


def run_enable(app: App, arguments: argparse.Namespace) -> int:
    """Configure BPF LSM for the next boot."""
    return _change(app, arguments, lambda facts: plan_enable(facts, merge=arguments.merge))


def run_disable(app: App, arguments: argparse.Namespace) -> int:
    """Take our configuration away."""
    return _change(app, arguments, plan_disable)


def _change(app: App, arguments: argparse.Namespace, make: Callable[[Facts], Plan]) -> int:
    works = working(Pins(app.paths.pins))
    if arguments.dry_run:
        plan = make(_facts(app, arguments))
        facts = plan.after
    else:
        if app.paths.root == Path("/"):
            mount_securityfs()
        with locked(app.paths.lock, command=f"lsm {arguments.verb}"):
            plan = make(_facts(app, arguments))
            facts = carry_out(app.paths, plan, _runner(app))
    shown = document(plan, facts, works, dry_run=arguments.dry_run)
    app.show(shown, lambda: _as_change(plan, facts, shown))
    return 0


def as_text(facts: Facts, shown: dict[str, Any]) -> str:
    """Return what is so, a line a fact."""
    marks = {True: "yes", False: "no", None: "-"}
    rows = [
        ("pending", marks[shown["pending"]], ",".join(shown["pending_list"]) or "nothing tells"),
        ("active", marks[shown["active"]], ",".join(shown["active_list"]) or "nothing tells"),
        ("working", marks[shown["working"]], _WORKING[shown["working"]]),
        ("loader", shown["loader"] or "-", f"our list: {facts.ours}" if facts.ours else ""),
        *(("foreign", "", f"lsm={one.value} in {one.where}") for one in facts.foreign),
        *(("warning", "", text) for text in shown["warnings"]),
    ]
    return "\n".join([table(rows), *_reboot(shown)])


def _as_change(plan: Plan, facts: Facts, shown: dict[str, Any]) -> str:
    would = "would " if shown["dry_run"] else ""
    lines = [f"warning: {text}" for text in shown["warnings"]]
    if not plan.changed:
        return "\n".join([*lines, "nothing to do", *_reboot(shown)])
    diff = shown["diff"]
    lines += difflib.unified_diff(
        diff["before"].splitlines(),
        diff["after"].splitlines(),
        diff["before_header"],
        diff["after_header"],
        lineterm="",
    )
    told = f"the next boot {would}ask for: {','.join(facts.pending_list) or 'nothing tells'}"
    told = told if would else told.replace(" ask ", " asks ")
    return "\n".join([*lines, told, *_reboot(shown)])


def _reboot(shown: dict[str, Any]) -> list[str]:
    if not shown["reboot_needed"]:
        return ["no reboot is needed"]
    return [f"a reboot is needed; after it: {_VERIFY}"]


_WORKING = {
    True: "our hook runs",
    False: "our hook does not run, or is no LSM hook; see: aegisbpf health",
    None: "nothing is loaded",
}
