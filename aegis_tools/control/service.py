"""The systemd units: made from templates, put in place, taken away.

A template is the unit with ``@EXEC@`` for the program. Mode and options belong into drop-ins
(``systemctl edit aegisbpf``), which nothing here touches.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.resources import files as resources
from pathlib import Path
from typing import NamedTuple

from aegis_tools.control import files
from aegis_tools.errors import CommandError, StateError
from aegis_tools.kernel.run import Runner, run
from aegis_tools.paths import Paths

ENABLED = (
    "aegisbpf-boot.service", "aegisbpf.service", "aegisbpf-metrics.service",
    "aegisbpf-survival.path",
)  # fmt: skip
"""What starts at boot; other units are started by these."""

OPTIONAL = ("aegis-monitors.service",)
"""What starts at boot only where somebody has asked for it."""

ON_REQUEST = ("aegis-soak.timer",)
"""What a command starts, and ends again: it has no part in what is installed."""

_MARK = "@EXEC@"
_MAX_UNIT = 65536
_WHAT = "systemd unit"
_PROGRAM = "bin/aegisbpf"


class Change(NamedTuple):
    """A file that is, or would be, written or removed.

    Attributes:
        path: The file.
        verb: ``create``, ``replace``, ``remove`` or ``keep``.
        data: What it is to hold; empty for one that goes, and for a link.
        target: Where a link leads.
    """

    path: Path
    verb: str
    data: bytes = b""
    target: str = ""


def program() -> Path:
    """Return the program as a unit is to start it.

    Where versions lie side by side, it is the name that leads to the current one: an upgrade
    then changes no unit.

    Raises:
        StateError: It is not installed: nothing that is started at boot may depend on a checkout.
    """
    prefix = Path(sys.prefix)
    current = prefix.parent.parent / "current"
    found = (current if current.is_symlink() and current.resolve() == prefix else prefix) / _PROGRAM
    if not found.is_file():
        raise StateError(
            "the program is not installed, so no unit can start it",
            hint="install it first: pip install .",
            detail=str(found),
        )
    return found


def units(executable: Path) -> dict[str, bytes]:
    """Return all units by name, made for a program."""
    folder = resources("aegis_tools") / "units"
    return {
        item.name: item.read_text(encoding="utf-8").replace(_MARK, str(executable)).encode()
        for item in sorted(folder.iterdir(), key=lambda item: item.name)
        if item.name.endswith((".service", ".path", ".timer"))
    }


def plan_install(paths: Paths, executable: Path) -> list[Change]:
    """Return what an installation would do; ``keep`` for what is there already."""
    changes = [
        Change(path, _verb(path, data), data)
        for path, data in ((paths.units / name, data) for name, data in units(executable).items())
    ]
    return [*changes, *_links(paths, executable)]


def _verb(path: Path, data: bytes) -> str:
    found = files.read_if_present(path, _MAX_UNIT, what=_WHAT, owners={0, os.geteuid()})
    if found is None:
        return "create"
    return "keep" if found == data else "replace"


def _links(paths: Paths, executable: Path) -> Iterator[Change]:
    """The names that runbooks know, where nothing else has them."""
    for path in paths.programs:
        if path.is_symlink() and path.readlink() == executable:
            yield Change(path, "keep", target=str(executable))
        elif not path.exists() and not path.is_symlink() and path != executable:
            yield Change(path, "create", target=str(executable))


def plan_remove(paths: Paths, executable: Path) -> list[Change]:
    """Return what a removal would do; drop-ins stay, for people wrote them."""
    there = [paths.units / name for name in units(executable) if (paths.units / name).exists()]
    links = [change.path for change in _links(paths, executable) if change.verb == "keep"]
    return [Change(path, "remove") for path in (*there, *links)]


def carry_out(changes: list[Change]) -> None:
    """Do what was planned. The caller holds the lock.

    Raises:
        StateError: A file cannot be written; those before it are.
    """
    for change in changes:
        if change.verb == "remove":
            files.remove(change.path, what=_WHAT)
        elif change.verb != "keep":
            change.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if change.target:
                with contextlib.suppress(FileExistsError):
                    change.path.symlink_to(change.target)
            else:
                files.write_atomic(change.path, change.data, what=_WHAT, mode=0o644)


def has_systemd(paths: Paths) -> bool:
    """Return whether systemd runs, and is that of the files: see sd_booted(3)."""
    return paths.root == Path("/") and Path("/run/systemd/system").is_dir()


def reload(runner: Runner = run) -> None:
    """Make systemd read its units anew.

    Raises:
        CommandError: It did not.
    """
    runner(["systemctl", "daemon-reload"])


def enable(*, now: bool, runner: Runner = run) -> None:
    """Have the units started at boot, and ``now``.

    Raises:
        CommandError: systemd refused.
    """
    runner(["systemctl", "enable", *ENABLED])
    if now:
        runner(["systemctl", "restart", *ENABLED], timeout=300)
        runner(["systemctl", "try-restart", *OPTIONAL], timeout=300)


def disable(runner: Runner = run) -> None:
    """Stop the units and have none started at boot; what the kernel enforces stays.

    Raises:
        CommandError: systemd refused.
    """
    for unit in (*OPTIONAL, *ON_REQUEST):
        with contextlib.suppress(CommandError):  # one of before there was this unit
            runner(["systemctl", "disable", "--now", unit], timeout=120)
    runner(["systemctl", "disable", "--now", *ENABLED], timeout=120)


def states(units: Iterable[str] = ENABLED, runner: Runner = run) -> dict[str, dict[str, str]]:
    """Return of each unit what systemd says: load, active and file state.

    Raises:
        CommandError: There is no systemd.
    """
    names = ("LoadState", "ActiveState", "SubState", "UnitFileState")
    found: dict[str, dict[str, str]] = {}
    for unit in units:
        try:
            text = runner(["systemctl", "show", f"--property={','.join(names)}", unit])
        except CommandError as error:
            raise CommandError(
                "systemd does not answer", hint="see: systemctl status", detail=error.detail
            ) from error
        found[unit] = dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)
    return found
