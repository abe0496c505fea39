"""``aegisbpf policy plan``, ``apply``, ``rollback``, ``show``, ``export`` and ``verify-live``."""

from __future__ import annotations

import argparse
import contextlib
import hmac
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from aegis_tools.cli import probing, types
from aegis_tools.cli.confirm import tell_staged
from aegis_tools.cli.output import App, table
from aegis_tools.cli.reading import read_live
from aegis_tools.control import bootclock, confirm, fallback, manual
from aegis_tools.control.apply import (
    Prepared,
    carry_out,
    check_strict,
    prepare,
    previous_source,
)
from aegis_tools.control.edit_maps import as_they_are
from aegis_tools.control.history import History
from aegis_tools.control.hostmode import settle_first
from aegis_tools.control.keystore import KeyStore
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.control.mode import check_can_enforce
from aegis_tools.control.outputs import write_output
from aegis_tools.control.pending import Pending, known_records
from aegis_tools.control.posture import read_posture, unconfirmed
from aegis_tools.control.remember import remember
from aegis_tools.control.source import Source, read_source, stored_policy
from aegis_tools.control.staging import stage
from aegis_tools.control.store import Store
from aegis_tools.control.verify_live import verify_live as compare
from aegis_tools.errors import AegisError, DriftError, LockoutError
from aegis_tools.kernel.layout import Config, uid_key
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths
from aegis_tools.policy.convert import convert
from aegis_tools.policy.model import Mode, Policy


def _source(app: App, arguments: argparse.Namespace) -> Source:
    return read_source(
        arguments.file,
        KeyStore(app.paths),
        Store(app.paths),
        now=int(time.time()),
        allow_unsigned=arguments.allow_unsigned,
    )


def plan(app: App, arguments: argparse.Namespace) -> int:
    """Show what an apply would do."""
    prepared = _prepared(app, arguments)
    app.show(prepared.plan.to_dict, lambda: _plan_text(prepared, arguments))
    if arguments.mode == "enforce":
        _warn_cannot_enforce(app)
    return 0


def _plan_text(prepared: Prepared, arguments: argparse.Namespace, *, done: bool = False) -> str:
    """Return a plan, and how to carry out this one and no other unless it is done."""
    plan = prepared.plan
    if done or not plan.changed or not hasattr(arguments, "file"):
        return plan.as_text()
    options = [str(arguments.file), "--plan", plan.digest]
    options += ["--allow-unsigned"] if arguments.allow_unsigned else []
    options += ["--reset"] if arguments.reset else []
    options += ["--mode", mode.value] if (mode := _mode(arguments)) else []
    command = shlex.join(["aegisbpf", "policy", "apply", *options])
    return f"{plan.as_text()}\nthis plan and no other: {command}"


def _warn_cannot_enforce(app: App) -> None:
    try:
        read_live(app, check_can_enforce)
        fallback.check(app.paths)
    except AegisError as error:
        app.note(f"warning: policy apply refuses --mode enforce now: {error.message}")


def diff(app: App, arguments: argparse.Namespace) -> int:
    """Show what an apply would do, and exit 9 unless that is nothing."""
    prepared = _prepared(app, arguments)
    app.show(prepared.plan.to_dict, lambda: _plan_text(prepared, arguments))
    differs = prepared.plan.changes or prepared.plan.refreshed
    return DriftError.exit_code if differs else 0


def _prepared(app: App, arguments: argparse.Namespace) -> Prepared:
    source = _source(app, arguments)

    def read(live: Live) -> Prepared:
        prepared = _prepare(app, live, source, arguments)
        _check_clean(app, live, prepared, arguments)
        return prepared

    return read_live(app, read)


def _prepare(app: App, live: Live, source: Source, arguments: argparse.Namespace) -> Prepared:
    return prepare(
        live,
        source,
        Store(app.paths),
        now=time.time(),
        paths=app.paths,
        drop_manual=arguments.reset,
        mode=_mode(arguments),
    )


def _mode(arguments: argparse.Namespace) -> Mode | None:
    return Mode(arguments.mode) if getattr(arguments, "mode", None) else None


def apply(app: App, arguments: argparse.Namespace) -> int:
    """Make a policy live."""
    return _apply(app, lambda: _source(app, arguments), arguments, action="policy apply")


def rollback(app: App, arguments: argparse.Namespace) -> int:
    """Apply the previous policy."""
    arguments.reset = arguments.strict = False
    arguments.clean_for = None

    def read() -> Source:
        now, unsigned = int(time.time()), arguments.allow_unsigned
        return previous_source(app.paths, now=now, allow_unsigned=unsigned)

    return _apply(app, read, arguments, action="policy rollback")


