"""Which monitors a host is to have, for metrics: what nobody asked for is not missed."""

from __future__ import annotations

import os

from aegis_tools.control import files
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.paths import Paths
from aegis_tools.policy import strictjson

_MAX_FILE = 1 << 16
_WHAT = "settings of the monitors' agent"


class Asked:
    """The settings of the monitors' agent (``Paths.monitor_settings``).

    Args:
        paths: Where they are.
    """

    def __init__(self, paths: Paths) -> None:
        self._path = paths.monitor_settings
        self._kept: tuple[object, frozenset[str]] = (None, frozenset())

    def read(self) -> frozenset[str]:
        """Return their names; a file that did not change is not read again.

        Raises:
            StateError: The file is not one of ours.
            ValueError: It says nothing that can be understood.
        """
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return frozenset()
        stamp = found.st_ino, found.st_size, found.st_mtime_ns, found.st_uid, found.st_mode
        if self._kept[0] != stamp:
            self._kept = (stamp, self._parse())
        return self._kept[1]

    def _parse(self) -> frozenset[str]:
        owners = {0, os.geteuid()}
        data = files.read_if_present(self._path, _MAX_FILE, what=_WHAT, owners=owners)
        return parse(data or b"")


def parse(data: bytes) -> frozenset[str]:
    """Return the monitors that settings ask for; those that are none are left out.

    Raises:
        ValueError: They are no JSON object.
    """
    top = strictjson.loads(data, fractions=True) if data.strip() else {}
    if not isinstance(top, dict):
        raise ValueError("no object")
    wanted = top.get("monitors", {})
    if not isinstance(wanted, dict):
        raise ValueError("no monitors")
    # As everywhere, a name may be short: disk-io is disk-io-monitor.
    return frozenset({*wanted, *(f"{name}-monitor" for name in wanted)} & MONITORS.keys())
