"""``aegisbpf policy``: the options of its subcommands.

What they do is in ``policy_file`` (files alone), ``policy_sign`` (bundles) and
``policy_live`` (the kernel); only the one that is needed is imported.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import Any

from aegis_tools.cli import types
from aegis_tools.cli.duration import parse_duration
from aegis_tools.cli.eventoptions import add_source_options
from aegis_tools.cli.output import App


def _handler(module: str, name: str) -> Callable[[App, argparse.Namespace], int]:
    def call(app: App, arguments: argparse.Namespace) -> int:
        found = importlib.import_module(f"aegis_tools.cli.{module}")
        return int(getattr(found, name)(app, arguments))

    return call


def build(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    parser.epilog = "example: aegisbpf policy apply /etc/aegisbpf/policy.conf --dry-run"
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=type(parser))

    def add(name: str, module: str, text: str, *, example: str, file: bool = True) -> Any:
        command = commands.add_parser(
            name, help=text, description=text, epilog=f"example: aegisbpf policy {example}"
        )
        if file:
            command.add_argument("file", metavar="FILE", type=types.path)
        command.set_defaults(run=_handler(module, name.replace("-", "_")))
        return command

    _file_commands(add)
    _sign_commands(add)
    _apply_commands(add)
    _confirm_commands(add)
    _live_commands(add)


def _file_commands(add: Callable[..., Any]) -> None:
    add(
        "lint",
        "policy_file",
        "find errors, and what is probably not meant",
        example="lint policy.conf",
    )
    add(
        "validate",
        "policy_file",
        "lint, and check that the files it names exist here",
        example="validate /etc/aegisbpf/policy.conf",
    )
    command = add(
        "convert",
        "policy_file",
        "rewrite a policy in the other format (comments are not kept)",
        example="convert policy.conf --to yaml --output policy.yaml",
    )
    command.add_argument("--to", choices=("text", "yaml"), required=True)
    command.add_argument("--output", metavar="FILE", type=types.path, help="default: stdout")


def _sign_commands(add: Callable[..., Any]) -> None:
    command = add(
        "sign",
        "policy_sign",
        "sign a policy into a bundle",
        example="sign policy.yaml --key ops.key --expires 90d --output policy.bundle",
    )
    command.add_argument(
        "--key", metavar="FILE", type=types.path, action="append", required=True, dest="keys"
    )
    command.add_argument("--output", metavar="FILE", type=types.path, required=True)
    command.add_argument(
        "--serial",
        type=int,
        metavar="N",
        help="higher than every bundle before for the group (default: Unix milliseconds)",
    )
    command.add_argument(
        "--expires",
        default="90d",
        metavar="WHEN",
        help="30d, 12h, an RFC 3339 date, or never (default: %(default)s)",
    )
    command.add_argument("--group", default="default", metavar="NAME", help="hosts it is for")
    command = add(
        "cosign",
        "policy_sign",
        "add a signature to a bundle",
        example="cosign policy.bundle --key second.key --output policy.bundle2",
    )
    command.add_argument(
        "--key", metavar="FILE", type=types.path, action="append", required=True, dest="keys"
    )
    command.add_argument("--output", metavar="FILE", type=types.path, required=True)
    add(
        "verify",
        "policy_sign",
        "say what a bundle claims and whether this host accepts it",
        example="verify policy.bundle",
    )


def add_plan(command: argparse.ArgumentParser) -> None:
    """Add the option that binds a change to the plan that was seen."""
    command.add_argument(
        "--plan",
        metavar="DIGEST",
        help="refuse, exit 9, unless the plan is the one that --json showed before",
    )


def _apply_commands(add: Callable[..., Any]) -> None:
    for name, text in (
        ("plan", "show what an apply would change or refuse; changes nothing, exits 0"),
        ("diff", "like plan, but exit 9 where live and file differ"),
        ("apply", "make a policy live, in one step"),
    ):
        command = add(name, "policy_live", text, example=f"{name} /etc/aegisbpf/policy.conf")
        command.add_argument(
            "--allow-unsigned", action="store_true", help="although this host trusts keys"
        )
        command.add_argument(
            "--reset", action="store_true", help="drop rules made by hand instead of keeping them"
        )
        if name != "diff":
            command.add_argument(
                "--mode", choices=("audit", "enforce"), help="and set the host's mode"
            )
            command.add_argument(
                "--clean-for",
                type=parse_duration,
                metavar="TIME",
                help="with --mode enforce: refuse unless no enforcing rule of this very policy "
                "matched for so long",
            )
        if name == "apply":
            types.add_confirm_within(command)
            command.add_argument(
                "--dry-run", action="store_true", help="like plan; exits as the apply would"
            )
            add_plan(command)
            command.add_argument(
                "--strict",
                action="store_true",
                help="refuse where there are warnings, as for a rule that matches nothing",
            )
    command = add(
        "rollback",
        "policy_live",
        "apply the policy before the current one again",
        example="rollback --dry-run",
        file=False,
    )
    command.add_argument("--mode", choices=("audit", "enforce"), help="and set the host's mode")
    types.add_confirm_within(command)
    command.add_argument("--dry-run", action="store_true", help="show the plan only")
    add_plan(command)
    command.add_argument(
        "--allow-unsigned", action="store_true", help="although this host trusts keys"
    )


def _confirm_commands(add: Callable[..., Any]) -> None:
    for name, text, example in (
        ("confirm", "keep the change that was made with --confirm-within", "confirm"),
        ("revert", "undo the change that was made with --confirm-within", "revert --dry-run"),
    ):
        command = add(name, "confirm", text, example=example, file=False)
        command.add_argument("--dry-run", action="store_true", help="only say what would happen")
        if name == "revert":
            command.add_argument(
                "--if-overdue", action="store_true", help="only when its time is over"
            )


def _live_commands(add: Callable[..., Any]) -> None:
    add("probe", "probing", "log in, become root, look names up, run Python: what works now",
        example="probe --json", file=False)  # fmt: skip
    add("show", "policy_live", "print the live policy and where it comes from", example="show",
        file=False)  # fmt: skip
    command = add(
        "export",
        "policy_live",
        "write what is live, rules made by hand included, as a policy file",
        example="export live.yaml",
    )
    command.add_argument("--to", choices=("text", "yaml"), help="default: by the file's ending")
    command = add(
        "verify-live",
        "policy_live",
        "check that the live maps are what was applied; exit 9 if somebody changed them",
        example="verify-live --strict",
        file=False,
    )
    command.add_argument(
        "--strict", action="store_true", help="exit 9 for rules made or removed by hand, too"
    )
    command = add(
        "history",
        "policy_live",
        "list the policies applied here",
        example="history --limit 5",
        file=False,
    )
    command.add_argument("--limit", type=types.positive, default=20, metavar="N")
    command = add(
        "suggest",
        "policy_suggest",
        "propose changes of the live policy from what events show; applies nothing",
        example="suggest --since 7d --format diff",
        file=False,
    )
    add_source_options(command, "7d")
    command.add_argument(
        "--clean-days",
        type=types.number(1, 3650),
        default=7,
        metavar="N",
        help="days without a hit after which a rule may enforce (default: %(default)s)",
    )
    command.add_argument(
        "--format",
        choices=("text", "diff", "yaml"),
        default="text",
        help="text, or only the policy's unified diff or the whole new policy",
    )
