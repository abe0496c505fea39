"""``aegisbpf soak start``, ``sample`` and ``stop``: what makes the turns of a soak, and ends it."""

from __future__ import annotations

import argparse
import signal
from typing import TYPE_CHECKING

from aegis_tools.cli.output import App, plain
from aegis_tools.cli.soak import DEAD
from aegis_tools.errors import AegisError, StateError
from aegis_tools.soak import reading, running

# The rest is imported where it is used: a turn is made every minute, and must cost little.
if TYPE_CHECKING:
    from aegis_tools.agent.stream import Stop
    from aegis_tools.soak.finish import Ended
    from aegis_tools.soak.plan import Plan
    from aegis_tools.soak.running import Step
    from aegis_tools.soak.settings import Settings
    from aegis_tools.soak.turn import Made


def start(app: App, arguments: argparse.Namespace) -> int:
    """Begin a soak; in the foreground, make all of its turns."""
    from aegis_tools.agent.stream import stop_on_signals
    from aegis_tools.soak import begin, plan, workload
    from aegis_tools.soak.plan import Wanted

    wanted = Wanted(
        arguments.scenario, arguments.duration, arguments.interval, arguments.workload,
        tuple(arguments.expect), arguments.override, arguments.note, arguments.foreground,
    )  # fmt: skip
    made = plan.plan(app.paths, wanted)
    if arguments.dry_run:
        app.show({**made.to_dict(), "dry_run": True}, lambda: _would(made))
        return 0
    for warning in () if app.json else made.warnings:
        app.note(f"warning: {warning}")
    if not wanted.foreground:
        first = begin.begin(app.paths, made)
        app.show({**made.to_dict(), "first": first.to_dict()}, lambda: _begun(made))
        return 0
    with stop_on_signals() as stop:
        begin.begin(app.paths, made)
        settings = made.settings
        with workload.child(app.paths, settings.workload, settings.duration_s):
            return _follow(app, settings, stop, at_once=False)


def _would(made: Plan) -> str:
    turns = made.settings.turns
    lines = [
        f"would begin {made.settings.id}: {turns} turn{'s' if turns > 1 else ''}, "
        f"{made.bytes >> 20} MiB of disk at most"
    ]
    if made.shadow:
        lines.append(f"  {made.shadow} has passed in shadow")
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in made.warnings)])


def _begun(made: Plan) -> str:
    from aegis_tools.soak.verdict import span

    one = made.settings
    text = f"{one.id} has begun: {span(one.duration_s)}, a turn every {span(one.interval_s)}"
    if one.override:
        text += f"\n  without a passed soak in shadow: {plain(one.override)}"
    return f"{text}\n  look at it: aegisbpf soak status   end it: aegisbpf soak stop"


def _follow(app: App, settings: Settings, stop: Stop, *, at_once: bool) -> int:
    """Make the turns until the end; Ctrl-C and SIGTERM end the soak in order.

    Returns:
        The exit code: of the verdict, as ``soak report`` has it, unless Ctrl-C has ended it.
    """
    import select

    from aegis_tools.cli.soak_report import code_of

    def wait(seconds: float) -> bool:
        if not stop:
            select.select([stop], [], [], seconds)
        return bool(stop)

    ended = running.follow(
        app.paths, settings, wait,
        tell=lambda step: _progress(app, settings, step),
        warn=lambda error: app.note(warning_of(error)),
        at_once=at_once,
    )  # fmt: skip
    if _is_watched(app):
        print(file=app.err)
    if ended is None:
        app.show({"soak": settings.id, "ended_by": "another command"}, f"{settings.id} has ended")
        return 0
    _show_end(app, ended)
    if stop.signal == signal.SIGINT:
        return 128 + signal.SIGINT
    return code_of(ended.verdict.status if ended.verdict else "")


def warning_of(error: AegisError) -> str:
    """Return what is told of a turn that could not be made, with the file that it is about."""
    where = f" ({error.detail})" if error.detail else ""
    return f"aegisbpf: {error.message}{where}"


