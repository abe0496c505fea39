"""Which of the runbook's scenarios a host is in: facts in, findings out, and nothing else.

A finding says what speaks for it and which command comes next; the worst comes first. What is
wrong without being one of the scenarios is a note.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from aegis_tools.control.starts import LIMIT
from aegis_tools.incident.facts import RECENT_SECONDS, Facts
from aegis_tools.incident.readers import AGENT_UNIT, RuleUse

NONE = "none"
EXIT_CODES = {NONE: 0, "low": 20, "medium": 21, "high": 22, "critical": 23}
"""Of the command, by the worst severity."""
UNKNOWN_CODE = 8
"""Nothing was found, but not everything could be looked at: as ``StateError``."""
ORDER = ("blocking", "kernel-upgrade", "crash-loop", "performance", "map-full")
"""Scenarios; of two that are equally bad the first is worked on first."""

NEARLY_FULL = 0.85
WORTH_A_NOTE = 0.8
"""Where the alert begins."""
HOOK_SHARE = 0.10
"""Of all CPUs."""
EVENTS_A_SECOND = 5000
LAG_SECONDS = 5.0
_AGENT_FAULTS = ("auto-restart", "failed")
_COVERED = {
    "blocking": {"held", "confirmed", "reverted"},
    "crash-loop": {"held", "loaded", "agent", "objects", "layout", "working", "attached"},
    "kernel-upgrade": {"lsm-active", "enforceable", "enabled", "btf", "working", "loaded"},
}
"""Checks of ``health`` that say the same as a finding."""


class Finding(NamedTuple):
    """A scenario that the host is in.

    Attributes:
        scenario: Of ORDER.
        severity: ``low`` to ``critical``.
        summary: In one line.
        evidence: What speaks for it, and what cannot be known.
        command: To run next.
        playbook: The same for a fleet.
        runbook: The section to read.
    """

    scenario: str
    severity: str
    summary: str
    evidence: tuple[str, ...]
    command: str
    playbook: str
    runbook: str


class Note(NamedTuple):
    """Something to know that is none of the scenarios.

    Attributes:
        text: In one line.
        command: What to do about it; may be empty.
    """

    text: str
    command: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The answer.

    Attributes:
        findings: The worst first.
        notes: What else is worth knowing.
        unknown: What could not be looked at, so that it may be worse than it looks.
    """

    findings: tuple[Finding, ...]
    notes: tuple[Note, ...]
    unknown: tuple[str, ...]

    @property
    def severity(self) -> str:
        """Of the worst finding."""
        return self.findings[0].severity if self.findings else NONE

    @property
    def exit_code(self) -> int:
        """Of the command."""
        if not self.findings and self.unknown:
            return UNKNOWN_CODE
        return EXIT_CODES[self.severity]

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {
            "scenario": self.findings[0].scenario if self.findings else NONE,
            "severity": self.severity,
            "exit_code": self.exit_code,
            "findings": [{**one._asdict(), "evidence": list(one.evidence)}
                         for one in self.findings],
            "notes": [one._asdict() for one in self.notes],
            "unknown": list(self.unknown),
        }  # fmt: skip


def diagnose(facts: Facts) -> Diagnosis:
    """Judge a host. It never raises."""
    looks: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
        _blocking, _kernel_upgrade, _crash_loop, _performance, _map_full,
    )  # fmt: skip
    worst: dict[str, Finding] = {}
    for look in looks:
        for found in look(facts):
            known = worst.get(found.scenario)
            worst[found.scenario] = found if known is None else _both(known, found)
    findings = sorted(
        worst.values(), key=lambda f: (-EXIT_CODES[f.severity], ORDER.index(f.scenario))
    )
    scenarios = {found.scenario for found in findings}
    return Diagnosis(tuple(findings), tuple(_notes(facts, scenarios)), tuple(_unknown(facts)))


def _find(scenario: str, severity: str, summary: str, *evidence: str, command: str = "") -> Finding:
    return Finding(
        scenario,
        severity,
        summary,
        tuple(line for line in evidence if line),
        command or f"aegisbpf incident {scenario}",
        f"playbooks/runbook_{scenario.replace('-', '_')}.yml",
        f"docs/runbook.md#{scenario}",
    )


def _both(one: Finding, other: Finding) -> Finding:
    """Return the worse of two findings of a scenario, the other one being evidence for it."""
    worse, milder = (one, other) if EXIT_CODES[one.severity] >= EXIT_CODES[other.severity] else (
        other, one)  # fmt: skip
    lines = (*worse.evidence, milder.summary, *milder.evidence)
    return worse._replace(evidence=tuple(dict.fromkeys(lines)))


