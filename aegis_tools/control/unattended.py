"""The lockout proof where nobody watches: at boot, and where the service sets its mode.

A policy that was harmless when it was confirmed may lock everybody out by now: a package upgrade
made sshd load a library from a folder that is denied. What a person forced past the proof and
confirmed from a new connection, while it was enforced, stays accepted.
"""

from __future__ import annotations

import contextlib

from aegis_tools.control import bootstate, fallback
from aegis_tools.control.live import Live
from aegis_tools.control.lockout import check
from aegis_tools.control.mode import read_mode
from aegis_tools.control.names import Names
from aegis_tools.errors import LockoutError, StateError
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Mode


def hold_if_locked_out(paths: Paths, live: Live, *, changed: bool = False) -> None:
    """Hold the host in audit where enforcing its live rules would lock everybody out.

    A host that enforces these rules already is left alone. The caller holds the lock.

    Args:
        paths: Where things are.
        live: The loaded maps.
        changed: The rules are not those that were live before.

    Raises:
        CommandError: The host could not be searched; the mode is as it was.
        StateError: The hold could not be recorded; the host is in audit.
    """
    if fallback.why_held(paths) or (read_mode(live) is Mode.ENFORCE and not changed):
        return
    try:
        prove(paths, live)
    except LockoutError as error:
        detail = error.message.partition("\n")[0]
        fallback.enter(paths, live, "lockout", detail, mode=Mode.ENFORCE)


def check_lockout(paths: Paths, live: Live) -> None:
    """Let a hold be ended only where the mode that comes back would lock nobody out.

    Raises:
        LockoutError: It would.
    """
    found = fallback.read(paths)
    if found is None or found.mode_before is not Mode.ENFORCE:
        return
    try:
        prove(paths, live)
    except LockoutError as error:
        error.hint = (
            "apply a policy that does not; or stay in audit: aegisbpf mode audit, then resume"
        )
        raise


def prove(paths: Paths, live: Live) -> None:
    """Raise LockoutError where live rules would lock everybody out and nobody has accepted it."""
    accepted: tuple[str, ...] = ()
    with contextlib.suppress(StateError):
        accepted = bootstate.read_boot_state(paths).forced
    found = check.check_live(paths, live, Names(live, paths).name)
    check.refuse(one for one in found if one.rule not in accepted)
