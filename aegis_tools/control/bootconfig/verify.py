"""Whether the boot configuration, and then the boot, is what was wanted. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from aegis_tools.control.bootconfig import lsmlist
from aegis_tools.control.bootconfig.entries import Entry, normal
from aegis_tools.control.bootconfig.facts import Facts
from aegis_tools.control.bootconfig.plan import Plan
from aegis_tools.errors import BootError

_BOOTED = "journalctl --boot --dmesg --grep 'Command line'"


def check(plan: Plan, entries: Sequence[Entry]) -> None:
    """Check what the boot loader offers after a change.

    Raises:
        BootError: A normal entry has not the list that was planned, or a recovery entry has it.
    """
    found = fault(plan, entries)
    if found:
        raise BootError(
            f"the new boot configuration is not what was wanted: {found}",
            hint="see who else sets lsm=: aegisbpf lsm status",
        )


def fault(plan: Plan, entries: Sequence[Entry]) -> str:
    """Return what is wrong with the entries after a change; empty where nothing is."""
    if not normal(entries):
        return "it has no normal entry"
    if plan.verb == "disable":
        return _left(plan, entries)
    facts = plan.before
    for entry in normal(entries):
        if entry.lsm != plan.value:
            found = "no lsm=" if entry.lsm is None else f"lsm={entry.lsm}"
            return f"{entry.title or entry.kernel} has {found}"
        names = lsmlist.split(entry.lsm or "")
        if lsmlist.BPF not in names or lsmlist.lost(facts.active, names, facts.always):
            return f"{entry.title or entry.kernel} loses a security module"
    had = {one.lsm for one in facts.entries if one.recovery}
    for entry in entries:
        if entry.recovery and entry.lsm == plan.value and entry.lsm not in had:
            return f"{entry.title or entry.kernel} is for recovery, and has our lsm="
    return ""


def _left(plan: Plan, entries: Sequence[Entry]) -> str:
    ours = plan.before.ours
    if ours is None or ours in [one.value for one in plan.before.foreign]:
        return ""
    left = [one for one in normal(entries) if one.lsm == ours]
    return f"{left[0].title or left[0].kernel} still has ours" if left else ""


def check_boot(facts: Facts, boot_id: str, working: bool | None) -> None:
    """Check that this boot is what was configured.

    Args:
        facts: Of this boot; their record says what was active when ``lsm enable`` was run.
        boot_id: Of this boot.
        working: Whether a hook of ours really runs; None where nothing is loaded.

    Raises:
        BootError: BPF LSM is pending and not active, or the other way round; it was configured and
            is neither; a module that was active is gone; or what is loaded does not work.
    """
    record = facts.record
    gone = [name for name in record.active if name not in facts.active] if record else []
    if gone:
        raise BootError(
            f"security modules that were active are gone: {', '.join(gone)}",
            hint="go back with: aegisbpf lsm disable; then reboot",
            data={"gone": gone},
        )
    if facts.pending and not facts.is_active:
        same = record is not None and record.boot_id == boot_id
        raise BootError(
            "BPF LSM is configured for the next boot, and not active in this one",
            hint="reboot" if same else f"see what was booted: {_BOOTED}; then reboot",
        )
    if record and not facts.pending and not facts.is_active:
        raise BootError(
            "BPF LSM was configured, and neither this boot nor the next one has it",
            hint="see who took it away, then: aegisbpf lsm enable",
        )
    if facts.is_active and not facts.pending:
        raise BootError(
            "BPF LSM is active, and the next boot will not have it",
            hint="configure it: aegisbpf lsm enable",
        )
    if facts.is_active and working is False:
        raise BootError(
            "BPF LSM is active, but our hook does not run",
            hint="see why: aegisbpf health",
        )
