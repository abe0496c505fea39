"""The evidence for letting a whole host refuse: what its rules would have refused while it watched.

The kernel counts each rule's matches, and when the last one was, from the load on. So a reboot
begins the watch anew: what was not watched is not taken for clean.
"""

from __future__ import annotations

from aegis_tools.control.live import Live
from aegis_tools.control.names import Names
from aegis_tools.control.plan import Plan
from aegis_tools.control.promote import check
from aegis_tools.control.steady import read_steady
from aegis_tools.errors import PolicyError
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
    names = Names(live, paths)
    rules = list(names.all().values())
    if len(rules) < len(live.entries("rules")):
        raise NotCleanError(
            f"not every live rule can be judged: {names.problem or 'some have no name'}",
            hint="apply the policy file again",
        )
    info, by_hand = live.info(), live.manual_rules().values()
    since = read_steady(paths, rules, applied_ns=info.applied_ns, records=by_hand)
    # The wall clock may have been set; nothing was watched before this boot.
    start = (now_ns - boot_ns) / 1e9
    since = {rule: max(when, start) for rule, when in since.items()}
    judged = check(live, since, clean_for=clean_for, now_ns=now_ns, boot_ns=boot_ns)
    against = [one for one in judged if one.mode is Mode.ENFORCE and one.objection]
    if against:
        raise NotCleanError(
            f"{against[0].rule} is not clean for long enough: {against[0].objection}"
            + (f"; and {len(against) - 1} more" if len(against) > 1 else ""),
            hint="look at its events: aegisbpf rule list; then change the policy, or watch on",
            data={"evidence": [one.to_dict() for one in against]},
        )
