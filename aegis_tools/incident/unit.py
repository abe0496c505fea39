"""The agent's systemd unit: how it fares, and a safe start that a reboot forgets.

The safe start is a drop-in below ``/run``: the unit's ``[Service]`` as it is shipped once more,
after every command, environment and list that other files set was taken back. Its name sorts last.
"""

from __future__ import annotations

import configparser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from aegis_tools.control import files, service
from aegis_tools.errors import AegisError, CommandError
from aegis_tools.kernel.run import Runner
from aegis_tools.paths import Paths

NAME = "aegisbpf.service"
BOOT = "aegisbpf-boot.service"
START_SECONDS = 300.0
"""TimeoutStartSec of the unit: the verifier takes its time on a busy host."""
_PATIENCE = 180.0
"""Seconds for systemd itself: a host in trouble is slow."""
PROPERTIES = (
    "LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "NRestarts", "MainPID",
    "ExecMainCode", "ExecMainStatus", "DropInPaths", "MemoryMax", "TasksMax", "LimitNOFILE",
)  # fmt: skip

_WHAT = "drop-in of the safe start"
_COMMANDS = (
    "ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecStop", "ExecStopPost",
)  # fmt: skip
_LISTS = (
    *_COMMANDS, "Environment", "EnvironmentFile", "PassEnvironment", "CapabilityBoundingSet",
    "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "RestrictAddressFamilies",
    "SystemCallFilter",
)  # fmt: skip
_HEAD = "# A safe start: the unit as it is shipped. Gone after a reboot, or after:\n" \
    "#   aegisbpf incident crash-loop --normal-start\n"  # fmt: skip


class State(NamedTuple):
    """What systemd says of a unit.

    Attributes:
        load: ``loaded``, ``not-found``, ``bad-setting``, …
        active: ``active``, ``activating``, ``inactive``, ``failed``, …
        sub: ``running``, ``auto-restart``, …
        result: Of the last run: ``success``, ``exit-code``, ``oom-kill``, …
        restarts: Starts by systemd itself since a person started it.
        pid: Main process; 0 for none.
        text: All of it, as systemd printed it.
    """

    load: str
    active: str
    sub: str
    result: str
    restarts: int
    pid: int
    text: str

    @property
    def exists(self) -> bool:
        """Whether there is such a unit, be it as broken as it likes."""
        return self.load not in ("", "not-found")

    @property
    def runs(self) -> bool:
        """Whether it runs and has said that it is ready."""
        return self.active == "active"

    @property
    def loops(self) -> bool:
        """Whether it is between two of its deaths right now, or cannot even be started."""
        again = self.active == "activating" and self.restarts >= 2
        broken = self.load in ("bad-setting", "error")
        return self.sub == "auto-restart" or self.active == "failed" or again or broken


def read(runner: Runner, name: str = NAME) -> State:
    """Ask systemd.

    Raises:
        CommandError: It does not answer.
    """
    text = runner(
        ["systemctl", "show", f"--property={','.join(PROPERTIES)}", name], timeout=_PATIENCE
    )
    facts = dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)
    return State(
        facts.get("LoadState", ""),
        facts.get("ActiveState", ""),
        facts.get("SubState", ""),
        facts.get("Result", ""),
        _number(facts.get("NRestarts", "")),
        _number(facts.get("MainPID", "")),
        text,
    )


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def stop(runner: Runner) -> None:
    """End the agent and its restarts. What the kernel enforces goes on.

    Raises:
        CommandError: systemd refused.
    """
    runner(["systemctl", "stop", NAME], timeout=_PATIENCE)
    reset(runner)


def reset(runner: Runner) -> None:
    """Forget that the unit failed, and how often it was started."""
    try:
        runner(["systemctl", "reset-failed", NAME], timeout=_PATIENCE)
    except CommandError:  # of a unit that is not loaded; nothing to forget then
        return


def start(runner: Runner) -> None:
    """Start the agent, and wait until it says that it is ready.

    Raises:
        CommandError: It ended before.
    """
    runner(["systemctl", "daemon-reload"], timeout=_PATIENCE)
    reset(runner)
    runner(["systemctl", "start", NAME], timeout=START_SECONDS + 20)


def boot_again(runner: Runner) -> None:
    """Do what is done at boot; harmless where it was done.

    Raises:
        CommandError: It failed.
    """
    runner(["systemctl", "restart", BOOT], timeout=START_SECONDS + 20)


def drop_in(paths: Paths) -> Path:
    """Return where the safe start is."""
    return paths.runtime_units / f"{NAME}.d" / "zz-safe-start.conf"


def safe_text(executable: Path) -> str:
    """Return the drop-in of the safe start."""
    return _HEAD + "".join(f"{line}\n" for line in _lines(service.units(executable)[NAME].decode()))


def _lines(unit: str) -> Iterator[str]:
    parser = configparser.RawConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit)
    yield "[Service]"
    yield from (f"{name}=" for name in _LISTS)
    yield from (f"{name}={value}" for name, value in parser["Service"].items())


def is_safe(paths: Paths) -> bool:
    """Return whether the next start is a safe one."""
    return drop_in(paths).is_file()


def make_safe(paths: Paths, executable: Path | None = None) -> None:
    """Let the next start be a safe one.

    Raises:
        StateError: The program is not installed, or the drop-in cannot be written.
    """
    path = drop_in(paths)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    text = safe_text(executable or service.program())
    files.write_atomic(path, text.encode(), what=_WHAT, mode=0o644)


def make_normal(paths: Paths) -> None:
    """Let the next start be as the unit and its drop-ins say.

    Raises:
        StateError: The drop-in cannot be removed.
    """
    files.remove(drop_in(paths), what=_WHAT)


def is_there(
    paths: Paths, runner: Runner, systemd: Callable[[Paths], bool] = service.has_systemd
) -> bool:
    """Return whether systemd runs here, and knows the agent."""
    if not systemd(paths):
        return False
    try:
        return read(runner).exists
    except AegisError:
        return False
