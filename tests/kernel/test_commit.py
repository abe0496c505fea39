"""Commits: one flip, nothing left over, and whole after a kill at any instant."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel_support import kill_after, start_python

from aegis_tools.control.commit import check_capacity, clear_slot, commit
from aegis_tools.control.live import Live, content_digest, live_digest
from aegis_tools.control.resolve import Rules, add_network
from aegis_tools.errors import DriftError, NotLoadedError, PolicyError
from aegis_tools.kernel import syscall
from aegis_tools.kernel.layout import POLICY_MAPS, SPECS, Config, SlotInfo, uid_of
from aegis_tools.kernel.pins import Pins
from aegis_tools.policy.model import Kind, Op, Rule

COMMIT_FOREVER = """
import itertools, sys
from pathlib import Path
from test_commit import policy
from aegis_tools.control.commit import commit
from aegis_tools.control.live import Live
from aegis_tools.kernel.pins import Pins
both = [policy(1), policy(2)]
with Live(Pins(Path(sys.argv[1]))) as live:
    for number in itertools.count():
        commit(live, both[number % 2])
        if not number:
            print("ready", flush=True)
"""


def policy(seed: int, count: int = 60) -> Rules:
    """Return rules in files, networks of both families and cgroups; other seeds, other rules."""
    rules = Rules()
    for number in range(count):
        base = seed * 1000 + number
        inode = Rule(f"i{base}", Kind.INODE, f"8:{base}", Op.READ)
        uid = rules.add_rule(inode)
        key = base.to_bytes(8, "little") + (8).to_bytes(4, "little") + bytes(4)
        rules.add("deny_inode_map", key, uid + bytes(32))
        for kind, target in (
            (Kind.IP, f"10.{seed}.0.{number}"),
            (Kind.CIDR, f"172.{seed}.{number}.0/24"),
            (Kind.CIDR, f"2001:db8:{seed}:{number}::/64"),
            (Kind.PORT, f"{base}:tcp"),
        ):
            rule = Rule(f"{kind.value}{base}{target}", kind, target, Op.EGRESS)
            add_network(rules, rules.add_rule(rule), rule)
    rules.maps["allow_cgroup_map"][seed.to_bytes(8, "little")] = (1).to_bytes(8, "little")
    return rules


def digest_of(rules: Rules) -> bytes:
    return content_digest(rules.maps)


def slot_maps(live: Live, slot: int) -> dict[str, int]:
    """Return the kernel's id of each inner map in a slot."""
    found = {}
    for name in SPECS:
        value = live.map(name).get(slot.to_bytes(4, "little"))
        if value is not None:
            found[name] = int.from_bytes(value, "little")
    return found


@pytest.fixture
def live(loaded: Pins) -> Iterator[Live]:
    with Live(loaded) as opened:
        yield opened


def test_nothing_loaded_is_told_of(pins: Pins) -> None:
    with pytest.raises(NotLoadedError):
        Live(pins)


def test_a_fresh_load_holds_no_policy(live: Live) -> None:
    assert live.info() == SlotInfo()
    assert live_digest(live) == digest_of(Rules())


def test_a_commit_is_live_in_the_other_slot(live: Live) -> None:
    before = live.slot
    info = commit(live, policy(1), bundle=b"b" * 32, serial=7)
    assert live.slot == 1 - before
    assert live.info() == info
    assert (info.serial, info.bundle, info.count("deny_inode_map")) == (7, b"b" * 32, 60)
    assert live.all_entries() == policy(1).maps
    assert info.content == live_digest(live) == digest_of(policy(1))


def test_the_old_slot_is_empty_after_a_commit(live: Live) -> None:
    commit(live, policy(1))
    old = slot_maps(live, live.slot)
    assert "deny_inode_map" in old
    commit(live, policy(2))
    assert slot_maps(live, 1 - live.slot) == {}
    assert live.info(1 - live.slot) == SlotInfo()
    for ident in old.values():
        with pytest.raises(FileNotFoundError):
            syscall.map_get_fd_by_id(ident)


def test_a_policy_without_rules_can_be_committed(live: Live) -> None:
    commit(live, policy(1))
    commit(live, Rules())
    assert live.info().kinds == 0
    assert live_digest(live) == digest_of(Rules())


def test_the_same_policy_twice_has_the_same_digest(live: Live) -> None:
    first = commit(live, policy(1))
    second = commit(live, policy(1))
    assert first.content == second.content == live_digest(live)


def test_settings_stay_through_a_commit(live: Live) -> None:
    live.set_config(Config.MODE, 1)
    live.set_config(Config.SAMPLE, 17)
    commit(live, policy(1))
    assert (live.config(Config.MODE), live.config(Config.SAMPLE)) == (1, 17)


