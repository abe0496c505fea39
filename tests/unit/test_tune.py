"""What is recommended, judged from what was observed: never less than there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.cli.main import parser_of
from aegis_tools.cli.tune import as_text, outcome
from aegis_tools.control.capacity import Outlook
from aegis_tools.control.footprint import Sizes
from aegis_tools.control.sizes import FILE_RECORD, MOST_ENTRIES, NET_RECORD, OPTIONS, RING_MOST
from aegis_tools.control.stats import MapUse
from aegis_tools.control.tune.adjust import check_room
from aegis_tools.control.tune.advise import advise
from aegis_tools.control.tune.events import RING, two_digits
from aegis_tools.control.tune.maps import together
from aegis_tools.control.tune.model import RATE, Advice, Aims, Item
from aegis_tools.control.tune.observe import AgentUse, Observed
from aegis_tools.control.tune.rates import Look, Rates, between, busiest, peak
from aegis_tools.errors import KernelError
from aegis_tools.kernel.accounting import Kernel, Room
from aegis_tools.kernel.layout import POLICY_MAPS
from aegis_tools.kernel.loader import RINGBUF_BYTES, LoadOptions

CAPACITIES = {spec.name: spec.capacity for spec in POLICY_MAPS}
NONE = Rates(10.0, 0.0, 0.0, 0.0, 0.0)
ROOM = Room(8 << 30, "memory")
SMALL = st.integers(0, 10**6)
RINGS = st.integers(12, 30).map(lambda power: 1 << power)
SHARES = st.floats(1e-6, 1.0)


def outlooks(**entries: int) -> tuple[Outlook, ...]:
    """Return how full the maps are; those that are not named are empty."""
    names = {**CAPACITIES, "rule_hits": 65536, "survival_allowlist": 8192}
    return tuple(
        Outlook(MapUse(name, entries.get(name, 0), size), None, None)
        for name, size in names.items()
    )


QUIET = Observed(
    mean=NONE, busiest=NONE, peak=0.0, sent=0, dropped=0, uptime=1000.0, sample_rate=1.0,
    reader=True, stuck=False, agent=AgentUse(0.01, 0, 0), maps=outlooks(), entries={}, survival=0,
    sizes=Sizes(RINGBUF_BYTES, CAPACITIES), kernel=Kernel((6, 12), 2), room=ROOM,
)  # fmt: skip


def rates(sent: float = 0, dropped: float = 0, sampled_out: float = 0, files: float = 1) -> Rates:
    """Return rates of 10 seconds, of which a share of what was sent is of files."""
    record = NET_RECORD + files * (FILE_RECORD - NET_RECORD)
    return Rates(10.0, sent, dropped, sampled_out, sent * record)


def seen(
    sent: float = 0,
    dropped: float = 0,
    sampled_out: float = 0,
    *,
    files: float = 1,
    cpu: float = 0.01,
    ring: int = RINGBUF_BYTES,
    **more: Any,
) -> Observed:
    """Return what is observed of a host on which so much happens all the time."""
    found = rates(sent, dropped, sampled_out, files)
    agent = AgentUse(cpu, round(sent * 10), 1)
    host = replace(QUIET, mean=found, busiest=found, sizes=Sizes(ring, CAPACITIES), agent=agent)
    return replace(host, **more)


def item(advice: Advice, name: str) -> Item:
    return next(one for one in advice.items if one.name == name)


def ring_of(observed: Observed, **aims: Any) -> int:
    return int(item(advise(observed, Aims(**aims)), RING).wanted)


def rate_of(observed: Observed, **aims: Any) -> float:
    return item(advise(observed, Aims(**aims)), RATE).wanted


def looks_of(rows: Sequence[tuple[float, int, int, int, int]]) -> list[Look]:
    """Return looks from (seconds, sent, dropped, sampled out, bytes) since the one before."""
    found = [Look(100.0, 7, 7, 7, 7)]
    for row in rows:
        found.append(Look(*(a + b for a, b in zip(found[-1], row, strict=True))))  # type: ignore[arg-type]
    return found


def test_rates_are_what_lies_between_two_looks() -> None:
    first, second = looks_of([(2.0, 20, 10, 4, 20 * FILE_RECORD)])
    assert between(first, second) == Rates(2.0, 10, 5, 2, 10 * FILE_RECORD)
    assert between(first, second).matched == 17


def test_counters_that_went_back_and_a_ring_that_began_anew_are_no_events() -> None:
    found = between(Look(1, 90, 90, 90, 10**6), Look(2, 5, 5, 5, 0))
    assert found == Rates(1, 0, 0, 0, 0)
    assert found.record == FILE_RECORD


def test_the_bytes_of_the_ring_may_begin_again_at_zero() -> None:
    found = between(Look(0, 0, 0, 0, (1 << 64) - 48), Look(1, 1, 0, 0, 80))
    assert (found.bytes, found.files, found.record) == (128, 0, NET_RECORD)


@pytest.mark.parametrize(
    ("files", "dropped", "record"),
    [(1, 0, FILE_RECORD), (0, 0, NET_RECORD), (0.5, 0, 388), (0.5, 1, FILE_RECORD),
     (0, 1, NET_RECORD), (0.001, 1, NET_RECORD)],
)  # fmt: skip
def test_an_event_has_the_size_of_its_kind_and_what_is_dropped_that_of_the_larger(
    files: float, dropped: int, record: int
) -> None:
    assert rates(1000, dropped, files=files).record == record


def test_the_busiest_stretch_is_found_wherever_it_lies() -> None:
    quiet, burst = (0.25, 0, 0, 0, 0), (0.25, 100, 0, 0, 64800)
    looks = looks_of([quiet] * 9 + [burst] + [quiet] * 3 + [burst] + [quiet] * 20)
    found = busiest(looks, 2.0)
    assert found.sent * found.seconds == pytest.approx(200)
    assert found.seconds == pytest.approx(2.0)
    assert busiest(looks, 100.0) == between(looks[0], looks[-1])
    assert peak(looks) == 400.0


@given(st.lists(st.tuples(st.floats(0.2, 0.4), SMALL, SMALL, SMALL, SMALL), min_size=1),
       st.floats(0.1, 10))  # fmt: skip
def test_a_stretch_is_at_least_as_busy_as_all_of_the_time(
    rows: list[tuple[float, int, int, int, int]], seconds: float
) -> None:
    looks = looks_of(rows)
    found, whole = busiest(looks, seconds), between(looks[0], looks[-1])
    assert found.matched >= whole.matched
    assert found.seconds == whole.seconds or found.seconds >= 0.97 * seconds
    assert peak(looks) >= 0.999 * found.matched


def test_where_nothing_happened_everything_stays_and_it_is_said() -> None:
    advice = advise(QUIET)
    assert not advice.changed
    assert (advice.wanted.ring, advice.wanted.rate, advice.wanted.capacities) == (None, None, {})
    assert advice.wanted.commands() == ()
    assert "too little" in item(advice, RING).why
    assert any("nothing matched" in note for note in advice.notes)


def test_a_ring_holds_what_comes_in_the_pause() -> None:
    found = item(advise(seen(1000)), RING)
    assert (found.now, found.wanted) == (RINGBUF_BYTES, 1 << 21)  # 1,296,000 bytes
    assert found.command == "aegisbpf load --replace --ringbuf-size=2097152"
    assert found.memory == found.memory_full > (1 << 21) - RINGBUF_BYTES
    assert ring_of(seen(1000, files=0)) == 1 << 18
    assert ring_of(seen(1000), pause=10) == 1 << 23


def test_the_busiest_stretch_counts_not_the_mean() -> None:
    observed = replace(seen(10), busiest=rates(1000))
    assert ring_of(observed) == 1 << 21


def test_a_ring_that_was_full_although_it_should_do_is_doubled() -> None:
    assert ring_of(seen(10, 1)) == 2 * RINGBUF_BYTES
    assert ring_of(seen(10)) == RINGBUF_BYTES


def test_nobody_who_reads_makes_no_ring_large_enough() -> None:
    advice = advise(seen(1000, 5000, reader=False, agent=None))
    assert not advice.changed
    assert "nobody takes" in item(advice, RING).why
    assert any("systemctl start" in note for note in advice.notes)


def test_one_who_reads_and_takes_nothing_makes_no_ring_large_enough() -> None:
    advice = advise(seen(1000, 5000, reader=False, stuck=True))
    assert not advice.changed
    assert any("systemctl restart" in note for note in advice.notes)
    assert not any("systemctl start " in note for note in advice.notes)


def test_what_was_dropped_before_is_told_and_changes_nothing() -> None:
    advice = advise(replace(seen(10), sent=9, dropped=5))
    assert not advice.changed
    assert any("5 events were dropped before" in note for note in advice.notes)


def test_a_watch_shorter_than_the_pause_is_told() -> None:
    short = replace(seen(10), mean=rates(10)._replace(seconds=1.0))
    assert any("less than 2 s" in note for note in advise(short).notes)
    assert not any("less than" in note for note in advise(seen(10)).notes)


@given(sent=st.floats(0, 1e9), dropped=st.floats(0, 1e9), out=st.floats(0, 1e9), ring=RINGS,
       rate=SHARES, files=st.floats(0, 1), cpu=st.floats(0, 4), room=st.integers(0, 1 << 40),
       pause=st.floats(1, 60))  # fmt: skip
def test_whatever_is_seen_what_is_recommended_is_possible_and_never_smaller(
    sent: float, dropped: float, out: float, ring: int, rate: float, files: float, cpu: float,
    room: int, pause: float,
) -> None:  # fmt: skip
    observed = seen(sent, dropped, out, files=files, cpu=cpu, ring=ring, sample_rate=rate,
                    room=Room(room, "memory"))  # fmt: skip
    advice = advise(observed, Aims(pause=pause))
    size = int(item(advice, RING).wanted)
    assert size & (size - 1) == 0
    assert ring <= size <= max(ring, RING_MOST)
    assert size == ring or size <= room / 4
    LoadOptions(advice.wanted.capacities, advice.wanted.ring)
    assert 0 < item(advice, RATE).wanted <= 1
    assert advice.changed == bool(advice.wanted.commands()) == bool(advice.before.commands())
    as_text(observed, advice, [])
    assert advice.to_dict()["memory"]["after"] >= advice.to_dict()["memory"]["now"]


@given(first=st.floats(0, 1e7), second=st.floats(0, 1e7), dropped=st.floats(0, 1e6), ring=RINGS)
def test_who_sends_more_gets_no_smaller_ring(
    first: float, second: float, dropped: float, ring: int
) -> None:
    sizes = [ring_of(seen(sent, dropped, ring=ring)) for sent in sorted((first, second))]
    assert sizes[0] <= sizes[1]


@given(sent=st.floats(1, 1e7), ring=RINGS, pause=st.floats(1, 60))
def test_once_it_is_as_recommended_nothing_more_is(sent: float, ring: int, pause: float) -> None:
    aims = Aims(pause=pause)
    first = advise(seen(sent, ring=ring), aims)
    rate = first.wanted.rate or 1.0
    after = seen(
        sent * rate, 0, sent * (1 - rate), ring=first.wanted.ring or ring, sample_rate=rate
    )
    assert not advise(after, aims).changed


def test_the_rate_is_lowered_only_where_the_largest_ring_is_not_enough() -> None:
    assert rate_of(seen(50_000)) == 1.0  # 64.8 MB fit into 64 MiB
    busy = advise(seen(500_000))
    assert item(busy, RATE).wanted == 0.1
    assert item(busy, RING).wanted == RING_MOST
    assert busy.wanted.commands() == (
        f"aegisbpf load --replace --ringbuf-size={RING_MOST}",
        "aegisbpf config set event-sample-rate 0.1",
    )
    assert busy.before.commands() == (
        f"aegisbpf load --replace --ringbuf-size={RINGBUF_BYTES}",
        "aegisbpf config set event-sample-rate 1",
    )


def test_a_ring_takes_a_quarter_of_the_room_and_the_rate_does_the_rest() -> None:
    tight = advise(seen(5000, room=Room(9 << 20, "cgroup")))
    assert item(tight, RING).wanted == 1 << 21
    assert item(tight, RATE).wanted == 0.32  # of 6,480,000 bytes in 2 s
    assert tight.memory.fits


def test_an_agent_that_takes_too_much_gets_less() -> None:
    assert rate_of(seen(1000, cpu=0.5)) == 1.0
    assert rate_of(seen(1000, cpu=0.52)) == 1.0  # less than a tenth is no change
    assert rate_of(seen(1000, cpu=1.0)) == 0.5
    assert rate_of(seen(1000, 0, 1000, cpu=1.0, sample_rate=0.5)) == 0.25


def test_what_is_dropped_with_the_largest_ring_is_sampled_out() -> None:
    full = advise(seen(3000, 1000, ring=RING_MOST))
    assert (item(full, RING).wanted, item(full, RATE).wanted) == (RING_MOST, 0.75)


def test_a_rate_that_was_lowered_is_raised_as_far_as_it_goes() -> None:
    assert rate_of(seen(10, 0, 90, sample_rate=0.1, cpu=0.1)) == 0.5
    assert rate_of(seen(10, 0, 90, sample_rate=0.1, cpu=0.001)) == 1.0
    assert rate_of(replace(QUIET, sample_rate=0.1)) == 0.1
    off = item(advise(seen(0, 0, 900, sample_rate=0.0)), RATE)
    assert (off.wanted, off.why) == (0.0, "no events are wanted")


@given(st.floats(1e-9, 1.0))
def test_a_rate_is_rounded_down_to_what_can_be_typed(share: float) -> None:
    found = two_digits(share)
    assert share * 0.9 <= found <= share * (1 + 1e-12)
    assert float(f"{found:g}") == found


def test_a_map_that_is_nearly_full_gets_room_with_all_that_its_option_sizes() -> None:
    observed = replace(QUIET, maps=outlooks(deny_path_map=60000, rules=60000),
                       entries={"deny_path_map": 60000, "rules": 60000})  # fmt: skip
    advice = advise(observed)
    found = item(advice, "deny_path_map")
    assert (found.now, found.wanted) == (65536, 131072)
    assert found.observed == "deny_path_map: 60000/65536 entries (91% full)"
    assert 0 < found.memory < found.memory_full
    assert advice.wanted.capacities == {"deny_path_map": 131072, "audit_path_map": 131072}
    assert advice.wanted.commands() == ("aegisbpf load --replace --max-deny-paths=131072",)
    assert advice.before.commands() == ("aegisbpf load --replace --max-deny-paths=65536",)


def test_a_map_that_grows_is_enlarged_before_it_is_full() -> None:
    def growing(per_day: float) -> Observed:
        maps = (Outlook(MapUse("rules", 60000, 131072), per_day, None), *outlooks()[1:])
        return replace(QUIET, maps=maps, entries={"rules": 60000})

    assert not advise(growing(1000)).changed
    assert not advise(growing(-1000)).changed
    found = item(advise(growing(2000)), "rules")
    assert (found.wanted, found.why) == (262144, "120,000 entries are to be expected in 30 days")


def test_hits_without_room_get_as_much_as_rules() -> None:
    found = advise(replace(QUIET, maps=outlooks(rule_hits=65000)))
    assert item(found, "rules").observed == "rule_hits: 65000/65536 entries (99% full)"
    assert found.wanted.capacities == {"rules": 262144}


def test_what_cannot_be_sized_is_not_recommended() -> None:
    found = advise(replace(QUIET, maps=outlooks(survival_allowlist=8192, rules=1)))
    assert not found.changed
    assert found.items[-1].name == "rules"


@given(st.dictionaries(st.sampled_from(sorted(CAPACITIES)), st.integers(1, 1 << 24)),
       st.dictionaries(st.sampled_from(sorted(CAPACITIES)), st.integers(1, 1 << 24)))  # fmt: skip
def test_no_map_becomes_smaller_because_another_needs_more(
    found: dict[str, int], sizes: dict[str, int]
) -> None:
    now = {**CAPACITIES, **sizes}
    result = together(now, found)
    assert all(size >= max(now[name], found.get(name, 0)) for name, size in result.items())
    for names in OPTIONS.values():
        assert len({result.get(name) for name in names}) == 1


@given(st.dictionaries(st.sampled_from(sorted(CAPACITIES)), st.integers(0, MOST_ENTRIES)))
def test_maps_are_never_recommended_smaller_than_what_is_in_them(entries: dict[str, int]) -> None:
    sizes = {name: max(size, entries.get(name, 0)) for name, size in CAPACITIES.items()}
    maps = tuple(
        Outlook(MapUse(name, entries.get(name, 0), size), None, None)
        for name, size in sizes.items()
    )
    observed = replace(QUIET, maps=maps, entries=entries, sizes=Sizes(RINGBUF_BYTES, sizes))
    wanted = advise(observed).wanted.capacities
    for name, size in wanted.items():
        assert sizes[name] <= size <= MOST_ENTRIES
        assert size >= min(2 * entries.get(name, 0), MOST_ENTRIES)


def test_the_memory_of_all_is_what_each_takes_more() -> None:
    many = {"deny_inode_map": 60000}
    advice = advise(seen(1000, maps=outlooks(**many), entries=many))
    more = [one.memory for one in advice.items if one.changed]
    assert len(more) == 2
    assert advice.memory.after - advice.memory.now == sum(more)


def test_what_does_not_fit_into_memory_is_said_and_not_done() -> None:
    many = {"deny_inode_map": 60000}
    observed = seen(1000, maps=outlooks(**many), entries=many, room=Room(4 << 20, "memory"))
    advice = advise(observed)
    assert not advice.memory.fits
    assert "does not fit" in as_text(observed, advice, [])
    with pytest.raises(KernelError, match="room for 4096 KiB"):
        check_room(advice)
    check_room(advise(replace(QUIET, room=Room(0, "memory"))))


@pytest.mark.parametrize(
    "options",
    ["", " --seconds 3", " --buffer-seconds 20", " --seconds 3 --buffer-seconds 20"],
)
def test_the_command_that_would_do_it_has_the_options_that_were_given(options: str) -> None:
    arguments = parser_of("tune").parse_args(options.split())
    advice = advise(seen(100_000))
    assert advice.changed
    first = outcome(arguments, advice, [])[0]
    assert first == f"to do it: aegisbpf tune --apply{options}; by hand:"


def test_options_cover_every_policy_map_once() -> None:
    names = [name for option in OPTIONS.values() for name in option]
    assert sorted(names) == sorted(CAPACITIES)
