"""Which monitors the agent has loaded itself, and so unloads when it ends.

A line of the record is written before the load that it tells of, and tells afterwards which load
that was: one that somebody made by hand later is not taken for it. The file is where a reboot
forgets it, as it forgets what was loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from aegis_tools.control import files
from aegis_tools.control.lock import locked
from aegis_tools.control.remember import try_to_remember
from aegis_tools.errors import KernelError, StateError
from aegis_tools.kernel.features import is_bpffs, mount_if_missing
from aegis_tools.monitors import load as loader
from aegis_tools.monitors.choose import kernel_names
from aegis_tools.monitors.filters import Filter
from aegis_tools.monitors.load import Loaded
from aegis_tools.monitors.options import Options
from aegis_tools.monitors.pins import MonitorPins
from aegis_tools.monitors.reading import AGENT, number_of
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.paths import Paths
from aegis_tools.policy import strictjson

ANY = 0
"""Stands for a load that was going on when the agent was killed."""
_MAX_BYTES = 65536
_WHAT = "record of loaded monitors"


class Loads:
    """What this agent, or one before it that was killed, has loaded.

    Args:
        paths: Of which host.
        patience: Seconds to wait for another command.
    """

    def __init__(self, paths: Paths, patience: float = 0.2) -> None:
        self._paths = paths
        self._patience = patience

    def own(self) -> list[str]:
        """Return the monitors that are loaded, and that the agent has loaded."""
        return sorted(name for name, number in self._read().items() if self._is(name, number))

    def load(self, name: str, options: Options) -> str:
        """Load a monitor, or make what the agent has loaded be as it is asked for.

        Returns:
            What was done, for a person; empty for nothing, as what others have loaded stays as it
            is.

        Raises:
            AegisError: It cannot be loaded now.
        """
        wanted = options.filter(partly=True)
        with locked(self._paths.lock, AGENT, timeout=self._patience):
            pins = self._pins(name)
            if pins.is_loaded() and name not in self.own():
                return ""
            if not is_bpffs(self._paths.bpffs):
                mount_if_missing("bpf", self._paths.bpffs)
            self._write({**self._read(), name: ANY})
            try:
                with kernel_names() as has:
                    done = _load(pins, options.ring_size, wanted, has)
            finally:
                self._settle()
            if done.changed:
                note = f"{name}; filter: {wanted.line()}"
                try_to_remember(self._paths, "monitor load", note)
        if not done.changed:
            return ""
        what = f"is loaded ({done.about.variant})" if done.fresh else "has a new filter"
        return f"{name} {what}"

    def unload(self, name: str, patience: float | None = None) -> bool:
        """Unload a monitor that the agent has loaded; return whether it did.

        Raises:
            StateError: Another command runs.
        """
        timeout = self._patience if patience is None else patience
        with locked(self._paths.lock, AGENT, timeout=timeout):
            if name not in self.own():
                return False
            loader.unload(self._paths.monitor_pins, name)
            self._settle()
            try_to_remember(self._paths, "monitor unload", name)
        return True

    def _pins(self, name: str) -> MonitorPins:
        return MonitorPins(self._paths.monitor_pins, name)

    def _is(self, name: str, number: int) -> bool:
        found = number_of(self._pins(name))
        return found != 0 and number in (ANY, found)

    def _settle(self) -> None:
        """Write down which loads these are; of what is loaded no more, nothing is kept."""
        self._write({name: number_of(self._pins(name)) for name in self.own()})

    def _read(self) -> dict[str, int]:
        """Return the record. One that is damaged is none: what it told of stays loaded."""
        path, owners = self._paths.monitor_loads, frozenset((0, os.geteuid()))
        try:
            data = files.read_if_present(path, _MAX_BYTES, what=_WHAT, owners=owners)
            found = strictjson.loads(data) if data is not None else {}
            loaded = found.get("loaded", {}) if isinstance(found, dict) else {}
            pairs = loaded.items() if isinstance(loaded, dict) else ()
        except (StateError, ValueError):
            return {}
        return {
            name: number
            for name, number in pairs
            if name in MONITORS and strictjson.is_integer(number, 0, (1 << 64) - 1)
        }

    def _write(self, loaded: Mapping[str, int]) -> None:
        path = self._paths.monitor_loads
        if loaded:
            files.ensure_folder(path.parent, mode=0o755)
            data = strictjson.dumps({"version": 1, "loaded": dict(loaded)})
            files.write_atomic(path, data, what=_WHAT)
        else:
            files.remove(path, what=_WHAT)


def _load(
    pins: MonitorPins, ring_bytes: int | None, wanted: Filter, has: Callable[[str], bool]
) -> Loaded:
    """Load it; another version of it, or one with another ring, goes first."""
    base, monitor = pins.base, MONITORS[pins.name]
    try:
        return loader.load(base, monitor, has, ring_bytes=ring_bytes, wanted=wanted)
    except KernelError:
        if not pins.is_loaded():
            raise
    loader.unload(base, pins.name)
    return loader.load(base, monitor, has, ring_bytes=ring_bytes, wanted=wanted)
