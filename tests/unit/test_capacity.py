"""How full maps are and will be: the log, the trend, and what a policy needs against what is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.control.capacity import (
    MAX_BYTES,
    Sample,
    append,
    outlook,
    read_samples,
    slope,
    thin,
)
from aegis_tools.control.room import check_room
from aegis_tools.control.stats import MapUse
from aegis_tools.errors import KernelError
from aegis_tools.kernel.accounting import Kernel, Room, parse_release, read_room
from aegis_tools.kernel.layout import POLICY_MAPS

DAY = 86400
USE = MapUse("deny_inode_map", 1000, 2000)
CAPACITIES = {spec.name: spec.capacity for spec in POLICY_MAPS}


def grown(days: int, *, by: int) -> list[Sample]:
    return [Sample(i * DAY, {"deny_inode_map": by * i}) for i in range(days)]


def test_steady_growth_says_when_the_map_is_full() -> None:
    (found,) = outlook([USE], grown(10, by=100))
    assert found.per_day == pytest.approx(100)
    assert found.days_left == pytest.approx(10)


def test_one_odd_sample_does_not_bend_the_trend() -> None:
    samples = grown(11, by=100)
    samples[5] = Sample(5 * DAY, {"deny_inode_map": 60000})
    (found,) = outlook([USE], samples)
    assert found.per_day == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("by", [0, -5])
def test_a_map_that_does_not_grow_is_never_full(by: int) -> None:
    (found,) = outlook([USE], grown(10, by=by))
    assert found.per_day == pytest.approx(by * 1)
    assert found.days_left is None


@pytest.mark.parametrize("samples", [[], grown(4, by=9), [Sample(i, {}) for i in range(50)]])
def test_little_data_gives_no_trend(samples: list[Sample]) -> None:
    (found,) = outlook([USE], samples)
    assert (found.per_day, found.days_left) == (None, None)


def test_a_full_map_is_full_now() -> None:
    (found,) = outlook([MapUse("deny_inode_map", 2000, 2000)], grown(10, by=100))
    assert found.days_left == 0


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=30))
def test_a_slope_is_one_between_two_of_the_points(points: list[tuple[int, int]]) -> None:
    found = slope([(float(x), float(y)) for x, y in points])
    assert (found is None) == (len({x for x, _ in points}) < 2)


@given(st.integers(0, 1000))
def test_thinning_keeps_the_first_and_the_last(count: int) -> None:
    samples = [Sample(i, {}) for i in range(count)]
    kept = thin(samples, 50)
    assert len(kept) == min(count, 50)
    assert kept[:1] == samples[:1]
    assert kept[-1:] == samples[-1:]


def line(time: int) -> bytes:
    return json.dumps({"time": time, "entries": {"rules": 1}}).encode()


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, line(1))
    with path.open("ab") as file:
        file.write(line(2)[:9])
    append(path, line(3))
    assert [sample.time for sample in read_samples(path)] == [1, 3]


@given(st.binary(max_size=200))
def test_nothing_in_the_log_can_break_a_reader(tmp_path_factory: pytest.TempPathFactory,
                                               junk: bytes) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("log") / "log"
    path.write_bytes(line(1) + b"\n" + junk + b"\n" + line(2) + b"\n")
    assert {1, 2} <= {sample.time for sample in read_samples(path)}


@pytest.mark.parametrize(
    "entry",
    ['{"time":1}', '{"time":-1,"entries":{}}', '{"time":1,"entries":{"rules":"x"}}', "[]", "1",
     '{"time":true,"entries":{}}', '{"time":1,"entries":{"rules":1e999}}', "{" * 3000],
)  # fmt: skip
def test_lines_that_are_no_samples_are_passed_over(tmp_path: Path, entry: str) -> None:
    (tmp_path / "log").write_text(entry + "\n")
    assert read_samples(tmp_path / "log") == []


def test_the_log_stays_below_its_size_and_keeps_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "log"
    count = MAX_BYTES // len(line(10000)) * 2
    path.write_bytes(b"".join(line(10000 + i) + b"\n" for i in range(count)))
    append(path, line(99999))
    assert path.stat().st_size <= MAX_BYTES
    found = read_samples(path)
    assert found[-1].time == 99999
    assert len(found) > 1000


def test_the_log_is_never_written_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "log").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        append(tmp_path / "log", line(1))
    assert target.read_text() == "mine"
    assert read_samples(tmp_path / "log") == []


NEW, OLD = Kernel((6, 12), 2), Kernel((5, 10), 2)


def test_a_policy_for_which_there_is_memory_passes() -> None:
    check_room({"deny_inode_map": 1000}, CAPACITIES, NEW, Room(2 << 20, "memory"), None)


@pytest.mark.parametrize(("limit", "word"), [("memory", "free memory"), ("cgroup", "MemoryMax")])
def test_a_policy_for_which_there_is_no_memory_is_refused(limit: str, word: str) -> None:
    with pytest.raises(KernelError, match="there is room for 1024 KiB") as caught:
        check_room({"deny_inode_map": 1000}, CAPACITIES, NEW, Room(1 << 20, limit), None)
    assert word in caught.value.hint
    assert caught.value.data["limit"] == limit


def test_5_10_counts_full_maps_against_the_limit_of_locked_memory() -> None:
    plenty = Room(1 << 40, "memory")
    check_room({"deny_path_map": 1}, CAPACITIES, OLD, plenty, 32 << 20)
    with pytest.raises(KernelError) as caught:
        check_room({"deny_path_map": 1}, CAPACITIES, OLD, plenty, 16 << 20)
    assert "ulimit -l" in caught.value.hint
    assert caught.value.data["wanted_bytes"] == pytest.approx(24645632, rel=0.001)


def test_the_tightest_cgroup_above_us_is_the_room(tmp_path: Path) -> None:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    8000000 kB\n")
    (proc / "self/cgroup").write_text("0::/system.slice/x.service\n")
    inner = cgroups / "system.slice/x.service"
    inner.mkdir(parents=True)
    for folder, limit in ((inner, "max"), (inner.parent, "50000000")):
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text("30000000")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 4000000\n")
    assert read_room(proc, cgroups) == Room(24000000, "cgroup")
    assert read_room(proc, None) == Room(8000000 << 10, "memory")


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.1.0-56-amd64", (6, 1)), ("5.10.0", (5, 10)), ("7.2.13+deb14", (7, 2)), ("odd", (0, 0))],
)
def test_a_release_names_its_version(release: str, version: tuple[int, int]) -> None:
    assert parse_release(release) == version
