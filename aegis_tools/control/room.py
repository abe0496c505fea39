"""Whether a policy fits: into the maps as they were made, and into memory."""

from __future__ import annotations

from aegis_tools.control.footprint import counted_full, slot_memory
from aegis_tools.control.live import Live
from aegis_tools.control.resolve import Rules
from aegis_tools.control.sizes import option_of
from aegis_tools.errors import KernelError, PolicyError
from aegis_tools.kernel import accounting
from aegis_tools.kernel.accounting import Kernel, Room
from aegis_tools.kernel.cgroups import mount_point
from aegis_tools.kernel.layout import POLICY_MAPS

_HINTS = {
    "memory": "free memory, or deny directories and networks instead of single files",
    "cgroup": "raise the memory limit of this service or session (MemoryMax=)",
    "memlock": "raise the limit of locked memory: ulimit -l unlimited, or LimitMEMLOCK=infinity",
}


def check_capacity(live: Live, rules: Rules) -> None:
    """Raise PolicyError naming what to raise where ``rules`` do not fit; nothing is touched.

    Raises:
        PolicyError: A map is too small; all that are, are in the error's data.
        KernelError: There is not enough memory for the new slot.
    """
    check_entries(live, rules)
    counts = {name: len(entries) for name, entries in rules.maps.items()}
    capacities = {spec.name: live.capacity(spec.name) for spec in POLICY_MAPS}
    kernel = accounting.read_kernel()
    accounting.raise_memlock()
    room = accounting.read_room(cgroups=mount_point())
    check_room(counts, capacities, kernel, room, accounting.memlock_room(kernel.version))


def check_entries(live: Live, rules: Rules) -> None:
    """Raise PolicyError where a map is too small, with what would be enough."""
    found = []
    for spec in POLICY_MAPS:
        wanted, capacity = len(rules.maps[spec.name]), live.capacity(spec.name)
        if wanted > capacity:
            option = option_of(spec.name)
            found.append((spec.name, wanted, capacity, option))
    if not found:
        return
    name, wanted, capacity, option = found[0]
    enough: dict[str, int] = {}
    for _, count, _, each in found:
        enough[each] = max(enough.get(each, 0), 1 << max(count - 1, 0).bit_length())
    options = " ".join(f"{each}={count}" for each, count in enough.items())
    fields = ("map", "wanted", "capacity", "option")
    raise PolicyError(
        f"the policy needs {wanted} entries in {name}, which holds {capacity}",
        hint="make room, live, and apply it: aegisbpf incident map-full --policy FILE   "
        f"(only room: aegisbpf load --replace {options})",
        data={
            **dict(zip(fields, found[0], strict=True)),
            "too_small": [dict(zip(fields, each, strict=True)) for each in found],
        },
    )


def check_room(
    counts: dict[str, int],
    capacities: dict[str, int],
    kernel: Kernel,
    room: Room,
    lockable: int | None,
) -> None:
    """Raise KernelError where a slot of these entries takes more memory than there is.

    Args:
        counts: Entries by policy map.
        capacities: max_entries by policy map.
        kernel: Which kernel.
        room: Memory it would give.
        lockable: What RLIMIT_MEMLOCK leaves; None where it does not count.
    """
    wanted = sum(memory.bytes for memory in slot_memory(counts, capacities, kernel))
    if lockable is not None:
        full = sum(
            counted_full(spec, capacities[spec.name], kernel)
            for spec in POLICY_MAPS
            if counts.get(spec.name)
        )
        if full > lockable:
            wanted, room = full, Room(lockable, "memlock")
    if wanted > room.bytes:
        raise KernelError(
            f"the policy needs {wanted >> 10} KiB of kernel memory, and there is room for"
            f" {room.bytes >> 10} KiB",
            hint=_HINTS[room.limit],
            data={"wanted_bytes": wanted, "room_bytes": room.bytes, "limit": room.limit},
        )
