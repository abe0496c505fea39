"""Too many events, or hooks that cost too much: fewer at once, then why, then room for them.

What is denied is denied whatever the sample rate and the ring are: both only decide which matches
send an event. Measured before and after, both in the record.

Order of the effects, and what a death after each leaves for the next run:
  rate remembered   the rate of before, in the kernel and in the file
  rate lowered      fewer events; the next run goes on from there
  ring replaced     see control.replace; the next run only restarts the agent
  rate restored     as before, with the larger ring
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from aegis_tools.agent.eventsource import Files, Journal
from aegis_tools.agent.search import Query, Search, time_text
from aegis_tools.control import bootstate, replace
from aegis_tools.control.heartbeat import read_heartbeat
from aegis_tools.control.live import Live
from aegis_tools.errors import AegisError, KernelError, StateError
from aegis_tools.incident import costs, sampling, unit
from aegis_tools.incident.case import Case, Outcome
from aegis_tools.incident.costs import ByProcess, Cause, Costs, Limits
from aegis_tools.kernel.features import read_host_features
from aegis_tools.kernel.loader import LoadOptions
from aegis_tools.kernel.pins import Pins

RATE = 0.1
SECONDS = 5.0
LOOK_BACK = 60.0
"""Seconds of events that say which processes it is: they are told of late in a storm."""
AGENT_SECONDS = 60.0
"""For which an agent is waited for that somebody else starts again."""
RESTORE = "aegisbpf incident performance --restore"
APPLY = "aegisbpf incident performance --apply --restore"


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes:
        seconds: For how long to measure, twice.
        rate: The sample rate to go down to.
        apply: Make the ring larger where it was full.
        ring_bytes: How large; 0 for what the measurement says.
        restore: Bring the sample rate of before back.
        limits: What is still taken for well.
        events: Where events are read from; None for nowhere.
    """

    seconds: float = SECONDS
    rate: float = RATE
    apply: bool = False
    ring_bytes: int = 0
    restore: bool = False
    limits: Limits = field(default_factory=Limits)
    events: Callable[[float], Files | Journal] | None = None


def run(case: Case, options: Options) -> Outcome:
    """Recover a host from too many events; does nothing on a healthy one.

    Raises:
        AegisError: The counters could not be read, or the rate not be set.
    """
    if not Pins(case.paths.pins).is_loaded():
        return Outcome(False, "nothing-to-do", "nothing is loaded, so nothing can cost anything")
    before = _measure(case, "measure", options)
    found = _causes(before, options)
    lowered = _before(case) is not None
    if not found and not lowered:
        data = {"costs": before.to_dict(), "causes": []}
        return Outcome(False, "nothing-to-do", _well(before), data=data)
    _keep(case, before, found)
    _lower(case, options, needed=bool(found))
    if options.apply or options.ring_bytes:
        _enlarge(case, options)
    if options.restore:
        _restore(case)
    if not case.changed:
        return _as_it_was(before, found)
    if case.dry_run:
        text = f"{_text(found)}; this would be done about it"
        return Outcome(True, "recovered", text, data={"causes": _dicts(found)})
    return _compare(case, options, found)


def _measure(case: Case, action: str, options: Options) -> Costs:
    """Measure, in a dry run as well.

    Raises:
        AegisError: The counters cannot be read.
    """

    def do() -> Costs:
        with Live(Pins(case.paths.pins)) as live:
            return costs.measure(
                case.paths,
                live,
                seconds=options.seconds,
                sleep=case.sleep,
                clock=lambda: case.seconds,
                processes=partial(_processes, options.events, case.seams.wall() - LOOK_BACK),
            )

    message = f"measure for {options.seconds:g} s"
    return cast("Costs", case.look(action, message, do, optional=False).value)


def _processes(
    events: Callable[[float], Files | Journal] | None, since: float
) -> Sequence[tuple[str, int]]:
    """Return events by process; none where they cannot be read."""
    counted = ByProcess()
    if events is not None:
        with contextlib.suppress(AegisError, OSError):
            search = Search(Query(since=time_text(since)))
            for batch in search.among(events(since).batches()):
                for _, event in batch:
                    counted.add(event)
    return counted.counts.most_common()


def _causes(found: Costs, options: Options) -> tuple[Cause, ...]:
    return costs.causes(found, options.limits, cpus=os.cpu_count() or 1)


def _keep(case: Case, before: Costs, found: tuple[Cause, ...]) -> None:
    """Keep what was measured first: a run that continues compares with that."""
    if case.record.get("before") is None:
        case.record.fact("before", before.to_dict())
    if found:
        case.record.fact("causes", _dicts(found))
        case.record.fact("ring_proposed", costs.ring_for(before))
    # A ring that was full gets room in this run, or the comparison says how.
    for cause in (one for one in found if one.name != "ring"):
        for proposal in cause.proposals:
            case.record.follow_up(f"{cause.text}: {proposal}")


def _lower(case: Case, options: Options, *, needed: bool) -> None:
    now = case.seams.wall()

    def is_higher() -> bool:
        with Live(Pins(case.paths.pins)) as live:
            return sampling.rate(live) > options.rate

    def do() -> None:
        with Live(Pins(case.paths.pins)) as live:
            case.record.fact("sample_rate_before", sampling.rate(live))
            sampling.lower(case.paths, live, options.rate, now=now)

    case.step(
        "lower-sampling", f"send an event for {options.rate:.0%} of the matches only", do,
        needed=lambda: needed and is_higher(), lock=True,
    )  # fmt: skip


