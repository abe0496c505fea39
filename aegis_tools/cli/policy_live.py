"""``aegisbpf policy plan``, ``apply``, ``rollback``, ``show``, ``export`` and ``verify-live``."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from aegis_tools.cli.output import App, table
from aegis_tools.cli.reading import read_live
from aegis_tools.control import manual
from aegis_tools.control.apply import (
    Prepared,
    carry_out,
    check_strict,
    prepare,
    previous_source,
)
from aegis_tools.control.history import History
from aegis_tools.control.keystore import KeyStore
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.control.mode import check_can_enforce, read_mode, set_mode
from aegis_tools.control.outputs import write_output
from aegis_tools.control.remember import remember
from aegis_tools.control.source import Source, read_source, stored_policy
from aegis_tools.control.store import Store
from aegis_tools.control.verify_live import verify_live as compare
from aegis_tools.errors import AegisError, DriftError
from aegis_tools.kernel.layout import Config, uid_key
from aegis_tools.kernel.pins import Pins
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
    app.show(prepared.plan.to_dict, prepared.plan.as_text)
    return 0


def diff(app: App, arguments: argparse.Namespace) -> int:
    """Show what an apply would do, and exit 9 unless that is nothing."""
    prepared = _prepared(app, arguments)
    app.show(prepared.plan.to_dict, prepared.plan.as_text)
    differs = prepared.plan.changes or prepared.plan.refreshed
    return DriftError.exit_code if differs else 0


def _prepared(app: App, arguments: argparse.Namespace) -> Prepared:
    source = _source(app, arguments)
    return read_live(app, lambda live: _prepare(app, live, source, arguments))


def _prepare(app: App, live: Live, source: Source, arguments: argparse.Namespace) -> Prepared:
    return prepare(
        live,
        source,
        Store(app.paths),
        now=time.time(),
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
    arguments.mode = None

    def read() -> Source:
        now, unsigned = int(time.time()), arguments.allow_unsigned
        return previous_source(app.paths, now=now, allow_unsigned=unsigned)

    return _apply(app, read, arguments, action="policy rollback")


def _read(
    app: App, read: Callable[[], Source], arguments: argparse.Namespace, action: str
) -> Source:
    """Read under the lock, so that no other apply can accept a serial in between."""
    try:
        return read()
    except AegisError as error:
        if not arguments.dry_run:
            # A refusal is worth a line; being unable to write it is not worth another error.
            with contextlib.suppress(AegisError, OSError):
                remember(app.paths, action, result=error.code, note=error.message)
        raise


def _apply(
    app: App, read: Callable[[], Source], arguments: argparse.Namespace, *, action: str
) -> int:
    with locked(app.paths.lock, command=action), contextlib.ExitStack() as stack:
        source = _read(app, read, arguments, action)
        live = stack.enter_context(Live(Pins(app.paths.pins)))
        prepared = _prepare(app, live, source, arguments)
        if arguments.strict:
            check_strict(prepared)
        if arguments.mode == "enforce":
            check_can_enforce(live)
        if not arguments.dry_run:
            _carry_out(app, live, prepared, _mode(arguments), action=action)
        state = describe_state(live)
    record = source.record
    facts = {
        "applied": not arguments.dry_run,
        "digest": record.digest,
        "serial": record.serial,
        "signers": list(record.signers),
        **state,
    }
    verb = "dry run, nothing changed" if arguments.dry_run else f"policy applied: {record.name}"
    signed = f"serial {record.serial}" if record.signed else "unsigned"
    app.show(
        lambda: {**facts, "plan": prepared.plan.to_dict()},
        lambda: (
            f"{prepared.plan.as_text()}\n{verb} ({signed}, digest {record.digest[:16]}); "
            f"{state['summary']}"
        ),
    )
    return 0


def _carry_out(app: App, live: Live, prepared: Prepared, mode: Mode | None, *, action: str) -> None:
    """Commit and set the mode. In between it is the milder of the two modes."""
    was = read_mode(live)
    if mode is Mode.AUDIT:
        set_mode(live, mode)
    try:
        carry_out(app.paths, live, prepared, action=action)
    except BaseException:
        if live.info().bundle.hex() != prepared.source.record.digest:
            live.set_config(Config.MODE, int(was is Mode.ENFORCE))
        raise
    if mode is Mode.ENFORCE:
        set_mode(live, mode)


def describe_state(live: Live) -> dict[str, Any]:
    """Return mode and what it amounts to."""
    mode = "enforce" if live.config(Config.MODE) else "audit"
    fallback = live.pins.is_fallback()
    attached = live.pins.is_attached()
    if not attached:
        summary = "DETACHED: nothing is denied or watched (aegisbpf attach)"
    elif fallback:
        summary = "AUDIT FALLBACK: nothing can be refused on this boot"
    elif mode == "audit":
        summary = "mode audit: matches are logged, nothing is refused"
    else:
        summary = "mode ENFORCE: matches are refused"
    return {"mode": mode, "fallback": fallback, "attached": attached, "summary": summary}


def show(app: App, arguments: argparse.Namespace) -> int:
    """Print the live policy and where it comes from."""
    del arguments
    store = Store(app.paths)
    info, records, state = read_live(
        app, lambda live: (live.info(), live.manual_rules(), describe_state(live))
    )
    policy = stored_policy(store, info.bundle) if any(info.bundle) else Policy(())
    record = next((r for r in store.records() if r and r.digest == info.bundle.hex()), None)
    facts = {
        "digest": info.bundle.hex() if any(info.bundle) else "",
        "serial": info.serial,
        "signers": list(record.signers) if record else [],
        "applied": _moment(info.applied_ns // 10**9) if info.applied_ns else "",
        "content": info.content.hex(),
        "rules": len(policy.rules),
        "manual": sorted(manual.id_of(found) for found in records.values()),
        **state,
    }
    head = [f"# {name}: {value}" for name, value in facts.items() if name != "manual"]
    head += [f"# made by hand: {rule}" for rule in facts["manual"]]
    app.show({**facts, "policy": convert(policy, "yaml")},
             lambda: "\n".join([*head, convert(policy, "yaml").rstrip()]))  # fmt: skip
    return 0


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
    kept = [r for r in policy.rules if uid_key(r.id) in found]
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
