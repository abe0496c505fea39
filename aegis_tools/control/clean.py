"""The evidence for letting a whole host refuse: what its rules would have refused while it watched.

The kernel counts each rule's matches, and when the last one was, for as long as the rule is live as
it is. A reboot starts the watch anew: what was not watched is not taken for clean.
"""

from __future__ import annotations

from aegis_tools.control.live import Live
from aegis_tools.control.names import Names
from aegis_tools.control.plan import Plan
from aegis_tools.control.promote import Evidence, judge, look
from aegis_tools.control.steady import read_steady
from aegis_tools.errors import PolicyError
from aegis_tools.kernel.layout import Stat
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Mode


class NotCleanError(PolicyError):
    """There is not enough evidence that enforcing refuses nothing that is needed."""

    code = "not_clean"


def check_clean(
    live: Live, paths: Paths, plan: Plan, *, clean_for: float, now_ns: int, boot_ns: int
) -> None:
    """Refuse to enforce rules that matched lately, or that were not watched for long enough.

    Args:
        live: The loaded maps.
        paths: Where policies are kept.
        plan: What is to be done; evidence is asked for where it lets the host enforce.
        clean_for: Seconds without a match.
        now_ns: Unix time, ns.
        boot_ns: Boot clock, ns.

    Raises:
        NotCleanError: With the evidence as data.
    """
    if not plan.mode.endswith(Mode.ENFORCE.value):
        return
    if plan.changes or plan.before != plan.after:
        raise NotCleanError(
            "this is not the policy that was watched here; nobody knows what it would refuse",
            hint="apply it in audit first, and let it watch",
        )
    lost = live.stats()[Stat.HITS_LOST]
    found = _look(live, paths, now_ns=now_ns, boot_ns=boot_ns)
    judged = [judge(one, clean_for=clean_for, hits_lost=lost) for one in found]
    against = [one for one in judged if one.mode is Mode.ENFORCE and one.objection]
    if against:
        raise NotCleanError(
            f"{against[0].rule} is not clean for long enough: {against[0].objection}"
            + (f"; and {len(against) - 1} more" if len(against) > 1 else ""),
            hint="look at its events: aegisbpf rule list; then change the policy, or watch on",
            data={"evidence": [one.to_dict() for one in against]},
        )


def _look(live: Live, paths: Paths, *, now_ns: int, boot_ns: int) -> list[Evidence]:
    """Return what is known of every live rule."""
    names = Names(live, paths)
    policy = names.policy()
    said = {rule.id: rule for rule in policy.rules} if policy else {}
    rules = [names.get(int.from_bytes(key, "little")) for key in live.entries("rules")]
    if not all(rules):
        raise NotCleanError(
            "a live rule cannot be named, so nobody knows for how long it has been as it is",
            hint="see why: aegisbpf policy verify-live",
        )
    since = read_steady(
        paths,
        [said.get(rule.id, rule) for rule in rules if rule],
        applied_ns=live.info().applied_ns,
        records=live.manual_rules().values(),
    )
    found = look(live, since, now_ns=now_ns, boot_ns=boot_ns)
    # The wall clock may have been set; nothing was watched before this boot.
    return [one._replace(watched=min(one.watched, boot_ns / 1e9)) for one in found]