def _enlarge(case: Case, options: Options) -> None:
    """Make the ring larger where it was full, in this run or the one it continues."""
    full = any(one["name"] == "ring" for one in case.record.get("causes") or ())
    wanted = options.ring_bytes or int(case.record.get("ring_proposed") or 0)
    agent = _agent(case)
    asked = bool(wanted) and (full or bool(options.ring_bytes))
    message = f"make the event ring {wanted >> 10} KiB, live"
    case.step(
        "larger-ring", message, partial(_ring, case, wanted),
        needed=lambda: asked and _ring_bytes(case) < wanted, lock=True, optional=True,
    )  # fmt: skip
    runner = case.seams.run
    case.step(
        "restart-agent", "start the agent again, for it reads the old ring",
        lambda: runner(["systemctl", "restart", unit.NAME], timeout=unit.START_SECONDS + 20),
        needed=lambda: _did(case, "larger-ring") and unit.is_there(case.paths, runner),
        optional=True,
    )  # fmt: skip
    if agent and _did(case, "larger-ring") and not case.dry_run:
        case.look("agent-back", "wait until the agent reads the new ring",
                  partial(_wait_for_reader, case))  # fmt: skip


def _agent(case: Case) -> int:
    """Return the process of the agent that says it is ready; 0 for none."""
    beat = read_heartbeat(case.paths) or {}
    pid = beat.get("pid")
    return pid if isinstance(pid, int) and beat.get("ready") else 0


def _wait_for_reader(case: Case) -> None:
    """Wait for an agent that reads the new ring: one that went over to it, or was started since.

    Raises:
        StateError: There is none in time.
    """
    with Live(Pins(case.paths.pins)) as live:
        ring = live.map("events").id

    def reads() -> bool:
        return bool(_agent(case)) and (read_heartbeat(case.paths) or {}).get("ring") == ring

    if not case.wait(reads, seconds=AGENT_SECONDS):
        raise StateError(
            "the agent does not run again, so nobody reads the new ring",
            hint="run: systemctl restart aegisbpf",
        )


def _ring_bytes(case: Case) -> int:
    with Live(Pins(case.paths.pins)) as live:
        return live.map("events").max_entries


def _ring(case: Case, size: int) -> None:
    features = read_host_features(case.paths.root)
    replace.carry_out(case.paths, features, LoadOptions(ringbuf_bytes=size), seams=case.seams,
                      runner=case.seams.run)  # fmt: skip
    with Live(Pins(case.paths.pins)) as live:
        bootstate.keep(case.paths, live)


def _did(case: Case, action: str) -> bool:
    return any(step.action == action and step.did for step in case.steps)


def _restore(case: Case) -> None:
    back = _before(case)

    def do() -> None:
        with Live(Pins(case.paths.pins)) as live:
            sampling.restore(case.paths, live)

    message = f"send events for {1.0 if back is None else back:.0%} of the matches again"
    needed = partial(_is_lowered, case)
    case.step("restore-sampling", message, do, needed=needed, lock=True)


def _before(case: Case) -> float | None:
    with Live(Pins(case.paths.pins)) as live:
        return sampling.before(case.paths, live)


def _is_lowered(case: Case) -> bool:
    return _before(case) is not None


def _as_it_was(before: Costs, found: tuple[Cause, ...]) -> Outcome:
    """Answer where a run before this one did what there is to do."""
    data: dict[str, Any] = {"costs": before.to_dict(), "causes": _dicts(found)}
    if found:
        return _still(found, data)
    text = f"{_well(before)}; the sample rate is lowered to {before.sample_rate:.0%} still"
    return Outcome(True, "recovered", text, (RESTORE,), keep_open=True, data=data)


def _compare(case: Case, options: Options, found: tuple[Cause, ...]) -> Outcome:
    """Measure again, and say what changed."""
    after = _measure(case, "measure-again", options)
    left = _causes(after, options)
    if left and _did(case, "restore-sampling"):
        _lower(case, options, needed=True)
    case.record.fact("after", after.to_dict())
    first = case.record.get("before")
    sides = costs.compare(first, after.to_dict())
    case.record.fact("comparison", sides)
    case.record.saw("compared", costs.in_a_line(sides))
    lowered = _is_lowered(case)
    data: dict[str, Any] = {"comparison": sides, "causes": _dicts(found), "left": _dicts(left)}
    if left:
        return _still(left, data)
    following: tuple[str, ...] = ()
    if lowered:
        following = (RESTORE,) if _did(case, "larger-ring") or not _was_full(case) else (APPLY,)
        case.record.follow_up(f"the sample rate is lowered: {following[0]}")
    text = f"{_text(found) or 'the sample rate was lowered'}; now: {costs.in_a_line(sides)}"
    return Outcome(True, "recovered", text, following, keep_open=lowered, data=data)


def _was_full(case: Case) -> bool:
    return any(one["name"] == "ring" for one in case.record.get("causes") or ())


def _still(left: tuple[Cause, ...], data: dict[str, Any]) -> Outcome:
    following = tuple(proposal for cause in left for proposal in cause.proposals)
    text = f"it still costs too much: {_text(left)}"
    hint = following[0] if following else "see: aegisbpf stats; aegisbpf events --top 10"
    return Outcome(True, "not-recovered", text, following, error=KernelError(text, hint=hint),
                   data=data)  # fmt: skip


def _text(found: tuple[Cause, ...]) -> str:
    return "; ".join(cause.text for cause in found)


def _dicts(found: tuple[Cause, ...]) -> list[dict[str, object]]:
    return [cause.to_dict() for cause in found]


def _well(found: Costs) -> str:
    rates = found.rates
    cpu = (
        f"hooks take {found.hook_cpu:.1%} of a CPU" if found.measured else "run times not measured"
    )
    return f"{rates['events']:.0f} events a second, {rates['dropped']:.0f} dropped; {cpu}"
