"""Enforcement hits legitimate work: audit at once, find the rule, take just that one out.

What was done before this module is even imported (:mod:`aegis_tools.incident.relief`) has ended
the refusals. From there on time is less dear than truth: the service is asked, the rule is found by
what it refused and by what the probe met, and nothing enforces again unless a person asked for it,
in a confirm window, with the service asked once more.

The host's mode when the incident began is a fact of the record, and only what this incident took
away does it bring back.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any, NamedTuple

from aegis_tools.agent.eventsource import Files, Journal
from aegis_tools.control import bootstate, confirm, fallback, hostmode
from aegis_tools.control.confirm import describe as describe_pending
from aegis_tools.control.live import Live
from aegis_tools.control.mode import read_mode
from aegis_tools.control.names import Names
from aegis_tools.control.pending import Pending, read_pending
from aegis_tools.control.posture import read_posture
from aegis_tools.control.remember import remember
from aegis_tools.control.rows import moment
from aegis_tools.errors import AegisError, CommandError, KernelError, PolicyError, StateError
from aegis_tools.incident import again, byhand, unit, witness
from aegis_tools.incident import probe as probing
from aegis_tools.incident.again import ACTION
from aegis_tools.incident.case import Case, Outcome
from aegis_tools.incident.elsewhere import not_ours
from aegis_tools.incident.probe import Probe
from aegis_tools.incident.refusals import Choice, Suspect, choose, rank
from aegis_tools.incident.relief import Relief, number_of, refusers
from aegis_tools.kernel.pins import Pins
from aegis_tools.policy.model import Mode

_SHOWN = 10


class Asked(NamedTuple):
    """What a person asked for.

    Attributes:
        since: Unix seconds; refusals before that are not looked at.
        source: Where events are.
        rule: The rule that is to go; empty where it is to be found.
        probes: What tells that the service answers.
        patience: Seconds that it may take to.
        fix: ``auto``, ``demote``, ``remove`` or ``none``.
        stop: Stop the agent and remove everything from the kernel.
        within: Seconds to confirm that the host enforces again; 0 = it does not.
        log_in: Also try a login before and after it enforces again.
    """

    since: float
    source: Files | Journal
    rule: str = ""
    probes: tuple[Probe, ...] = ()
    patience: float = 20
    fix: str = "auto"
    stop: bool = False
    within: int = 0
    log_in: bool = True


def run(case: Case, asked: Asked, relief: Relief) -> Outcome:
    """Carry the procedure out.

    Args:
        case: The run.
        asked: What is wanted.
        relief: What was found and done first.

    Raises:
        AegisError: A step failed; what was done is in the record.
    """
    if not relief.loaded:
        return not_ours(case, asked.probes, "nothing of Aegis is loaded", loaded=False)
    with Live(Pins(case.paths.pins)) as live:
        procedure = _Blocking(case, asked, relief, live)
        if not procedure.found:
            return procedure.nothing()
        return procedure.run()


class _Blocking:
    """One run on a host on which something is loaded."""

    def __init__(self, case: Case, asked: Asked, relief: Relief, live: Live) -> None:
        self.case, self.asked, self.relief, self.live = case, asked, relief, live
        self.record = case.record
        self.names = Names(live, case.paths)
        self.unwritten = ""
        self.to_audit = relief.was is None or relief.audited or self._is_enforcing() or self._cut()
        if self.to_audit:
            self._begin()
        taken = self.record.get("mode_before") == Mode.ENFORCE.value
        self.took_enforce = taken and (self.to_audit or self.record.continued)
        self.named = bool(asked.rule) and byhand.enforces(live, number_of(asked.rule))
        self.held = not self.to_audit and relief.refusing and self._is_held()
        if self.held and not self.record.continued:
            again.blame(self.record, relief.refusers)
        self.found = self.to_audit or self.took_enforce or self.named or self.held

    def _is_enforcing(self) -> bool:
        return self.relief.was is Mode.ENFORCE and self.relief.refusing

    def _is_held(self) -> bool:
        """Return whether a guard was here first: the host enforced, and is held in audit now."""
        with contextlib.suppress(AegisError):
            found = fallback.read(self.case.paths)
            return found is not None and found.mode_before is Mode.ENFORCE
        return False

    def _begin(self) -> None:
        """Keep what is known now and not later; what an earlier run chose was something else."""
        before = self.relief.was
        if before is not Mode.ENFORCE:
            before = self._mode_at_boot()
        self.record.fact("mode_before", before.value)
        self.record.fact("refusals_trouble", self.relief.trouble)
        if self.relief.audited:  # before there was any record
            self.record.fact("nothing_refused_since", moment(self.relief.at))
        again.blame(self.record, self.relief.refusers)

    def _mode_at_boot(self) -> Mode:
        with contextlib.suppress(AegisError):
            return bootstate.read_boot_state(self.case.paths).mode
        return Mode.AUDIT

    def _waiting(self) -> Pending | None:
        with contextlib.suppress(AegisError):
            return read_pending(self.case.paths)
        return None

    def _cut(self) -> bool:
        """Return whether a run was killed after the kernel was told, before anything was written.

        Then the host audits, is to enforce at the next boot, and neither is held nor waits. When it
        refused does not count: to free a full disk may take longer than what is lately.
        """
        if self.relief.was is not Mode.AUDIT or self._waiting():
            return False
        if not self.relief.refusing and not self._has_refused():
            return False
        return self._mode_at_boot() is Mode.ENFORCE and not fallback.why_held(self.case.paths)

    def _has_refused(self) -> bool:
        """Return whether a rule that enforces has refused anything since it was loaded."""
        with contextlib.suppress(AegisError, OSError):
            return bool(refusers(self.live, 0))
        return False

    def nothing(self) -> Outcome:
        """Return the end on a host that refuses nothing that it should not."""
        if self.asked.rule:
            known = self.names.get(number_of(self.asked.rule)) is not None
            why = f"{self.asked.rule} {'refuses nothing' if known else 'is no rule'} here"
        elif self.relief.was is Mode.AUDIT:
            why = "this host audits, so it refuses nothing"
        else:
            why = "no rule has refused anything lately"
        held = ("aegisbpf resume",) if fallback.why_held(self.case.paths) else ()
        if self.asked.rule and not known and self.relief.was is not Mode.AUDIT:
            held = ("aegisbpf rule list",)  # a name that was mistyped ends nothing
        return replace(not_ours(self.case, self.asked.probes, why), next=held)

    def run(self) -> Outcome:
        """Do it."""
        self._keep_audit()
        before = self.live.hits()
        answers = self._probe()
        met = {} if self.case.dry_run else witness.met(before, self.live)
        choice = self._choose(met)
        if self.asked.stop:
            self._stop()
            return self._end(choice, answers=self._probe() if not answers else True)
        if choice.suspect is not None and self._is_to_go(answers=answers):
            self._fix(choice.suspect)
        if self.asked.within:
            self._enforce_again(choice, answers=answers)
        return self._end(choice, answers=answers)

    def _is_to_go(self, *, answers: bool) -> bool:
        """Return whether what is suspected is taken out."""
        # What cannot be written down is found again by the rule that has refused; and where the
        # service fails though nothing is refused, refusals are not its trouble.
        known = answers or self.case.dry_run or self.asked.rule
        return bool(known) and self.asked.fix != "none" and not self.unwritten

    def _keep_audit(self) -> None:
        step = self.case.step(
            "audit",
            "set the mode to audit, so that nothing is refused any more",
            self._write_audit,
            needed=self.to_audit or self._is_unwritten(),
            optional=True,
            at=self.relief.at,
        )
        if self.to_audit and not self.case.dry_run and read_mode(self.live) is not Mode.AUDIT:
            raise KernelError(
                "the mode could not be set to audit, so the host goes on refusing",
                hint="stop it altogether: aegisbpf reset",
                detail=self.relief.trouble,
            )
        self.unwritten = step.error

    def _is_unwritten(self) -> bool:
        begun = self.took_enforce and not self.record.done("audit")
        return begun and read_mode(self.live) is Mode.AUDIT

    def _write_audit(self) -> None:
        with self.case.locked():
            hostmode.switch(self.case.paths, self.live, Mode.AUDIT, seams=self.case.seams)
            remember(self.case.paths, ACTION, note="enforce -> audit")

    def _probe(self) -> bool:
        """Return whether the service answers; without a probe nobody knows: as if it did."""
        if not self.asked.probes:
            return True
        run = self.case.seams.run
        failed = probing.start_failed(self.asked.probes, start=False, runner=run)
        self.case.step(
            "start-unit",
            "start the service again, which has failed",
            lambda: probing.start_failed(self.asked.probes, start=True, runner=run),
            needed=bool(failed),
            optional=True,
            units=failed,
        )
        patience = 0 if self.case.dry_run else self.asked.patience
        step = self.case.look(
            "probe",
            "ask the affected service",
            lambda: again.ask_service(self.case, self.asked.probes, patience),
        )
        return step.did

    def _choose(self, met: dict[int, int]) -> Choice:
        step = self.case.look(
            "events",
            "read what was refused",
            lambda: witness.read_events(self.asked.source, self.asked.since),
        )
        events = step.value or witness.Events({}, step.error)
        if events.trouble:
            self.record.fact("events_trouble", events.trouble)
        kept = self.record.get("refusers", {})
        first = {int(uid, 16): (int(hit[0]), int(hit[1])) for uid, hit in kept.items()}
        found = rank(witness.suspects(self.live, self.names, events, first))
        if self.asked.rule and self.named:
            found = self._with_named(found, events)
        kept_met = self.record.get("met", {})
        met = {**{int(uid, 16): int(count) for uid, count in kept_met.items()}, **met}
        self.record.fact("met", {f"{uid:016x}": count for uid, count in met.items()})
        choice = self._settled(events) or choose(found, met, named=self.asked.rule)
        origins = witness.Origins(self.case.paths, self.live, self.names)
        for one in found[:_SHOWN]:
            self.record.rule(witness.describe(one, origins.of(one.uid), met.get(one.uid, 0)))
        if choice.suspect is not None:
            self.record.fact("rule", choice.suspect.rule)
        self.record.fact("why", choice.why)
        self.record.saw("rule", f"the rule: {choice.why}", ok=choice.suspect is not None)
        return choice

    def _with_named(self, found: list[Suspect], events: witness.Events) -> list[Suspect]:
        """Let the rule that a person named be among the suspects, whatever it has refused."""
        uid = number_of(self.asked.rule)
        if any(one.uid == uid for one in found):
            return found
        return [*found, witness.suspect(self.live, self.names, events, uid)]

    def _settled(self, events: witness.Events) -> Choice | None:
        """Return what an earlier run chose of the same refusals."""
        chosen = str(self.record.get("rule", ""))
        if self.asked.rule or not chosen:
            return None
        uid = number_of(chosen)
        if byhand.enforces(self.live, uid):
            found = witness.suspect(self.live, self.names, events, uid)
            return Choice(found, "chosen by an earlier run")
        return Choice(None, "it refuses no more")

    def _fix(self, suspect: Suspect) -> None:
        fitting = "demote" if suspect.source == "policy" else "remove"
        fix = fitting if self.asked.fix == "auto" else self.asked.fix
        change = byhand.demote if fix == "demote" else byhand.remove
        what = "let the rule only audit" if fix == "demote" else "remove the rule"
        rule = self.names.get(suspect.uid)
        back = byhand.put_back(rule if fix == "demote" or suspect.source == "manual" else None, fix)
        if byhand.enforces(self.live, suspect.uid):
            self.record.fact("fix", {"rule": suspect.rule, "by": fix, "undo": back})
            if suspect.source == "policy":
                back_soon = "" if fix == "demote" else ", and an apply or a boot has it back"
                said = f"the policy still says that {suspect.rule} refuses{back_soon}"
                self.record.follow_up(f"{said}: change and sign it")
        self.case.step(
            f"{fix}-rule",
            f"{what}: {suspect.rule}",
            lambda: change(self.case.paths, self.live, suspect.uid, suspect.rule),
            needed=lambda: byhand.enforces(self.live, suspect.uid),
            lock=True,
            rule=suspect.rule,
            undo=back,
        )

    def _stop(self) -> None:
        """Stop the agent and remove everything from the kernel; a boot audits by now."""
        self.record.follow_up("nothing is watched: load it again, in audit, with: aegisbpf boot")
        run = self.case.seams.run
        self.case.step(
            "stop-agent",
            "stop the agent",
            lambda: run(["systemctl", "stop", unit.NAME], timeout=60),
            needed=lambda: unit.is_there(self.case.paths, run),
            optional=True,
        )
        self.case.step(
            "reset",
            "remove everything of Aegis from the kernel",
            self._reset,
            needed=lambda: Pins(self.case.paths.pins).is_loaded(),
            lock=True,
        )

    def _reset(self) -> dict[str, int]:
        from aegis_tools.control.reset import reset

        report = reset(Pins(self.case.paths.pins), ())
        confirm.forget(self.case.paths, None, "reset", seams=self.case.seams)
        remember(self.case.paths, "reset", counts={"pins": report.pins}, note=ACTION)
        return {"links": report.links, "pins": report.pins}

    def _enforce_again(self, choice: Choice, *, answers: bool) -> None:
        dry = self.case.dry_run
        if self.held and not dry:
            fallback.check(self.case.paths)
        if not self.took_enforce or (read_mode(self.live) is Mode.ENFORCE and not dry):
            return
        if not answers and not dry:
            raise CommandError(
                "the service does not answer in audit either, so the host does not enforce again",
                hint="look at the service itself; then run the same command again",
            )
        if not self._is_taken_out() and not dry:
            raise PolicyError(
                f"no rule was taken out, so the host does not enforce again: {choice.why}",
                hint="name the rule: aegisbpf incident blocking --rule ID --reenforce",
                data={"rules": self.record.to_dict()["rules"]},
            )
        self.case.step(
            "reenforce",
            "enforce again, until that is confirmed",
            self._stage,
            needed=lambda: dry or read_mode(self.live) is Mode.AUDIT,
            lock=True,
        )

    def _is_taken_out(self) -> bool:
        chosen = str(self.record.get("rule", ""))
        return bool(chosen) and not byhand.enforces(self.live, number_of(chosen))

    def _stage(self) -> None:
        again.enforce(
            self.case,
            self.live,
            name_of=self.names.name,
            within=self.asked.within,
            log_in=self.asked.log_in,
            ask=lambda: again.ask_service(self.case, self.asked.probes, self.asked.patience),
        )

    def _end(self, choice: Choice, *, answers: bool) -> Outcome:
        """Return how it ended, as the host is now."""
        try:
            posture = read_posture(self.live, self.case.paths)
        except (AegisError, OSError):  # --stop has removed it
            posture = None
        pending = self._waiting()
        now = self.case.seams.boot_ns()
        data: dict[str, Any] = {
            "rule": choice.suspect.rule if choice.suspect else str(self.record.get("rule", "")),
            "why": choice.why,
            "mode": posture.mode if posture and not self.asked.stop else "",
            "pending": describe_pending(pending, now) if pending else None,
        }
        waits = pending is not None and pending.action == ACTION
        return self._outcome(data, answers=answers, waits=waits)

    def _outcome(self, data: dict[str, Any], *, answers: bool, waits: bool) -> Outcome:
        audits = data["mode"] == Mode.AUDIT.value
        left = self.took_enforce and audits and not self.asked.stop
        state = self._state(data, waits=waits)
        told = f"{data['rule']}: {data['why']}" if data["rule"] else data["why"]
        if not answers and not self.case.dry_run:
            raise CommandError(
                f"the service does not answer, though {state}",
                hint="look at the service itself; only a rule that is named (--rule) was taken out",
                data=data,
            )
        if self.unwritten and audits:
            raise StateError(
                f"nothing is refused now, but a reboot may bring it back: {self.unwritten}",
                hint="free some space, see: df; then run the same command again",
                data=data,
            )
        if not self.asked.probes and not self.case.dry_run:
            told += " (no probe was given: see that the service answers)"
        return Outcome(
            True,
            "recovered",
            f"{state}; {told}",
            next=tuple(self._next(data, left=left, waits=waits)),
            keep_open=waits or left,
            data=data,
        )

    def _state(self, data: dict[str, Any], *, waits: bool) -> str:
        """Return what the host does now, for a person."""
        if self.case.dry_run:
            return "dry run, nothing was changed"
        if self.asked.stop:
            return "everything is removed from the kernel"
        if self.held:
            return "the host is held in audit, so it refuses nothing"
        if not self.took_enforce:
            return "that rule refuses no more"
        if data["mode"] == Mode.AUDIT.value:
            return "nothing is refused any more"
        left = max(0, int(data["pending"]["seconds_left"])) if waits else 0
        limit = f", and audits again in {left} s unless that is confirmed" if waits else ""
        return f"the host enforces again without it{limit}"

    def _next(self, data: dict[str, Any], *, left: bool, waits: bool) -> list[str]:
        if waits:
            return ["aegisbpf policy confirm", f"aegisbpf incident close {self.record.id}"]
        if self.asked.stop:
            stopped = self.record.done("stop-agent")
            return ["aegisbpf boot", *(["systemctl start aegisbpf"] if stopped else [])]
        if self.held:
            return ["aegisbpf resume"]
        if left and not data["rule"]:
            return ["aegisbpf incident blocking --rule ID"]
        if left:
            command = "aegisbpf incident blocking --reenforce --confirm-within 120s"
            return [" ".join((command, *map(Probe.option, self.asked.probes)))]
        return []