@contextlib.contextmanager
def _refusals(app: App, arguments: argparse.Namespace, action: str) -> Iterator[None]:
    """Write into the history that a policy was refused, and why."""
    try:
        yield
    except AegisError as error:
        if not arguments.dry_run:
            # A refusal is worth a line; being unable to write it is not worth another error.
            with contextlib.suppress(AegisError, OSError):
                remember(app.paths, action, result=error.code, note=error.message)
        raise


def _apply(
    app: App, read: Callable[[], Source], arguments: argparse.Namespace, *, action: str
) -> int:
    more: dict[str, Any] = {}
    types.check_forced(arguments)
    with locked(app.paths.lock, command=action), contextlib.ExitStack() as stack:
        live = stack.enter_context(Live(Pins(app.paths.pins)))
        left = None if arguments.dry_run else _settle(app, live, arguments)
        with _refusals(app, arguments, action):
            # Read under the lock, so that no other apply can accept a serial in between.
            prepared = _prepare(app, live, read(), arguments)
        check_plan(prepared, arguments.plan)
        _check_clean(app, live, prepared, arguments)
        prepared = check_lockout(app, prepared, arguments, action)
        if arguments.strict:
            check_strict(prepared)
        if arguments.mode == "enforce":
            check_can_enforce(live)
            fallback.check(app.paths)
        if not arguments.dry_run:
            more = _carry_out(app, live, prepared, arguments, action=action)
            if left is not None:
                confirm.forget(app.paths, live, f"replaced by {action}")
        state = describe_state(live, app.paths)
    _tell(app, prepared, arguments, {"applied": not arguments.dry_run, **state, **more})
    return 0


def check_plan(prepared: Prepared, digest: str | None) -> None:
    """Refuse another plan than the one that somebody has seen.

    Raises:
        DriftError: The host or the policy has changed since.
    """
    if digest and not hmac.compare_digest(prepared.plan.digest.encode(), digest.lower().encode()):
        raise DriftError(
            "the plan is another one by now: the host or the policy has changed since",
            hint="look at the new one: aegisbpf policy plan --json",
            data={"plan": prepared.plan.to_dict()},
        )


def _check_clean(app: App, live: Live, prepared: Prepared, arguments: argparse.Namespace) -> None:
    """Ask for the evidence that enforcing refuses nothing, where ``--clean-for`` does."""
    if getattr(arguments, "clean_for", None) is not None:
        from aegis_tools.control.clean import check_clean

        clean_for, now, boot = arguments.clean_for, time.time_ns(), bootclock.boot_ns()
        check_clean(live, app.paths, prepared.plan, clean_for=clean_for, now_ns=now, boot_ns=boot)


def check_lockout(
    app: App, prepared: Prepared, arguments: argparse.Namespace, action: str
) -> Prepared:
    """Refuse what would lock everybody out; a change that is forced says so in the history.

    A dry run is refused as well, after it has shown the plan.
    """
    refusals = [found for found in prepared.plan.refusals if found.enforce]
    if not refusals:
        return prepared
    if not arguments.i_know:
        error = LockoutError(refusals)
        if arguments.dry_run:
            error.data["plan"] = prepared.plan.to_dict()
            if not app.json:
                app.show({}, _plan_text(prepared, arguments))
            raise error
        with contextlib.suppress(AegisError, OSError):
            remember(app.paths, action, result=error.code, note=error.message)
        raise error
    rules = tuple(found.rule for found in refusals)
    forced = f"forced past the lockout proof: {', '.join(rules)}"
    note = "; ".join(filter(None, (prepared.source.note, forced)))
    return replace(prepared, source=replace(prepared.source, note=note), forced=rules)


def _settle(app: App, live: Live, arguments: argparse.Namespace) -> Pending | None:
    """Return a change that cannot be reverted, which this one replaces."""
    if arguments.confirm_within:
        settle_first(app.paths, live)
        return None
    return confirm.require_settled(app.paths, live)


def _carry_out(
    app: App, live: Live, prepared: Prepared, arguments: argparse.Namespace, *, action: str
) -> dict[str, Any]:
    mode, within = _mode(arguments), arguments.confirm_within
    if not within or not prepared.plan.changed:
        carry_out(app.paths, live, prepared, action=action, mode=mode)
        return {}
    worked = probing.before(app, live, arguments, mode)
    staged = stage(app.paths, live, prepared, within=within, action=action, mode=mode)
    probed = probing.after(app, live, worked)
    return {**tell_staged(app, staged), **probed}


def _tell(
    app: App, prepared: Prepared, arguments: argparse.Namespace, facts: dict[str, Any]
) -> None:
    record = prepared.source.record
    known = {
        "digest": record.digest,
        "serial": record.serial,
        "signers": list(record.signers),
        **facts,
    }
    verb = f"policy applied: {record.name}" if facts["applied"] else "dry run, nothing changed"
    signed = f"serial {record.serial}" if record.signed else "unsigned"
    app.show(
        lambda: {**known, "plan": prepared.plan.to_dict()},
        lambda: (
            f"{_plan_text(prepared, arguments, done=facts['applied'])}\n"
            f"{verb} ({signed}, digest {record.digest[:16]}); {facts['summary']}"
        ),
    )


