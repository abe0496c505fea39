"""From what events and counters show to a changed policy, with the reason of each change.

Nothing here knows what is legitimate. So every proposal is one that a person could have made from
the same facts, says what it rests on and what it gives up, and what comes close is listed with the
reason why it was not proposed. Nothing is ever applied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from aegis_tools.agent.evidence import OfRule, Seen
from aegis_tools.agent.search import time_text
from aegis_tools.policy.model import Kind, Mode, Policy, Rule

DAY = 86400
ALLOW_RULES, ALLOW_EVENTS = 3, 20
DROP_EVENTS, DROP_DAYS = 50, 3
_PEOPLE = re.compile(r"(?:user@.*|session-.*|sshd?(?:@.*)?|(?:serial-)?getty@.*|crond?|atd?)\..*")


class Facts(NamedTuple):
    """What is known.

    Attributes:
        policy: What is live, without rules made by hand.
        events: By rule id.
        last_hits: Unix seconds of a rule's last match as the kernel counted it; 0 = none.
        steady_since: Since when a rule has been in the policy as it is now, Unix seconds.
        counted_since: Since when the kernel has counted.
        read_since: Time of the oldest event that was read; 0 = none.
        lost: Events that were dropped or sampled out.
        now: Unix seconds.
        clean_days: Days without a match after which a rule may enforce.
        blind: Why not every match is seen now; empty where every one is.
    """

    policy: Policy
    events: Mapping[str, OfRule]
    last_hits: Mapping[str, float]
    steady_since: Mapping[str, float]
    counted_since: float
    read_since: float
    lost: int
    now: float
    clean_days: int
    blind: str = ""


class Suggestion(NamedTuple):
    """A change.

    Attributes:
        kind: ``allow-cgroup``, ``drop-rule`` or ``promote-rule``.
        target: The cgroup, or the rule's id.
        evidence: What it rests on, a line each.
        caution: What it gives up, or what to check first.
    """

    kind: str
    target: str
    evidence: tuple[str, ...]
    caution: str


class Withheld(NamedTuple):
    """What came close to a proposal, and why it is none."""

    kind: str
    target: str
    why: str


class Report(NamedTuple):
    """The answer."""

    suggestions: tuple[Suggestion, ...]
    withheld: tuple[Withheld, ...]


def suggest(facts: Facts) -> Report:
    """Return what the facts speak for."""
    found = [*_allow(facts), *_promote(facts)]
    allowed = {each.target for each in found if isinstance(each, Suggestion)}
    found += _drop(facts, allowed)
    return Report(
        tuple(each for each in found if isinstance(each, Suggestion)),
        tuple(each for each in found if isinstance(each, Withheld)),
    )


def changed(policy: Policy, suggestions: Iterable[Suggestion]) -> Policy:
    """Return the policy with all suggestions."""
    by_kind: dict[str, list[str]] = {"allow-cgroup": [], "drop-rule": [], "promote-rule": []}
    for each in suggestions:
        by_kind[each.kind].append(each.target)
    dropped, promoted = set(by_kind["drop-rule"]), set(by_kind["promote-rule"])
    rules = tuple(
        rule._replace(mode=Mode.ENFORCE) if rule.id in promoted else rule
        for rule in policy.rules
        if rule.id not in dropped
    )
    cgroups = dict.fromkeys((*policy.allow_cgroups, *by_kind["allow-cgroup"]))
    return policy._replace(rules=rules, allow_cgroups=tuple(cgroups))


def _allow(facts: Facts) -> Iterator[Suggestion | Withheld]:
    """One service on which many rules agree: rather than its rules, it is the exception."""
    by_place: dict[tuple[str, str, bool], dict[str, Seen]] = {}
    for rule in facts.policy.rules:
        places = facts.events[rule.id].places if rule.id in facts.events else {}
        for place, seen in places.items():
            by_place.setdefault(place, {})[rule.id] = seen
    for (unit, cgroup, container), rules in sorted(by_place.items()):
        events = sum(seen.events for seen in rules.values())
        if len(rules) < ALLOW_RULES or events < ALLOW_EVENTS or cgroup in ("", "/"):
            continue
        if why := _no_exception(unit, container):
            yield Withheld("allow-cgroup", cgroup, f"{len(rules)} rules match it, but {why}")
            continue
        yield Suggestion(
            "allow-cgroup",
            cgroup,
            (
                f"{events} matches of {len(rules)} rules: {_ranked(rules)}",
                *_who(rules.values()),
            ),
            f"no rule then holds for {unit}, nor for what it starts: right for a backup or a "
            "scanner you trust, wrong for anything that takes input from outside",
        )


def _no_exception(unit: str, container: bool) -> str:
    if container:
        return "a container's cgroup has another name each time: change the rules instead"
    if _PEOPLE.fullmatch(unit):
        return "people's sessions and jobs run there: allowing it would exempt them all"
    if not unit.endswith(".service"):
        return "it is no service's cgroup"
    return ""


def _promote(facts: Facts) -> Iterator[Suggestion | Withheld]:
    """Audit rules that nobody has met for long enough."""
    start = facts.now - facts.clean_days * DAY
    seen_since = min(facts.counted_since, facts.read_since or facts.now)
    for rule in facts.policy.rules:
        if rule.mode is not Mode.AUDIT:
            continue
        if why := _not_clean(facts, rule, start, seen_since):
            yield Withheld("promote-rule", rule.id, why)
            continue
        yield Suggestion(
            "promote-rule",
            rule.id,
            (
                f"no match for {facts.clean_days} days: none in the events, and the kernel's "
                f"counter, counting since {_day(facts.counted_since)}, agrees",
                f"in the policy as it is since {_day(facts.steady_since[rule.id])}",
            ),
            "what happens rarely (a monthly job, a restore, an upgrade) may not have happened yet",
        )


def _not_clean(facts: Facts, rule: Rule, start: float, seen_since: float) -> str:
    if facts.blind:
        return f"not every match is seen now: {facts.blind}"
    events, floor = facts.events.get(rule.id), time_text(start)
    if events is not None and events.all.last >= floor:
        who = ", ".join(sorted(events.all.comms))
        return f"{events.all.events} matches, the last at {events.all.last[:19]}Z by {who}"
    if facts.last_hits.get(rule.id, 0) >= start:
        return f"the kernel counted a match at {time_text(facts.last_hits[rule.id])[:19]}Z"
    if facts.steady_since.get(rule.id, facts.now) > start:
        return (
            f"in the policy as it is only since {_day(facts.steady_since.get(rule.id, facts.now))}"
        )
    if seen_since > start:
        return f"neither counters nor events reach back further than {_day(seen_since)}"
    return ""


def _drop(facts: Facts, allowed: set[str]) -> Iterator[Suggestion | Withheld]:
    """Audit rules that only ever meet the service whose files they are about."""
    for rule in facts.policy.rules:
        events = facts.events.get(rule.id)
        if rule.mode is not Mode.AUDIT or events is None or len(events.places) != 1:
            continue
        [((unit, cgroup, container), seen)] = events.places.items()
        enough = seen.events >= DROP_EVENTS and len(seen.days) >= DROP_DAYS
        if not enough or not owns(unit, rule) or cgroup in allowed:
            continue
        if events.crowded or container or seen.events != events.all.events:
            continue
        if facts.lost:
            why = f"{facts.lost} events were lost or left out, and may have been others'"
            yield Withheld("drop-rule", rule.id, why)
            continue
        yield Suggestion(
            "drop-rule",
            rule.id,
            (
                f"all {seen.events} matches on {len(seen.days)} days are of {unit}, whose files "
                f"these seem to be by their name",
                *_who([seen]),
            ),
            "the rule then watches nobody else either: keep it if others must stay out, and allow "
            f"{cgroup} instead",
        )


def owns(unit: str, rule: Rule) -> bool:
    """Return whether a service bears the name of a part of the path that the rule is about."""
    if rule.kind not in (Kind.PATH, Kind.DIRECTORY) or not unit.endswith(".service"):
        return False
    stem = unit.removesuffix(".service").partition("@")[0]
    return len(stem) > 2 and stem in rule.target.strip("/").split("/")


def _ranked(rules: Mapping[str, Seen]) -> str:
    most = sorted(rules.items(), key=lambda item: (-item[1].events, item[0]))
    text = ", ".join(f"{rule} {seen.events}" for rule, seen in most[:8])
    return text + (f" and {len(most) - 8} more" if len(most) > 8 else "")


def _who(found: Iterable[Seen]) -> tuple[str, ...]:
    seen = list(found)
    comms = sorted({comm for each in seen for comm in each.comms})
    uids = sorted({uid for each in seen for uid in each.uids})
    paths = sorted({path for each in seen for path in each.paths if path})
    first, last = min(each.first for each in seen), max(each.last for each in seen)
    return (
        f"from {first[:19]}Z to {last[:19]}Z, by {', '.join(comms[:8])}, "
        f"user id {', '.join(map(str, uids[:8]))}",
        *([f"for example {', '.join(paths[:3])}"] if paths else []),
    )


def _day(seconds: float) -> str:
    return time_text(seconds)[:10]
