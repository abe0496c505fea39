"""Profiles: what is stored comes back, and nothing hostile does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.errors import AegisError, PolicyError, StateError, UsageError
from aegis_tools.kernel.mounts import Mount
from aegis_tools.monitors.profiles import model
from aegis_tools.monitors.profiles.hierarchy import Hierarchy, find, slice_path, targets
from aegis_tools.monitors.profiles.model import Action, Limit, Profile, check, make_limit, parse
from aegis_tools.monitors.profiles.store import ProfileStore
from aegis_tools.paths import Paths

CHILD = Profile("child", users=("child",))
GOOD = {
    "version": 1,
    "name": "child",
    "users": ["child"],
    "cgroups": ["/a/b"],
    "slices": ["user-1000.slice"],
    "limits": {"memory": {"threshold": 500_000_000, "action": "throttle"}},
}


@st.composite
def limits(draw: st.DrawFn) -> Limit:
    kind = draw(st.sampled_from(sorted(model.KINDS.values(), key=lambda one: one.name)))
    most = model.MAX_RATE if kind is model.BANDWIDTH else model.MOST
    return Limit(kind, draw(st.integers(1, most)), draw(st.sampled_from(kind.actions)))


PROFILES = st.builds(
    Profile,
    st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,20}", fullmatch=True),
    st.lists(st.from_regex(r"[a-z][a-z0-9.]{0,10}", fullmatch=True), min_size=1).map(tuple),
    st.lists(st.from_regex(r"(/[a-z]{1,4}[.@:]?){1,4}", fullmatch=True), max_size=3).map(tuple),
    st.lists(st.from_regex(r"[a-z]{1,4}(-[a-z0-9]{1,4}){0,2}\.slice", fullmatch=True)).map(tuple),
    st.lists(limits(), max_size=5).map(lambda found: {one.kind.name: one for one in found}),
)


@given(PROFILES)
def test_what_is_stored_is_what_comes_back(profile: Profile) -> None:
    assert parse(json.dumps(profile.to_dict()).encode(), profile.name) == check(profile)


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
).map(lambda found: json.dumps(found).encode()))  # fmt: skip
def test_any_content_is_a_profile_or_a_clear_error(data: bytes) -> None:
    with pytest.raises(StateError) as refused:
        parse(data, "child")
    assert "profile delete child" in refused.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"}, {"version": 2}, {"version": True}, {"users": "child"}, {"users": [1]},
        {"users": ["a b"]}, {"users": ["../x"]}, {"users": [], "cgroups": [], "slices": []},
        {"users": ["u"] * 300}, {"cgroups": ["/"]}, {"cgroups": ["a"]}, {"cgroups": ["/a/../b"]},
        {"cgroups": ["/a//b"]}, {"cgroups": ["/a\n"]}, {"cgroups": ["/" + "a" * 256]},
        {"slices": ["-.slice"]}, {"slices": ["a/b.slice"]}, {"slices": ["a--b.slice"]},
        {"slices": ["a.service"]}, {"more": 1}, {"limits": []}, {"limits": {"cpu": {}}},
        {"limits": {"memory": {"threshold": 0, "action": "alert"}}},
        {"limits": {"memory": {"threshold": 1 << 63, "action": "alert"}}},
        {"limits": {"memory": {"threshold": 1.5, "action": "alert"}}},
        {"limits": {"memory": {"threshold": True, "action": "alert"}}},
        {"limits": {"memory": {"threshold": 5, "action": "explode"}}},
        {"limits": {"memory": {"threshold": 5}}},
        {"limits": {"memory": {"threshold": 5, "action": "alert", "x": 1}}},
        {"limits": {"disk-latency": {"threshold": 5, "action": "throttle"}}},
        {"limits": {"bandwidth": {"threshold": 10**12, "action": "alert"}}},
    ],
    ids=lambda change: json.dumps(change)[:60],
)  # fmt: skip
def test_a_profile_that_was_tampered_with_is_refused(change: dict[str, object]) -> None:
    parse(json.dumps(GOOD).encode(), "child")
    with pytest.raises(StateError, match="the profile child is damaged"):
        parse(json.dumps({**GOOD, **change}).encode(), "child")


def test_a_key_that_occurs_twice_is_refused() -> None:
    data = json.dumps(GOOD).replace('"version": 1', '"version": 1, "version": 1').encode()
    with pytest.raises(StateError):
        parse(data, "child")


def test_a_limit_that_the_kernel_cannot_hold_so_says_what_is_possible() -> None:
    with pytest.raises(UsageError, match="nothing makes a disk faster") as refused:
        make_limit(model.DISK_LATENCY, 5, Action.THROTTLE)
    assert refused.value.hint.startswith("use: alert or terminate; or slow down who keeps it busy")


def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(Paths(tmp_path))


def test_profiles_are_stored_found_and_deleted(tmp_path: Path) -> None:
    profiles = store(tmp_path)
    assert profiles.names() == []
    profiles.create(CHILD)
    limited = CHILD.with_limit(model.MEMORY, make_limit(model.MEMORY, 5))
    profiles.save(limited)
    assert profiles.load("child") == limited
    with pytest.raises(UsageError, match="there is a profile child already"):
        profiles.create(CHILD)
    profiles.delete("child")
    assert profiles.names() == []
    with pytest.raises(PolicyError, match="there is no profile child"):
        profiles.load("child")


@pytest.mark.parametrize("name", ["../child", "/etc/passwd", "", "a\nb"])
def test_a_name_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    profiles = store(tmp_path)
    profiles.create(CHILD)
    with pytest.raises(PolicyError):
        profiles.load(name)


def test_one_damaged_profile_does_not_hide_the_others(tmp_path: Path) -> None:
    profiles = store(tmp_path)
    profiles.create(CHILD)
    (Paths(tmp_path).profiles / "bad.json").write_text("{")
    good, [bad] = profiles.load_all()
    assert good == [CHILD]
    assert bad.name == "bad"
    profiles.delete("bad")
    assert profiles.load_all() == ([CHILD], [])


@pytest.mark.parametrize("way", ["writable", "link", "large"])
def test_a_file_that_others_could_have_made_is_not_believed(way: str, tmp_path: Path) -> None:
    profiles = store(tmp_path)
    profiles.create(CHILD)
    path = Paths(tmp_path).profiles / "child.json"
    if way == "writable":
        path.chmod(0o666)
    elif way == "link":
        path.rename(tmp_path / "real.json")
        path.symlink_to(tmp_path / "real.json")
    else:
        os.truncate(path, 1 << 20)
    with pytest.raises(AegisError):
        profiles.load("child")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("user-1000.slice", "/user.slice/user-1000.slice"),
        ("machine.slice", "/machine.slice"),
        ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
    ],
)
def test_a_slice_is_where_systemd_has_it(name: str, path: str) -> None:
    assert slice_path(name) == path


def test_cgroup_2_is_found_wherever_it_is_mounted() -> None:
    mounts = [
        Mount(1, "/", "/sys/fs/cgroup/memory", "cgroup", ("rw", "memory")),
        Mount(2, "/", "/sys/fs/cgroup/cpu", "cgroup", ("rw", "cpu")),
        Mount(3, "/docker", "/mnt", "cgroup2", ("rw",)),
        Mount(3, "/", "/sys/fs/cgroup/unified", "cgroup2", ("rw",)),
    ]
    assert find(mounts) == Hierarchy(Path("/sys/fs/cgroup/unified"), frozenset({"memory"}))
    with pytest.raises(AegisError, match="cgroup v2 is not mounted"):
        find(mounts[:3]).base()


def test_a_profile_means_the_slices_of_its_users_and_no_cgroup_twice(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    profile = Profile("x", ("anna", "ghost", "7"), ("/a", "/a/b", "/user.slice"), ("a-b.slice",))
    found = targets(profile, Hierarchy(tmp_path), {"anna": 1000, "7": 7}.get)
    assert [(one.cgroup, one.source, one.number) for one in found] == [
        ("/a.slice/a-b.slice", "slice a-b.slice", 0),
        ("/a", "cgroup", (tmp_path / "a").stat().st_ino),
        ("/user.slice", "cgroup", 0),
    ]
