"""``aegisbpf incident kernel-upgrade``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aegis_tools.incident.case import Case, Outcome


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--check", nargs="?", const="", metavar="RELEASE",
        help="only say whether a kernel will do (default: the one that boots next)",
    )  # fmt: skip
    what.add_argument(
        "--kernel", default="", metavar="RELEASE",
        help="have this one boot by default, whatever its configuration says",
    )  # fmt: skip
    what.add_argument(
        "--back", action="store_true",
        help="give the default entry back, once its kernel is right again",
    )  # fmt: skip
    parser.add_argument(
        "--undo-disable",
        action="store_true",
        help="let programs be loaded again after a break-glass",
    )
    parser.epilog = (
        "Repairs the next boot: a kernel with BPF LSM as the default one, bpf in its list. Reboot\n"
        "yourself, then run it again; it closes the record.\n"
        "exit codes: 0 the next boot is right; 5 it cannot be made so, or --check found a fault\n\n"
        "examples:\n"
        "  aegisbpf incident kernel-upgrade --check\n"
        "  aegisbpf incident kernel-upgrade --dry-run"
    )


def procedure(case: Case, arguments: argparse.Namespace) -> Outcome:
    """Check, or repair."""
    from aegis_tools.incident import kernel_upgrade

    if arguments.check is not None:
        return kernel_upgrade.check(case, arguments.check)
    return kernel_upgrade.run(
        case,
        kernel=arguments.kernel,
        back=arguments.back,
        undo_disable=arguments.undo_disable,
    )
