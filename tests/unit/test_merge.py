"""What joins and leaves map entries, for all entries there can be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.control.live import without
from aegis_tools.control.merge import (
    ENTRY_MAPS,
    FILE_MAPS,
    inode_key,
    inode_text,
    merge,
    same_file,
    tidy,
    usage,
    want_generation,
)
from aegis_tools.kernel.layout import (
    ANY_GENERATION,
    DIR_HAS_NAMES,
    FILE_ENTRY,
    NAME_KEY,
    NET_ENTRY,
    POLICY_MAPS,
    RULE_ATTR,
)

MODES = {1: 1, 2: 0, 3: 1, 4: 0}
DEAD = 5
NEW = 4

uids = st.sampled_from([0, 1, 2, 3, DEAD])
files = st.builds(
    FILE_ENTRY.pack, uids, uids, uids, uids, st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)
)
nets = st.builds(NET_ENTRY.pack, uids, uids)


def of_one(uid: int, entry: bytes) -> bytes:
    """Return the entry with one rule in all places that are taken."""
    if len(entry) == NET_ENTRY.size:
        return NET_ENTRY.pack(*(uid if one else 0 for one in NET_ENTRY.unpack(entry)))
    *rules, generation, depth, flags = FILE_ENTRY.unpack(entry)
    return FILE_ENTRY.pack(*(uid if one else 0 for one in rules), generation, depth, flags)


def places(entry: bytes) -> tuple[int, ...]:
    shape, count = (NET_ENTRY, 2) if len(entry) == NET_ENTRY.size else (FILE_ENTRY, 4)
    return shape.unpack(entry)[:count]


pairs = st.one_of(st.tuples(nets, nets), st.tuples(files, files))
modes = st.sampled_from([0, 1])


@given(pairs, modes)
def test_no_operation_is_denied_less_than_before(pair: tuple[bytes, bytes], mode: int) -> None:
    old, new = pair[0], of_one(NEW, pair[1])
    if len(old) == FILE_ENTRY.size and not same_file(old, new):
        return
    modes = {**MODES, NEW: mode}
    merged = merge(old, new, modes.get)
    for was, wanted, now in zip(places(old), places(new), places(merged.entry), strict=True):
        strength = [modes.get(uid, -1) if uid else -1 for uid in (was, wanted, now)]
        assert strength[2] == max(strength)
        assert now in (was, wanted)
        assert now == was or not MODES.get(was)


@given(pairs, modes)
def test_in_place_means_that_taking_it_out_gives_the_old_back(
    pair: tuple[bytes, bytes], mode: int
) -> None:
    old, new = pair[0], of_one(NEW, pair[1])
    merged = merge(old, new, {**MODES, NEW: mode}.get)
    if merged.in_place and any(places(old)):
        assert without(merged.entry, {NEW}) == old
    again = merge(merged.entry, new, {**MODES, NEW: mode}.get)
    assert again.entry == merged.entry


@given(files)
def test_the_first_rule_of_a_key_stands_as_it_is(entry: bytes) -> None:
    assert merge(None, entry, MODES.get) == (entry, frozenset(), True)


def test_an_entry_for_a_file_that_is_gone_gives_way() -> None:
    old = FILE_ENTRY.pack(1, 1, 1, 1, 7, 0, 0)
    new = FILE_ENTRY.pack(0, NEW, 0, 0, 8, 0, 0)
    assert merge(old, new, MODES.get) == (new, frozenset(), False)


def maps_of(**given_maps: dict[bytes, bytes]) -> dict[str, dict[bytes, bytes]]:
    attributes = {uid.to_bytes(8, "little"): RULE_ATTR.pack(m, 0) for uid, m in MODES.items()}
    return {**{spec.name: {} for spec in POLICY_MAPS}, "rules": attributes, **given_maps}


@given(
    st.dictionaries(st.integers(1, 9).map(lambda i: inode_key(f"1:{i}")), files),
    st.dictionaries(st.binary(min_size=4, max_size=4), nets),
    st.sets(st.sampled_from([1, 2, 3])),
)
def test_nothing_is_left_of_removed_and_dead_rules_and_all_of_the_others(
    inodes: dict[bytes, bytes], addresses: dict[bytes, bytes], removed: set[int]
) -> None:
    maps = maps_of(deny_inode_map=inodes, deny_ipv4_map=addresses)
    before, after = usage(maps), usage(tidy(maps, removed))
    gone = removed | {DEAD}
    for name in ENTRY_MAPS:
        for bit in (1, 2, 4, 8, 16, 32):
            was = before.columns[name].get(bit, set())
            assert after.columns[name].get(bit, set()) == was - gone
    assert tidy(maps, removed)["rules"].keys() == {
        uid for uid in maps["rules"] if int.from_bytes(uid, "little") not in removed
    }


def test_a_directory_is_noted_only_while_names_in_it_are_ruled() -> None:
    named, unnamed = inode_key("1:2"), inode_key("1:3")
    name = NAME_KEY.pack(2, 1, 1, b"x")
    noted = FILE_ENTRY.pack(0, 0, 0, 0, 5, 0, DIR_HAS_NAMES)
    ruled = FILE_ENTRY.pack(1, 0, 0, 0, 5, 2, DIR_HAS_NAMES)
    maps = maps_of(
        deny_path_map={name: FILE_ENTRY.pack(2, 0, 0, 0, 0, 0, 0)},
        deny_dir_map={named: noted, unnamed: ruled, inode_key("1:4"): noted},
    )
    left = tidy(maps)["deny_dir_map"]
    assert left == {named: noted, unnamed: FILE_ENTRY.pack(1, 0, 0, 0, 5, 2, 0)}
    assert tidy(maps, {1, 2})["deny_dir_map"] == {}


def test_only_a_rule_for_a_number_matches_whatever_file_has_it() -> None:
    entries = {
        b"both": FILE_ENTRY.pack(1, 2, 0, 0, 5, 0, ANY_GENERATION),
        b"path": FILE_ENTRY.pack(1, 1, 0, 0, 5, 0, ANY_GENERATION),
    }
    want_generation(entries, by_path={1})
    flags = {key: FILE_ENTRY.unpack(entry)[6] for key, entry in entries.items()}
    assert flags == {b"both": ANY_GENERATION, b"path": 0}


@given(st.integers(0, 2**32 - 1), st.integers(1, 2**64 - 1))
def test_an_inode_number_is_written_as_it_is_read(dev: int, ino: int) -> None:
    assert inode_text(inode_key(f"{dev}:{ino}")) == f"{dev}:{ino}"


def test_usage_says_who_stands_everywhere() -> None:
    entry = FILE_ENTRY.pack(1, 1, 2, 0, 0, 0, 0)
    standing = usage(maps_of(deny_inode_map={inode_key("1:2"): entry}))
    assert standing.complete("deny_inode_map", 3) == {1}
    assert standing.complete("deny_inode_map", 7) == set()
    assert standing.complete("deny_inode_map", 0) == {1, 2}
    assert standing.used == {1, 2}
    assert ENTRY_MAPS[:4] == FILE_MAPS
