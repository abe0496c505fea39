"""``lsm enable`` and ``lsm disable``: plan, record, carry out, read again."""

from __future__ import annotations

from dataclasses import replace

from aegis_tools.control import files
from aegis_tools.control.bootclock import boot_id
from aegis_tools.control.bootconfig import cmdline, entrychange, record, regenerate
from aegis_tools.control.bootconfig.facts import Facts, read_facts
from aegis_tools.control.bootconfig.plan import Plan
from aegis_tools.control.bootconfig.record import Record
from aegis_tools.control.remember import remember
from aegis_tools.errors import AegisError, BootError
from aegis_tools.kernel.run import Runner
from aegis_tools.paths import Paths


def carry_out(paths: Paths, plan: Plan, runner: Runner | None) -> Facts:
    """Do what was planned, and return the facts afterwards. The caller holds the lock.

    Killed at any instant, it leaves settings and menu that boot, and the next command brings them
    to where it wants them.

    Args:
        paths: Where things are.
        plan: Made from facts that were read under the same lock.
        runner: Starts the boot loader's tools; None where they would change another root.

    Raises:
        BootError: It failed, and the boot configuration is as it was.
    """
    sweep(paths)
    if not plan.changed:
        _note(paths, plan)
        return plan.before
    if runner is None:
        raise BootError(
            "the boot configuration below another root cannot be changed",
            hint="run it on the host itself, without --root",
        )
    old = plan.before.record
    try:
        _carry_out(paths, plan, runner)
    except record.NotRestoredError:
        raise
    except AegisError as error:
        record.write(paths, old)
        raise BootError(
            f"{error.message}; the boot configuration is as it was",
            hint=error.hint,
            detail=error.detail,
            data=error.data,
        ) from error
    except BaseException:
        record.write(paths, old)
        raise
    remember(paths, f"lsm {plan.verb}", note=f"lsm={plan.value}" if plan.value else "")
    return read_facts(paths, plan.before.active, runner, loader=plan.before.loader)


def _carry_out(paths: Paths, plan: Plan, runner: Runner) -> None:
    facts, begun = plan.before, None
    if plan.verb == "enable":
        begun = _begun(paths, plan)
        record.write(paths, begun)
    if facts.loader == "grubby":
        done = entrychange.carry_out(paths, plan, runner)
        begun = replace(begun, digests=done) if begun else None
    else:
        regenerate.carry_out(paths, plan, runner)
    if begun is None or begun.loader == "grubby":
        record.write(paths, begun)


def _begun(paths: Paths, plan: Plan) -> Record:
    """Return the record of a change: what was there before the first of ours stays in it."""
    facts, old = plan.before, plan.before.record
    found = Record(facts.loader or "", boot_id(paths), facts.active, plan.names or ())
    if facts.loader != "grubby":
        return found
    found = replace(
        found,
        lines={one.kernel: one.line for one in facts.entries},
        files=entrychange.texts(paths),
        options=entrychange.options(paths),
    )
    if old is None or old.value is None or old.loader != found.loader:
        return found
    # What has come since then, and has our list already, had none before.
    ours = f"lsm={old.value}"
    lines = {
        k: cmdline.with_lsm(v, None) if ours in v.split() else v for k, v in found.lines.items()
    }
    texts = {name: text for name, text in found.files.items() if ours not in text.split()}
    return replace(
        found,
        lines={**lines, **old.lines},
        files={**texts, **old.files},
        options=old.options,
    )


def _note(paths: Paths, plan: Plan) -> None:
    """Keep what is active where nothing is to be changed, and forget it where nothing is ours."""
    facts = plan.before
    if plan.verb == "disable" and facts.record is not None:
        record.write(paths, None)
    if plan.verb == "enable" and facts.record is None:
        record.write(paths, Record(facts.loader or "", boot_id(paths), facts.active))


def sweep(paths: Paths) -> None:
    """Remove what a command that was killed left half-written."""
    regenerate.forget(paths)
    ours = (paths.grub_drop_in, paths.grub_kernel, paths.grub_disable)
    for path in (*ours, paths.grub_menu.resolve(), paths.later_cmdline):
        files.remove_leftovers(path.parent, path.name)
    files.remove_leftovers(paths.boot_entries, "*.conf")
    files.remove_leftovers(paths.state)
