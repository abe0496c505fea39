"""Hosts of a test's own for records, cases and procedures: a folder, and clocks that it sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aegis_tools.control.bootclock import Seams
from aegis_tools.errors import CommandError
from aegis_tools.incident.case import Case
from aegis_tools.incident.record import Record
from aegis_tools.paths import Paths

BOOT_ID = "11111111-2222-3333-4444-555555555555"


@dataclass
class Clock:
    """Time that passes only when it is told to.

    Attributes:
        now: Unix seconds.
        boot: Seconds since boot.
        answers: What programs print, by their first words.
        ran: The programs that were started.
    """

    now: float = 1_800_000_000.0
    boot: float = 1000.0
    answers: dict[tuple[str, ...], str] = field(default_factory=dict)
    ran: list[list[str]] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.boot += seconds

    @property
    def seams(self) -> Seams:
        return Seams(boot_ns=lambda: int(self.boot * 1e9), wall=lambda: self.now, run=self._run)

    def _run(self, argv: Sequence[str], *, timeout: float = 60) -> str:
        del timeout
        self.ran.append(list(argv))
        for start, text in self.answers.items():
            if tuple(argv[: len(start)]) == start:
                return text
        raise CommandError(f"{argv[0]} is not installed")


def host(folder: Path) -> Paths:
    """Return a host below a folder, with a state folder and a boot id of its own."""
    paths = Paths(folder)
    paths.state.mkdir(parents=True, mode=0o700)
    boot = folder / "proc/sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text(f"{BOOT_ID}\n")
    for path in (paths.state, *paths.state.parents):
        if path == folder:
            break
        path.chmod(0o755 if path != paths.state else 0o700)
    return paths


def begin(paths: Paths, clock: Clock, scenario: str = "blocking", **options: Any) -> Record:
    """Begin a record."""
    return Record.begin(paths, scenario, clock=clock.seams, **options)


def case(paths: Paths, clock: Clock, scenario: str = "blocking", **options: Any) -> Case:
    """Begin a case."""
    dry_run = options.get("dry_run", False)
    record = begin(paths, clock, scenario, dry_run=dry_run)
    return Case(paths, record, seams=clock.seams, sleep=clock.sleep, **options)
