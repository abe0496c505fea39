"""Run a procedure from the command line: its record, its progress, its answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from aegis_tools.cli.output import App, table
from aegis_tools.errors import AegisError, KernelError
from aegis_tools.incident.case import Case, Outcome, Probed, Step
from aegis_tools.incident.record import Record

Procedure = Callable[[Case], Outcome]
_STATES = {"done": "done", "would": "would do", "not-needed": "not needed", "failed": "FAILED"}


def execute(
    app: App,
    scenario: str,
    procedure: Procedure,
    *,
    dry_run: bool = False,
    probe: Callable[[], Probed] | None = None,
) -> int:
    """Run a procedure; print its progress on stderr and its answer on stdout.

    Returns:
        0.

    Raises:
        KernelError: Not run as root.
        AegisError: It failed; with ``--json`` the answer is among the error's data. The record
            stays open, so that the next run continues it.
    """
    if os.geteuid() and app.paths.root == Path("/"):  # who sees nothing finds nothing to do
        raise KernelError(
            f"{scenario} needs root: to others a host in trouble looks healthy",
            hint=f"sudo aegisbpf incident {scenario}",
        )
    with Record.begin(app.paths, scenario, dry_run=dry_run) as record:
        case = Case(app.paths, record, dry_run=dry_run, probe=probe, tell=_teller(app))
        if record.continued:
            case.tell(f"continues incident {record.id}")
        try:
            outcome = procedure(case)
        except AegisError as error:
            _failed(app, case, error)
            raise
        if not (outcome.keep_open and outcome.error is None):
            record.close(outcome.result)
        for warning in case.warnings():
            app.note(f"warning: {warning}")
        if outcome.error is None:
            app.show(lambda: case.answer(outcome), lambda: as_text(case, outcome))
            return 0
        outcome.error.data.update(case.answer(outcome))
        if not app.json:
            app.show({}, as_text(case, outcome))
        raise outcome.error


def _teller(app: App) -> Callable[[str], None]:
    return (lambda _: None) if app.json else (lambda line: app.note(f"… {line}"))


def _failed(app: App, case: Case, error: AegisError) -> None:
    """Let an error carry what was done before it, or print it."""
    summary = f"stopped: {error.message}"
    outcome = Outcome(found=True, result="not-recovered", summary=summary, keep_open=True)
    error.data.update(case.answer(outcome))
    if not app.json:
        app.show({}, as_text(case, outcome))


def as_text(case: Case, outcome: Outcome) -> str:
    """Return the verdict, then each step, then what to run next."""
    return "\n".join(_lines(case, outcome))


def _lines(case: Case, outcome: Outcome) -> Iterator[str]:
    prefix = "dry run, " if case.dry_run else ""
    result = outcome.result.replace("-", " ")
    summary = outcome.summary.removeprefix(f"{result}: ")
    would = "would be " if case.dry_run and outcome.result == "recovered" else ""
    yield f"{prefix}{case.record.scenario}: {would}{result}: {summary}"
    if case.steps:
        yield table(_row(step) for step in case.steps)
    if case.record.kept:
        yield f"record: aegisbpf incident show {case.record.id}"
    for command in outcome.next:
        yield f"  next: {command}"


def _row(step: Step) -> tuple[str, str]:
    text = step.message
    if step.error:
        text += f": {step.error}"
    elif step.seconds >= 0.1:
        text += f" ({step.seconds:.1f} s)"
    return f"  {_STATES[step.state]}", text
