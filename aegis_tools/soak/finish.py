"""The end of a soak: at its time, or when somebody stops it.

Order of the effects, and what a death after each leaves for the next turn, which does the rest:
  result          it has ended: nothing below is done by halves for good
  what happened   told once
  canary's rule   is gone
  evidence        collected anew
  report          made anew
  running         nothing runs; the next turn stops the timer
  timer, workload nothing
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from aegis_tools.control import files
from aegis_tools.control.bootclock import SYSTEM, Seams
from aegis_tools.control.lock import locked
from aegis_tools.errors import AegisError
from aegis_tools.paths import Paths
from aegis_tools.soak import evidence, placing, state, telling, unit
from aegis_tools.soak.folder import Folder, folder
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.reading import read_soak
from aegis_tools.soak.settings import MAX_JSON, Result, parse_result
from aegis_tools.soak.state import State
from aegis_tools.soak.verdict import FAIL, Verdict, judge

DONE, STOPPED = "done", "stopped"
_KINDS = {
    DONE: ("ended", "the soak has run its time"),
    STOPPED: ("stopped", "the soak was stopped"),
}


@dataclass(frozen=True)
class Ended:
    """A soak that has ended.

    Attributes:
        identifier: Its id.
        verdict: What it has shown; None where that could not be told.
        problems: What could not be done, one line each.
    """

    identifier: str
    verdict: Verdict | None
    problems: tuple[str, ...] = ()


def finish(paths: Paths, identifier: str, how: str, *, seams: Seams = SYSTEM) -> Ended:
    """End a soak. The caller holds the soak's lock.

    Args:
        paths: The host.
        identifier: The soak.
        how: DONE or STOPPED.
        seams: Clock and programs.

    Raises:
        StateError: That it has ended could not be written down: it still runs.
    """
    at = folder(paths, identifier)
    if not files.exists(at.result):
        result = Result(how, max(round(seams.wall(), 3), 0.0))
        files.write_atomic(at.result, result.to_bytes(), what="result of the soak")
    return clean_up(paths, identifier, seams=seams)


def clean_up(paths: Paths, identifier: str, *, seams: Seams = SYSTEM) -> Ended:
    """Do what is left to do of a soak that has ended; what fails is said, and the rest done.

    Raises:
        StateError: It could not be written down that none runs.
    """
    at = folder(paths, identifier)
    problems: list[str] = []

    def attempt(what: str, act: Callable[[], object]) -> None:
        try:
            act()
        except (AegisError, OSError, ValueError) as error:
            problems.append(f"{what}: {getattr(error, 'message', '') or error}")

    attempt("what happened", lambda: _tell(paths, identifier, seams))
    attempt("the canary's rule", lambda: _remove_rule(paths, at))
    verdicts: list[Verdict] = []
    attempt("the report", lambda: verdicts.append(report(paths, identifier, seams)))
    attempt("leftovers", lambda: files.remove_leftovers(at.path))
    files.remove(paths.soak_running, what="name of the running soak")
    files.remove(telling.untold(paths), what=telling.WHAT)
    if unit.has_systemd(paths):
        attempt("the timer", lambda: unit.end(paths, seams.run))
    return Ended(identifier, verdicts[0] if verdicts else None, tuple(problems))


def report(paths: Paths, identifier: str, seams: Seams = SYSTEM) -> Verdict:
    """Judge a soak, collect evidence where it has failed, and write its report.

    Raises:
        StateError: It cannot be read, or the report not be written.
    """
    soak = read_soak(paths, identifier, clock=seams.wall)
    verdict = judge(soak)
    if verdict.status == FAIL:
        with contextlib.suppress(AegisError):
            evidence.collect(paths, folder(paths, identifier), evidence.END, runner=seams.run)
    from aegis_tools.soak.report import write_report

    write_report(paths, soak)
    return verdict


def _tell(paths: Paths, identifier: str, seams: Seams) -> None:
    """Write down how it ended, unless that was done."""
    at = folder(paths, identifier)
    kinds = {kind for kind, _ in _KINDS.values()}
    if any(one.kind in kinds for one in telling.newest(at.happened)):
        return
    result = parse_result(files.read_limited(at.result, MAX_JSON, what="result of the soak"))
    kind, text = _KINDS[result.state]
    event = Happened(result.ended, kind, text, boot_s=seams.boot_ns() / 1e9)
    before = state.read(at.state) or State()
    state.write(at.state, telling.tell(paths, identifier, before, [event]))


def _remove_rule(paths: Paths, at: Folder) -> None:
    with locked(paths.lock, command="soak"):
        placing.remove(paths, at.path)
    files.remove(at.path / "probe", what="file whose opening is measured")
