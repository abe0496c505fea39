"""What is recommended becomes live, by the ways there are: nothing is let through meanwhile.

Order of the effects, and what a death after each leaves for the next run:
  set replaced      see control.replace: ring and maps at once, old or new
  rate set          one store
"""

from __future__ import annotations

from typing import NamedTuple

from aegis_tools.control import capacity, replace
from aegis_tools.control.bootclock import SYSTEM, Seams
from aegis_tools.control.live import Live
from aegis_tools.control.remember import try_to_remember
from aegis_tools.control.settings import change, setting
from aegis_tools.control.tune.model import RATE, Advice
from aegis_tools.errors import KernelError
from aegis_tools.kernel.features import Features
from aegis_tools.kernel.loader import LoadOptions
from aegis_tools.kernel.pins import Pins
from aegis_tools.kernel.run import Runner, run
from aegis_tools.paths import Paths


class Done(NamedTuple):
    """What was changed.

    Attributes:
        replaced: Programs and maps, by a set with other sizes.
        rate: The sample rate.
    """

    replaced: bool
    rate: bool


def check_room(advice: Advice) -> None:
    """Raise KernelError where the new set does not fit beside the old one."""
    memory = advice.memory
    if (advice.wanted.ring or advice.wanted.capacities) and not memory.fits:
        raise KernelError(
            f"{memory.after >> 10} KiB of kernel memory are needed while both sets of maps are "
            f"there, and there is room for {memory.room >> 10} KiB",
            hint="free memory, or see what is recommended and do a part: aegisbpf tune",
            data={"wanted_bytes": memory.after, "room_bytes": memory.room},
        )


def carry_out(
    paths: Paths,
    features: Features,
    advice: Advice,
    *,
    seams: Seams = SYSTEM,
    runner: Runner = run,
) -> Done:
    """Make it live. The caller holds the lock.

    What somebody else has changed since it was observed stays as it is: a size that is larger by
    now, a sample rate that is another.

    Raises:
        UnconfirmedError: Sizes are to be changed, and a change waits for its confirmation.
        KernelError: It does not fit into memory, or the kernel refuses; what was live goes on.
        AegisError: As by ``replace.carry_out``.
    """
    check_room(advice)
    pins = Pins(paths.pins)
    with Live(pins) as live:
        asked = _still_larger(live, advice)
    if asked is not None:
        replace.carry_out(paths, features, asked, seams=seams, runner=runner)
        capacity.note(paths, now=seams.wall())
    return Done(asked is not None, _set_rate(paths, pins, advice))


def _still_larger(live: Live, advice: Advice) -> LoadOptions | None:
    ring, now = advice.wanted.ring, live.map("events").max_entries
    found = {
        name: size for name, size in advice.wanted.capacities.items() if size > live.capacity(name)
    }
    ring = ring if ring is not None and ring > now else None
    return LoadOptions(found, ring) if found or ring else None


def _set_rate(paths: Paths, pins: Pins, advice: Advice) -> bool:
    wanted, before = advice.wanted.rate, advice.before.rate
    if wanted is None:
        return False
    with Live(pins) as live:
        if setting(RATE).get(live) != before or not change(live, paths, RATE, f"{wanted:g}"):
            return False
    try_to_remember(paths, "config set", f"{RATE}: {before:g} -> {wanted:g} (tune)")
    return True
