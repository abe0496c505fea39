"""Replace the programs that run by those of this version, at no instant with neither refusing.

LSM links cannot be updated in place, so the new programs are attached beside the old ones, and only
then do the old ones go. They share the maps where these are as this version wants them. Otherwise
the new ones have maps of their own, into which the live policy goes before they are attached.

Order of the effects, and what a death after each leaves:
  new set loaded     the old set; the next load removes the rest
  maps filled        the same (only with maps of their own)
  new set attached   both sets; the same
  folder renamed     the new set counts, and is attached; the old links, too, until they are moved
                     over, which the next load, attach, detach or replacement finishes
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aegis_tools.control import bootstate
from aegis_tools.control.bootclock import SYSTEM, Seams
from aegis_tools.control.hostmode import settle_first
from aegis_tools.control.live import Live
from aegis_tools.control.mode import read_mode
from aegis_tools.control.pending import Side
from aegis_tools.control.remember import remember
from aegis_tools.control.restore import removed_by_hand, restore
from aegis_tools.control.store import Store
from aegis_tools.errors import AegisError, CommandError, KernelError
from aegis_tools.kernel import loader, syscall
from aegis_tools.kernel.accounting import raise_memlock
from aegis_tools.kernel.features import Features, check_enabled
from aegis_tools.kernel.layout import POLICY_MAPS, Config, Stat
from aegis_tools.kernel.pins import Pins
from aegis_tools.kernel.run import Runner, run
from aegis_tools.paths import Paths

ACTION = "load --replace"
_KEPT = (Config.MODE, Config.DEADLINE, Config.SAMPLE, Config.DISABLED)


@dataclass(frozen=True)
class Replacement:
    """What is replaced, or would be.

    Attributes:
        before: Which object is loaded; empty where that is not known.
        after: This version's.
        new_maps: Why the programs get maps of their own; empty where they share those there are.
        options: Sizes of these.
        unattached: Hooks of the loaded object that are not attached.
    """

    before: str
    after: str
    new_maps: str
    options: loader.LoadOptions
    unattached: tuple[str, ...] = ()

    @property
    def needed(self) -> bool:
        """Whether anything has to be done."""
        return self.before != self.after or bool(self.new_maps) or bool(self.unattached)

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {
            "object": {"before": self.before, "after": self.after},
            "maps": "new" if self.new_maps else "kept",
            "reason": self.new_maps,
        }


def plan(pins: Pins, asked: loader.LoadOptions, *, objects: Path = loader.OBJECTS) -> Replacement:
    """Say what replacing would do.

    Args:
        pins: What is loaded.
        asked: Sizes that are wanted; those that are not said stay.
        objects: Where this version's object files are.

    Raises:
        NotLoadedError: Nothing is loaded.
        KernelError: Pins are missing, or an object is not what was built.
    """
    pins.check_complete()
    after = loader.object_name(fallback=pins.is_fallback(), objects=objects)
    reason = ""
    try:
        loader.check_layout(pins)
        loader.check_sizes(pins, asked)
    except KernelError as error:
        reason = error.message
    hooks = {name for name in pins.names("progs") if name.startswith("aegis_")}
    unattached = tuple(sorted(hooks - set(pins.names("links"))))
    return Replacement(pins.object(), after, reason, _sizes(pins, asked), unattached)


def _sizes(pins: Pins, asked: loader.LoadOptions) -> loader.LoadOptions:
    """Return the sizes that are loaded, changed by those that were asked for."""
    capacities = {}
    with pins.open_map("capacities") as found:
        for index, spec in enumerate(POLICY_MAPS):
            value = found.get(index.to_bytes(4, "little")) or b""
            capacities[spec.name] = int.from_bytes(value, "little") or spec.capacity
    with pins.open_map("events") as events, pins.open_map("rule_hits") as hits:
        ring, most = events.max_entries, hits.max_entries
    return loader.LoadOptions(
        {**capacities, **asked.capacities},
        asked.ringbuf_bytes or ring,
        max(most, asked.capacities.get("rules", 0)),
    )


def carry_out(
    paths: Paths,
    features: Features,
    asked: loader.LoadOptions,
    *,
    objects: Path = loader.OBJECTS,
    seams: Seams = SYSTEM,
    runner: Runner = run,
) -> Replacement:
    """Replace what is loaded, if it is another object. The caller holds the lock.

    Args:
        paths: Where things are.
        features: What the kernel offers.
        asked: Sizes that are wanted; those that are not said stay.
        objects: Where this version's object files are.
        seams: Time and other programs.
        runner: Runs bpftool.

    Raises:
        BootError: Loading is disabled on the kernel command line.
        UnconfirmedError: A change waits for its confirmation.
        KernelError: The kernel refuses the new programs; the old ones go on.
        AegisError: The live policy could not be brought along; the old programs go on.
    """
    check_enabled(features)
    pins = Pins(paths.pins)
    loader.finish(pins)
    for dead in pins.stagings():
        dead.remove_all()
    found = plan(pins, asked, objects=objects)
    if not found.needed:
        return found
    with Live(pins) as live:
        settle_first(paths, live, seams=seams)
        try:
            _stage(paths, live, found, objects=objects, now=seams.wall(), runner=runner)
            loader.publish(pins, runner=runner)
        except BaseException as error:
            pins.staging.remove_all()
            if isinstance(error, AegisError):
                remember(paths, ACTION, result=error.code, note=error.message)
            raise
    if found.new_maps:
        with Live(pins) as live:
            bootstate.keep(paths, live)  # or the policy would not fit after a reboot
    maps = f"; new maps: {found.new_maps}" if found.new_maps else ""
    note = f"object {found.before[:12] or 'unknown'} -> {found.after[:12]}{maps}"
    remember(paths, ACTION, note=note)
    return found


def _stage(
    paths: Paths,
    live: Live,
    found: Replacement,
    *,
    objects: Path,
    now: float,
    runner: Runner,
) -> None:
    """Load the new set, and fill its maps where it has its own."""
    pins = live.pins
    raise_memlock()
    fallback = pins.is_fallback()
    if found.new_maps:
        reason = "the audit fallback is loaded" if fallback else ""
        loader.build(
            pins, found.options, fallback=reason, require_lsm=not fallback, objects=objects,
            runner=runner,
        )  # fmt: skip
        with Live(pins.staging) as new:
            bring_along(paths, live, new, now=now)
        return
    try:
        loader.load_over(pins, objects=objects, runner=runner)
    except CommandError as error:
        raise loader.refused(error) from None
    loader.load_keys(pins.staging, objects, runner)
    pins.staging.path("object").symlink_to(found.after)


def bring_along(paths: Paths, old: Live, new: Live, *, now: float) -> None:
    """Make new maps hold what the old ones hold: policy, rules made by hand, settings, counts.

    Args:
        paths: Where the live policy is stored.
        old: The maps that are live.
        new: Empty ones, which no attached program reads yet.
        now: Unix seconds.

    Raises:
        DriftError: The old maps are of another shape.
        AegisError: The policy cannot be read or does not fit.
    """
    info = old.info()
    side = Side(
        digest=info.bundle.hex() if any(info.bundle) else "",
        mode=read_mode(old),
        serial=info.serial,
        manual=tuple(old.manual_rules().values()),
        removed=frozenset(removed_by_hand(old, Store(paths))),
    )
    restore(paths, new, side, now=now)
    for which in _KEPT:
        new.set_config(which, old.config(which))
    allowed = new.map("survival_allowlist")
    for key, generation in old.map("survival_allowlist").items():
        allowed.set(key, generation)
    alive, hits = new.entries("rules"), new.map("rule_hits")
    for uid, value in old.map("rule_hits").items():
        if uid in alive:
            hits.set(uid, value)
    counted = new.map("block_stats")
    for stat in Stat:
        key = int(stat).to_bytes(4, "little")
        values = old.map("block_stats").get_per_cpu(key)
        syscall.update(counted.fd, key, b"".join(value.ljust(8, b"\0") for value in values))
