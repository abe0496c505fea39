"""What the ring, the sample rate and the maps should be, judged from what was observed. Pure.

Nothing is ever recommended to be smaller than it is, and nothing where too little was seen.
"""

from __future__ import annotations

from collections.abc import Iterator

from aegis_tools.control.footprint import Sizes, estimate
from aegis_tools.control.tune.events import rate_item, ring_item
from aegis_tools.control.tune.maps import map_items
from aegis_tools.control.tune.model import Advice, Aims, Memory, Settings
from aegis_tools.control.tune.observe import Observed


def advise(seen: Observed, aims: Aims | None = None) -> Advice:
    """Return what should be changed, and what should stay."""
    aims = aims or Aims()
    rate = rate_item(seen, aims)
    ring = ring_item(seen, aims, rate.wanted)
    maps, capacities = map_items(seen, aims)
    wanted = Settings(
        int(ring.wanted) if ring.changed else None,
        rate.wanted if rate.changed else None,
        capacities,
    )
    before = Settings(
        int(ring.now) if ring.changed else None,
        rate.now if rate.changed else None,
        {name: seen.sizes.capacities[name] for name in capacities},
    )
    notes = tuple(_notes(seen, aims))
    return Advice((ring, rate, *maps), notes, _memory(seen, wanted), wanted, before)


def _memory(seen: Observed, wanted: Settings) -> Memory:
    now = seen.sizes
    later = Sizes(
        wanted.ring or now.ringbuf_bytes,
        {**now.capacities, **wanted.capacities},
        max(now.max_hits, wanted.capacities.get("rules", 0)),
    )
    before, after = (
        estimate(seen.entries, each, seen.kernel, survival=seen.survival).total
        for each in (now, later)
    )
    return Memory(before, after, seen.room.bytes)


def _notes(seen: Observed, aims: Aims) -> Iterator[str]:
    if seen.stuck:
        yield (
            f"the agent took none of the events that wait for it, in {seen.mean.seconds:.0f} s; "
            "start it anew: systemctl restart aegisbpf"
        )
    elif not seen.reader:
        yield "nobody reads the events; start the agent: systemctl start aegisbpf"
    elif not seen.busiest.matched:
        yield (
            "nothing matched meanwhile: look when the host is busy, or for longer: "
            "aegisbpf tune --seconds 300"
        )
    elif seen.mean.seconds < aims.pause:
        yield f"less than {aims.pause:g} s were watched: they may be busier than what was seen"
    if seen.dropped and not seen.mean.dropped:
        yield (
            f"{seen.dropped:,} events were dropped before, none meanwhile: the ring is judged by "
            "what was seen now"
        )
    if seen.agent is not None and seen.agent.events:
        taken, lines = seen.agent.events, seen.agent.lines
        yield f"the agent took {taken:,} events and wrote {lines:,} lines: repetitions are folded"