def _blocking(facts: Facts) -> Iterator[Finding]:
    yield from _refusing(facts)
    if facts.held == "deny-rate" and facts.held_known:
        yield _resume("blocking", facts)
    elif facts.held == "deny-rate":
        yield _find("blocking", "high", "more was refused than the threshold allows, so the host "
                    "went into audit", facts.held_meaning, "nothing is refused until you resume",
                    *_rule_lines(facts.rules))  # fmt: skip
    if facts.held == "lockout":
        yield _find("blocking", "high", "the policy would lock everybody out, so the host stays "
                    "in audit", facts.held_meaning, "which rule denies what: aegisbpf mode",
                    command="aegisbpf mode")  # fmt: skip
    if facts.pending_left is not None and facts.pending_left < 0:
        yield _find("blocking", "medium", "a change was not confirmed in time and not taken back: "
                    "nothing is refused", f"the change: {facts.pending}",
                    f"taking it back failed: {facts.pending_failed}" if facts.pending_failed
                    else "neither agent nor timer took it back",
                    command="aegisbpf policy revert")  # fmt: skip


def _resume(scenario: str, facts: Facts) -> Finding:
    return _find(scenario, "medium", "the host is still held in audit; its procedure has run",
                 facts.held_meaning, "nothing is refused until you resume; when the cause is gone:",
                 command="aegisbpf resume")  # fmt: skip


def _refusing(facts: Facts) -> Iterator[Finding]:
    if facts.state != "enforcing":
        return
    lately = [rule for rule in facts.rules if rule.mode == "enforce" and rule.blocks
              and rule.ago is not None and rule.ago <= RECENT_SECONDS]  # fmt: skip
    rate = facts.rates.get("blocks", 0.0)
    if not rate and not lately:
        return
    if rate:
        severity, text = "critical", f"accesses are being refused now: {_rate(rate)}"
    else:
        ago = min(rule.ago or 0.0 for rule in lately)
        severity, text = "high", f"accesses were refused lately, the last {ago:.0f} s ago"
    yield _find(
        "blocking", severity, text, *_rule_lines(lately), *_refused_lines(facts),
        "whether that is legitimate work, this host cannot know: if it is meant, nothing is wrong",
    )  # fmt: skip


def _rule_lines(rules: Any) -> Iterator[str]:
    for rule in list(rules)[:5]:
        yield _rule_line(rule)


def _rule_line(rule: RuleUse) -> str:
    origin = "made by hand" if rule.by_hand else "of the policy"
    now = f"{_rate(rule.block_rate)} now, " if rule.block_rate else ""
    ago = f", last {rule.ago:.0f} s ago" if rule.ago is not None else ""
    return f"rule {rule.id} ({origin}): {now}{rule.blocks} refused since the load{ago}"


def _refused_lines(facts: Facts) -> Iterator[str]:
    for one in facts.refused[:5]:
        who = f"{one.comm} ({one.unit})" if one.unit else one.comm
        yield (
            f"refused: {who} {one.operation} {one.path}, {one.times} times in "
            f"{RECENT_SECONDS // 60} min, by {one.rule}"
        )


def _rate(rate: float) -> str:
    return f"{rate:.0f} a second" if rate >= 10 else f"{rate:.1f} a second"


def _kernel_upgrade(facts: Facts) -> Iterator[Finding]:
    meant = facts.set_up or facts.loaded
    worst = "critical" if "enforce" in (facts.wanted, facts.mode) else "medium"
    if facts.disabled and meant:
        yield _find("kernel-upgrade", "medium", "loading is switched off: nothing is refused or "
                    "watched", _disabled_line(facts), "a boot without that loads the stored policy",
                    facts.lsm_text)  # fmt: skip
    elif facts.lsm_active is False and meant:
        yield _find("kernel-upgrade", worst, "this boot's kernel runs without BPF LSM: nothing can "
                    "be refused", f"kernel {facts.kernel}", facts.lsm_text,
                    f"mode set for this host: {facts.wanted}")  # fmt: skip
    elif facts.state == "audit-fallback":
        why = (
            "bpf is in the list of security modules, but the kernel refused our programs at the "
            "load, or the list could not be read then"
            if facts.lsm_active else "bpf is not known to be in the list of security modules"
        )  # fmt: skip
        yield _find("kernel-upgrade", worst, "the audit fallback is loaded: nothing can be refused",
                    f"kernel {facts.kernel}", why)  # fmt: skip
    if not facts.btf and meant:
        yield _find("kernel-upgrade", worst, "the kernel does not describe its types (BTF), so "
                    "nothing of ours loads", f"kernel {facts.kernel}")  # fmt: skip
    if facts.lsm_active and facts.lsm_pending is False and meant:
        yield _find("kernel-upgrade", "high", "the next boot will be without BPF LSM: nothing "
                    "could be refused then", facts.lsm_text)  # fmt: skip


