"""``aegisbpf policy suggest``."""

from __future__ import annotations

import argparse
import difflib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from aegis_tools.agent.evidence import Evidence
from aegis_tools.agent.search import Query, Search, time_text
from aegis_tools.agent.suggest import Facts, Report, Suggestion, changed
from aegis_tools.agent.suggest import suggest as judge
from aegis_tools.cli.eventoptions import moment, source
from aegis_tools.cli.events import note_damage
from aegis_tools.cli.output import App
from aegis_tools.cli.reading import read_live
from aegis_tools.control.live import Live, boot_to_wall_ns
from aegis_tools.control.posture import read_posture
from aegis_tools.control.source import stored_policy
from aegis_tools.control.steady import counted_since, read_steady
from aegis_tools.control.store import Store
from aegis_tools.kernel.layout import ManualRule, SlotInfo, Stat, uid_of
from aegis_tools.policy.convert import convert
from aegis_tools.policy.model import Policy

COMMANDS = {
    "allow-cgroup": "aegisbpf allow cgroup add {}",
    "drop-rule": "take the rule out of the policy and apply it",
    "promote-rule": "aegisbpf rule promote {}",
}

BLIND = ("audit-fallback", "disabled", "detached")
SHOWN = 20


class Kernel(NamedTuple):
    """What the kernel says."""

    info: SlotInfo
    alive: frozenset[int]
    hits: Mapping[int, tuple[int, int, int]]
    lost: int
    counted: float
    by_hand: tuple[ManualRule, ...]
    blind: str


def suggest(app: App, arguments: argparse.Namespace) -> int:
    """Read the evidence, propose, print."""
    now = time.time()
    evidence = read_evidence(app, arguments, now)
    kernel = read_live(app, read_kernel)
    facts = facts_of(app, kernel, evidence, now=now, clean_days=arguments.clean_days)
    report = judge(facts)
    before, after = facts.policy, changed(facts.policy, report.suggestions)
    if not app.json and arguments.format != "text":
        text = convert(after, "yaml") if arguments.format == "yaml" else diff(before, after)
        app.write(None, text)
        return 0
    app.show(
        lambda: to_dict(report, facts, evidence, diff(before, after)),
        lambda: as_text(report, facts, evidence, diff(before, after)),
    )
    return 0


def read_evidence(app: App, arguments: argparse.Namespace, now: float) -> Evidence:
    """Read the events."""
    evidence = Evidence()
    since = moment(arguments.since, now)
    search = Search(Query(since=time_text(since)))
    for batch in search.among(source(arguments, since).batches()):
        for _, event in batch:
            evidence.add(event)
    note_damage(app, search, in_file=arguments.events_file is not None)
    return evidence


def read_kernel(live: Live) -> Kernel:
    """Read what is live and what was counted."""
    stats = live.stats()
    alive = frozenset(int.from_bytes(uid, "little") for uid in live.entries("rules"))
    lost = stats[Stat.RINGBUF_DROPS] + stats[Stat.SAMPLED_OUT]
    posture = read_posture(live)
    blind = posture.meaning if posture.state in BLIND else ""
    by_hand = tuple(live.manual_rules().values())
    return Kernel(live.info(), alive, live.hits(), lost, counted_since(live), by_hand, blind)


def facts_of(app: App, kernel: Kernel, evidence: Evidence, *, now: float, clean_days: int) -> Facts:
    """Put together what is known of the live policy's rules."""
    store = Store(app.paths)
    stored = stored_policy(store, kernel.info.bundle) if any(kernel.info.bundle) else Policy(())
    rules = tuple(rule for rule in stored.rules if uid_of(rule.id) in kernel.alive)
    offset = boot_to_wall_ns()
    hits = {rule.id: kernel.hits.get(uid_of(rule.id)) for rule in rules}
    return Facts(
        policy=stored._replace(rules=rules),
        events=evidence.rules,
        last_hits={name: (hit[2] + offset) / 1e9 for name, hit in hits.items() if hit},
        steady_since=read_steady(
            app.paths, rules, applied_ns=kernel.info.applied_ns, records=kernel.by_hand
        ),
        counted_since=kernel.counted,
        read_since=_seconds(evidence.oldest),
        lost=kernel.lost,
        now=now,
        clean_days=clean_days,
        blind=kernel.blind,
    )


def diff(before: Policy, after: Policy) -> str:
    """Return the unified diff of two policies as YAML."""
    old, new = (convert(each, "yaml").splitlines(keepends=True) for each in (before, after))
    return "".join(difflib.unified_diff(old, new, "live policy", "proposed policy"))


def command(suggestion: Suggestion) -> str:
    """Return how to carry it out."""
    import shlex

    return COMMANDS[suggestion.kind].format(shlex.quote(suggestion.target))


def to_dict(report: Report, facts: Facts, evidence: Evidence, text: str) -> dict[str, Any]:
    """Return the answer as ``--json`` prints it."""
    return {
        "suggestions": [
            {**each._asdict(), "command": command(each)} for each in report.suggestions
        ],
        "withheld": [each._asdict() for each in report.withheld],
        "events": evidence.events,
        "lines": evidence.lines,
        "oldest": evidence.oldest,
        "counted_since": time_text(facts.counted_since),
        "lost": facts.lost,
        "clean_days": facts.clean_days,
        "diff": text,
    }


def as_text(report: Report, facts: Facts, evidence: Evidence, text: str) -> str:
    """Return the answer for a person."""
    begin = f", the oldest of {evidence.oldest[:19]}Z" if evidence.oldest else ""
    lines = [
        f"{evidence.events} events{begin}; counters since {time_text(facts.counted_since)[:19]}Z; "
        f"{facts.lost} events lost or left out. Nothing is changed by this command."
    ]
    for each in report.suggestions:
        lines += ["", f"{each.kind} {each.target}", *(f"  {line}" for line in each.evidence)]
        lines += [f"  but: {each.caution}", f"  do:  {command(each)}"]
    if not report.suggestions:
        lines += ["", "nothing is proposed"]
    if report.withheld:
        lines += ["", "not proposed:"]
        lines += [f"  {each.kind} {each.target}: {each.why}" for each in report.withheld[:SHOWN]]
        if len(report.withheld) > SHOWN:
            lines.append(f"  and {len(report.withheld) - SHOWN} more (--json has them all)")
    if text:
        lines += ["", "as a change of the policy:", text.rstrip("\n")]
    return "\n".join(lines)


def _seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else 0.0
