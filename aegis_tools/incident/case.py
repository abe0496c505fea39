"""What a procedure works with: its record, the host, and steps that are safe to repeat.

A step asks the host whether it is needed, not the record: so a procedure that was killed at any
instant can be run again, and on a healthy host does nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aegis_tools.control.bootclock import SYSTEM, Seams
from aegis_tools.control.lock import locked
from aegis_tools.errors import AegisError, StateError
from aegis_tools.incident.record import Record
from aegis_tools.paths import Paths

LOCK_SECONDS = 30
"""How long another command is waited for: a recovery is worth it."""


class Step(NamedTuple):
    """One step, as it went.

    Attributes:
        action: A stable word.
        message: What it does, for a person.
        state: ``done``, ``would`` (dry run), ``not-needed`` or ``failed``.
        changes: Whether it is one that changes the host.
        seconds: How long it took.
        error: Why it failed.
        value: What it returned; never printed.
    """

    action: str
    message: str
    state: str
    changes: bool
    seconds: float = 0.0
    error: str = ""
    value: Any = None

    @property
    def did(self) -> bool:
        """Whether it was done, or would be."""
        return self.state in ("done", "would")

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        found = self._asdict()
        del found["value"]
        return found


class Probed(NamedTuple):
    """What a probe of the affected service said.

    Attributes:
        ok: The service answers.
        message: How, or why not, for a person.
    """

    ok: bool
    message: str


@dataclass(frozen=True)
class Outcome:
    """How a procedure ended.

    Attributes:
        found: Whether the host was in the scenario.
        result: ``recovered``, ``not-recovered`` or ``nothing-to-do``.
        summary: In one line, for a person.
        next: Commands to run next, each a whole line.
        keep_open: Leave the record open: something is still to be confirmed, or decided.
        error: What the command fails with; a result of ``not-recovered`` needs one.
        data: More for ``--json``.
    """

    found: bool
    result: str
    summary: str
    next: tuple[str, ...] = ()
    keep_open: bool = False
    error: AegisError | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass
class Case:
    """One run of a procedure.

    Attributes:
        paths: The host.
        record: What is written down.
        dry_run: Change nothing, and say what would be done.
        seams: Time and other programs.
        sleep: Waits that many seconds.
        probe: Asks the affected service; None where none was given.
        tell: Takes a line for a person while the procedure runs.
        steps: What was done so far.
    """

    paths: Paths
    record: Record
    dry_run: bool = False
    seams: Seams = SYSTEM
    sleep: Callable[[float], None] = time.sleep
    probe: Callable[[], Probed] | None = None
    tell: Callable[[str], None] = lambda _: None
    steps: list[Step] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether the host was changed, or would be."""
        return any(step.changes and step.did for step in self.steps)

    @property
    def seconds(self) -> float:
        """Since this boot, on a clock that nobody sets: for time limits."""
        return self.seams.boot_ns() / 1e9

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock that everything holds which changes the host; it is not re-entrant."""
        what = f"incident {self.record.scenario}"
        with locked(self.paths.lock, what, timeout=LOCK_SECONDS):
            yield

    def step(
        self,
        action: str,
        message: str,
        do: Callable[[], Any],
        *,
        needed: Callable[[], bool] | bool = True,
        lock: bool = False,
        urgent: bool = False,
        optional: bool = False,
        **data: Any,
    ) -> Step:
        """Change the host, where that is needed.

        Args:
            action: A stable word: ``audit``.
            message: What it does, for a person, to be read before and after: ``set the mode to
                audit``.
            do: Does it; its return value is the step's ``value``.
            needed: Whether it has to be done: asks the host. With ``lock`` it is asked under it.
            lock: Hold the lock meanwhile; ``do`` must not take it again.
            urgent: Do it before anything is written down.
            optional: Go on when it fails.
            data: Details for the timeline.

        Raises:
            AegisError: It failed, and is not ``optional``. It is in the record, which stays open.
        """
        with self.locked() if lock and not self.dry_run else contextlib.nullcontext():
            if not (needed() if callable(needed) else needed):
                return self._add(Step(action, message, "not-needed", True))
            if self.dry_run:
                return self._add(Step(action, message, "would", True))
            self.tell(message)
            if not urgent:
                self.record.doing(action, message, **data)
            return self._do(action, message, do, changes=True, optional=optional, data=data)

    def look(
        self, action: str, message: str, do: Callable[[], Any], *, optional: bool = True,
        **data: Any,
    ) -> Step:  # fmt: skip
        """Look at something, in a dry run as well: ``do`` changes nothing on the host.

        Args:
            action: A stable word: ``kernel-log``.
            message: What is looked at, for a person.
            do: Looks; its return value is the step's ``value``.
            optional: Go on when it fails; ``value`` is None then.
            data: Details for the timeline.

        Raises:
            AegisError: It failed, and is not ``optional``.
        """
        return self._do(action, message, do, changes=False, optional=optional, data=data)

    def wait(self, until: Callable[[], bool], *, seconds: float, every: float = 1.0) -> bool:
        """Ask again and again until it is so or the time is over; return the last answer."""
        end = self.seconds + seconds
        while not (found := until()) and self.seconds < end:
            self.sleep(every)
        return found

    def answer(self, outcome: Outcome) -> dict[str, Any]:
        """Return what ``--json`` prints, and what a module of the role returns."""
        return {
            "scenario": self.record.scenario,
            "found": outcome.found,
            "changed": self.changed,
            "dry_run": self.dry_run,
            "result": outcome.result,
            "summary": outcome.summary,
            "next": list(outcome.next),
            "id": self.record.id if self.record.kept else "",
            "steps": [step.to_dict() for step in self.steps],
            "warnings": self.warnings(),
            "record": self.record.to_dict(),
            **outcome.data,
        }

    def warnings(self) -> list[str]:
        """Return what a person has to know besides: that the record could not be written."""
        if not self.record.problem:
            return []
        return [f"the record is not on the disk: {self.record.problem}"]

    def _do(
        self,
        action: str,
        message: str,
        do: Callable[[], Any],
        *,
        changes: bool,
        optional: bool,
        data: dict[str, Any],
    ) -> Step:
        began = self.seconds
        write = self.record.did if changes else self.record.saw
        try:
            value = do()
        except (AegisError, OSError) as error:
            found = error if isinstance(error, AegisError) else _of_system(error)
            write(
                action, f"{message}: {found.message}", ok=False, **{**data, "detail": found.detail}
            )
            taken = round(self.seconds - began, 3)
            step = Step(action, message, "failed", changes, taken, found.message)
            self._add(step)
            if optional:
                return step
            raise found from error
        write(action, message, ok=True, **data)
        taken = round(self.seconds - began, 3)
        return self._add(Step(action, message, "done", changes, taken, value=value))

    def _add(self, step: Step) -> Step:
        self.steps.append(step)
        return step


def _of_system(error: OSError) -> AegisError:
    return StateError(
        f"the system refused it: {(error.strerror or 'unknown reason').lower()}",
        hint="see: aegisbpf health; run it again with --verbose",
        detail=str(error),
    )
