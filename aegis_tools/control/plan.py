"""A plan: what a change would do to the live policy, in rules rather than bytes.

The same object is what ``--dry-run`` prints, what Ansible shows as a diff and what the
history keeps. Making one changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from aegis_tools.control import manual
from aegis_tools.control.files import printable
from aegis_tools.control.live import Live, content_digest, live_digest
from aegis_tools.control.lockout.model import Refusal
from aegis_tools.control.resolve import Rules
from aegis_tools.kernel.layout import POLICY_MAPS, RULE_ATTR
from aegis_tools.policy.model import Problem

_SIGNALS = {0: "none", 2: "int", 9: "kill", 15: "term"}


class Change(NamedTuple):
    """One difference between the live policy and the new one.

    Attributes:
        sign: ``+`` added, ``-`` removed, ``~`` changed.
        rule: The rule's id.
        what: What changes, for a person; empty for an addition or removal.
    """

    sign: str
    rule: str
    what: str = ""


@dataclass(frozen=True)
class Plan:
    """What an apply would do.

    Attributes:
        changes: Rules added, removed and changed, by id.
        kept: What was made or set by hand and is carried over, as labels (control.manual).
        refreshed: Map entries that differ though their rules do not (files that were
            replaced since, for one).
        problems: Rules that match nothing now, and what lint found.
        entries: Entries by map: (live, new).
        before: Digest of the live bundle, hex; empty for none.
        after: Digest of the new one.
        mode: ``audit → enforce`` where the host's mode changes as well; empty otherwise.
        refusals: Rules that deny what recovery needs; the enforcing ones forbid an apply.
    """

    changes: tuple[Change, ...]
    kept: tuple[str, ...]
    refreshed: int
    problems: tuple[Problem, ...]
    entries: Mapping[str, tuple[int, int]]
    before: str
    after: str
    mode: str = ""
    refusals: tuple[Refusal, ...] = ()

    @property
    def policy_changed(self) -> bool:
        """Whether the maps would be told anything new."""
        return bool(self.changes or self.refreshed or self.before != self.after)

    @property
    def changed(self) -> bool:
        """Whether the kernel would be told anything new."""
        return bool(self.policy_changed or self.mode)

    def counts(self) -> dict[str, int]:
        """Return how many rules are added, removed and changed."""
        signs = [change.sign for change in self.changes]
        return {
            "added": signs.count("+"),
            "removed": signs.count("-"),
            "changed": signs.count("~"),
            "refreshed": self.refreshed,
            "kept_manual": len(self.kept),
        }

    @property
    def digest(self) -> str:
        """SHA-256, hex, of what changes: from what to what, which rules, which mode.

        Who has seen a plan binds an apply to it. Files that were replaced meanwhile
        (``refreshed``) and warnings are no part of it: an apply is to follow them.
        """
        facts = [self.before, self.after, self.mode, self.changes, self.kept]
        facts.append([refusal.rule for refusal in self.refusals])
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as ``--json`` prints it."""
        return {
            "digest": self.digest,
            "changed": self.changed,
            "before": self.before,
            "after": self.after,
            "mode": self.mode,
            "refreshed": self.refreshed,
            "counts": self.counts(),
            "changes": [{"sign": c[0], "rule": c[1], "what": c[2]} for c in self.changes],
            "kept": list(self.kept),
            "entries": {name: {"live": a, "new": b} for name, (a, b) in self.entries.items()},
            "problems": [problem._asdict() for problem in self.problems],
            "refusals": [refusal.to_dict() for refusal in self.refusals],
        }

    def as_text(self, limit: int = 50) -> str:
        """Return the plan for a person; at most ``limit`` changes are listed one by one."""
        listed = self.changes[:limit]
        lines = [f"{c.sign} {_shown(c.rule)}{f'  ({c.what})' if c.what else ''}" for c in listed]
        more = len(self.changes) - limit
        if more > 0:
            lines.append(f"… and {more} more changes")
        lines += [f"= {_shown(manual.label_text(each))}, kept)" for each in self.kept]
        lines += [_problem_line(problem) for problem in self.problems[:limit]]
        if len(self.problems) > limit:
            lines.append(f"! … and {len(self.problems) - limit} more warnings")
        lines += [f"{'X' if r.enforce else '!'} {_shown(r.text())}" for r in self.refusals]
        if any(refusal.enforce for refusal in self.refusals):
            lines.append("X this would lock you out: policy apply refuses it")
        return "\n".join([*lines, self.summary()])

    def summary(self) -> str:
        """Return the plan in one line."""
        if not self.policy_changed:
            text = "no change of rules: the live policy is already this one"
            return f"{text}\nmode: {self.mode}" if self.mode else text
        counts = self.counts()
        text = ", ".join(f"{counts[name]} {name}" for name in ("added", "removed", "changed"))
        if self.refreshed:
            text += f", {self.refreshed} map entries refreshed"
        return f"{text}\nmode: {self.mode}" if self.mode else text


