"""The files of a soak: what is written is read again, and nothing in them is ever an error."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.errors import StateError
from aegis_tools.paths import Paths
from aegis_tools.soak import columns, happened, hits, reading, settings
from aegis_tools.soak.columns import Sample
from aegis_tools.soak.folder import Folder, folder
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.hits import Hit
from aegis_tools.soak.settings import Host, PolicyFacts, Result, Settings

SEED_HEADER = (
    "timestamp,cpu_pct,mem_mb,blocks,ringbuf_drops,map_deny_path,map_deny_inode,map_allow_cgroup\n"
)
COUNTS = st.none() | st.integers(0, 2**64 - 1)
AMOUNTS = st.none() | st.integers(0, 10**12).map(lambda n: n / 1000)
SAMPLES = st.builds(
    Sample,
    timestamp=st.integers(0, 2**40),
    **dict.fromkeys(
        ("cpu_pct", "mem_mb", "boot_s", "agent_start_s", "map_fill", "probe_us",
         "mem_agent_anon_mb", "load1", "turn_ms"), AMOUNTS),
    **dict.fromkeys(
        ("blocks", "ringbuf_drops", "map_deny_path", "map_deny_inode", "map_allow_cgroup",
         "agent_pid", "restarts", "audits", "events", "bpf_runs", "bpf_ns"), COUNTS),
    boot=st.none() | st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
    policy=st.none() | st.from_regex(r"[0-9a-f]{12}", fullmatch=True),
    agent=st.none() | st.sampled_from(columns.AGENT),
    mode=st.none() | st.sampled_from(columns.MODES),
    canary=st.none() | st.sampled_from(columns.CANARY),
)  # fmt: skip
SETTINGS = Settings(
    id="20261122T101500Z-shadow",
    scenario="shadow",
    started=1795342500.25,
    duration_s=14 * 86400,
    interval_s=60,
    boot="0123abcd",
    boot_s=12.5,
    workload="developer",
    policy=PolicyFacts("a" * 64, 7, ("key1", "key2")),
    host=Host("h", "6.12.0", 4, "a processor", 8192, "kvm", "0.1.0"),
    override="for a test",
    expected=("path:/etc/shadow", "a,b"),
    note="n",
)


def test_the_first_columns_are_those_of_the_seed() -> None:
    assert columns.HEADER.startswith(SEED_HEADER.rstrip("\n") + ",boot,boot_s,agent,")
    assert list(columns.COLUMNS) == [field.name for field in fields(Sample)]


@given(SAMPLES)
def test_a_row_is_read_as_it_was_written(sample: Sample) -> None:
    found, problems = columns.parse(columns.HEADER + columns.format_row(sample))
    if not sample.present:
        sample = replace(sample, cpu_pct=None, mem_mb=None)
    assert (found, problems) == ([sample], [])


def test_a_file_of_the_seeds_own_sampler_is_read() -> None:
    text = SEED_HEADER + "1700000000,0.8,8.2031,42,0,3,3,1\n1700000300,DAEMON_DEAD,0,0,0,0,0,0\n"
    (first, second), problems = columns.parse(text)
    assert problems == []
    assert (first.cpu_pct, first.mem_mb, first.blocks) == (0.8, 8.2031, 42)
    assert first.present
    assert first.boot is None
    assert (second.agent, second.present, second.cpu_pct) == ("dead", False, None)


def test_rows_without_a_header_are_told_apart_by_their_length() -> None:
    ours = columns.format_row(Sample(2, 0.5, 8.0, agent="running"))
    found, problems = columns.parse("1,0.8,8.2,1,0,3,3,1\n" + ours)
    assert problems == []
    assert [one.agent for one in found] == [None, "running"]


def test_an_agent_that_was_stopped_in_order_is_not_dead() -> None:
    row = columns.format_row(Sample(1, agent="stopped", boot="0" * 8))
    assert row.startswith("1,DAEMON_DEAD,0,")
    assert columns.parse(row)[0][0].agent == "stopped"


def test_what_a_killed_writer_left_is_no_row_and_loses_no_other() -> None:
    row = columns.format_row(Sample(1, 0.5, 8.0))
    found, problems = columns.parse(columns.HEADER + row + row[:20])
    assert len(found) == 1
    assert problems == ["the last row is not whole: its writer was stopped"]
    found, problems = columns.parse(columns.HEADER + row + row[:20] + "\n" + row)
    assert len(found) == 2
    assert len(problems) == 1
    assert problems[0].startswith("line 3 is no row")


@pytest.mark.parametrize(
    "row",
    ["x,1,1,1,1,1,1,1", "1,nan,1,1,1,1,1,1", "1,-1,1,1,1,1,1,1", "1,1,inf,1,1,1,1,1", ",,,,,,,",
     "1,1,1,1.5,1,1,1,1", "1,1,1,+1,1,1,1,1", "1,1,1,٣,1,1,1,1", "1,1,1," + "9" * 21 + ",1,1,1,1",
     "1,1,1_0,1,1,1,1,1", "1,1,1", "1" + "," * 30, "1,1,1,1,1,1,1," + "1" * 5000, "\0", " "],
)  # fmt: skip
def test_a_row_that_is_none_is_a_problem(row: str) -> None:
    found, problems = columns.parse(f"{SEED_HEADER}{row}\n1,1,1,1,1,1,1,1\n")
    assert [one.timestamp for one in found] == [1]
    assert len(problems) == 1


@given(st.text(max_size=300) | st.text(alphabet="0123456789,.\n-eD", max_size=300))
def test_no_text_is_an_error(text: str) -> None:
    for parse in (columns.parse, happened.parse, hits.parse):
        found, problems = parse(text)
        assert isinstance(found, list)
        assert all(isinstance(one, str) for one in problems)


def test_problems_are_few_whatever_the_file_holds() -> None:
    _, problems = columns.parse("x\n" * 1000)
    assert len(problems) == columns.MAX_PROBLEMS + 1
    assert problems[-1] == "900 more lines are no rows"
    found, problems = columns.parse("1,1,1,1,1,1,1,1\n" * 5, most=3)
    assert (len(found), problems) == (3, ["only the first 3 rows are read"])


EVENTS = st.builds(
    Happened,
    time=st.floats(0, 2**39),
    kind=st.sampled_from([kind for kind in happened.KINDS if kind not in happened.CLASSES]),
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=happened.MAX_TEXT),
    boot_s=st.none() | st.floats(0, 1e9),
    value=st.none() | st.floats(-1e9, 1e9),
)


@given(EVENTS)
def test_what_happened_is_read_as_it_was_written(event: Happened) -> None:
    line = happened.format_line(event)
    assert line.count("\n") == 1
    assert happened.parse(line) == ([event], [])


@pytest.mark.parametrize(
    "event",
    [{"kind": "other"}, {"kind": "kernel"}, {"kind": "kernel", "class_": "x"},
     {"kind": "begun", "class_": "oom"}, {"time": -1}, {"time": True}, {"time": float("nan")},
     {"text": "x" * 501}, {"boot_s": -1.0}, {"value": float("inf")}],
)  # fmt: skip
def test_what_cannot_have_happened_is_refused(event: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not as it must be"):
        Happened(**{"time": 1.0, "kind": "begun", **event})  # type: ignore[arg-type]


def test_a_line_of_another_kind_is_a_problem_and_the_others_stay() -> None:
    good = happened.format_line(Happened(1.0, "kernel", "killed", class_="oom"))
    text = good + '{"time":1}\n[]\n{"time":1,"kind":"begun","more":1}\n{"time":1,"ki'
    found, problems = happened.parse(text)
    assert [one.class_ for one in found] == ["oom"]
    assert problems == ["4 lines of what happened cannot be read"]


def test_a_list_of_what_happened_is_read_to_its_bound() -> None:
    line = happened.format_line(Happened(1.0, "gap"))
    found, problems = happened.parse(line * (happened.MAX_LINES + 1))
    assert len(found) == happened.MAX_LINES
    assert len(problems) == 1


@given(
    st.integers(0, 2**40),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"), min_size=1,
            max_size=100),
    st.integers(0, 2**64 - 1),
)  # fmt: skip
def test_a_hit_is_read_as_it_was_written(when: int, rule: str, count: int) -> None:
    hit = Hit(when, rule, count, count)
    assert hits.parse(hits.HEADER + hits.format_row(hit)) == ([hit], [])


def test_a_rule_s_id_with_a_newline_stays_on_its_line() -> None:
    assert hits.format_row(Hit(1, 'a\n"b",c', 1, 2)) == '1,"a\\n""b"",c",1,2\n'


def test_rows_that_are_no_hits_are_a_problem() -> None:
    found, problems = hits.parse('1,a,1,1\n1,a,1\n1,,1,1\n1,"a,1,1\n1,a,-1,1\n1,a,1,1')
    assert len(found) == 1
    assert problems == ["5 rows of hits cannot be read"]


def test_settings_are_read_as_they_were_written() -> None:
    assert settings.parse_settings(SETTINGS.to_bytes()) == SETTINGS
    bare = replace(SETTINGS, policy=None, expected=(), host=Host())
    assert settings.parse_settings(bare.to_bytes()) == bare
    result = Result("done", 1.5)
    assert settings.parse_result(result.to_bytes()) == result


@pytest.mark.parametrize(
    "change",
    [{"id": "x"}, {"id": "20261122T101500Z-stress"}, {"scenario": "other"}, {"started": -1},
     {"started": "1"}, {"duration_s": 0}, {"duration_s": 1.5}, {"interval_s": 0},
     {"interval_s": True}, {"interval_s": 1}, {"boot": "xyz"}, {"mode": "on"}, {"workload": "x"},
     {"policy": {"digest": "x", "serial": 1, "signers": []}}, {"policy": {"digest": "a" * 64}},
     {"policy": []}, {"host": {"cpus": "4"}}, {"host": {"other": 1}}, {"expected": "x"},
     {"expected": [1]}, {"expected": ["x"] * 1001}, {"note": "x" * 2001}, {"format": 2},
     {"more": 1}, {"boot_s": None}],
)  # fmt: skip
def test_settings_that_are_none_are_refused(change: dict[str, object]) -> None:
    data = json.dumps({**SETTINGS.to_dict(), **change}).encode()
    with pytest.raises(ValueError, match=r"."):
        settings.parse_settings(data)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"format":1}', b"null"])
def test_what_is_no_json_of_ours_is_refused(data: bytes) -> None:
    for parse in (settings.parse_settings, settings.parse_result):
        with pytest.raises(ValueError, match=r"."):
            parse(data)


def test_an_id_says_when_and_what() -> None:
    assert settings.new_id("stress", 1795342500.9) == "20261122T101500Z-stress"


def made(tmp_path: Path) -> tuple[Paths, Folder]:
    paths = Paths(tmp_path)
    at = folder(paths, SETTINGS.id)
    at.path.mkdir(parents=True, mode=0o700)
    at.settings.write_bytes(SETTINGS.to_bytes())
    return paths, at


def test_a_soak_that_has_only_begun_is_read(tmp_path: Path) -> None:
    paths, _ = made(tmp_path)
    paths.soak_running.write_text(SETTINGS.id)
    soak = reading.read_soak(paths, SETTINGS.id, clock=lambda: 5.0)
    assert soak == reading.Soak(SETTINGS, now=5.0)
    assert (soak.running, soak.until) == (True, 5.0)


def test_damage_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    paths, at = made(tmp_path)
    at.samples.write_bytes(
        columns.format_row(Sample(int(SETTINGS.started))).encode() + b"\xff\xfe\n"
    )
    at.happened.write_text("x\n", encoding="utf-8")
    at.hits.write_text("x\n", encoding="utf-8")
    at.result.write_text("{}", encoding="utf-8")
    soak = reading.read_soak(paths, SETTINGS.id)
    assert len(soak.samples) == 1
    assert len(soak.problems) == 4
    assert (soak.state, soak.running, soak.until) == ("left", False, SETTINGS.started)


def test_a_soak_that_ended_lasted_until_then(tmp_path: Path) -> None:
    paths, at = made(tmp_path)
    at.result.write_bytes(Result("stopped", 7.0).to_bytes())
    soak = reading.read_soak(paths, SETTINGS.id, clock=lambda: 9.0)
    assert (soak.running, soak.until) == (False, 7.0)


@pytest.mark.parametrize("identifier", ["", "x", "../../etc", "20261122T101500Z-enforce"])
def test_a_soak_that_is_not_there_is_an_error(tmp_path: Path, identifier: str) -> None:
    paths, _ = made(tmp_path)
    with pytest.raises(StateError, match="there is no soak"):
        reading.read_soak(paths, identifier)


def test_a_soak_whose_settings_are_damaged_is_an_error(tmp_path: Path) -> None:
    paths, at = made(tmp_path)
    at.settings.write_text("{}", encoding="utf-8")
    with pytest.raises(StateError, match="damaged"):
        reading.read_soak(paths, SETTINGS.id)
    at.settings.unlink()
    with pytest.raises(StateError, match="missing"):
        reading.read_soak(paths, SETTINGS.id)


def test_the_settings_of_another_soak_are_damage(tmp_path: Path) -> None:
    paths, at = made(tmp_path)
    at.path.rename(at.path.with_name("20261122T101501Z-shadow"))
    with pytest.raises(StateError, match="damaged"):
        reading.read_soak(paths, "20261122T101501Z-shadow")


def test_rows_that_others_could_have_changed_are_not_read(tmp_path: Path) -> None:
    paths, at = made(tmp_path)
    at.samples.write_text("", encoding="utf-8")
    at.samples.chmod(0o666)
    with pytest.raises(StateError, match="can be changed by others"):
        reading.read_soak(paths, SETTINGS.id)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    paths, at = made(tmp_path)
    at.samples.touch()
    os.truncate(at.samples, columns.MAX_BYTES + 1)
    with pytest.raises(StateError, match="larger than"):
        reading.read_soak(paths, SETTINGS.id)


def test_soaks_are_listed_newest_first(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    assert reading.soaks(paths) == []
    assert reading.newest(paths) == ""
    for name in ("20261122T101500Z-shadow", "20261123T000000Z-enforce", "other"):
        (paths.soaks / name).mkdir(parents=True)
    (paths.soaks / "20261124T000000Z-stress").touch()
    assert reading.soaks(paths) == ["20261123T000000Z-enforce", "20261122T101500Z-shadow"]
    assert reading.newest(paths) == "20261123T000000Z-enforce"


def test_the_soak_that_runs_is_named(tmp_path: Path) -> None:
    paths, _ = made(tmp_path)
    assert reading.running(paths) == ""
    paths.soak_running.write_text(SETTINGS.id + "\n", encoding="ascii")
    assert reading.running(paths) == SETTINGS.id
    paths.soak_running.write_text("../x", encoding="ascii")
    with pytest.raises(StateError, match="damaged"):
        reading.running(paths)
