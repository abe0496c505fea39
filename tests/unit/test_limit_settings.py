"""Limits in cgroups: made, kept, taken back, and right again after any kill."""

from __future__ import annotations

from pathlib import Path

import pytest
from cgroup_support import Tree

from aegis_tools.errors import KernelError, StateError
from aegis_tools.kernel.mounts import Mount
from aegis_tools.monitors.profiles import model
from aegis_tools.monitors.profiles.enforce import Seams, plan, resolve
from aegis_tools.monitors.profiles.hierarchy import find
from aegis_tools.monitors.profiles.ledger import SUBTREE, Ledger
from aegis_tools.monitors.profiles.model import Action, Profile, make_limit
from aegis_tools.monitors.profiles.settings import Outcome, Setting, Settings, needed
from aegis_tools.paths import Paths

MEMORY = make_limit(model.MEMORY, 500_000_000)
FEW = make_limit(model.PROCESSES, 100)
CHILD = Profile("child", users=("child",), limits={"memory": MEMORY, "processes": FEW})
USERS = Seams(uid_of={"child": 1000}.get)
CGROUP = "/user.slice/user-1000.slice"


class Killed(BaseException):
    """The process was killed here."""


class Host:
    """A tree, a ledger, and a run over both that can be killed at any write."""

    def __init__(self, tmp_path: Path) -> None:
        (tmp_path / "cgroup").mkdir()
        self.tree = Tree(tmp_path / "cgroup")
        self.ledger = Ledger(Paths(tmp_path))
        self.writes = 0

    def settings(self, *profiles: Profile) -> list[Setting]:
        hierarchy = self.tree.hierarchy
        return plan(hierarchy, resolve(list(profiles), hierarchy, USERS)).settings

    def run(self, *profiles: Profile, die_at: float = 0.0) -> Outcome:
        """Reconcile; ``n`` dies before the n-th write, ``n + 0.5`` after it."""
        self.writes = 0

        def write(path: Path, text: str) -> None:
            self.writes += 1
            if self.writes == die_at:
                raise Killed
            self.tree.write(path, text)
            if self.writes + 0.5 == die_at:
                raise Killed

        return Settings(self.tree.hierarchy, self.ledger, write).reconcile(self.settings(*profiles))


def controlled(host: Host) -> None:
    """Have the controllers on, as systemd does."""
    for cgroup in ("/", "/user.slice"):
        for controller in ("memory", "pids"):
            path = host.tree.hierarchy.path(cgroup) / "cgroup.subtree_control"
            host.tree.write(path, f"+{controller}")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    host.tree.make(CGROUP)
    return host


def read(host: Host, file: str, cgroup: str = CGROUP) -> str:
    return (host.tree.hierarchy.path(cgroup) / file).read_text()


