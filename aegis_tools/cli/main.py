"""The program ``aegisbpf``: finds the command, runs it, reports errors.

It is called ``aegis-tools`` and ``dots-family-ctl`` as well.

Only the module of the command that was named is imported, and argparse is the parser,
because a cold start is most of what a command costs; see docs/adr/0004-argparse.md.
"""

from __future__ import annotations

import argparse
import errno
import gc
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from aegis_tools import __version__
from aegis_tools.cli.output import App, plain
from aegis_tools.errors import AegisError, KernelError, StateError, UsageError
from aegis_tools.paths import Paths

COMMANDS = {
    "diagnose": ("diagnose", "what is wrong with this host, and the next command"),
    "incident": ("incident", "get out of trouble, one procedure a scenario; and its records"),
    "load": ("load", "load the BPF programs, attach and pin them"),
    "attach": ("load", "attach loaded programs again"),
    "detach": ("load", "stop enforcing and watching, keep the maps"),
    "reset": ("load", "remove everything and prove that nothing is denied"),
    "policy": ("policy", "lint, validate, plan, apply, sign, show, roll back a policy"),
    "keys": ("keys", "make signing keys and choose which are trusted"),
    "block": ("block", "deny files by hand: add, del, list, clear, clear-stale"),
    "allow": ("allow", "exempt a cgroup from every rule"),
    "network": ("network", "deny addresses and ports by hand"),
    "survival": ("survival", "files that can always be read and run"),
    "mode": ("mode", "switch between audit and enforce, live"),
    "config": ("config", "get or set a live setting"),
    "resume": ("resume", "let the host enforce again after it fell back to audit"),
    "boot": ("boot", "load, the stored policy and mode, as at boot"),
    "rule": ("rule", "list live rules; promote one to enforce, or demote it to audit"),
    "run": ("run", "stream events as NDJSON in the foreground"),
    "events": ("events", "search and follow events, in the journal or a file"),
    "profile": ("profile", "who is watched together, and within which limits"),
    "lsm": ("lsm", "BPF LSM at the next boot: status, enable, disable"),
    "service": ("service", "the systemd units: install, remove, status, print"),
    "status": ("status", "one look at the host: mode, policy, trust, agent, health"),
    "stats": ("stats", "counters and how full the maps are"),
    "metrics": ("metrics", "the same for Prometheus"),
    "health": ("health", "what works: pending, active, working"),
    "footprint": ("footprint", "kernel memory that a policy needs"),
    "capacity": ("capacity", "how full the maps are, and when they will be"),
    "tune": ("tune", "ring, sample rate and map sizes that fit what is observed; live"),
    "why": ("why", "which rule would match a path or an address"),
    "history": ("history", "who changed what, and when"),
    "monitor": ("monitor", "what processes, files, network, memory and disks do, live"),
    "soak": ("soak", "a run of days that ends in a verdict: start, status, report, compare"),
    "map": ("map", "list, dump, update or delete map entries"),
    "pin": ("pin", "list or remove pins"),
    "completion": ("completion", "print a shell completion script"),
}
"""Module of ``aegis_tools.cli`` and one line of help, by command."""

GLOBAL = """\
global options, before or after the command:
  --json           one JSON document on stdout, errors too
  -v, --verbose    errors with their internals
  --root DIR       use DIR instead of / for our own files and pins

exit codes: 0 done, 2 usage, 3 policy, 4 trust, 5 boot, 6 kernel, 7 program failed,
  8 our files, 9 drift, 130 interrupted"""


class _Commands(argparse._SubParsersAction):  # type: ignore[type-arg]
    """Subcommands that begin their own help with the line that lists them."""

    def add_parser(self, name: str, **kwargs: Any) -> Any:
        """Add a subcommand."""
        kwargs.setdefault("description", kwargs.get("help"))
        return super().add_parser(name, **kwargs)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours, and whose examples can be copied."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        # Or --i would do for --i-know-this-locks-me-out.
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(**kwargs)
        self.register("action", "parsers", _Commands)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(message, hint=f"run: {self.prog} --help")


def usage() -> str:
    """Return the help of the program as a whole."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name.ljust(width)}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: aegisbpf COMMAND [OPTIONS]",
            "",
            "A signed policy file becomes kernel enforcement.",
            "",
            "commands:",
            *lines,
            "",
            GLOBAL,
            "",
            "examples:",
            "  aegisbpf load",
            "  aegisbpf policy apply /etc/aegisbpf/policy.conf --dry-run",
            "  aegisbpf mode enforce",
            "  aegisbpf why /etc/shadow",
        ]
    )


def parser_of(name: str) -> Parser:
    """Return the parser of one command, with ``run`` set by the (sub)command's module."""
    module = importlib.import_module(f"aegis_tools.cli.{COMMANDS[name][0]}")
    parser = Parser(
        prog=f"aegisbpf {name}",
        description=COMMANDS[name][1],
    )
    parser.set_defaults(command=name)
    module.build(parser)
    return parser


