"""What the next boot starts with besides the policy: ``<state>/boot.json``.

::

    {"format": 1, "mode": "enforce", "capacities": {"deny_inode_map": 131072}, "ringbuf_bytes": 0,
     "forced": ["rule", …]}

The mode is kept when it was set for good: at once, or when it was confirmed. The sizes are those
that the applied policy was committed with, so that it fits after a reboot, too. ``forced`` is not
there in files of older versions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aegis_tools.control import files
from aegis_tools.control.live import Live
from aegis_tools.errors import StateError
from aegis_tools.kernel.layout import POLICY_MAPS, SPECS
from aegis_tools.paths import Paths
from aegis_tools.policy import strictjson
from aegis_tools.policy.model import Mode

_FORMAT = 1
_MAX_FILE = 65536
_WHAT = "record of the mode at boot"
_MOST_ENTRIES, _RING = 1 << 24, (4096, 1 << 30)


@dataclass(frozen=True)
class BootState:
    """What the next boot starts with.

    Attributes:
        mode: The host's.
        capacities: max_entries of policy maps; those that are missing have the default.
        ringbuf_bytes: Size of the event ring; 0 for the default.
        forced: Rules that enforced past the lockout proof when a person confirmed them.
    """

    mode: Mode = Mode.AUDIT
    capacities: Mapping[str, int] = field(default_factory=dict)
    ringbuf_bytes: int = 0
    forced: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        top = {
            "format": _FORMAT,
            "mode": self.mode.value,
            "capacities": dict(self.capacities),
            "ringbuf_bytes": self.ringbuf_bytes,
            "forced": list(self.forced),
        }
        return strictjson.dumps(top) + b"\n"


def parse(data: bytes) -> BootState:
    """Read the file's content.

    Raises:
        ValueError: It is none.
    """
    try:
        top = strictjson.loads(data)
        sizes, ring = top["capacities"], top["ringbuf_bytes"]
        forced = strictjson.texts(top.get("forced", []))
        good = (
            top["format"] == _FORMAT
            and all(name in SPECS for name in sizes)
            and all(strictjson.is_integer(size, 1, _MOST_ENTRIES) for size in sizes.values())
            and (ring == 0 or strictjson.is_integer(ring, *_RING))
            and not ring & (ring - 1)
        )
        if not good:
            raise ValueError("a field is not as it must be")
        return BootState(Mode(top["mode"]), dict(sizes), ring, forced)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"a field is missing or of a wrong kind: {error}") from error


def read_boot_state(paths: Paths) -> BootState:
    """Return what the next boot starts with; audit and the default sizes where nothing is kept.

    Raises:
        StateError: The file is damaged, or others can change it.
    """
    owners = {0, os.geteuid()}
    data = files.read_if_present(paths.boot, _MAX_FILE, what=_WHAT, owners=owners)
    try:
        return BootState() if data is None else parse(data)
    except ValueError as error:
        raise StateError(
            "the record of the mode at boot is damaged, so the next boot stays in audit",
            hint="set the mode again: aegisbpf mode enforce, or aegisbpf mode audit",
            detail=str(error),
        ) from error


def keep(
    paths: Paths,
    live: Live | None,
    mode: Mode | None = None,
    *,
    forced: tuple[str, ...] | None = None,
) -> None:
    """Keep the sizes of what is loaded, and a mode, for the next boot. The caller holds the lock.

    Args:
        paths: Where.
        live: The loaded maps; None to leave the sizes.
        mode: The mode; None to leave it. A damaged record is replaced.
        forced: Rules that enforce past the lockout proof; None to leave them.

    Raises:
        StateError: It cannot be written.
    """
    try:
        known = read_boot_state(paths)
        damaged = False
    except StateError:
        known, damaged = BootState(), True
    wanted = replace(known, mode=mode or known.mode)
    if forced is not None:
        wanted = replace(wanted, forced=forced)
    if live is not None:
        wanted = replace(wanted, **_sizes(live))
    if damaged or wanted != known or not files.exists(paths.boot):
        files.ensure_folder(paths.state)
        files.write_atomic(paths.boot, wanted.to_bytes(), what=_WHAT)


def _sizes(live: Live) -> dict[str, Any]:
    found = {spec.name: live.capacity(spec.name) for spec in POLICY_MAPS}
    other = {name: size for name, size in found.items() if size != SPECS[name].capacity}
    return {"capacities": other, "ringbuf_bytes": live.map("events").max_entries}
