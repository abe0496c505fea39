"""A storm of events: fewer at once, why, and room for them; then as before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from edit_support import Host
from kernel_support import NO_LSM
from storm_support import policy_of, ready_agent, storm

from aegis_tools.control.live import Live
from aegis_tools.incident import sampling
from aegis_tools.kernel import loader
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths

BURST = 2000
SMALL_RING = 1 << 16
PERFORMANCE = (
    "incident", "performance", "--seconds", "2", "--max-events", "1000000", "--max-hook-cpu", "100",
)  # fmt: skip


@pytest.fixture
def stormy(paths: Paths, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Host:
    """Return a host with a ring of 64 KiB that watches the files of ``tmp_path/files``."""
    loader.load(Pins(paths.pins), NO_LSM, loader.LoadOptions(ringbuf_bytes=SMALL_RING))
    host = Host(paths, capsys)
    host("policy", "apply", policy_of(tmp_path / "files"))
    return host


@pytest.fixture
def agent(stormy: Host, tmp_path: Path) -> Iterator[None]:
    with ready_agent(stormy.paths, tmp_path / "events"):
        yield


def rate(host: Host) -> float:
    with Live(Pins(host.paths.pins)) as live:
        return sampling.rate(live)


def ring(host: Host) -> int:
    with Live(Pins(host.paths.pins)) as live:
        return live.map("events").max_entries


def states(answer: dict[str, Any]) -> dict[str, str]:
    return {step["action"]: step["state"] for step in answer["steps"]}


def test_a_quiet_host_is_left_alone(stormy: Host, agent: None) -> None:
    del agent
    found = stormy(*PERFORMANCE, "--apply", "--restore")
    assert (found["found"], found["changed"], found["result"]) == (False, False, "nothing-to-do")
    assert (rate(stormy), ring(stormy)) == (1.0, SMALL_RING)
    assert not stormy.paths.incidents.exists()
    assert not stormy.paths.sampling.exists()


def test_nothing_loaded_costs_nothing(stormy: Host) -> None:
    Pins(stormy.paths.pins).remove_all()
    assert stormy(*PERFORMANCE)["result"] == "nothing-to-do"


def test_a_storm_is_sampled_then_given_room_and_told_of_whole_again(
    stormy: Host, agent: None, tmp_path: Path
) -> None:
    del agent
    read = (*PERFORMANCE, "--event-sample-rate", "0.01", "--file", tmp_path / "events")
    with storm(tmp_path / "files", BURST):
        dry = stormy(*read, "--apply", "--restore", "--dry-run")
        assert (dry["found"], dry["changed"]) == (True, True)
        assert (rate(stormy), ring(stormy)) == (1.0, SMALL_RING)

        first = stormy(*read)
        assert first["result"] == "recovered", first
        assert [cause["name"] for cause in first["causes"]] == ["ring"]
        assert rate(stormy) == pytest.approx(0.01)
        sides = first["comparison"]
        assert sides["dropped_per_second"]["before"] > 0
        assert sides["dropped_per_second"]["after"] == 0
        before = first["record"]["facts"]["before"]
        assert before["rules"][0]["rule"].startswith(f"path:{tmp_path}/files/f")
        assert before["processes"][0]["process"].startswith("python")
        assert before["measured"]
        assert before["hooks"][0]["runs"] > 0
        assert first["record"]["result"] == ""

        again = stormy(*read)
        assert (again["changed"], again["result"]) == (False, "recovered")
        assert again["id"] == first["id"]

        last = stormy(*read, "--apply", "--restore")
    assert last["result"] == "recovered", last
    assert last["id"] == first["id"]
    assert states(last)["agent-back"] == "done"
    assert states(last)["larger-ring"] == states(last)["restore-sampling"] == "done"
    assert (rate(stormy), ring(stormy)) == (
        1.0,
        before and last["comparison"]["ring_bytes"]["after"],
    )
    assert ring(stormy) > SMALL_RING
    assert last["comparison"]["dropped_per_second"]["before"] > 0
    assert last["comparison"]["dropped_per_second"]["after"] == 0
    assert last["record"]["result"] == "recovered"
    assert not [one for one in last["record"]["follow_ups"] if "ring" in one], last["record"]
    assert not stormy.paths.sampling.exists()
    kept = stormy("boot", "--dry-run")
    assert kept["digest"]


def test_a_rate_that_was_lowered_comes_back_as_it_was(stormy: Host) -> None:
    stormy("config", "set", "event-sample-rate", "0.3")
    with Live(Pins(stormy.paths.pins)) as live:
        for to in (0.2, 0.1):
            sampling.lower(stormy.paths, live, to, now=1.0)
            assert sampling.before(stormy.paths, live) == pytest.approx(0.3)
    found = stormy(*PERFORMANCE, "--restore")
    assert found["result"] == "recovered"
    assert rate(stormy) == pytest.approx(0.3)
    assert stormy(*PERFORMANCE, "--restore")["changed"] is False


@pytest.mark.parametrize("damage", ["", "{}", '{"format": 1, "sample": -1}', "[]", '{"format": 2}'])
def test_a_damaged_record_of_the_rate_is_none(stormy: Host, damage: str) -> None:
    with Live(Pins(stormy.paths.pins)) as live:
        sampling.lower(stormy.paths, live, 0.1, now=1.0)
        stormy.paths.sampling.write_text(damage)
        assert sampling.before(stormy.paths, live) is None
