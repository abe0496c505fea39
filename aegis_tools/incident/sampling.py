"""The sample rate of before it was lowered: ``<run>/sampling.json``.

A reboot forgets the rate in the kernel, and this with it. ``sample`` is the kernel's number: events
sent of 2^32 matches. ::

    {"format": 1, "sample": 4294967296, "since": 1700000000}
"""

from __future__ import annotations

import os

from aegis_tools.control import files
from aegis_tools.control.live import Live
from aegis_tools.control.remember import remember
from aegis_tools.control.settings import setting, to_sample
from aegis_tools.errors import StateError
from aegis_tools.kernel.layout import SAMPLE_ALL, Config
from aegis_tools.paths import Paths
from aegis_tools.policy import strictjson

NAME = "event-sample-rate"
_FORMAT = 1
_MAX_FILE = 4096
_WHAT = "record of the sample rate"


def rate(live: Live) -> float:
    """Return the share of matches that send an event."""
    return float(setting(NAME).get(live))


def before(paths: Paths, live: Live) -> float | None:
    """Return the rate of before; None where it is not lower now, or the file is damaged."""
    was = _read(paths)
    return was / SAMPLE_ALL if was is not None and live.config(Config.SAMPLE) < was else None


def _read(paths: Paths) -> int | None:
    try:
        owners = {0, os.geteuid()}
        data = files.read_if_present(paths.sampling, _MAX_FILE, what=_WHAT, owners=owners)
        found = strictjson.loads(data) if data is not None else {}
        was = found["sample"] if found["format"] == _FORMAT else None
        return was if strictjson.is_integer(was, 0, SAMPLE_ALL) else None
    except (StateError, ValueError, LookupError, TypeError):
        return None


def lower(paths: Paths, live: Live, to: float, *, now: float) -> None:
    """Lower the rate, and remember the one of before. The caller holds the lock.

    Lowered once more, the first one stays the one of before.

    Raises:
        StateError: It cannot be remembered; it is not lowered then.
    """
    was, first = live.config(Config.SAMPLE), _read(paths)
    if first is None or first <= was:
        files.ensure_folder(paths.run, mode=0o755)
        data = strictjson.dumps({"format": _FORMAT, "sample": was, "since": int(now)})
        files.write_atomic(paths.sampling, data + b"\n", what=_WHAT)
    live.set_config(Config.SAMPLE, to_sample(to))
    _remember(paths, was / SAMPLE_ALL, to)


def restore(paths: Paths, live: Live) -> None:
    """Bring the rate of before back. The caller holds the lock.

    Raises:
        StateError: It is back, but the record of it cannot be removed.
    """
    was, first = live.config(Config.SAMPLE), _read(paths)
    if first is not None:
        live.set_config(Config.SAMPLE, first)
        _remember(paths, was / SAMPLE_ALL, first / SAMPLE_ALL)
    files.remove(paths.sampling, what=_WHAT)


def _remember(paths: Paths, was: float, to: float) -> None:
    try:
        remember(paths, "config set", note=f"{NAME}: {was:.6g} -> {to:.6g} (incident)")
    except StateError:  # a full disk is no reason to let events be dropped
        return
