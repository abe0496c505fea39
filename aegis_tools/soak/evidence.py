"""What is kept for whoever looks into a soak that fails: at the first failure, and at the end.

::

    evidence/WHEN-journal.txt -kernel-log.txt -systemd.txt -unit.txt -cores.txt   without secrets
             WHEN-maps.json       entries and capacity of every map
             WHEN-programs.json   runs and nanoseconds of every program
             WHEN-problems.txt    what could not be collected

WHEN is ``first`` or ``end``.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from aegis_tools.control import files, service
from aegis_tools.control.capacity import read_use
from aegis_tools.control.live import Live
from aegis_tools.control.stats import read_programs
from aegis_tools.errors import AegisError
from aegis_tools.incident.collect import parts
from aegis_tools.incident.redact import redact
from aegis_tools.kernel.pins import Pins
from aegis_tools.kernel.run import Runner, run
from aegis_tools.paths import Paths
from aegis_tools.soak.folder import Folder

FIRST, END = "first", "end"
MAX_CHARACTERS = 4 << 20
"""Of each file; of a longer text the end is kept."""
_WHAT = "evidence"


def collect(paths: Paths, at: Folder, when: str, *, runner: Runner = run) -> list[str]:
    """Collect it; return the names of what there is. What cannot be had is said, and no error.

    Args:
        paths: The host.
        at: The soak.
        when: FIRST or END.
        runner: Starts journalctl, systemctl and coredumpctl.

    Raises:
        StateError: It cannot be written.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    for name, read in _sources(paths, runner).items():
        try:
            text = read()
        except (AegisError, OSError) as error:
            problems.append(f"{name}: {getattr(error, 'message', '') or error}\n")
            continue
        if text:
            found[name] = redact(text[-MAX_CHARACTERS:])
    if problems:
        found["problems.txt"] = "".join(problems)
    files.ensure_folder(at.evidence)
    for name, text in found.items():
        data = text.encode("utf-8", "backslashreplace")
        files.write_atomic(at.evidence / f"{when}-{name}", data, what=_WHAT)
    return sorted(f"{when}-{name}" for name in found)


def _sources(paths: Paths, runner: Runner) -> dict[str, Callable[[], str]]:
    systemd = service.has_systemd(paths)
    told = [part for part in parts(runner) if systemd or part.name == "kernel-log"]
    return {
        **{f"{part.name}.txt": part.read for part in told},
        "maps.json": lambda: _maps(paths),
        "programs.json": lambda: _programs(paths),
    }


def _maps(paths: Paths) -> str:
    with Live(Pins(paths.pins)) as live:
        return json.dumps([use._asdict() for use in read_use(live)], indent=1)


def _programs(paths: Paths) -> str:
    with Live(Pins(paths.pins)) as live:
        return json.dumps([one._asdict() for one in read_programs(live.pins)], indent=1)
