"""The ring and the sample rate that fit the events that were seen. Pure.

The ring holds what the busiest stretch brings while nobody reads; twice what it is where events
were dropped although that would fit. The sample rate is lowered only where the largest ring is not
enough or the agent takes too much of a CPU, and raised where neither would be.
"""

from __future__ import annotations

from aegis_tools.control import sizes
from aegis_tools.control.footprint import ring_memory
from aegis_tools.control.quantities import human
from aegis_tools.control.tune.model import RATE, Aims, Item, Settings
from aegis_tools.control.tune.observe import Observed

RING = "ring"
_ROOM_SHARE = 4
"""A ring takes no more than this part of the memory that there is."""
_STEP = 0.1
"""A change of the sample rate by less is none."""
_LEAST_RATE = 1e-6


def ring_most(seen: Observed, aims: Aims) -> int:
    """Return the largest ring that there is room for: a power of two, at least what it is."""
    room = max(seen.room.bytes // _ROOM_SHARE, 1)
    return max(min(aims.ring_most, 1 << (room.bit_length() - 1)), seen.sizes.ringbuf_bytes)


def needed(seen: Observed, aims: Aims, rate: float) -> float:
    """Return the bytes that come in the busiest stretch, at a sample rate."""
    return seen.busiest.matched * rate * seen.mean.record * aims.pause


def ring_item(seen: Observed, aims: Aims, rate: float) -> Item:
    """Return what the ring should be, where ``rate`` of the matches send an event."""
    now, record, coming = seen.sizes.ringbuf_bytes, seen.mean.record, seen.busiest.matched * rate
    if not seen.busiest.matched:
        return Item(RING, now, now, "nothing was sent, nothing dropped", "too little to judge by")
    observed = (
        f"{seen.mean.sent:,.0f} events a second sent, {seen.mean.dropped:,.0f} dropped; "
        f"{coming:,.0f} at the busiest, of {record} bytes"
    )
    if not seen.reader:
        why = "nobody takes the events: a ring of any size fills"
        return Item(RING, now, now, observed, why)
    asked, most = needed(seen, aims, rate), ring_most(seen, aims)
    why = f"{coming:,.0f} a second x {record} bytes x {aims.pause:g} s = {human(round(asked))}"
    if seen.mean.dropped and asked <= now:
        asked, why = now + 1, f"{why} would fit, but it was full: twice the size"
    wanted = sizes.ring_size(asked, present=now, most=most)
    if wanted < asked:
        why += f"; there is room for no more than {human(most)}"
    if wanted == now:
        seconds = now / (coming * record) if coming else 0
        return Item(RING, now, now, observed, f"{why}; it holds {seconds:,.1f} s")
    more = ring_memory(wanted, seen.kernel).bytes - ring_memory(now, seen.kernel).bytes
    command = Settings(ring=wanted).commands()[0]
    return Item(RING, now, wanted, observed, why, more, more, command)


def rate_item(seen: Observed, aims: Aims) -> Item:
    """Return which share of the matches should send an event."""
    now, observed = seen.sample_rate, f"{seen.mean.sampled_out:,.0f} matches a second sampled out"
    if seen.agent is not None:
        observed += f"; the agent takes {seen.agent.cpu:.1%} of a CPU"
    if not now:
        return Item(RATE, now, now, observed, "no events are wanted")
    if not seen.reader or not seen.busiest.matched:
        return Item(RATE, now, now, observed, "too little to judge by")
    best, why = min(_bounds(seen, aims), key=lambda bound: bound[0])
    if (1 - _STEP) * now <= best <= (1 + _STEP) * now:
        return Item(RATE, now, now, observed, why)
    wanted = max(two_digits(best), _LEAST_RATE)
    return Item(RATE, now, wanted, observed, why, command=Settings(rate=wanted).commands()[0])


def _bounds(seen: Observed, aims: Aims) -> list[tuple[float, str]]:
    """Return shares of the matches that may send an event, and why no more."""
    most, now, mean = ring_most(seen, aims), seen.sample_rate, seen.mean
    found = [(1.0, "every match can be told of")]
    if asked := needed(seen, aims, 1.0):
        found.append((most / asked, f"a ring of {human(most)} holds {aims.pause:g} s of no more"))
    if seen.agent is not None and seen.agent.cpu:
        cpu = seen.agent.cpu
        why = f"the agent takes {cpu:.0%} of a CPU, and may take {aims.agent_cpu:.0%}"
        found.append((now * aims.agent_cpu / cpu, why))
    if mean.dropped and seen.sizes.ringbuf_bytes >= most:
        why = f"{mean.dropped:,.0f} a second are dropped with the largest ring that there is"
        found.append((now * mean.sent / (mean.sent + mean.dropped), why))
    return found


def two_digits(share: float) -> float:
    """Return a share with two digits that count, rounded down."""
    digits, exponent = f"{share:.12e}".split("e")
    return float(f"{digits[:3]}e{exponent}")
