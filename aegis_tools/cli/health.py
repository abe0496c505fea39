"""``aegisbpf health``."""

from __future__ import annotations

import argparse
import time

from aegis_tools.cli.output import App, table
from aegis_tools.control.health import Report, read_report
from aegis_tools.kernel.features import read_host_features

MARKS = {True: "ok", False: "FAIL", None: "--"}


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--check-config", action="store_true", help="only stored policy, keys and settings"
    )
    parser.add_argument(
        "--allow-fallback", action="store_true", help="take the audit fallback for healthy"
    )
    parser.epilog = (
        "exit codes: 0 healthy; else that of the first check that failed: 5 boot (BPF LSM is not\n"
        "active, or audit fallback), 6 kernel (not loaded, not whole, not working), 8 our files;\n"
        "--check-config also 3 policy and 4 trust\n\n"
        "example: aegisbpf health --json"
    )
    parser.set_defaults(run=run)


def run(app: App, arguments: argparse.Namespace) -> int:
    """Run the checks and print them."""
    report = read_report(
        app.paths,
        read_host_features(app.paths.root),
        now=int(time.time()),
        config=arguments.check_config,
        fallback_ok=arguments.allow_fallback,
    )
    app.show(report.to_dict(), lambda: as_text(report))
    return report.exit_code


def as_text(report: Report) -> str:
    """Return a line a check, then what to do first."""
    lines = [table((MARKS[c.ok], c.name, c.message) for c in report.checks)]
    failed = report.failed
    lines.append(f"not healthy: {failed[0].message}" if failed else "healthy")
    if failed and failed[0].hint:
        lines.append(f"  next: {failed[0].hint}")
    return "\n".join(lines)
