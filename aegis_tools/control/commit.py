"""Make a policy live: fill the slot that is not, then write one config element.

Killed at any instant the old policy or the new one is live, whole; whatever a dead
commit left in the inactive slot, the next one clears first.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from functools import partial

from aegis_tools.control.live import Live, content_digest
from aegis_tools.control.resolve import Rules
from aegis_tools.control.room import check_capacity
from aegis_tools.control.together import together
from aegis_tools.errors import KernelError
from aegis_tools.kernel import syscall
from aegis_tools.kernel.accounting import raise_memlock
from aegis_tools.kernel.layout import POLICY_MAPS, SPECS, Config, MapSpec, SlotInfo
from aegis_tools.kernel.maps import Map


def commit(live: Live, rules: Rules, *, bundle: bytes = bytes(32), serial: int = 0) -> SlotInfo:
    """Make ``rules`` the live policy. The caller holds the lock.

    Args:
        live: The loaded maps.
        rules: What the slot is to hold.
        bundle: Digest of the stored bundle it comes from; zeros = none.
        serial: Of that bundle.

    Returns:
        What is live now.

    Raises:
        PolicyError: It does not fit; nothing was touched.
        KernelError: The kernel refused; the old policy is still live.
    """
    check_capacity(live, rules)
    old, new = live.slot, 1 - live.slot
    clear_slot(live, new)
    try:
        content = _fill_slot(live, new, rules)
        info = SlotInfo(
            kinds=rules.kinds,
            walk=rules.walk,
            applied_ns=time.time_ns(),
            serial=serial,
            bundle=bundle,
            content=content,
            entries=tuple(len(rules.maps[spec.name]) for spec in POLICY_MAPS) + (0,) * 2,
        )
        live.set_info(new, info)
    except BaseException:
        clear_slot(live, new)
        raise
    live.set_config(Config.ACTIVE_SLOT, new)
    wait_for_readers(live)
    clear_slot(live, old)
    _forget_hits(live, rules)
    return info


def _fill_slot(live: Live, slot: int, rules: Rules) -> bytes:
    """Fill all maps of a slot at once; return the digest of their contents."""
    digests: list[bytes] = []
    with contextlib.ExitStack() as inners:
        tasks: list[Callable[[], object]] = [
            partial(
                _install,
                live.map(spec.name),
                inners.enter_context(new_inner(live, spec)),
                slot,
                rules.maps[spec.name],
            )
            for spec in POLICY_MAPS
            if rules.maps[spec.name]
        ]
        together([*tasks, lambda: digests.append(content_digest(rules.maps))])
    return digests[0]


def _install(outer: Map, inner: Map, slot: int, entries: dict[bytes, bytes]) -> None:
    taken = inner.fill(entries)
    if taken != len(entries):
        raise KernelError(
            "the kernel took fewer entries than were written",
            hint="run the command again; the old policy is still live",
            detail=f"map {inner.id}: {len(entries)} written, {taken} taken",
        )
    outer.set(slot.to_bytes(4, "little"), inner.fd.to_bytes(4, "little"))


def new_inner(live: Live, spec: MapSpec) -> Map:
    """Create an empty inner map at the configured capacity.

    Raises:
        KernelError: There is no memory for it, or not as much as may be locked (5.10).
    """
    raise_memlock()
    capacity = live.capacity(spec.name)
    try:
        return Map(
            syscall.map_create(spec.type, spec.key_size, spec.value_size, capacity, spec.name)
        )
    except OSError as error:
        raise KernelError(
            f"the kernel has no memory for {spec.name} with room for {capacity} entries",
            hint="free memory, or raise the limit of memory or of locked memory (ulimit -l); "
            "see: aegisbpf footprint",
            detail=f"bpf(2): {error}",
            data={"map": spec.name, "capacity": capacity},
        ) from error


def clear_slot(live: Live, slot: int) -> None:
    """Empty a slot that is not active."""
    index = slot.to_bytes(4, "little")
    live.set_info(slot, SlotInfo())
    for outer in map(live.map, SPECS):
        if outer.get(index) is not None:
            outer.delete(index)


def wait_for_readers(live: Live) -> None:
    """Return when no hook that runs now runs any more: none reads what was there before.

    A hook reads the slot number once, and each entry once. An update of a map-in-map returns
    after an RCU grace period (Linux kernel commit 1ae80cf31938 "bpf: wait for running BPF
    programs when updating map-in-map", in 4.18), and every hook runs within one; so writing an
    element over itself is the barrier.
    """
    slot = live.slot.to_bytes(4, "little")
    for name in SPECS:
        value = live.map(name).get(slot)
        if value is not None:
            fd = syscall.map_get_fd_by_id(int.from_bytes(value, "little"))
            try:
                live.map(name).set(slot, fd.to_bytes(4, "little"))
            finally:
                os.close(fd)
            return
    with new_inner(live, SPECS["allow_cgroup_map"]) as empty:
        live.map("allow_cgroup_map").set(slot, empty.fd.to_bytes(4, "little"))


def _forget_hits(live: Live, rules: Rules) -> None:
    hits = live.map("rule_hits")
    for uid, _ in list(hits.items()):
        if uid not in rules.maps["rules"]:
            hits.delete(uid)
