"""Lines from rotating files and from a journal."""

from __future__ import annotations

import json
import lzma
import os
from pathlib import Path
from typing import Any

import pytest
from event_records import NOON, file_record
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.agent.decode import Decoder
from aegis_tools.agent.eventfile import EventFile
from aegis_tools.agent.eventsource import Files, Journal, split
from aegis_tools.agent.search import MAX_LINE
from aegis_tools.cli.main import run
from aegis_tools.errors import StateError

DATA = Path(__file__).parent / "data"


def line(number: int, **more: Any) -> bytes:
    return Decoder(offset_ns=NOON * 10**9).line(file_record(pid=number, **more))


def pids(batches: Any) -> list[int]:
    return [json.loads(each)["pid"] for batch in batches for each in batch if each]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@given(
    st.lists(st.binary(max_size=50).filter(lambda b: b"\n" not in b)),
    st.binary(max_size=20).filter(lambda b: b"\n" not in b),
    st.integers(1, 64),
)
def test_lines_come_whole_however_they_are_read(lines: list[bytes], rest: bytes, size: int) -> None:
    data = b"".join(each + b"\n" for each in lines) + rest
    pieces = iter([data[at : at + size] for at in range(0, len(data), size)])
    got = [each for batch in split(lambda: next(pieces, b"")) for each in batch]
    assert got == [*lines, *([rest] if rest else [])]


def test_a_line_that_does_not_end_takes_no_memory() -> None:
    pieces = iter([b"good\n", *[b"x" * MAX_LINE] * 5, b"tail\ngood\n", *[b"y" * MAX_LINE] * 3])
    got = [each for batch in split(lambda: next(pieces, b"")) for each in batch]
    assert got == [b"good", b"?", b"good", b"?"]


def test_rotated_files_are_read_oldest_first(path: Path) -> None:
    sink = EventFile(path, print, size=len(line(10)) * 3, keep=12)
    for number in range(1, 35):
        sink.write(line(number))
    path.with_name("events.jsonl.txt").write_text("other")
    path.with_name("events.jsonl.99x").write_text("other")
    assert pids(Files(path).batches()) == list(range(1, 35))


def test_files_older_than_asked_for_are_not_read(path: Path) -> None:
    older = Path(f"{path}.1")
    older.write_bytes(line(1))
    path.write_bytes(line(2))
    os.utime(older, (1000, 1000))
    assert pids(Files(path, since=1001).batches()) == [2]


def test_a_rotation_while_reading_loses_and_repeats_nothing(path: Path) -> None:
    sink = EventFile(path, print, size=len(line(1)) * 2, keep=20)
    for number in range(1, 10):
        sink.write(line(number))
    batches = Files(path).batches()
    got = pids([next(batches)])
    for number in range(10, 20):
        sink.write(line(number))
    got += pids(batches)
    # One more may come: what was added to the file that was the newest one.
    assert got[:9] == list(range(1, 10))
    assert got == list(range(1, len(got) + 1))


def test_following_goes_over_rotations_and_begins_with_what_is_new(path: Path) -> None:
    sink = EventFile(path, print, size=len(line(1)) * 3, keep=20)
    sink.write(line(1))
    written = [1]

    def more(_: float) -> None:
        for _ in range(5):
            written.append(written[-1] + 1)
            sink.write(line(written[-1]))

    got: list[int] = []
    for batch in Files(path).follow(more):
        got += pids([batch])
        if len(got) >= 40:
            break
    assert got == list(range(2, len(got) + 2))


def test_following_waits_for_a_file_that_is_not_there_yet(path: Path) -> None:
    follow = Files(path).follow(lambda _: path.write_bytes(line(7)) and None)
    assert pids([next(follow), next(follow), next(follow)]) == [7]


def test_a_missing_file_and_a_link_are_errors(path: Path) -> None:
    with pytest.raises(StateError, match="there is no file of events"):
        list(Files(path).batches())
    path.symlink_to("/etc/passwd")
    with pytest.raises(StateError, match="cannot be read"):
        list(Files(path).batches())


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Return a folder with a journal that systemd-journal-remote made of known entries.

    Of aegisbpf.service: a line for people, six events, one line of nine repetitions, a torn line
    and a hostile one; of another unit an event that it forged.
    """
    folder = tmp_path / "journal"
    folder.mkdir()
    data = lzma.decompress((DATA / "events.journal.xz").read_bytes())
    (folder / "system.journal").write_bytes(data)
    return folder


def events(journal: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[str, str]:
    argv = ["events", "--journal-dir", str(journal), "--since", "2026-01-01", *more]
    assert run(argv) == 0
    return tuple(capsys.readouterr())  # type: ignore[return-value]


def test_a_journal_gives_what_its_unit_wrote(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = events(journal, capsys, "--json")
    found = [json.loads(each) for each in out.splitlines()]
    assert [event["count"] for event in found] == [1] * 6 + [9]
    assert not any("forged" in event["path"] for event in found)
    assert err == "warning: 2 lines are no whole events and were passed over\n"


def test_a_journal_s_time_bounds_are_the_events_own(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bounds = ("--since", "2026-01-01T12:00:02Z", "--until", "2026-01-01T12:00:03Z")
    out, _ = events(journal, capsys, *bounds)
    assert [each[:20] for each in out.splitlines()] == [
        "2026-01-01T12:00:02Z", "2026-01-01T12:00:03Z",
    ]  # fmt: skip


def test_another_unit_is_read_when_asked_for(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = events(journal, capsys, "--journal-unit", "evil.service")
    assert "forged" in out


def test_an_empty_journal_is_no_error(tmp_path: Path) -> None:
    assert list(Journal("aegisbpf.service", str(tmp_path)).batches()) == []


def test_the_most_frequent_in_a_journal(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = events(journal, capsys, "--top", "1", "--json")
    found = json.loads(out)
    assert found["events"] == 15
    assert found["top"]["path"] == [{"value": "/srv/f1", "events": 10}]


def test_a_file_met_twice_under_two_names_is_read_once(path: Path) -> None:
    path.write_bytes(line(1))
    Path(f"{path}.1").hardlink_to(path)  # as a rotation between two looks makes it
    assert pids(Files(path).batches()) == [1]
