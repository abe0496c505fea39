"""Waves: their sizes are Ansible's, and there is time for every look."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.rollout.waves import ROUNDS, pauses, plan_watch, wave_number, wave_sizes

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("hosts", "serial", "sizes"),
    [
        (1000, [1, "10%", "50%", "100%"], [1, 100, 500, 399]),
        (4, [1, 2, 1], [1, 2, 1]),
        (7, [1, 2], [1, 2, 2, 2]),
        (5, ["10%"], [1, 1, 1, 1, 1]),
        (3, ["1", "0"], [1, 2]),
        (3, [], [3]),
    ],
)
def test_waves_are_those_of_serial(hosts: int, serial: list[int | str], sizes: list[int]) -> None:
    assert wave_sizes(hosts, serial) == sizes
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    found = [wave_number(done, hosts, serial) for done in starts]
    assert found == [(n, len(sizes)) for n in range(1, len(sizes) + 1)]


def test_a_person_is_asked_after_waves_that_others_follow() -> None:
    assert [pauses(n, 3, ["each"]) for n in (1, 2, 3)] == [True, True, False]
    assert [pauses(n, 3, ["2", "3"]) for n in (1, 2, 3)] == [False, True, False]
    assert not pauses(1, 3, [])


def test_looks_that_take_longer_than_the_interval_stretch_it() -> None:
    few = plan_watch(5, forks=5, soak=60, interval=5, look_seconds=2)
    assert (few.looks, few.interval, few.needed) == (13, 5, 66)
    many = plan_watch(500, forks=50, soak=60, interval=5, look_seconds=2)
    assert (many.looks, many.interval, many.needed) == (4, 20, 120)


def test_without_a_soak_there_is_one_look() -> None:
    found = plan_watch(10, forks=5, soak=0, interval=5, look_seconds=2)
    assert (found.looks, found.interval, found.needed) == (1, 0, 12)


@given(
    st.integers(1, 10_000), st.integers(1, 500), st.floats(0, 1e5), st.floats(0, 1e4),
    st.floats(0.1, 60),
)  # fmt: skip
def test_the_whole_soak_is_watched_and_there_is_time_for_it(
    hosts: int, forks: int, soak: float, interval: float, look: float
) -> None:
    found = plan_watch(hosts, forks=forks, soak=soak, interval=interval, look_seconds=look)
    watched = (found.looks - 1) * found.interval
    assert watched >= soak * 0.999
    assert found.interval >= found.round_seconds * 0.999 or found.looks == 1
    assert found.needed >= watched * 0.999 + ROUNDS * found.round_seconds * 0.999


def test_the_playbook_and_the_role_agree_on_the_waves() -> None:
    play = yaml.safe_load((REPOSITORY / "playbooks/rollout.yml").read_text())[0]
    role = yaml.safe_load((REPOSITORY / "roles/aegisbpf/defaults/main.yml").read_text())
    assert str(role["aegisbpf_waves"]) in play["serial"]