def test_limits_are_made_with_the_controllers_they_need_and_taken_back(host: Host) -> None:
    before = host.tree.snapshot()
    made = host.run(CHILD).made
    assert [one.file for one in made].count("cgroup.subtree_control") == 4
    assert read(host, "memory.high") == str(500_000_000 // 4096 * 4096)
    assert read(host, "memory.max") == "max"
    assert read(host, "pids.max") == "100"
    assert host.run(CHILD) == Outcome()
    assert len(host.run().undone) == 6
    assert host.tree.snapshot() == before
    assert host.ledger.read() == []


def test_one_limit_goes_and_the_other_stays(host: Host) -> None:
    host.run(CHILD)
    host.run(CHILD.with_limit(model.MEMORY, None))
    assert read(host, "pids.max") == "100"
    assert "memory" not in read(host, "cgroup.subtree_control", "/")


def test_terminating_is_memory_max_and_a_change_of_mind_leaves_nothing(host: Host) -> None:
    host.run(CHILD)
    host.run(CHILD.with_limit(model.MEMORY, make_limit(model.MEMORY, 8192, Action.TERMINATE)))
    assert (read(host, "memory.high"), read(host, "memory.max")) == ("max", "8192")


def test_what_was_there_before_comes_back_and_not_what_we_set_meanwhile(host: Host) -> None:
    host.tree.write(host.tree.root / "cgroup.subtree_control", "+memory")
    host.tree.write(host.tree.root / "user.slice/cgroup.subtree_control", "+memory")
    host.tree.write(host.tree.hierarchy.path(CGROUP) / "memory.high", "900000000")
    host.run(CHILD)
    host.run(CHILD.with_limit(model.MEMORY, make_limit(model.MEMORY, 4096)))
    assert read(host, "memory.high") == "4096"
    host.run()
    assert read(host, "memory.high") == "900000000"
    assert read(host, "cgroup.subtree_control", "/") == "memory"


def test_what_somebody_else_has_set_since_stays(host: Host) -> None:
    host.run(CHILD)
    host.tree.write(host.tree.hierarchy.path(CGROUP) / "pids.max", "7")
    outcome = host.run()
    assert [entry.file for entry in outcome.left] == ["pids.max"]
    assert host.ledger.read() == []


def test_a_limit_that_somebody_took_away_is_set_again(host: Host) -> None:
    controlled(host)
    host.run(CHILD)
    host.tree.write(host.tree.hierarchy.path(CGROUP) / "memory.high", "max")
    assert [one.file for one in host.run(CHILD).made] == ["memory.high"]
    host.run()
    assert read(host, "memory.high") == "max"


def test_of_two_profiles_for_one_cgroup_the_lower_limit_holds(host: Host) -> None:
    other = Profile("other", cgroups=(CGROUP,), limits={"processes": make_limit(FEW.kind, 50)})
    controlled(host)
    host.run(CHILD, other)
    assert read(host, "pids.max") == "50"
    host.run(CHILD)
    assert read(host, "pids.max") == "100"
    host.run()
    assert read(host, "pids.max") == "max"


def test_a_cgroup_that_comes_later_is_limited_then_and_one_that_went_is_forgotten(
    tmp_path: Path,
) -> None:
    host = Host(tmp_path)
    assert host.run(CHILD) == Outcome()
    folder = host.tree.make(CGROUP)
    host.run(CHILD)
    assert read(host, "pids.max") == "100"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    (folder.parent / "else").mkdir()  # so that the next has another number
    host.run(CHILD)
    assert [e.file for e in host.ledger.read() if e.file == "pids.max"] == []
    (folder.parent / "else").rmdir()


def test_a_cgroup_that_was_made_anew_gets_back_what_the_new_one_had(host: Host) -> None:
    controlled(host)
    host.run(CHILD)
    folder = host.tree.hierarchy.path(CGROUP)
    folder.rename(host.tree.root / "old")  # so that the new one has another number
    host.tree.make(CGROUP)
    host.tree.write(folder / "pids.max", "77")
    host.run(CHILD)
    assert read(host, "pids.max") == "100"
    host.run()
    assert read(host, "pids.max") == "77"


SLOW = Profile(
    "slow",
    cgroups=(CGROUP,),
    limits={"disk-bandwidth": make_limit(model.DISK_BANDWIDTH, 80_000_000)},
)


@pytest.fixture
def disks(host: Host) -> Host:
    for name, number, size in (
        ("sda", "8:0", 100), ("dm-0", "254:0", 100), ("loop0", "7:0", 0),
        ("zram0", "252:0", 100), ("ram0", "1:0", 100),
    ):  # fmt: skip
        host.tree.disk(name, number, size)
    (host.tree.hierarchy.block / "nvme0c0n1").mkdir()  # a path of a multipath disk
    return host


def test_a_limit_of_disk_bandwidth_is_io_max_of_every_disk_and_is_taken_back(disks: Host) -> None:
    before = disks.tree.snapshot()
    made = [(one.cgroup, one.file, one.value) for one in disks.run(SLOW).made]
    assert made == [
        ("/", SUBTREE, "io"), ("/", SUBTREE, "memory"),
        ("/user.slice", SUBTREE, "io"), ("/user.slice", SUBTREE, "memory"),
        (CGROUP, "io.max", "254:0 rbps=10000000 wbps=10000000"),
        (CGROUP, "io.max", "8:0 rbps=10000000 wbps=10000000"),
    ]  # fmt: skip
    assert disks.run(SLOW) == Outcome()
    disks.run()
    assert disks.tree.snapshot() == before


def test_of_io_max_only_what_is_ours_is_changed_and_what_was_there_comes_back(disks: Host) -> None:
    disks.run(SLOW)
    file = disks.tree.hierarchy.path(CGROUP) / "io.max"
    disks.run()
    for cgroup in ("/", "/user.slice"):
        for controller in ("io", "memory"):
            disks.tree.write(disks.tree.hierarchy.path(cgroup) / SUBTREE, f"+{controller}")
    disks.tree.write(file, "8:0 rbps=5 riops=7")
    disks.run(SLOW)
    assert "8:0 rbps=10000000 wbps=10000000 riops=7 wiops=max" in read(disks, "io.max")
    disks.run()
    assert read(disks, "io.max") == "8:0 rbps=5 wbps=max riops=7 wiops=max"


def test_a_disk_that_somebody_else_limited_since_stays_and_the_others_do_not(disks: Host) -> None:
    disks.run(SLOW)
    disks.tree.write(disks.tree.hierarchy.path(CGROUP) / "io.max", "8:0 rbps=5")
    outcome = disks.run()
    assert [(one.file, one.wrote.split()[0]) for one in outcome.left] == [("io.max", "8:0")]
    assert ("io.max", "254:0") in [(one.file, one.wrote.split()[0]) for one in outcome.undone]


def test_a_disk_that_comes_later_is_limited_then_and_one_that_went_is_forgotten(
    disks: Host,
) -> None:
    disks.run(SLOW)
    disks.tree.disk("sdb", "8:16")
    assert [one.value.split()[0] for one in disks.run(SLOW).made] == ["8:16"]
    disks.tree.disk("sdb", "8:16", size=0)
    disks.run(SLOW)
    assert "8:16" not in read(disks, "io.max")
    assert "8:16" not in [one.wrote.split()[0] for one in disks.ledger.read()]


def test_of_two_profiles_for_one_disk_the_lower_limit_holds(disks: Host) -> None:
    other = Profile("other", cgroups=(CGROUP,)).with_limit(
        model.DISK_BANDWIDTH, make_limit(model.DISK_BANDWIDTH, 8_000_000)
    )
    disks.run(SLOW, other)
    assert "8:0 rbps=1000000 wbps=1000000" in read(disks, "io.max")
    disks.run(SLOW)
    assert "8:0 rbps=10000000" in read(disks, "io.max")


def test_an_alert_has_the_disks_counted_and_holds_nothing(disks: Host) -> None:
    alert = make_limit(model.DISK_BANDWIDTH, 80_000_000, Action.ALERT)
    disks.run(SLOW.with_limit(model.DISK_BANDWIDTH, alert))
    assert read(disks, "cgroup.subtree_control", "/user.slice") == "io memory"
    assert read(disks, "io.max") == ""


def kills(host: Host, *profiles: Profile) -> list[float]:
    """Return every point at which a run over these can be killed."""
    host.run(*profiles)
    return [n + half for n in range(1, host.writes + 1) for half in (0.0, 0.5)]


@pytest.mark.parametrize("profile", [CHILD, SLOW], ids=lambda one: one.name)
@pytest.mark.parametrize("then", ["complete", "undo"])
def test_killed_anywhere_while_limits_are_made_the_next_run_puts_it_right(
    disks: Host, then: str, profile: Profile
) -> None:
    host = disks
    before = host.tree.snapshot()
    points = kills(host, profile)
    complete = host.tree.snapshot()
    assert len(points) >= 12
    for point in points:
        host.run()
        assert host.tree.snapshot() == before
        with pytest.raises(Killed):
            host.run(profile, die_at=point)
        if then == "complete":
            host.run(profile)
            assert host.tree.snapshot() == complete
        host.run()
        assert host.tree.snapshot() == before, point
        assert host.ledger.read() == []


def test_killed_anywhere_while_limits_are_taken_back_the_next_run_puts_it_right(
    host: Host,
) -> None:
    before = host.tree.snapshot()
    host.run(CHILD)
    complete = host.tree.snapshot()
    for point in kills(host):
        host.run(CHILD)
        assert host.tree.snapshot() == complete
        with pytest.raises(Killed):
            host.run(die_at=point)
        host.run()
        assert host.tree.snapshot() == before, point


def test_a_damaged_record_stops_before_anything_is_changed(host: Host, tmp_path: Path) -> None:
    host.run(CHILD)
    Paths(tmp_path).limits.write_text('{"version": 1, "entries": [{"cgroup": "/../etc"}]}')
    now = host.tree.snapshot()
    with pytest.raises(StateError, match="the record of limits is damaged"):
        host.run()
    assert host.tree.snapshot() == now


@pytest.mark.parametrize("v1", ["memory,blkio", "cpu"])
def test_a_controller_that_is_not_there_is_said_clearly(tmp_path: Path, v1: str) -> None:
    (tmp_path / "cgroup.controllers").write_text("hugetlb")
    old = Mount(2, "/", "/sys/fs/cgroup/old", "cgroup", ("rw", *v1.split(",")))
    hierarchy = find([Mount(1, "/", str(tmp_path), "cgroup2", ("rw",)), old])
    for limit, name in ((MEMORY, "memory"), (SLOW.limits["disk-bandwidth"], "io")):
        with pytest.raises(KernelError, match=f"no {name} controller here") as refused:
            needed(hierarchy, limit)
        assert ("a cgroup v1 tree holds it" in refused.value.message) == ("blkio" in v1)
    assert needed(hierarchy, make_limit(model.MEMORY, 1, Action.TERMINATE)) == ""
    assert needed(hierarchy, make_limit(model.MEMORY, 1, Action.ALERT)) == ""