def describe_state(live: Live, paths: Paths | None = None) -> dict[str, Any]:
    """Return mode and what it amounts to."""
    mode = "enforce" if live.config(Config.MODE) else "audit"
    no_lsm = live.pins.is_fallback()
    attached = live.pins.is_attached()
    if not attached:
        summary = "DETACHED: nothing is denied or watched (aegisbpf attach)"
    elif no_lsm:
        summary = "AUDIT FALLBACK: nothing can be refused on this boot"
    elif mode == "audit":
        summary = "mode audit: matches are logged, nothing is refused"
    else:
        summary = "mode ENFORCE: matches are refused"
    posture = read_posture(live, paths)
    if posture.held:
        summary += f"; HELD IN AUDIT, {posture.held}: aegisbpf resume"
    return {
        "mode": mode,
        "fallback": no_lsm,
        "attached": attached,
        "held": posture.held,
        "unconfirmed_seconds": posture.to_dict()["deadline_seconds"],
        "summary": summary + unconfirmed(posture.deadline),
    }


def show(app: App, arguments: argparse.Namespace) -> int:
    """Print the live policy and where it comes from."""
    del arguments
    store = Store(app.paths)
    info, records, state = read_live(
        app, lambda live: (live.info(), live.manual_rules(), describe_state(live, app.paths))
    )
    policy = stored_policy(store, info.bundle) if any(info.bundle) else Policy(())
    record = next((r for r in known_records(store) if r.digest == info.bundle.hex()), None)
    facts = {
        "digest": info.bundle.hex() if any(info.bundle) else "",
        "serial": info.serial,
        "signers": list(record.signers) if record else [],
        "applied": _moment(info.applied_ns // 10**9) if info.applied_ns else "",
        "content": info.content.hex(),
        "rules": len(policy.rules),
        "manual": sorted(manual.label(found) for found in records.values()),
        **state,
    }
    head = [
        f"# {name}: {_text(value)}"
        for name, value in facts.items()
        if name != "manual" and value not in ("", None, [])
    ]
    head += [f"# {manual.label_text(each)})" for each in facts["manual"]]
    app.show({**facts, "policy": convert(policy, "yaml")},
             lambda: "\n".join([*head, convert(policy, "yaml").rstrip()]))  # fmt: skip
    return 0


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def export(app: App, arguments: argparse.Namespace) -> int:
    """Write what is live as a policy file."""
    form = arguments.to or ("text" if arguments.file.suffix == ".conf" else "yaml")
    policy = live_policy(app)
    text = convert(policy, form)
    if str(arguments.file) == "-":
        app.write({"policy": text}, text)
        return 0
    write_output(Path(arguments.file), text.encode(), what="policy file")
    app.show(
        {"output": str(arguments.file), "rules": len(policy.rules)},
        f"{arguments.file}: {len(policy.rules)} rules",
    )
    return 0


def live_policy(app: App) -> Policy:
    """Return the stored policy's rules that are live, and those made by hand."""
    store = Store(app.paths)
    info, records, found = read_live(
        app, lambda live: (live.info(), live.manual_rules(), live.entries("rules"))
    )
    policy = stored_policy(store, info.bundle) if any(info.bundle) else Policy(())
    kept = as_they_are((r for r in policy.rules if uid_key(r.id) in found), found)
    by_hand = [rule for rule in map(manual.to_rule, records.values()) if rule is not None]
    cgroups = [*policy.allow_cgroups, *manual.cgroups_of(records.values())]
    return Policy((*kept, *by_hand), tuple(dict.fromkeys(cgroups)), policy.version)


def verify_live(app: App, arguments: argparse.Namespace) -> int:
    """Compare the live maps with what was applied."""
    verdict = read_live(app, lambda live: compare(live, Store(app.paths)))
    app.show(verdict.to_dict(), verdict.as_text)
    bad = verdict.drifted if arguments.strict else verdict.tampered or verdict.interrupted
    return DriftError.exit_code if bad else 0


def history(app: App, arguments: argparse.Namespace) -> int:
    """List the policies applied here."""
    listing = History(app.paths.history).read(1000)
    if listing.note:
        app.note(f"warning: {listing.note}")
    found = [entry for entry in listing.entries if entry.action.startswith("policy")]
    found = found[: arguments.limit]
    rows = [
        (_moment(e.time), e.action, e.result, e.digest[:16] or "-", e.serial or "-", e.note or "-")
        for e in found
    ]
    app.show(
        {"entries": [vars(entry) | {"counts": dict(entry.counts)} for entry in found]},
        table(rows, ("TIME", "ACTION", "RESULT", "DIGEST", "SERIAL", "NOTE"))
        or "no policy was applied here yet",
    )
    return 0


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
