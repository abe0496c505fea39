"""``aegisbpf policy probe``, and the probe around a change that has to be confirmed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from aegis_tools.cli.output import App
from aegis_tools.control.confirm import revert  # not later: the change may deny our modules
from aegis_tools.control.live import Live
from aegis_tools.control.lockout import probe as control
from aegis_tools.control.posture import read_posture
from aegis_tools.errors import CommandError, ProbeError
from aegis_tools.policy.model import Mode

Outcomes = Sequence[control.Outcome]


def probe(app: App, arguments: argparse.Namespace) -> int:
    """Try what a way back into the host needs, changing nothing."""
    del arguments
    found = control.attempt(control.checks(app.paths.run))
    failed = [one.name for one in found if one.state == "failed"]
    text = control.as_text(found)
    if failed:
        text += f"\n{len(failed)} of {len(found)} failed"
    app.show({"ok": not failed, "checks": control.to_dict(found)}, text)
    return CommandError.exit_code if failed else 0


def before(app: App, live: Live, arguments: argparse.Namespace, mode: Mode | None) -> Outcomes:
    """Return what works now; nothing where no probe is wanted, or the change refuses nothing."""
    if not arguments.confirm_within or arguments.no_probe:
        return ()
    if live.pins.is_fallback() or not live.pins.is_attached():
        return ()
    if (mode or Mode(read_posture(live).mode)) is not Mode.ENFORCE:
        return ()
    return control.attempt(control.checks(app.paths.run))


def after(app: App, live: Live, worked: Outcomes) -> dict[str, Any]:
    """Try again, and undo the change where something works no more. The caller holds the lock.

    Raises:
        ProbeError: Something works no more; the change is undone.
    """
    if not worked:
        return {}
    found = control.attempt(control.checks(app.paths.run))
    broken = control.broken(worked, found)
    if not broken:
        return {"probe": control.to_dict(found)}
    names = ", ".join(one.name for one in broken)
    revert(app.paths, live, why=f"the probe failed: {names}")
    raise ProbeError(
        f"undone at once, because after it this failed: {names}",
        hint="see which rule denies what: aegisbpf run, or aegisbpf why PATH",
        detail=control.as_text(found),
        data={"probe": control.to_dict(found)},
    )