def _place(problem: Problem) -> tuple[bool, int, str]:
    """Order by the policy's lines, rules made by hand last: maps are read in any order."""
    return not problem.line, problem.line, problem.rule


def _problem_line(problem: Problem) -> str:
    where = f" line {problem.line}" if problem.line else ""
    rule = f" {_shown(problem.rule)}:" if problem.rule else ""
    return f"!{where}{rule} {_shown(problem.message)}"


def _shown(text: str) -> str:
    return text if text.isprintable() else printable(text, 2 * len(text))


def make_plan(
    live: Live,
    rules: Rules,
    *,
    name_of: Callable[[int], str],
    kept: Iterable[str] = (),
    problems: Iterable[Problem] = (),
    after: str = "",
    refusals: Iterable[Refusal] = (),
) -> Plan:
    """Compare the live maps with what they are to hold.

    Args:
        live: The loaded maps.
        rules: What the new slot is to hold.
        name_of: Returns the id of a live rule that the new policy does not have, by its uid.
        kept: Ids of manual rules that are carried over.
        problems: Findings to show with the plan.
        after: Hex digest of the new bundle.
        refusals: What the lockout proof found.
    """
    info = live.info()
    old, new = live.entries("rules"), rules.maps["rules"]
    gone = [int.from_bytes(uid, "little") for uid in old if uid not in new]
    changes = [Change("-", name_of(uid)) for uid in gone]
    rule_of, make = rules.names, tuple.__new__  # Change(...) takes three times as long
    changes += [make(Change, ("+", rule_of[uid], "")) for uid in new if uid not in old]
    changes += [
        Change("~", rule_of[uid], _describe(was, new[uid]))
        for uid, was in old.items()
        if new.get(uid, was) != was
    ]
    return Plan(
        changes=tuple(sorted(changes, key=itemgetter(1, 0))),  # by rule, then sign
        kept=tuple(sorted(kept)),
        refreshed=0 if changes else _differing(live, rules),
        problems=tuple(sorted((*problems, *rules.problems), key=_place)),
        entries={
            spec.name: (info.count(spec.name), len(rules.maps[spec.name]))
            for spec in POLICY_MAPS
            if info.count(spec.name) or rules.maps[spec.name]
        },
        before=info.bundle.hex() if any(info.bundle) else "",
        after=after,
        refusals=tuple(refusals),
    )


def _differing(live: Live, rules: Rules) -> int:
    if live.info().content == content_digest(rules.maps) == live_digest(live):
        return 0
    entries = live.all_entries()
    return sum(
        len(entries[spec.name].items() ^ rules.maps[spec.name].items()) for spec in POLICY_MAPS
    )


def _describe(was: bytes, now: bytes) -> str:
    (old_mode, old_signal), (mode, signal) = RULE_ATTR.unpack(was), RULE_ATTR.unpack(now)
    parts = []
    if old_mode != mode:
        parts.append(f"{_mode(old_mode)} → {_mode(mode)}")
    if old_signal != signal:
        parts.append(f"signal {_SIGNALS.get(old_signal)} → {_SIGNALS.get(signal)}")
    return ", ".join(parts)


def _mode(enforce: int) -> str:
    return "enforce" if enforce else "audit"