def _disabled_line(facts: Facts) -> str:
    """Return what switches it off, in the words of the check."""
    found = (message for name, message, _ in facts.checks if name == "enabled")
    return next(found, "aegisbpf.disable=1 is on the kernel command line")


def _crash_loop(facts: Facts) -> Iterator[Finding]:
    if facts.held == "crash-loop" and facts.held_known:
        yield _resume("crash-loop", facts)
    elif facts.held in ("crash-loop", "damaged"):
        yield _find("crash-loop", "high", "the host is held in audit: the agent crashed again and "
                    "again" if facts.held == "crash-loop" else "the host is held in audit, and the "
                    "record of why is damaged", facts.held_meaning, *_agent_lines(facts),
                    "nothing is refused until you resume")  # fmt: skip
    unit = next((one for one in facts.units if one.name == AGENT_UNIT), None)
    if unit is not None and (unit.sub in _AGENT_FAULTS or unit.starts_again):
        yield _find("crash-loop", "high", "the agent's service has failed"
                    if unit.sub == "failed" else "the agent dies and is started again and again",
                    *_agent_lines(facts))  # fmt: skip
    elif facts.starts > LIMIT and not facts.agent.get("running"):
        yield _find("crash-loop", "high", f"the agent was started {facts.starts} times lately and "
                    "does not run", *_agent_lines(facts))  # fmt: skip
    boot = next((one for one in facts.units if one.name == "aegisbpf-boot.service"), None)
    if boot is not None and boot.active == "failed":
        yield _find("crash-loop", "high", "loading at boot failed",
                    f"{boot.name}: {boot.result}, exit code {boot.status}",
                    f"why: journalctl -b -u {boot.name}")  # fmt: skip
    if facts.missing:
        yield _find("crash-loop", "high", f"{len(facts.missing)} pins were removed: what is "
                    "enforced is not known", f"such as {facts.missing[0]}; hooks may be attached",
                    command="aegisbpf reset --dry-run")  # fmt: skip
    yield from _unloaded(facts)
    if facts.config:
        _, message, hint = facts.config[0]
        yield _find("crash-loop", "medium", f"what the next start needs cannot be used: {message}",
                    *(f"{one}: {text}" for one, text, _ in facts.config),
                    hint and f"hint: {hint}")  # fmt: skip


def _unloaded(facts: Facts) -> Iterator[Finding]:
    if facts.loaded is False and facts.set_up and not facts.disabled:
        enabled = [one.name for one in facts.units if one.file == "enabled"]
        yield _find("crash-loop", "high", "nothing is loaded, though this host has a policy or a "
                    "mode: nothing is refused or watched",
                    f"mode set for this host: {facts.wanted}",
                    f"started at boot: {', '.join(enabled)}" if enabled else
                    "no unit of ours is started at boot" if facts.units else "",
                    command="aegisbpf boot")  # fmt: skip


def _agent_lines(facts: Facts) -> Iterator[str]:
    for one in facts.units:
        if one.name == AGENT_UNIT:
            yield (
                f"{one.name}: {one.active} ({one.sub}), last result {one.result}, exit code "
                f"{one.status}, {one.restarts} restarts by systemd"
            )
    if facts.starts:
        yield f"{facts.starts} starts in 5 minutes that did not end well"
    if facts.state == "enforcing":
        yield "enforcement is in the kernel and goes on"


def _performance(facts: Facts) -> Iterator[Finding]:
    drops = facts.rates.get("ringbuf_drops", 0.0)
    if drops:
        yield _find("performance", "medium", f"events are lost, {_rate(drops)}: the ring is full",
                    f"{facts.counters.get('ringbuf_drops', 0)} lost since the load, ring "
                    f"{facts.ring_bytes >> 10} KiB", "what was refused was refused all the same",
                    *_busy_lines(facts))  # fmt: skip
    share = sum(hook.share for hook in facts.hooks) / max(facts.cpus, 1)
    if share > HOOK_SHARE:
        top = facts.hooks[0]
        yield _find("performance", "medium", f"the hooks take {100 * share:.0f} % of the CPUs",
                    f"most: {top.name}, {top.runs:.0f} runs a second, {top.each:.0f} ns each",
                    *_busy_lines(facts))  # fmt: skip
    events = facts.rates.get("events", 0.0)
    if events > EVENTS_A_SECOND and not drops:
        yield _find(
            "performance", "medium", f"{_rate(events)} events are sent", *_busy_lines(facts)
        )


