"""What ``lsm enable`` and ``lsm disable`` would do. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aegis_tools.control.bootconfig import cmdline, grub, grubby, lsmlist
from aegis_tools.control.bootconfig.entries import Entry
from aegis_tools.control.bootconfig.facts import Facts
from aegis_tools.control.bootconfig.record import Record
from aegis_tools.errors import BootError

LATER = "etc/kernel/cmdline"
DROP_IN = "/etc/default/grub.d/99-aegisbpf.cfg"


@dataclass(frozen=True)
class Plan:
    """A change of the boot configuration, or none.

    Attributes:
        verb: ``enable`` or ``disable``.
        names: The list to set; None to take ours away.
        changed: Whether anything is to be done.
        before: The facts it was made from.
        after: The facts that it should lead to.
        merged: What others set, and our list keeps, comes first in it.
        kept: Active modules that the others' list leaves out, and ours keeps.
    """

    verb: str
    names: tuple[str, ...] | None
    changed: bool
    before: Facts
    after: Facts
    merged: bool = False
    kept: tuple[str, ...] = ()

    @property
    def value(self) -> str | None:
        """The ``lsm=`` to set."""
        return None if self.names is None else ",".join(self.names)

    def diff(self) -> dict[str, str]:
        """Return both texts of what changes, with their names."""
        if self.before.loader == "grubby":
            name = "grubby --info=ALL"
            texts = [grubby.listing(one.entries, one.later) for one in (self.before, self.after)]
        else:
            name, texts = DROP_IN, [one.own or "" for one in (self.before, self.after)]
        before, after = texts
        return {"before": before, "after": after, "before_header": name, "after_header": name}

    def warnings(self) -> list[str]:
        """Return what a person should know."""
        found = list(self.before.warnings)
        if self.changed and self.kept:
            found.append(f"active now and kept, though others leave it out: {', '.join(self.kept)}")
        if self.changed and self.verb == "disable" and self.after.foreign:
            found.append(f"lsm= stays as it is set in {self.after.foreign[-1].where}")
        return found


def nothing(facts: Facts, verb: str) -> Plan:
    """Return the plan that changes nothing."""
    return Plan(verb, None, False, facts, facts)


def plan_enable(facts: Facts, *, merge: bool) -> Plan:
    """Return what makes the next boot have BPF LSM, and lose nothing that is active now.

    Args:
        facts: Of now.
        merge: Build on an ``lsm=`` that others set.

    Raises:
        BootError: It cannot, or another ``lsm=`` is set and ``merge`` was not said.
    """
    if not facts.active:
        raise BootError(
            "this host does not say which security modules are active",
            hint="run it as root, so that securityfs can be mounted",
        )
    if facts.pending and not facts.lost and facts.is_settled:
        return nothing(facts, "enable")
    _check(facts)
    if facts.foreign and not merge:
        raise BootError(
            f"lsm= is set already: {facts.foreign[-1].where}",
            hint="build on that list with: aegisbpf lsm enable --merge; or take it out there",
            data={"foreign": [one.to_dict() for one in facts.foreign]},
        )
    base = lsmlist.split(facts.foreign[-1].value) if facts.foreign else _base(facts)
    names = lsmlist.desired(facts.active, base)
    kept = lsmlist.lost(facts.active, base, facts.always) if facts.foreign else ()
    kept = tuple(name for name in kept if name != lsmlist.BPF)
    after = _after(facts, names)
    return Plan("enable", names, True, facts, after, bool(facts.foreign), kept)


def _check(facts: Facts) -> None:
    if facts.loader is None or facts.default is None:
        raise BootError(
            "neither GRUB with update-grub nor grubby is here to change the boot configuration",
            hint="add bpf to lsm= by hand, every module of: aegisbpf lsm status; then reboot",
        )
    if facts.is_unable:
        raise BootError(
            f"the next boot's kernel is built without BPF LSM: {facts.default.release}",
            hint="boot a kernel with CONFIG_BPF_LSM=y",
        )
    if not facts.default.generated:
        raise BootError(
            f"the default boot entry keeps its own command line: {facts.default.title}",
            hint="add bpf to its lsm= where it is written, or choose another default entry",
        )


def _base(facts: Facts) -> tuple[str, ...]:
    """Return what the next boot would have without us, where this boot is not like it.

    Who booted once with another ``lsm=``, by hand, must not have that list made permanent.
    """
    now = cmdline.effective(facts.running)
    without = None if facts.default is None else _without_ours(facts, facts.default)
    if now is None or now in (without, facts.ours):
        return ()
    found = facts.list_of(without, facts.default.release if facts.default else "")
    if found is None:
        raise BootError(
            "this boot's lsm= is not that of the boot configuration",
            hint="reboot without it, then: aegisbpf lsm enable",
        )
    return found


def _without_ours(facts: Facts, entry: Entry) -> str | None:
    others = [value for value in cmdline.values(entry.line) if value != facts.ours]
    return others[-1] if others else None


def _after(facts: Facts, names: Sequence[str]) -> Facts:
    value = ",".join(names)
    if facts.loader == "grubby":
        return _with_lines(facts, dict.fromkeys((e.kernel for e in facts.entries), value), value)
    default = facts.default
    if default is not None:
        default = default._replace(line=f"{default.line} {cmdline.LSM}={value}")
    return replace(facts, own=grub.drop_in(names), default=default)


def _with_lines(facts: Facts, values: Mapping[str, str | None], later: str | None) -> Facts:
    """Return the facts with another ``lsm=`` by kernel, and one for later kernels."""
    then = {
        one: one._replace(line=cmdline.with_lsm(one.line, values[one.kernel]))
        for one in facts.entries
    }
    text = facts.later
    return replace(
        facts,
        entries=tuple(then.values()),
        default=then[facts.default] if facts.default else None,
        later=None if text is None else cmdline.with_lsm(text.strip(), later) + "\n",
    )


def plan_disable(facts: Facts) -> Plan:
    """Return what takes our ``lsm=`` away, and nothing else."""
    if facts.loader == "grub":
        left = facts.own is not None or not facts.is_settled
        if facts.ours is None or not left:
            return nothing(facts, "disable")
        default = facts.default
        if default is not None:
            without = _without_ours(facts, default)
            default = default._replace(line=cmdline.with_lsm(default.line, without))
        after = replace(facts, own=None, default=default, record=None)
        return Plan("disable", None, True, facts, after)
    return _plan_disable_grubby(facts)


def _plan_disable_grubby(facts: Facts) -> Plan:
    record = facts.record
    if facts.loader != "grubby" or record is None or record.value is None:
        return nothing(facts, "disable")
    values = {one.kernel: before(record, one) for one in facts.entries}
    later = cmdline.effective(record.files.get(LATER, "")) if facts.later is not None else None
    after = replace(_with_lines(facts, values, later), record=None)
    return Plan("disable", None, True, facts, after)


def before(record: Record, entry: Entry) -> str | None:
    """Return the ``lsm=`` that an entry had before us; what others have set since stays."""
    if entry.lsm != record.value:
        return entry.lsm
    return cmdline.effective(record.lines.get(entry.kernel, ""))


def document(plan: Plan, facts: Facts, working: bool | None, *, dry_run: bool) -> dict[str, Any]:
    """Return what every command prints as JSON.

    Args:
        plan: What was to be done.
        facts: Those after it; ``plan.after`` where it was only planned.
        working: Whether a hook of ours really runs; None where nothing is loaded.
        dry_run: Nothing was done.
    """
    return {
        "changed": plan.changed,
        "dry_run": dry_run,
        "before": plan.before.side(),
        "after": facts.side(),
        "diff": plan.diff(),
        "pending": facts.pending,
        "active": facts.is_active,
        "working": working,
        "active_list": list(facts.active),
        "pending_list": list(facts.pending_list),
        "reboot_needed": facts.pending != facts.is_active,
        "loader": facts.loader,
        "foreign": [one.to_dict() for one in facts.foreign],
        "warnings": plan.warnings(),
    }
