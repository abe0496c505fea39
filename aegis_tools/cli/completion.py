"""``aegisbpf completion``: shtab writes it, from the parsers of all commands."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import re

from aegis_tools.cli.output import App
from aegis_tools.errors import CommandError

SHELLS = ("bash", "zsh", "fish")


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("shell", choices=SHELLS, help="for which shell")
    parser.epilog = "example: aegisbpf completion bash > /etc/bash_completion.d/aegisbpf"
    parser.set_defaults(run=run)


def run(app: App, arguments: argparse.Namespace) -> int:
    """Print the script."""
    try:
        import shtab
    except ImportError:
        raise CommandError("shtab is not installed", hint="run: pip install shtab") from None
    script = for_both_names(shtab.complete(whole_parser(), shell=arguments.shell), arguments.shell)
    app.show({"script": script}, script.rstrip("\n"))
    return 0


def for_both_names(script: str, shell: str) -> str:
    """Return a script for ``aegisbpf`` that completes ``aegis-tools`` as well."""
    if shell == "zsh":
        script = script.replace("#compdef aegisbpf", "#compdef aegisbpf aegis-tools", 1)
        return script.replace("-N aegisbpf\n", "-N aegisbpf aegis-tools\n")
    if shell == "fish":
        return f"{script.rstrip()}\ncomplete -c aegis-tools -w aegisbpf\n"
    return re.sub(r"(?m)^(complete .*) aegisbpf$", r"\1 aegisbpf aegis-tools", script)


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser of all commands, which the program itself never needs."""
    from aegis_tools.cli.main import COMMANDS

    whole = argparse.ArgumentParser(prog="aegisbpf")
    whole.add_argument("--json", action="store_true", help="one JSON document on stdout")
    whole.add_argument("--verbose", "-v", action="store_true", help="errors with internals")
    whole.add_argument("--root", metavar="DIR", help="use DIR instead of /")
    commands = whole.add_subparsers(metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        made = commands.add_parser(name, help=text)
        made.set_defaults(command=name)
        with contextlib.suppress(ModuleNotFoundError):  # a command of a later version
            importlib.import_module(f"aegis_tools.cli.{module}").build(made)
    return whole