def take_globals(argv: Sequence[str]) -> tuple[list[str], Paths, bool, bool]:
    """Take the global options out of ``argv``, wherever they stand before ``--``.

    Returns:
        (the rest, paths, json, verbose)
    """
    rest: list[str] = []
    root, json, verbose = "/", False, False
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--json":
            json = True
        elif word in ("-v", "--verbose"):
            verbose = True
        elif word == "--root":
            root = next(words, "")
        elif word.startswith("--root="):
            root = word[7:]
        else:
            rest.append(word)
    if not root:
        raise UsageError("--root needs a directory", hint="example: aegisbpf --root /mnt stats")
    return rest, Paths(Path(root).absolute()), json, verbose


def run(argv: Sequence[str]) -> int:
    """Run one command line; return its exit code. Errors become messages here."""
    app = App(json="--json" in argv, verbose="-v" in argv or "--verbose" in argv)
    try:
        rest, paths, json, verbose = take_globals(argv)
        app = App(paths=paths, json=json, verbose=verbose)
        if rest[1:] and rest[0] in ("-h", "--help", "help"):
            rest = [*rest[1:], "--help"]
        if not rest or rest[0] in ("-h", "--help", "help"):
            print(usage())
            return 0
        if rest[0] in ("--version", "version"):
            app.show({"version": __version__}, f"aegisbpf {__version__}")
            return 0
        if rest[0] not in COMMANDS:
            raise unknown(rest[0])
        arguments = parser_of(rest[0]).parse_args(rest[1:])
        if rest[0] != "run":
            gc.disable()  # short-lived: what a large policy allocates lives until the exit anyway
        return int(arguments.run(app, arguments))
    except BrokenPipeError:
        raise
    except Exception as error:
        return failed(app, error)


def failed(app: App, error: Exception) -> int:
    """Tell a person what went wrong; return the exit code."""
    if isinstance(error, AegisError):
        return app.fail(error)
    if isinstance(error, PermissionError):
        return app.fail(
            KernelError(f"permission denied{_at(error)}", hint="run it as root", detail=str(error))
        )
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return app.fail(
            KernelError(
                f"a file system is mounted read-only{_at(error)}",
                hint="see which: findmnt --options ro; then: mount -o remount,rw FOLDER",
                detail=repr(error),
            )
        )
    if isinstance(error, OSError):
        return app.fail(
            KernelError(
                f"the system refused an operation{_at(error)}",
                hint="run it again with --verbose to see which",
                detail=repr(error),
            )
        )
    return app.fail(unexpected(error))


def _at(error: OSError) -> str:
    """Return the file that an error is about, as far as it knows."""
    found = (error.filename, error.filename2)
    names = [plain(os.fsdecode(name)) for name in found if isinstance(name, str | bytes)]
    return f": {' and '.join(names)}" if names else ""


def unexpected(error: Exception) -> AegisError:
    """Return what a person is told of a mistake of ours; the rest is for a report of it."""
    import traceback

    return AegisError(
        "this should not have happened",
        hint="run it again with --verbose, and report what it prints",
        detail="".join(traceback.format_exception(error)),
    )


def unknown(word: str) -> UsageError:
    """Return the error for a command that does not exist, with the nearest that does."""
    import difflib

    near = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f"did you mean: aegisbpf {near[0]}" if near else "run: aegisbpf --help"
    return UsageError(f"there is no command {word!r}", hint=hint)


def keep_standard_streams() -> None:
    """Let nothing that is opened later become what we print to, where a stream was closed."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def print_utf8(*streams: TextIO | None) -> None:
    """Print UTF-8 in any locale, as policies are: no change that is made ends in an error."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def main() -> NoReturn:
    """Run the program: the entry point of all its names."""
    keep_standard_streams()
    print_utf8(sys.stdout, sys.stderr)
    try:
        code = run(sys.argv[1:])
        if sys.stdout is not None:  # closed by whoever started us
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # whoever read us has left, as `head` does
        code = 128 + signal.SIGPIPE
    except OSError as error:
        code = App().fail(
            StateError(
                "the output could not be written",
                hint="is the disk full? see: df",
                detail=str(error),
            )
        )
    # Everything is written and every lock is let go: a tenth of a second that the interpreter
    # would spend on taking a large policy apart is nobody's.
    os._exit(code)
