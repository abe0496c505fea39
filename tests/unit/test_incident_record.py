"""The record of an incident: kept at every step, and never in the way of a recovery."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from files_support import failing
from hypothesis import given
from hypothesis import strategies as st
from incident_support import Clock, begin, host

from aegis_tools.errors import StateError, UsageError
from aegis_tools.incident import content, record, shelf
from aegis_tools.incident.content import SCENARIOS, Content, parse
from aegis_tools.incident.markdown import to_markdown
from aegis_tools.incident.record import Record
from aegis_tools.incident.shelf import Shelf
from aegis_tools.paths import Paths

SCHEMA = json.loads(Path(record.__file__).with_name("incident.schema.json").read_text())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return host(tmp_path)


@pytest.fixture(autouse=True)
def _no_descriptor_stays_open() -> Iterator[None]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def on_disk(paths: Paths, identifier: str) -> dict[str, Any]:
    found = json.loads((paths.incidents / identifier / shelf.RECORD).read_bytes())
    jsonschema.validate(found, SCHEMA)
    return dict(found)


def test_a_record_tells_what_was_done_and_how_long_it_took(paths: Paths, clock: Clock) -> None:
    held = begin(paths, clock)
    clock.sleep(2)
    held.fact("mode_before", "enforce")
    held.rule({"id": "r1", "processes": ["nginx"]})
    held.follow_up("tell the owner of r1")
    held.did("audit", "set the mode to audit", rules=3)
    held.file("journal.txt", "a line\n")
    clock.sleep(3)
    held.close("recovered")
    found = on_disk(paths, held.id)
    assert held.id == "20270115T080000Z-blocking"
    assert (found["result"], found["duration_seconds"]) == ("recovered", 5.0)
    assert found["ended"] == "2027-01-15T08:00:05.000Z"
    (action,) = found["actions"]
    assert (action["action"], action["seconds"], action["data"]) == ("audit", 2.0, {"rules": 3})
    assert found["facts"] == {"mode_before": "enforce"}
    assert found["follow_ups"] == ["tell the owner of r1"]
    evidence = paths.incidents / held.id / shelf.EVIDENCE / "journal.txt"
    assert evidence.read_text() == "a line\n"


def test_files_and_folders_are_for_root_alone(paths: Paths, clock: Clock) -> None:
    held = begin(paths, clock)
    held.did("audit", "a")
    held.file("x", "y")
    held.release()
    for path in (paths.incidents, *paths.incidents.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


def test_a_look_at_a_healthy_host_leaves_nothing(paths: Paths, clock: Clock) -> None:
    held = begin(paths, clock)
    held.saw("mode", "the mode is audit")
    held.fact("a", 1)
    held.file("x", "y")
    held.close("nothing-to-do")
    assert not paths.incidents.exists()
    assert not held.kept


def test_what_was_seen_before_the_first_action_is_kept_with_it(paths: Paths, clock: Clock) -> None:
    held = begin(paths, clock)
    held.saw("mode", "the mode is enforce")
    held.file("x", "y")
    held.did("audit", "set the mode to audit")
    held.release()
    assert [one["action"] for one in on_disk(paths, held.id)["actions"]] == ["mode", "audit"]
    assert (paths.incidents / held.id / shelf.EVIDENCE / "x").read_text() == "y"


def test_nothing_is_written_in_a_dry_run(paths: Paths, clock: Clock) -> None:
    held = begin(paths, clock, dry_run=True)
    held.did("audit", "a")
    held.file("x", "y")
    held.close("recovered")
    assert not paths.incidents.exists()


def test_an_open_record_is_taken_up_by_the_next_run(paths: Paths, clock: Clock) -> None:
    with begin(paths, clock) as first:
        first.fact("sampling_before", 0.5)
        first.did("audit", "a")
    clock.sleep(3600)
    with begin(paths, clock) as second:
        assert (second.id, second.continued) == (first.id, True)
        assert second.done("audit")
        assert not second.done("fix")
        assert second.get("sampling_before") == 0.5


@pytest.mark.parametrize("change", ["a day", "a clock set back", "closed", "another scenario"])
def test_other_records_are_not(paths: Paths, clock: Clock, change: str) -> None:
    with begin(paths, clock) as first:
        first.did("audit", "a")
        if change == "closed":
            first.close("recovered")
    days = {"a day": 1, "a clock set back": -2}.get(change, 0)
    clock.sleep(days * record.CONTINUED_FOR + 1)
    with begin(paths, clock, "map-full" if change == "another scenario" else "blocking") as second:
        assert not second.continued
        assert second.id != first.id


def test_finding_nothing_to_do_after_an_earlier_run_acted_is_a_recovery(
    paths: Paths, clock: Clock
) -> None:
    with begin(paths, clock) as first:
        first.did("audit", "a")
    second = begin(paths, clock)
    second.close("nothing-to-do")
    assert on_disk(paths, first.id)["result"] == "recovered"


def test_two_runs_at_once_write_two_records(paths: Paths, clock: Clock) -> None:
    with begin(paths, clock) as first:
        first.did("audit", "of the first")
        with begin(paths, clock) as second:
            second.did("audit", "of the second")
            assert second.id == f"{first.id}-2"
            first.did("fix", "of the first")
    assert [one["message"] for one in on_disk(paths, first.id)["actions"]] == ["of the first"] * 2
    assert [one["message"] for one in on_disk(paths, second.id)["actions"]] == ["of the second"]


def test_a_step_that_was_cut_off_shows(paths: Paths, clock: Clock) -> None:
    with begin(paths, clock) as held:
        held.doing("audit", "set the mode to audit")
        assert on_disk(paths, held.id)["actions"][0]["ok"] is None
        assert not held.done("audit")
        held.did("audit", "set the mode to audit")
    (action,) = on_disk(paths, held.id)["actions"]
    assert action["ok"] is True


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_never_stops_a_recovery(
    paths: Paths, clock: Clock, call: str, code: int
) -> None:
    with begin(paths, clock, calls=failing(call, code)) as held:
        held.did("audit", "a")
        held.file("x", "y")
        held.did("fix", "b")
        assert held.problem
        assert not held.kept
        assert [one["action"] for one in held.to_dict()["actions"]] == ["audit", "fix"]
        held.close("recovered")
    if call in ("open", "write"):  # nothing came to the disk, so nothing is left to stumble over
        assert Shelf(paths).ids() == []


def test_once_the_disk_has_room_everything_is_written(paths: Paths, clock: Clock) -> None:
    real = paths.state
    real.rmdir()
    real.write_text("in the way")
    with begin(paths, clock) as held:
        held.file("x", "y")
        held.did("audit", "a")
        assert held.problem
        real.unlink()
        real.mkdir(mode=0o700)
        held.did("fix", "b")
        assert held.kept
        assert len(on_disk(paths, held.id)["actions"]) == 2
        assert (paths.incidents / held.id / shelf.EVIDENCE / "x").exists()


def test_a_kill_at_any_instant_leaves_a_record_that_can_be_taken_up(tmp_path: Path) -> None:
    paths = host(tmp_path)
    code = (
        "import sys; from pathlib import Path; from aegis_tools.paths import Paths;"
        "from aegis_tools.incident.record import Record\n"
        "held = Record.begin(Paths(Path(sys.argv[1])), 'blocking'); print('on', flush=True)\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1; held.doing(f'a{n}', 'x' * 500); held.file(f'f{n % 3}', 'y' * 5000)\n"
        "    held.did(f'a{n}', 'x' * 500)\n"
    )
    for wait in (0.0, 0.01, 0.03):
        running = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(record.__file__).parents[2])},
        )
        assert running.stdout is not None
        with running.stdout:
            running.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                running.wait(wait)
            running.send_signal(signal.SIGKILL)
            running.wait()
        for found in Shelf(paths).all():
            assert found.content is not None or "does not exist" in found.fault
    with Record.begin(paths, "blocking") as held:
        held.did("again", "a")
        assert held.kept
        left = [p.name for p in (paths.incidents / held.id).rglob(".*")]
        assert left == []


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"\xff", b"null", b'{"format": 2}', b"[" * 100000, b'{"format":1,"id":1}'],
    ids=str,
)
def test_a_damaged_record_is_left_alone_and_a_new_one_begun(
    paths: Paths, clock: Clock, data: bytes
) -> None:
    with begin(paths, clock) as first:
        first.did("audit", "a")
    path = paths.incidents / first.id / shelf.RECORD
    path.write_bytes(data)
    with begin(paths, clock) as second:
        second.did("audit", "b")
        assert second.id != first.id
    assert path.read_bytes() == data
    with pytest.raises(StateError):
        Shelf(paths).read(first.id)
    assert {one.id: bool(one.fault) for one in Shelf(paths).all()}[first.id]


def test_a_record_that_others_can_change_or_own_or_that_is_no_file_is_not_read(
    paths: Paths, clock: Clock
) -> None:
    with begin(paths, clock) as first:
        first.did("audit", "a")
    path = paths.incidents / first.id / shelf.RECORD
    path.chmod(0o666)
    with pytest.raises(StateError, match="changed by others"):
        Shelf(paths).read(first.id)
    path.chmod(0o600)
    os.chown(path, 65534, 65534)
    with pytest.raises(StateError, match="another user"):
        Shelf(paths).read(first.id)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StateError, match="pipe"):
        Shelf(paths).read(first.id)
    path.unlink()
    path.write_bytes(b" " * (content.MAX_JSON + 1))
    with pytest.raises(StateError, match="larger"):
        Shelf(paths).read(first.id)


@pytest.mark.parametrize("name", ["../../etc", "x", "", "20270115T080000Z-blocking/..", "a\nb"])
def test_an_id_that_is_none_is_a_usage_error(paths: Paths, name: str) -> None:
    with pytest.raises(UsageError):
        Record.open(paths, name)


def test_a_link_in_the_place_of_a_record_is_none(paths: Paths, clock: Clock) -> None:
    with begin(paths, clock) as first:
        first.did("audit", "a")
    other = paths.incidents / "20270115T080000Z-map-full"
    other.symlink_to(paths.incidents / first.id)
    with pytest.raises(UsageError):
        Record.open(paths, other.name)
    assert Shelf(paths).ids() == [first.id]


def test_a_foreign_folder_keeps_records_in_memory(paths: Paths, clock: Clock) -> None:
    paths.incidents.mkdir()
    os.chown(paths.incidents, 65534, 65534)
    with begin(paths, clock) as held:
        held.did("audit", "a")
        assert "another user" in held.problem


def test_only_so_many_are_kept_and_the_oldest_closed_goes_first(
    paths: Paths, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "MAX_RECORDS", 3)
    made = []
    for number in range(5):
        with begin(paths, clock, SCENARIOS[number]) as held:
            held.did("a", "a")
            if number != 0:
                held.close("recovered")
        made.append(held.id)
        clock.sleep(1)
    assert Shelf(paths).ids() == [made[4], made[3], made[0]]


def test_an_old_record_goes_where_evidence_takes_too_much_room(
    paths: Paths, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "MAX_BYTES", 10000)
    for _ in range(2):
        with begin(paths, clock) as held:
            held.file("x", "y" * 8000)
            held.did("a", "a")
            held.close("recovered")
        clock.sleep(1)
    with begin(paths, clock) as last:
        last.did("a", "a")
    assert last.id in Shelf(paths).ids()
    assert len(Shelf(paths).ids()) == 2


def test_evidence_is_bounded_and_of_a_long_text_the_end_is_kept(
    paths: Paths, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "MAX_FILE", 1000)
    monkeypatch.setattr(record, "MAX_FILES", 2500)
    with begin(paths, clock) as held:
        held.did("a", "a")
        held.file("../../long", b"x" * 2000 + b"the end")
        held.file("binary", b"ELF\0" * 10)
        for number in range(5):
            held.file(f"more{number}", b"y" * 900)
    files = held.to_dict()["files"]
    assert all(one["bytes"] <= 1000 for one in files)
    assert sum(one["bytes"] for one in files) <= 2500 + 5 * 60
    folder = paths.incidents / held.id / shelf.EVIDENCE
    assert (folder / "_.._long").read_bytes().endswith(b"the end")
    assert b"no text" in (folder / "binary").read_bytes()


@given(JSON, st.text(), st.binary())
def test_whatever_is_kept_can_be_read_again_and_shown(value: Any, text: str, data: bytes) -> None:
    held = Content("20270115T080000Z-blocking", "blocking", host=content.text(text))
    held.know(text, value)
    held.blame({"id": value, "text": text, "raw": data})
    held.follow(text)
    held.act(content.entry(1.0, 2.0, text, text, ok=True, changes=True, data={text: value}))
    found = parse(held.to_bytes())
    assert found.to_dict() == held.to_dict()
    jsonschema.validate(found.to_dict(), SCHEMA)
    page = to_markdown(found.to_dict())
    assert "<" not in page.replace("\\<", "")
    assert not any(0xD800 <= ord(c) <= 0xDFFF for c in page)


def test_nested_facts_read_as_words_and_those_for_another_run_stay_in_the_json() -> None:
    held = Content("20270115T080000Z-blocking", "blocking", host="host")
    held.know("fix", {"rule": "price", "undo_with": ["a", "b"], "nothing": "", "proven": True})
    held.know("settled", {"boot": "x"})
    page = to_markdown(parse(held.to_bytes()).to_dict())
    assert "| fix | rule price, undo with a, b, proven yes |" in page
    assert "settled" not in page


@given(st.binary(max_size=300) | JSON.map(lambda v: repr(v).encode("utf-8", "replace")))
def test_parsing_anything_raises_nothing_but_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(data)


def test_a_record_never_becomes_larger_than_can_be_read(paths: Paths, clock: Clock) -> None:
    with begin(paths, clock) as held:
        for number in range(150):
            held.fact(f"f{number}", ["x" * 1000] * 60)
        held.did("a", "a", more=["y" * 1000] * 1000)
        assert held.kept
    with Record.open(paths, held.id) as again:
        assert again.done("a")
