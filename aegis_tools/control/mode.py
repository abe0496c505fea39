"""The host's mode: one store in the config map, seen by every hook at once."""

from __future__ import annotations

from aegis_tools.control.live import Live
from aegis_tools.errors import KernelError
from aegis_tools.kernel.layout import Config
from aegis_tools.policy.model import Mode


def read_mode(live: Live) -> Mode:
    """Return the mode that is set."""
    return Mode.ENFORCE if live.config(Config.MODE) else Mode.AUDIT


def set_mode(live: Live, mode: Mode) -> bool:
    """Set the mode; return whether it was another. The caller holds the lock.

    Raises:
        KernelError: ``enforce`` was asked for where nothing can be refused.
    """
    if mode is Mode.ENFORCE:
        check_can_enforce(live)
    changed = read_mode(live) is not mode
    live.set_config(Config.MODE, int(mode is Mode.ENFORCE))
    return changed


def check_can_enforce(live: Live) -> None:
    """Raise KernelError where the hooks that could refuse are not all in place."""
    if live.pins.is_fallback():
        raise KernelError(
            "cannot enforce: the audit fallback is loaded",
            hint="see what is missing: aegisbpf health",
        )
    if not live.pins.is_attached():
        raise KernelError("cannot enforce: hooks are detached", hint="run: aegisbpf attach")
