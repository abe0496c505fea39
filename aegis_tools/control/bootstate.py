"""What the next boot starts with besides the policy: ``<state>/boot.json``.

::

    {"format": 1, "mode": "enforce", "capacities": {"deny_inode_map": 131072}, "ringbuf_bytes": 0,
     "forced": ["rule", …], "demoted": ["rule", …]}

The mode is kept when it was set for good: at once, or when it was confirmed. The sizes are those
that the applied policy was committed with, so that it fits after a reboot, too. ``forced`` and
``demoted`` are not there in files of older versions.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aegis_tools.control import files, manual
from aegis_tools.control.live import Live
from aegis_tools.errors import StateError
from aegis_tools.kernel.layout import POLICY_MAPS, SPECS
from aegis_tools.paths import Paths
from aegis_tools.policy import strictjson
from aegis_tools.policy.model import Mode

_FORMAT = 1
_MAX_FILE = 1 << 21  # 4,096 demoted rules with the longest ids
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
        demoted: Rules of the policy that a person has let only audit: what hit legitimate work
            must not do so again because the host was rebooted.
    """

    mode: Mode = Mode.AUDIT
    capacities: Mapping[str, int] = field(default_factory=dict)
    ringbuf_bytes: int = 0
    forced: tuple[str, ...] = ()
    demoted: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        top = {
            "format": _FORMAT,
            "mode": self.mode.value,
            "capacities": dict(self.capacities),
            "ringbuf_bytes": self.ringbuf_bytes,
            "forced": list(self.forced),
            "demoted": list(self.demoted),
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
        forced, demoted = (strictjson.texts(top.get(name, [])) for name in ("forced", "demoted"))
        good = (
            top["format"] == _FORMAT
            and all(name in SPECS for name in sizes)
            and all(strictjson.is_integer(size, 1, _MOST_ENTRIES) for size in sizes.values())
            and (ring == 0 or strictjson.is_integer(ring, *_RING))
            and not ring & (ring - 1)
        )
        if not good:
            raise ValueError("a field is not as it must be")
        return BootState(Mode(top["mode"]), dict(sizes), ring, forced, demoted)
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
    demoted: tuple[str, ...] = (),
) -> None:
    """Keep what is loaded, and a mode, for the next boot. The caller holds the lock.

    Args:
        paths: Where.
        live: The loaded maps; None to leave their sizes, and the rules that were demoted.
        mode: The mode; None to leave it. A damaged record is replaced.
        forced: Rules that enforce past the lockout proof; None to leave them.
        demoted: Rules to be let only audit besides those that are live so.

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
        found = _of(live)
        found["demoted"] = tuple(sorted({*found["demoted"], *demoted}))
        wanted = replace(wanted, **found)
    if damaged or wanted != known or not files.exists(paths.boot):
        files.ensure_folder(paths.state)
        files.write_atomic(paths.boot, wanted.to_bytes(), what=_WHAT)


def keep_demoted(paths: Paths, live: Live) -> None:
    """Keep which rules were let only audit, for the next boot. The caller holds the lock.

    While a change waits they stay so that it has promoted: a reboot takes it back.

    Raises:
        StateError: It cannot be written.
    """
    before: tuple[str, ...] = ()
    if files.exists(paths.pending):
        with contextlib.suppress(StateError):
            before = read_boot_state(paths).demoted
    keep(paths, live, demoted=before)


def _of(live: Live) -> dict[str, Any]:
    found = {spec.name: live.capacity(spec.name) for spec in POLICY_MAPS}
    other = {name: size for name, size in found.items() if size != SPECS[name].capacity}
    demoted = manual.sort_out(live.manual_rules().values()).demoted
    ring = live.map("events").max_entries
    return {"capacities": other, "ringbuf_bytes": ring, "demoted": demoted}