def _busy_lines(facts: Facts) -> Iterator[str]:
    busy = sorted(facts.rules, key=lambda rule: -(rule.block_rate + rule.audit_rate))
    for rule in busy[:3]:
        if rule.block_rate or rule.audit_rate:
            yield (
                f"rule {rule.id}: {_rate(rule.block_rate + rule.audit_rate)} matches ({rule.mode})"
            )
    if facts.sample_rate < 1:
        yield f"events are sampled: {100 * facts.sample_rate:.3g} % are sent"


def _map_full(facts: Facts) -> Iterator[Finding]:
    shares = [(entries / size, name, entries, size) for name, entries, size in facts.maps if size]
    lines = [f"{name}: {entries}/{size} entries ({100 * entries // size}% full)"
             for share, name, entries, size in sorted(shares, reverse=True)
             if share >= NEARLY_FULL]  # fmt: skip
    full = [name for share, name, _, _ in shares if share >= 1]
    refused = _no_room(facts)
    if refused:
        command = "aegisbpf incident map-full"
        if refused.startswith("policy"):  # which does not fit, however empty the maps are
            command += " --policy FILE"
        yield _find("map-full", "medium", "the last change was refused: it does not fit into the "
                    "maps", refused, *lines, command=command)  # fmt: skip
    if full:
        severity = "medium" if any(name not in _COUNT_ONLY for name in full) else "low"
        yield _find("map-full", severity, f"full: {', '.join(full)}", *lines,
                    "what is in it holds; new rules are refused" if severity == "medium" else
                    "rules beyond it hold, but their hits are not counted")  # fmt: skip
    elif lines:
        yield _find("map-full", "low", "a map is nearly full", *lines,
                    "what is in it holds; the next rules may be refused")  # fmt: skip


_COUNT_ONLY = ("rule_hits",)


def _no_room(facts: Facts) -> str:
    """Return the last change where it was refused for lack of room within a day."""
    if facts.last_refused is None:
        return ""
    action, _, note, ago = facts.last_refused
    room = ("which holds" in note and "entries in" in note) or "is full" in note
    return f"{action}, {_ago(ago)}: {note}" if room and ago < 86400 else ""


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.0f} h ago"


def _notes(facts: Facts, scenarios: set[str]) -> Iterator[Note]:
    for identifier in facts.open_incidents:
        yield Note(f"incident {identifier} is open", f"aegisbpf incident show {identifier}")
    if facts.pending_left is not None and facts.pending_left >= 0:
        yield Note(f"a change waits for its confirmation ({facts.pending}): it is taken back in "
                   f"{facts.pending_left:.0f} s", "aegisbpf policy confirm")  # fmt: skip
    if facts.loaded is False and not facts.set_up and not facts.disabled:
        yield Note("nothing is loaded, and nothing was set up here", "aegisbpf load")
    if facts.sample_rate < 1:
        yield Note(f"events are sampled: {100 * facts.sample_rate:.3g} % are sent",
                   "aegisbpf config set event-sample-rate 1")  # fmt: skip
    lost = facts.counters.get("ringbuf_drops", 0)
    if lost and "performance" not in scenarios:
        yield Note(f"{lost} events were lost since the load, none now", "aegisbpf stats")
    lag = facts.agent.get("lag_seconds")
    if isinstance(lag, int | float) and lag > LAG_SECONDS and facts.agent.get("running"):
        yield Note(f"the agent is {lag:.0f} s behind with events", "aegisbpf stats")
    for name, entries, size in facts.maps:
        if size and WORTH_A_NOTE < entries / size < NEARLY_FULL:
            yield Note(f"{name} is {100 * entries // size}% full", "aegisbpf capacity")
    if facts.disk_free is not None and facts.disk_free < 16 << 20:
        yield Note(f"the disk of the state folder has {facts.disk_free >> 20} MiB left", "df -h")
    yield from _health_notes(facts, scenarios)


def _health_notes(facts: Facts, scenarios: set[str]) -> Iterator[Note]:
    """Yield what ``health`` finds wrong and no finding says."""
    known = set().union(*(_COVERED.get(one, set()) for one in scenarios))
    if facts.loaded is False:
        known.add("loaded")
    if not (facts.set_up or facts.loaded):
        known |= {"lsm-active", "bpffs"}
    for name, message, hint in facts.checks:
        if name not in known:
            yield Note(f"health: {message}", hint.removeprefix("run: "))


def _unknown(facts: Facts) -> Iterator[str]:
    if not facts.root:
        yield "not run as root: rules, maps and services cannot be seen"
    if facts.lsm_active is None and (facts.set_up or facts.loaded):
        yield "which security modules are active: securityfs is not mounted"
    for part, message in facts.problems:
        yield f"{part}: {message}"
