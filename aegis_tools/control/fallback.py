"""Held in audit: what the program does when it no longer trusts itself or its policy.

``<state>/fallback.json``::

    {"format": 1, "since": 1700000000, "reason": "crash-loop", "detail": "…",
     "mode_before": "enforce"}

While it stands, nothing sets enforce: not boot, not ``run``, not ``mode enforce``. A person ends
it with ``aegisbpf resume``. This is not the audit *fallback* of a kernel without BPF LSM.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from aegis_tools.control import files
from aegis_tools.control.files import printable
from aegis_tools.control.live import Live
from aegis_tools.control.mode import read_mode, set_mode
from aegis_tools.control.remember import remember
from aegis_tools.errors import StateError
from aegis_tools.paths import Paths
from aegis_tools.policy import strictjson
from aegis_tools.policy.model import Mode

REASONS = {
    "crash-loop": "the agent was started too often",
    "deny-rate": "more was denied than the threshold allows",
    "lockout": "enforcing would lock everybody out",
    "damaged": "the record of why is damaged",
}
"""What each reason means; ``damaged`` is read only, never entered."""

_FORMAT = 1
_MAX_FILE = 65536
_WHAT = "record of the fallback to audit"


@dataclass(frozen=True)
class Fallback:
    """Why the host is held in audit.

    Attributes:
        since: Unix seconds.
        reason: A key of REASONS.
        detail: In one line, for a person.
        mode_before: What ``aegisbpf resume`` sets again.
    """

    since: int
    reason: str
    detail: str
    mode_before: Mode

    @property
    def meaning(self) -> str:
        """It in one line, for a person."""
        text = REASONS.get(self.reason, self.reason)
        return f"{self.reason}: {text}" + (f" ({self.detail})" if self.detail else "")

    def to_dict(self) -> dict[str, Any]:
        """Return it as the file and ``--json`` have it."""
        return {
            "format": _FORMAT,
            "since": self.since,
            "reason": self.reason,
            "detail": self.detail,
            "mode_before": self.mode_before.value,
        }


def read(paths: Paths) -> Fallback | None:
    """Return why the host is held in audit; None where it is not.

    A damaged file still holds it: what cannot be read is no leave to enforce. The mode before is
    audit then, so ``aegisbpf resume`` lifts the hold and enforces nothing.

    Raises:
        StateError: The file is there and cannot be read, or belongs to somebody else.
    """
    owners = {0, os.geteuid()}
    data = files.read_if_present(paths.fallback, _MAX_FILE, what=_WHAT, owners=owners)
    return None if data is None else _parse(data)


def _parse(data: bytes) -> Fallback:
    try:
        top = strictjson.loads(data)
        since, reason, detail = top["since"], top["reason"], top["detail"]
        known = top["format"] == _FORMAT and isinstance(reason, str) and isinstance(detail, str)
        if not known or not strictjson.is_integer(since, 0, 2**63 - 1):
            raise ValueError("a field is not as it must be")
        return Fallback(since, printable(reason, 64), printable(detail), Mode(top["mode_before"]))
    except (ValueError, LookupError, TypeError, AttributeError):
        return Fallback(0, "damaged", "", Mode.AUDIT)


def enter(
    paths: Paths,
    live: Live,
    reason: str,
    detail: str = "",
    *,
    mode: Mode | None = None,
    now: float | None = None,
) -> bool:
    """Put the host into audit until a person resumes; harmless where that was done before.

    The kernel comes first: a full disk must not keep a host enforcing. The caller holds the lock.

    Args:
        paths: Where the record is kept.
        live: The loaded maps.
        reason: ``crash-loop``, ``deny-rate`` or ``lockout``.
        detail: In one line, for a person: ``5 starts in 60 s``.
        mode: What a resume sets; None for the mode that is set now.
        now: Unix seconds; None for the clock's.

    Returns:
        Whether it was not held before.

    Raises:
        StateError: The host is in audit, but that could not be recorded: a reboot would end it.
    """
    before = mode or read_mode(live)
    set_mode(live, Mode.AUDIT)
    if why_held(paths):  # also by a record that cannot be read
        return False
    since = int(time.time() if now is None else now)
    found = Fallback(since, reason, printable(detail), before)
    _write(paths, found)
    remember(paths, "fallback", note=f"held in audit: {found.meaning}; mode was {before.value}")
    return True


def enter_unloaded(
    paths: Paths, reason: str, detail: str, *, mode: Mode, now: float | None = None
) -> bool:
    """Hold a host on which nothing is loaded: what is loaded next starts in audit, and stays there.

    Args:
        paths: Where the record is kept.
        reason: As for ``enter``.
        detail: In one line, for a person.
        mode: What a resume sets.
        now: Unix seconds; None for the clock's.

    Returns:
        Whether it was not held before.

    Raises:
        StateError: It cannot be written. The caller holds the lock.
    """
    if why_held(paths):
        return False
    since = int(time.time() if now is None else now)
    found = Fallback(since, reason, printable(detail), mode)
    _write(paths, found)
    remember(paths, "fallback", note=f"held in audit: {found.meaning}; mode was {mode.value}")
    return True


def forget_mode(paths: Paths, which: Mode, mode: Mode) -> None:
    """Let a resume set ``mode`` where it would have set ``which``. The caller holds the lock.

    Raises:
        StateError: It cannot be written.
    """
    found = read(paths)
    if found is not None and found.mode_before is which is not mode:
        _write(paths, Fallback(found.since, found.reason, found.detail, mode))


def leave(paths: Paths, live: Live | None) -> Fallback | None:
    """Let the host enforce again, as it did before. The caller holds the lock.

    Args:
        paths: Where the record is kept.
        live: The loaded maps; None where nothing is loaded, and then only the record goes.

    Returns:
        What held it; None where nothing did.

    Raises:
        KernelError: It enforced before and cannot now; it stays held.
        StateError: The record cannot be read or removed; it stays held.
    """
    found = read(paths)
    if found is None:
        return None
    if live is not None and found.mode_before is Mode.ENFORCE:
        from aegis_tools.control.mode import check_can_enforce

        check_can_enforce(live)
    files.remove(paths.fallback, what=_WHAT)
    if live is not None:
        set_mode(live, found.mode_before)
    remember(paths, "resume", note=f"mode {found.mode_before.value}; was held: {found.meaning}")
    return found


def why_held(paths: Paths) -> str:
    """Return why the host is held in audit, for a person; empty where it is not."""
    try:
        found = read(paths)
    except StateError as error:
        return error.message
    return found.meaning if found else ""


def check(paths: Paths) -> None:
    """Raise StateError where the host is held in audit: before anything sets enforce."""
    found = read(paths)
    if found is not None:
        raise HeldError(found)


class HeldError(StateError):
    """The host is held in audit."""

    code = "held"

    def __init__(self, found: Fallback) -> None:
        super().__init__(
            f"cannot enforce: the host is held in audit ({found.meaning})",
            hint="when the cause is gone: aegisbpf resume",
            data={"fallback": found.to_dict()},
        )


def _write(paths: Paths, found: Fallback) -> None:
    files.ensure_folder(paths.state)
    data = strictjson.dumps(found.to_dict()) + b"\n"
    files.write_atomic(paths.fallback, data, what=_WHAT)