def _progress(app: App, settings: Settings, step: Step) -> None:
    """Tell a person who watches; nobody else."""
    from aegis_tools.soak.verdict import span

    made = step.made
    if made is None or not _is_watched(app):
        return
    left = max(settings.duration_s - made.state.elapsed_s, 0.0)
    text = f"turn {made.state.turn}, {span(left)} left: {_seen(made)}"
    print(f"\r\x1b[K{text}", end="", file=app.err, flush=True)


def _is_watched(app: App) -> bool:
    return not app.json and app.err.isatty()


def _seen(made: Made) -> str:
    one = made.sample
    parts = [f"agent {one.agent}", f"canary {one.canary}"]
    if one.mem_mb is not None and one.agent == "running":
        parts.insert(1, f"{one.mem_mb:.1f} MB")
    return ", ".join(parts)


def _show_end(app: App, ended: Ended) -> None:
    from aegis_tools.soak.status import open_points

    for problem in () if app.json else ended.problems:
        app.note(f"warning: {problem}")
    verdict = ended.verdict
    data = {
        "soak": ended.identifier,
        "verdict": verdict.to_dict() if verdict else None,
        "problems": list(ended.problems),
    }

    def text() -> str:
        if verdict is None:
            return f"{ended.identifier} has ended; it could not be judged: aegisbpf soak report"
        lines = [f"{ended.identifier} has ended: {verdict.text}"]
        lines += [f"  {line}" for line in open_points(verdict)]
        return "\n".join([*lines, f"  all of it: aegisbpf soak report {ended.identifier}"])

    app.show(data, text)


def sample(app: App, arguments: argparse.Namespace) -> int:
    """Make a turn, all that are left, or a row of the seed's sampler."""
    if arguments.csv is not None:
        return _seed_row(app, arguments)
    if arguments.dry_run:
        name = reading.running(app.paths)
        text = f"would make a turn of {name}" if name else "no soak is running"
        app.show({"soak": name, "dry_run": True}, text)
        return 0
    if arguments.until_end:
        return _to_the_end(app)
    step = running.step(app.paths)
    if step.ended is not None:
        _show_end(app, step.ended)
    elif step.made is not None:
        made = step.made
        app.show(
            step.to_dict(), lambda: f"{step.identifier}: turn {made.state.turn}: {_seen(made)}"
        )
    else:
        app.show(step.to_dict(), "no soak is running")
    return 0


def _to_the_end(app: App) -> int:
    from aegis_tools.agent.stream import stop_on_signals
    from aegis_tools.soak import workload
    from aegis_tools.soak.status import read

    name = reading.running(app.paths)
    if not name:
        raise StateError("no soak is running", hint="begin one: aegisbpf soak start --help")
    settings = running.read_settings(app.paths, name)
    left = read(app.paths, name).left_s
    with (
        stop_on_signals() as stop,
        workload.child(app.paths, _own_workload(app, settings), left),
    ):
        return _follow(app, settings, stop, at_once=True)


def _own_workload(app: App, settings: Settings) -> str:
    """Return the workload that this process has to run: none where systemd does."""
    from aegis_tools.soak import unit
    from aegis_tools.soak.kernellog import WORKLOAD

    if unit.has_systemd(app.paths) and unit.is_active(f"{WORKLOAD}.service"):
        return "none"
    return settings.workload


def _seed_row(app: App, arguments: argparse.Namespace) -> int:
    from aegis_tools.soak import seedrow

    found = seedrow.look(app.paths)
    if arguments.dry_run:
        seedrow.check(arguments.csv)
        app.show({"file": str(arguments.csv), "dry_run": True}, f"would add to {arguments.csv}")
        return 0
    row = seedrow.add(arguments.csv, found)
    app.show({"file": str(arguments.csv), "row": row}, "" if found.present else row)
    return 0 if found.present else DEAD


def stop(app: App, arguments: argparse.Namespace) -> int:
    """End the running soak."""
    if arguments.dry_run:
        name = reading.running(app.paths)
        app.show({"soak": name, "dry_run": True}, f"would end {name or 'nothing'}")
        return 0
    _show_end(app, running.stop(app.paths))
    return 0
