"""What happens at boot: load, the stored policy, the mode that was set for good.

The policy is judged by the keys and settings of now, except that its validity is only a warning:
a clock that is wrong at boot must not leave a host without its policy. Where it cannot be applied,
the programs are loaded, nothing is denied, and the error says why. Where it would lock everybody
out by now, the host is held in audit.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import Any

from aegis_tools.control import bootstate, capacity, fallback, manual, survival
from aegis_tools.control.apply import make_live, prepare
from aegis_tools.control.bootclock import SYSTEM, Seams, boot_id
from aegis_tools.control.bootstate import BootState
from aegis_tools.control.confirm import look_to_revert, revert, settle
from aegis_tools.control.keystore import KeyStore
from aegis_tools.control.live import Live
from aegis_tools.control.mode import read_mode, set_mode
from aegis_tools.control.pending import Pending
from aegis_tools.control.remember import remember
from aegis_tools.control.source import Source, read_stored
from aegis_tools.control.store import Store
from aegis_tools.control.unattended import hold_if_locked_out
from aegis_tools.errors import AegisError, StateError
from aegis_tools.kernel import loader
from aegis_tools.kernel.features import Features, check_enabled
from aegis_tools.kernel.layout import Config
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Mode


@dataclass(frozen=True)
class Booted:
    """What a boot led to.

    Attributes:
        loaded: What the load led to.
        changed: The kernel was told anything new.
        name: The policy's file name; empty for none.
        digest: Of the stored policy; empty for none.
        mode: The host's mode now.
        held: Why it is held in audit; empty where it is not.
        notes: Warnings: the policy has expired, rules match nothing.
        pending: A change of this boot that still waits for its confirmation, and was left alone.
    """

    loaded: loader.Loaded
    changed: bool
    name: str
    digest: str
    mode: Mode
    held: str = ""
    notes: tuple[str, ...] = ()
    pending: Pending | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {
            "fresh": self.loaded.fresh,
            "fallback": self.loaded.fallback,
            "reason": self.loaded.reason,
            "changed": self.changed,
            "policy": self.name,
            "digest": self.digest,
            "mode": self.mode.value,
            "held": self.held,
            "notes": list(self.notes),
            "pending": self.pending is not None,
        }


def boot(
    paths: Paths,
    features: Features,
    *,
    asked: loader.LoadOptions | None = None,
    allow_unsigned: bool = False,
    seams: Seams = SYSTEM,
) -> Booted:
    """Do it; harmless where it was done before. The caller holds the lock.

    Args:
        paths: Where things are.
        features: What the kernel offers.
        asked: Sizes to load with; None for those of the stored policy's last commit.
        allow_unsigned: Take an unsigned policy though this host asks for signatures.
        seams: Time and other programs.

    Raises:
        BootError: Disabled on the kernel command line; nothing was done.
        AegisError: Any other: the programs are loaded, unless they were the trouble; what was
            live before still is, and after a fresh load that is nothing, in audit.
    """
    check_enabled(features)
    pins = Pins(paths.pins)
    in_the_way = None
    if not pins.is_loaded():
        in_the_way = _settle_without_kernel(paths, seams)
    state, trouble = _state(paths)
    sizes = loader.LoadOptions() if pins.is_loaded() else asked or _sizes(state)
    loaded = loader.load(pins, features, sizes)
    try:
        with Live(pins) as live:
            survival.refresh(live, paths)
            pending, again = _settle(paths, live, seams)
            trouble = trouble or in_the_way or again
            if pending is not None:
                name, held = pending.record, fallback.why_held(paths)
                waits = Booted(loaded, False, "", pending.now.digest, read_mode(live), held)
                return replace(waits, name=name.name if name else "", pending=pending)
            applied = _policy(paths, live, allow_unsigned, state.demoted, seams)
            booted = _finish(paths, live, loaded, state.mode, applied)
        if trouble is not None:
            raise trouble
    except AegisError as error:
        _remember(paths, "", error)
        raise
    return booted


def _settle_without_kernel(paths: Paths, seams: Seams) -> StateError | None:
    """Settle what another boot left, or a reset. This kernel knows nothing of it.

    Returns:
        What is in the place of the record and cannot be removed: no reason to go unprotected.
    """
    try:
        pending = look_to_revert(paths, None)
        if pending is not None:
            same = pending.boot_id == boot_id(paths)
            why = "nothing is loaded" if same else "reverted by reboot"
            revert(paths, None, why=why, seams=seams)
    except StateError as error:
        return error
    return None


def _settle(paths: Paths, live: Live, seams: Seams) -> tuple[Pending | None, StateError | None]:
    """Return the change that still waits, and what is in the place of its record."""
    try:
        settle(paths, live, seams=seams)
        return look_to_revert(paths, live), None
    except StateError as error:
        if live.config(Config.DEADLINE):  # a change waits in the kernel; it is not to be replaced
            raise
        return None, error


def _state(paths: Paths) -> tuple[BootState, StateError | None]:
    try:
        return bootstate.read_boot_state(paths), None
    except StateError as error:
        return BootState(), error


def _sizes(state: BootState) -> loader.LoadOptions:
    return loader.LoadOptions(state.capacities, state.ringbuf_bytes or None)


def _finish(
    paths: Paths, live: Live, loaded: loader.Loaded, mode: Mode, applied: tuple[Source | None, bool]
) -> Booted:
    (source, changed), before = applied, read_mode(live)
    if mode is Mode.ENFORCE:
        hold_if_locked_out(paths, live, changed=changed)
    held = fallback.why_held(paths)
    mode = Mode.AUDIT if held else mode
    set_mode(live, mode)
    changed = changed or loaded.fresh or before is not mode
    name, digest = (source.record.name, source.record.digest) if source else ("", "")
    notes = [problem.message for problem in source.problems] if source else []
    if by_hand := manual.sort_out(live.manual_rules().values()).demoted:
        notes.append(f"demoted by hand, so only audited: {', '.join(by_hand)}")
    if changed:
        capacity.note(paths, now=time.time())
        _remember(paths, f"mode {mode.value}; policy {name or 'none'}")
    return Booted(loaded, changed, name, digest, mode, held, tuple(notes))


def _policy(
    paths: Paths, live: Live, allow_unsigned: bool, demoted: tuple[str, ...], seams: Seams
) -> tuple[Source | None, bool]:
    """Make the stored policy live, if there is one; return whether anything had to be changed."""
    store = Store(paths)
    current, _ = store.records()
    if current is None:
        return None, False
    source = read_stored(
        store.load(current.digest),
        current,
        KeyStore(paths),
        store,
        now=int(seams.wall()),
        allow_unsigned=allow_unsigned,
    )
    prepared = prepare(live, source, store, now=seams.wall(), demoted=demoted)
    if prepared.plan.policy_changed:
        make_live(live, prepared, None)
    return source, prepared.plan.policy_changed


def _remember(paths: Paths, note: str, error: AegisError | None = None) -> None:
    """Being unable to write a line must not keep a host from its policy."""
    with contextlib.suppress(AegisError, OSError):
        remember(paths, "boot", note=error.message if error else note,
                 result=error.code if error else "ok")  # fmt: skip


def foresee(paths: Paths) -> dict[str, Any]:
    """Return what a boot would apply and set, as far as files tell; nothing is verified.

    Raises:
        StateError: A file is damaged.
    """
    current, _ = Store(paths).records()
    held = fallback.why_held(paths)
    mode = Mode.AUDIT if held else bootstate.read_boot_state(paths).mode
    return {
        "policy": current.name if current else "",
        "digest": current.digest if current else "",
        "mode": mode.value,
        "held": held,
    }
