"""An agent that keeps dying: end the loop, find out why, start it safely, mend what is damaged.

Enforcement is in the kernel and needs no agent, so it stays as it is, unless policy or programs may
be what the agent dies of: then the host is held in audit, and only a person's ``aegisbpf resume``
brings the mode back.

Order of the effects, and what a death after each leaves for the next run:
  unit stopped      no loop; the record is open, by which the next run knows who stopped it
  held in audit     the same; the mode of before is in the hold
  loaded, restored  the same, with a policy that can be used
  safe start        the agent runs as it is shipped; the next run only watches it
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

from aegis_tools.control import boot, fallback
from aegis_tools.control.bootstate import read_boot_state
from aegis_tools.control.live import Live
from aegis_tools.control.mode import read_mode
from aegis_tools.control.remember import remember
from aegis_tools.control.service import has_systemd
from aegis_tools.control.store import Store
from aegis_tools.errors import AegisError, KernelError, NotLoadedError, StateError
from aegis_tools.incident import collect, known_good, unit
from aegis_tools.incident.case import Case, Outcome
from aegis_tools.incident.classify import NEXT, Cause, Finding, classify
from aegis_tools.incident.crash_seen import (
    END_LOOP,
    STOP_AGAIN,
    Seen,
    Systemd,
    held_by,
    is_lost,
    look,
)
from aegis_tools.kernel import loader
from aegis_tools.kernel.features import Features, read_host_features
from aegis_tools.kernel.pins import Pins
from aegis_tools.policy.model import Mode

STABLE_FOR = 60.0
"""Seconds that an agent must live to be taken for stable."""
RESUME = "aegisbpf resume"
NORMAL = "aegisbpf incident crash-loop --normal-start"
_LOAD = frozenset({Cause.VERIFIER, Cause.KERNEL, Cause.MAP_SIZE})
"""What the agent, which loads by itself, would die of again."""


def run(case: Case, *, stable_for: float = STABLE_FOR, systemd: Systemd = has_systemd) -> Outcome:
    """Recover a host from an agent that keeps dying; does nothing on a healthy one.

    Args:
        case: The run.
        stable_for: Seconds that the agent must live after its safe start.
        systemd: Whether systemd is asked.

    Raises:
        AegisError: The loop could not be ended.
    """
    seen = look(case, systemd)
    if not seen.found:
        return _nothing(case, seen)
    case.record.fact("signs", seen.signs())
    _mode_before(case)
    try:
        if seen.unit is not None:
            case.step(
                END_LOOP, "stop the agent: the loop ends, the kernel goes on as it is",
                partial(unit.stop, case.seams.run), needed=seen.looping,
            )  # fmt: skip
        finding = _find_out(case, seen)
        mended = _mend(case, seen, finding)
        stable = _bring_up(case, seen, stable_for)
    except BaseException:
        _say_if_stopped(case)
        raise
    return _outcome(case, seen, finding, mended=mended, stable=stable)


def _nothing(case: Case, seen: Seen) -> Outcome:
    following: tuple[str, ...] = ()
    summary = "the agent does not keep dying, and the stored policy can be used"
    if seen.held is not None:
        summary += f"; the host is held in audit ({seen.held.reason})"
        following = (RESUME,)
    if unit.is_safe(case.paths):
        summary += "; the agent's start is a safe one"
        following = (NORMAL, *following)
    return Outcome(False, "nothing-to-do", summary, following)


def _mode_before(case: Case) -> None:
    if case.record.get("mode_before") is None:
        with contextlib.suppress(AegisError), Live(Pins(case.paths.pins)) as live:
            case.record.fact("mode_before", read_mode(live).value)


def _find_out(case: Case, seen: Seen) -> Finding:
    """Collect, and name the cause."""
    pins, shown = Pins(case.paths.pins), seen.unit.text if seen.unit and seen.looping else ""
    texts = collect.texts(case, systemd=seen.unit is not None, shown=shown)
    if not (seen.agent_trouble or seen.boot_failed):
        texts = {"state": texts["state"]}  # the agent is well, whatever it said an hour ago
    if collect.needs_trial(pins) and not case.dry_run:
        texts["trial"] = (
            case.look("trial", "load the programs on trial, attaching none", partial(_trial, case))
        ).value or ""
        case.record.file("verifier.txt", texts["trial"] or "the kernel takes the programs\n")
    finding = classify(texts)
    case.record.fact("cause", finding.to_dict())
    # Written even where nothing has to be changed: the next run then knows that somebody looked.
    case.record.did("cause", finding.text(), lines=list(finding.lines))
    case.record.follow_up(f"{finding.cause.value}: {NEXT[finding.cause]}")
    return finding


def _trial(case: Case) -> str:
    with case.locked():
        return collect.trial(Pins(case.paths.pins), _features(case), case.seams.run)


def _features(case: Case) -> Features:
    return read_host_features(case.paths.root)


def _mend(case: Case, seen: Seen, finding: Finding) -> bool:
    """Hold, load, restore, apply: each where the host lacks it. Return whether all went well."""
    paths = case.paths
    took = [
        _step(case, "hold", "hold the host in audit until a person resumes it",
              partial(_hold, case, seen, finding),
              partial(_hold_needed, case, seen, finding)),
        _step(case, "load", "load the programs", partial(_load, case, finding),
              lambda: not Pins(paths.pins).is_loaded() and (seen.lost or finding.cause in _LOAD)),
        _step(case, "restore-policy", "put the last good policy in the place of the damaged one",
              partial(_restore, case), lambda: bool(seen.damaged)),
        _step(case, "apply-stored", "apply the stored policy, in audit",
              partial(_apply, case), partial(is_lost, case)),
    ]  # fmt: skip
    if seen.boot_failed:
        took.append(case.step(
            "boot-unit", "let systemd do what it does at boot, now that it can",
            partial(unit.boot_again, case.seams.run), optional=True,
        ).state != "failed")  # fmt: skip
    return all(took)


def _step(
    case: Case, action: str, message: str, do: Callable[[], object], needed: Callable[[], bool]
) -> bool:
    step = case.step(action, message, do, needed=needed, lock=True, optional=True)
    return step.state != "failed"


def _hold_needed(case: Case, seen: Seen, finding: Finding) -> bool:
    if held_by(case) is not None:
        return False
    if seen.lost and _boot_mode(case) is Mode.ENFORCE:
        return True  # what was lost comes back in audit
    if not seen.agent_trouble or finding.spares_enforcement:
        return False
    with contextlib.suppress(AegisError), Live(Pins(case.paths.pins)) as live:
        return read_mode(live) is Mode.ENFORCE
    return False


def _boot_mode(case: Case) -> Mode:
    try:
        return read_boot_state(case.paths).mode
    except StateError:
        return Mode.AUDIT


def _hold(case: Case, seen: Seen, finding: Finding) -> None:
    """Hold the host; where nothing is loaded yet, what is loaded next starts held."""
    detail = f"{finding.cause.value}, by incident {case.record.id}"
    try:
        with Live(Pins(case.paths.pins)) as live:
            mode = _boot_mode(case) if seen.lost else None
            fallback.enter(case.paths, live, "crash-loop", detail, mode=mode)
    except NotLoadedError:
        fallback.enter_unloaded(case.paths, "crash-loop", detail, mode=_boot_mode(case))


def _load(case: Case, finding: Finding) -> None:
    """Load; as the audit fallback where the kernel does not take the programs.

    Where the sizes that were set are what does not fit, with the default ones.
    """
    reason = ""
    if finding.source == "trial" and finding.cause in (Cause.VERIFIER, Cause.KERNEL):
        reason = "the kernel does not take this version's programs"
    pins, features = Pins(case.paths.pins), _features(case)
    load = partial(loader.load, pins, features, fallback=reason, runner=case.seams.run)
    try:
        load(_sizes(case, finding))
    except KernelError:
        load(loader.LoadOptions())
    remember(case.paths, "incident load", note=reason)


def _sizes(case: Case, finding: Finding) -> loader.LoadOptions:
    with contextlib.suppress(StateError):
        state = read_boot_state(case.paths)
        if finding.cause is not Cause.MAP_SIZE:
            return loader.LoadOptions(state.capacities, state.ringbuf_bytes or None)
    return loader.LoadOptions()


def _restore(case: Case) -> None:
    """Make the last good policy current; what is live stays live.

    Raises:
        StateError: There is none.
    """
    paths = case.paths
    damaged = known_good.damaged_file(paths)
    if damaged:
        case.record.file("damaged.txt", damaged)
    live = ""
    with contextlib.suppress(AegisError), Live(Pins(paths.pins)) as opened:
        live = opened.info().bundle.hex() if any(opened.info().bundle) else ""
    good = known_good.find(paths, now=int(case.seams.wall()), live=live)
    if good is None:
        raise StateError(
            "no policy that this host applied before can be used",
            hint="apply the policy file again: aegisbpf policy apply FILE",
        )
    Store(paths).replace_damaged(good.record)
    remember(paths, "incident restore", record=good.record, note="the stored policy was damaged")
    case.record.fact("restored", {"digest": good.record.digest, "name": good.record.name,
                                  "serial": good.record.serial})  # fmt: skip
    if live and live != good.record.digest:
        case.record.follow_up(
            "the policy that is live is damaged on the disk: apply its file again, or the next "
            f"boot brings {good.record.name or good.record.digest[:16]}"
        )


def _apply(case: Case) -> None:
    with contextlib.suppress(NotLoadedError):
        boot.boot(case.paths, _features(case), seams=case.seams)


def _bring_up(case: Case, seen: Seen, stable_for: float) -> bool:
    """Start the agent safely where it does not run, and watch it; return whether it is stable."""
    if seen.unit is None or not seen.agent_trouble:
        return True
    runner = case.seams.run
    case.step(
        "safe-start", "start the agent as it is shipped, by a drop-in that a reboot removes",
        partial(_start, case), needed=lambda: not unit.read(runner).runs, optional=True,
    )  # fmt: skip
    if case.dry_run:
        return True
    return _watch(case, stable_for)


def _start(case: Case) -> None:
    unit.make_safe(case.paths)
    unit.start(case.seams.run)


def _watch(case: Case, stable_for: float) -> bool:
    """Watch the agent; end the loop again where it dies. Return whether it lived."""
    lived = case.look(
        "stable", f"watch the agent for {stable_for:.0f} s", partial(watch, case, stable_for)
    )
    if lived.state == "failed":
        case.step(STOP_AGAIN, "stop the agent: it dies in a safe start as well",
                  partial(unit.stop, case.seams.run), optional=True)  # fmt: skip
    return lived.state != "failed"


def watch(case: Case, seconds: float) -> None:
    """Wait until the agent has lived so long.

    Raises:
        StateError: It died, or does not run.
    """
    first = unit.read(case.seams.run)

    def died() -> bool:
        now = unit.read(case.seams.run)
        return not now.runs or now.pid != first.pid or now.restarts != first.restarts

    if not first.runs or case.wait(died, seconds=seconds):
        raise StateError(
            f"the agent did not live for {seconds:.0f} s", hint=f"see: journalctl -u {unit.NAME}"
        )


def _say_if_stopped(case: Case) -> None:
    """Never leave the agent stopped without saying so."""
    with contextlib.suppress(AegisError):
        if not case.dry_run and case.record.done(END_LOOP) and not unit.read(case.seams.run).runs:
            text = "the agent is stopped: run this again, or systemctl start aegisbpf"
            case.record.follow_up(text)
            case.record.saw("left-stopped", text, ok=False)
            case.tell(text)


def _outcome(case: Case, seen: Seen, finding: Finding, *, mended: bool, stable: bool) -> Outcome:
    held = held_by(case) is not None
    following = (
        *((NORMAL,) if unit.is_safe(case.paths) else ()),
        *((RESUME,) if held else ()),
    )
    for line in following:
        case.record.follow_up(f"when the cause is gone: {line}")
    data = {"cause": finding.to_dict(), "held": held, "agent": "stable" if stable else "stopped"}
    if mended and stable:
        done = "would be" if case.dry_run else "is"
        state = "the agent runs stably" if seen.agent_trouble else "the next boot can do its work"
        text = f"{state}; cause: {finding.text()}; to mend that, {NEXT[finding.cause]}"
        if case.dry_run:
            text = f"the host {done} recovered; cause so far: {finding.text()}"
        return Outcome(True, "recovered", text, following, data=data)
    failed = [step.error for step in case.steps if step.state == "failed" and step.changes]
    text = "the agent is stopped, for it dies in a safe start as well" if not stable else ""
    summary = "; ".join([*([text] if text else []), *failed, finding.text()])
    error = KernelError(summary, hint=NEXT[finding.cause], detail="\n".join(finding.lines))
    return Outcome(True, "not-recovered", summary, (NEXT[finding.cause],), error=error, data=data)


def normal_start(case: Case, *, stable_for: float = STABLE_FOR) -> Outcome:
    """Start the agent as its unit and drop-ins say; go back to the safe start where it dies.

    Raises:
        AegisError: systemd refused.
    """
    if not unit.is_safe(case.paths):
        return Outcome(False, "nothing-to-do", "the agent's start is the normal one already")

    def restart() -> None:
        unit.make_normal(case.paths)
        unit.stop(case.seams.run)
        unit.start(case.seams.run)

    case.step("normal-start", "start the agent as its unit says", restart, optional=True)
    lived = case.dry_run or case.look(
        "stable", f"watch the agent for {stable_for:.0f} s", partial(watch, case, stable_for)
    ).state != "failed"  # fmt: skip
    held = (RESUME,) if held_by(case) else ()
    if lived:
        return Outcome(True, "recovered", "the agent runs as its unit says", held)
    case.step(STOP_AGAIN, "stop the agent: it still dies", partial(unit.stop, case.seams.run))
    case.step("safe-start", "start the agent as it is shipped", partial(_start, case))
    text = "the agent still dies when it is started as its unit says; the safe start is back"
    error = StateError(text, hint=NEXT[Cause.CONFIGURATION])
    return Outcome(True, "not-recovered", text, (NEXT[Cause.CONFIGURATION],), error=error)
