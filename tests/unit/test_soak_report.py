"""The report's document: what is in it, and how its files are written."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import soak_story
from hypothesis import given
from hypothesis import strategies as st
from soak_story import DAY, START, Story, report_of, verdict

from aegis_tools.control.files import Calls
from aegis_tools.errors import StateError
from aegis_tools.soak import report as module
from aegis_tools.soak.brief import brief
from aegis_tools.soak.folder import folder
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.hits import Hit
from aegis_tools.soak.reading import Soak, read_soak
from aegis_tools.soak.report import build, to_json, write_report
from aegis_tools.soak.series import Axis
from aegis_tools.soak.settings import Result

SCHEMA = json.loads(Path(module.__file__).with_name("report.schema.json").read_text())
FILES = ("report.json", "report.md", "report.html", "verdict.json")


def made(soak: Soak) -> dict[str, Any]:
    """Return the report as it is read again."""
    found = json.loads(to_json(build(soak, verdict(soak), evidence=[("first-journal.txt", 10)])))
    jsonschema.validate(found, SCHEMA)
    return dict(found)


@pytest.mark.parametrize("name", ["passed", "leaked", "gaps", "short"])
def test_a_report_is_what_its_schema_says(name: str) -> None:
    found = json.loads(to_json(report_of(name)))
    jsonschema.validate(found, SCHEMA)
    assert brief(found).id == found["soak"]["id"]


def test_the_same_soak_makes_the_same_bytes() -> None:
    assert to_json(report_of("leaked")) == to_json(report_of("leaked"))


def test_figures_are_those_of_the_seeds_report() -> None:
    found = made(soak_story.passed())
    assert found["figures"]["cpu"].keys() == {"mean", "p95", "p99", "max"}
    assert 0.7 < found["figures"]["cpu"]["mean"] < 0.9
    assert (found["figures"]["restarts"], found["figures"]["reboots"]) == (1, 1)
    assert found["denials"][0]["rule"] == "/etc/shadow"
    assert found["recommendation"]["text"].startswith("Ready for phase 2")
    assert found["policy"]["signers"] == ["ann", "bob"]


def test_a_soak_without_any_sample_has_a_report() -> None:
    story = Story(600, 5)
    story.samples.clear()
    found = made(story.skip(60).soak())
    assert found["figures"]["cpu"] is None
    assert found["series"]["cpu"] == []
    assert found["series"]["gaps"] == [[0, 60]]


def test_the_seeds_eight_columns_are_enough() -> None:
    soak = Story(600, 5).run(600).end()
    bare = [replace(one, **dict.fromkeys(("boot", "boot_s", "agent", "events", "canary", "probe_us",
                                          "map_fill", "audits", "bpf_runs", "bpf_ns")))
            for one in soak.samples]  # fmt: skip
    found = made(replace(soak, samples=tuple(bare)))
    assert len(found["series"]["cpu"]) > 100
    assert found["series"]["canary"] == []
    assert found["series"]["agent"][0][2] == "running"


@pytest.mark.parametrize("jump", [-7 * DAY, 400 * DAY])
def test_a_clock_that_was_set_moves_nothing(jump: int) -> None:
    soak = Story(DAY).run(DAY).end()
    half = len(soak.samples) // 2
    moved = [replace(one, timestamp=one.timestamp + jump) for one in soak.samples[half:]]
    ended = Result("done", START + DAY + jump)
    jumped = replace(soak, samples=soak.samples[:half] + tuple(moved), result=ended)
    assert Axis(jumped, DAY).at == Axis(soak, DAY).at
    assert made(jumped)["series"]["cpu"] == made(soak)["series"]["cpu"]


def test_time_without_samples_is_a_gap_at_both_ends_too() -> None:
    story = Story(DAY)
    story.samples.clear()
    soak = story.skip(7200).run(3600).skip(7200).run(3600).skip(7200).soak()
    assert Axis(soak, 28800).gaps == [(0, 7500), (10800, 18300), (21600, 28800)]
    found = made(soak)
    assert [span[:2] for span in found["series"]["agent"]] == [[7500, 11100], [18300, 21900]]


def test_a_counter_that_begins_anew_has_lost_nothing() -> None:
    story = Story(DAY)
    story.lost = 40
    story.run(3600)
    story.lost = 50
    story.run(3600).reboot()
    story.lost = 5
    found = made(story.run(3600).soak())
    assert found["figures"]["lost"] == 55
    lost = [one[3] for one in found["series"]["lost"]]
    assert (lost[0], lost[-1]) == (0, 55)


def test_what_rules_had_matched_before_is_not_counted() -> None:
    story = Story(DAY)
    soak = story.run(3600).soak()
    first = int(START)
    rows = (Hit(first, "old", 90, 5), Hit(first + 300, "old", 92, 5), Hit(first + 300, "new", 7, 0),
            Hit(first + 600, "old", 1, 0))  # fmt: skip
    found = made(replace(soak, hits=rows))["denials"]
    assert found == [
        {"rule": "new", "blocks": 7, "audits": 0, "expected": False},
        {"rule": "old", "blocks": 3, "audits": 0, "expected": False},
    ]


def test_of_too_much_that_happened_the_worst_is_told() -> None:
    story = Story(DAY).run(DAY)
    warnings = [Happened(START + n, "kernel", f"w{n}", class_="warning") for n in range(5000)]
    died = Happened(START + 4000.5, "crash", "it died")
    soak = replace(story.soak(), happened=(*warnings[:4001], died, *warnings[4001:]))
    found = made(soak)
    assert len(found["happened"]) == module.MOST_TOLD
    assert "it died" in [one["text"] for one in found["happened"]]
    assert found["happened_left_out"] == 5001 - module.MOST_TOLD
    after = [one["after_s"] for one in found["happened"]]
    assert after == sorted(after)


def test_of_a_short_time_the_worst_state_is_told() -> None:
    story = Story(14 * DAY)
    soak = story.run(7 * DAY).run(300, agent="dead", canary="miss").run(7 * DAY - 300).end()
    found = made(soak)["series"]
    assert [span[2] for span in found["canary"]] == ["ok", "miss", "ok"]
    assert [span[2] for span in found["agent"]] == ["running", "dead", "running"]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**66), st.integers(0, 2**40), st.sampled_from(["aaaaaaaa", None])
        ),
        max_size=30,
    )
)
def test_samples_of_any_time_make_a_report(found: list[tuple[int, int, str | None]]) -> None:
    template = Story(600, 5).samples[0]
    rows = [replace(template, timestamp=at, boot_s=float(boot_s), boot=boot)
            for at, boot_s, boot in found]  # fmt: skip
    soak = replace(Story(600, 5).soak(), samples=tuple(rows), now=START + 600)
    module.to_json(made(soak))


def test_the_files_are_written_and_then_left_alone(tmp_path: Path) -> None:
    soak = soak_story.ten_minutes()
    paths = soak_story.write(tmp_path, soak)
    at = folder(paths, soak.settings.id).path
    write_report(paths, read_soak(paths, soak.settings.id))
    before = {name: (at / name).stat().st_ino for name in FILES}
    assert (at / "verdict.json").stat().st_mode & 0o777 == 0o600
    write_report(paths, read_soak(paths, soak.settings.id))
    assert {name: (at / name).stat().st_ino for name in FILES} == before
    (at / "report.md").write_text("damaged")
    write_report(paths, read_soak(paths, soak.settings.id))
    after = {name: (at / name).stat().st_ino for name in FILES}
    assert {name for name in FILES if after[name] != before[name]} == {"report.md"}


@pytest.mark.parametrize("number", range(4))
def test_a_disk_that_fills_leaves_whole_files_and_the_verdict_for_last(
    tmp_path: Path, number: int
) -> None:
    soak = soak_story.ten_minutes()
    paths = soak_story.write(tmp_path, soak)
    at = folder(paths, soak.settings.id).path
    left = number

    def fsync(fd: int) -> None:
        nonlocal left
        if os.path.isfile(f"/proc/self/fd/{fd}"):  # noqa: PTH113
            if not left:
                raise OSError(errno.ENOSPC, "No space left on device")
            left -= 1
        os.fsync(fd)

    with pytest.raises(StateError, match="cannot write"):
        write_report(paths, read_soak(paths, soak.settings.id), calls=Calls(fsync=fsync))
    assert [(at / name).exists() for name in FILES] == [n < number for n in range(4)]
    assert not list(at.glob(".*"))
    write_report(paths, read_soak(paths, soak.settings.id))
    assert all((at / name).read_bytes().endswith(b"\n") for name in FILES)


def test_evidence_is_listed_and_links_are_not_followed(tmp_path: Path) -> None:
    soak = soak_story.ten_minutes()
    at = folder(soak_story.write(tmp_path, soak), soak.settings.id)
    at.evidence.mkdir()
    (at.evidence / "end-journal.txt").write_text("x" * 12)
    (at.evidence / "link").symlink_to("/etc/passwd")
    assert module.evidence_of(at) == [("end-journal.txt", 12)]