def test_a_rule_that_stays_keeps_its_hits_and_one_that_goes_loses_them(live: Live) -> None:
    commit(live, policy(1))
    stays, goes = (uid_of(name).to_bytes(8, "little") for name in ("i1001", "gone"))
    for uid in (stays, goes):
        live.map("rule_hits").set(uid, bytes(24))
    commit(live, policy(1))
    assert dict(live.map("rule_hits").items()) == {stays: bytes(24)}


@pytest.mark.parametrize("name", ["deny_inode_map", "deny_cidr_v4_map", "rules"])
def test_a_policy_that_does_not_fit_touches_nothing(live: Live, name: str) -> None:
    commit(live, policy(1))
    before = (live.slot, live.info(), slot_maps(live, 0), slot_maps(live, 1))
    index = [spec.name for spec in POLICY_MAPS].index(name)
    live.map("capacities").set(index.to_bytes(4, "little"), (59).to_bytes(4, "little"))
    with pytest.raises(PolicyError, match=name) as caught:
        commit(live, policy(2))
    assert "--max-" in caught.value.hint
    assert caught.value.data["capacity"] == 59
    assert (live.slot, live.info(), slot_maps(live, 0), slot_maps(live, 1)) == before


def test_a_policy_that_fills_a_map_fits(live: Live) -> None:
    rules = policy(1, 60)
    index = [spec.name for spec in POLICY_MAPS].index("deny_inode_map")
    live.map("capacities").set(index.to_bytes(4, "little"), (60).to_bytes(4, "little"))
    check_capacity(live, rules)
    commit(live, rules)
    assert live_digest(live) == digest_of(rules)


def test_what_a_dead_commit_left_is_cleared_first(live: Live) -> None:
    commit(live, policy(1))
    inactive = 1 - live.slot
    for name in ("deny_ipv6_map", "deny_inode_map"):
        fd = syscall.map_create(
            SPECS[name].type, SPECS[name].key_size, SPECS[name].value_size, 4, name
        )
        live.map(name).set(inactive.to_bytes(4, "little"), fd.to_bytes(4, "little"))
    live.set_info(inactive, SlotInfo(kinds=2047, walk=32))
    commit(live, policy(2))
    assert live.all_entries() == policy(2).maps
    assert live.info().walk == 0


def test_a_commit_that_fails_half_way_leaves_the_old_policy(live: Live) -> None:
    commit(live, policy(1))
    broken = policy(2)
    broken.maps["deny_cidr_v6_map"][(200).to_bytes(4, "little") + bytes(16)] = bytes(16)
    before = live.slot
    with pytest.raises(Exception, match="refused"):
        commit(live, broken)
    assert live.slot == before
    assert live_digest(live) == digest_of(policy(1))
    assert slot_maps(live, 1 - before) == {}


def test_an_entry_that_somebody_else_changed_changes_the_digest(live: Live) -> None:
    commit(live, policy(1))
    inner = live.inner("deny_inode_map")
    assert inner is not None
    with inner:
        key, _ = next(iter(inner.items()))
        inner.delete(key)
    assert live_digest(live) != live.info().content


def test_maps_that_are_not_ours_are_told_of(loaded: Pins) -> None:
    loaded.remove("maps", "config")
    fd = syscall.map_create(1, 4, 4, 4, "config")
    syscall.obj_pin(str(loaded.path("maps", "config")), fd)
    with Live(loaded) as live, pytest.raises(DriftError, match="not ours"):
        live.config(Config.MODE)


def test_clearing_a_slot_twice_is_harmless(live: Live) -> None:
    clear_slot(live, 1 - live.slot)
    clear_slot(live, 1 - live.slot)


def test_a_kill_at_any_instant_leaves_one_policy_whole(loaded: Pins) -> None:
    wanted = {digest_of(policy(1)), digest_of(policy(2))}
    chance = random.Random(60)
    seen = set()
    for _ in range(60):
        child = start_python(COMMIT_FOREVER, loaded.base)
        assert kill_after(child, chance.uniform(0, 0.45))
        with Live(loaded) as live:
            found = live_digest(live)
            assert found in wanted
            assert found == live.info().content
            seen.add(found)
            commit(live, policy(3))
            assert live_digest(live) == digest_of(policy(3))
            assert slot_maps(live, 1 - live.slot) == {}
    assert seen == wanted, "only one of the two policies was ever live"


def test_a_commit_leaves_no_descriptor_open(live: Live) -> None:
    commit(live, policy(1))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for seed in (2, 3, 4):
        commit(live, policy(seed))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
