from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_tools.control.files import Calls
from aegis_tools.control.history import MAX_FILE, Entry, History
from aegis_tools.control.lock import locked
from aegis_tools.errors import StateError

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_descriptor_stays_open() -> Iterator[None]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


def entry(number: int = 1, **fields: Any) -> Entry:
    return Entry(time=number, action="policy apply", **fields)


def times(history: History, limit: int = 1000) -> list[int]:
    return [found.time for found in history.read(limit).entries]


def test_entries_come_back_whole_and_newest_first(path: Path) -> None:
    history = History(path)
    full = Entry(
        time=2,
        action="block add",
        result="trust_expired",
        uid=0,
        sudo_user="ann",
        digest="a" * 64,
        serial=2**64 - 1,
        signers=("k1", "k2"),
        counts={"path": 3},
        note="/srv/with space/é",
    )
    history.append(entry(1))
    history.append(full)
    assert path.read_bytes().count(b"\n") == 2
    assert history.read().entries == (full, entry(1))
    assert history.read(1).entries == (full,)
    assert history.read(0).entries == ()


def test_no_log_yet_is_an_empty_list(path: Path) -> None:
    assert History(path).read().entries == ()


def test_only_root_reads_the_log(path: Path) -> None:
    History(path).append(entry())
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_line_cut_off_by_a_crash_is_reported_and_harms_no_other(path: Path) -> None:
    history = History(path)
    history.append(entry(1))
    history.append(entry(2))
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    listing = history.read()
    assert ([e.time for e in listing.entries], listing.damaged) == ([1], 1)
    history.append(entry(3))
    listing = history.read()
    assert ([e.time for e in listing.entries], listing.damaged) == ([3, 1], 1)


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xff",
        b"[" * 50_000,
        b'{"time":1e9}',
        json.dumps({**vars(entry()), "time": "now"}).encode(),
        json.dumps({**vars(entry()), "signers": [[]]}).encode(),
        json.dumps({**vars(entry()), "counts": {"x": "y"}}).encode(),
        b'{"time":' + b"9" * 5000 + b"}",
    ],
)
def test_a_hostile_line_is_counted_and_passed_over(path: Path, line: bytes) -> None:
    history = History(path)
    history.append(entry(1))
    path.write_bytes(path.read_bytes() + line + b"\n")
    history.append(entry(2))
    listing = history.read()
    assert ([e.time for e in listing.entries], listing.damaged) == ([2, 1], 1)


def test_a_full_disk_is_an_error_that_knows_the_file(path: Path) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StateError) as caught:
        History(path, calls=Calls(write=full)).append(entry(1))
    assert str(path) in caught.value.detail


def test_a_name_with_a_space_of_another_kind_is_told_as_it_is(path: Path) -> None:
    history = History(path)
    history.append(entry(1, note="path:/srv/a\u00a0b\x85"))
    assert history.read().entries[0].note == "path:/srv/a\u00a0b\\x85"


def test_text_of_others_cannot_command_the_terminal(path: Path) -> None:
    history = History(path)
    history.append(entry(1, note="a\x1b[2J\nforged line", sudo_user="x\udcff"))
    values = json.loads(path.read_bytes())
    path.write_text(json.dumps({**values, "note": "\x1b[2J", "counts": {"\x07": 1}}) + "\n")
    found = history.read().entries[0]
    assert found.note.isprintable()
    assert found.sudo_user.isprintable()
    assert list(found.counts) == ["\\x07"]


def test_fields_of_a_later_version_are_ignored(path: Path) -> None:
    history = History(path)
    history.append(entry(1))
    values = json.loads(path.read_bytes())
    path.write_text(json.dumps({**values, "later": 1}) + "\n")
    assert history.read().entries == (entry(1),)


def test_the_log_rotates_and_the_oldest_file_goes(path: Path) -> None:
    history = History(path, max_file=1000)
    for number in range(1, 61):
        history.append(entry(number))
    kept = sorted(p.name for p in path.parent.iterdir())
    assert kept == ["history.jsonl", *(f"history.jsonl.{i}" for i in (1, 2, 3))]
    assert all(p.stat().st_size <= 1000 for p in path.parent.iterdir())
    found = times(history)
    assert found == list(range(60, 60 - len(found), -1))
    assert 15 < len(found) < 60


def test_reading_a_huge_file_is_bounded(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 << 30)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + json.dumps(vars(entry(7))).encode() + b"\n")
    listing = History(path).read()
    assert [e.time for e in listing.entries] == [7]
    assert listing.damaged == 1


def test_the_line_cut_by_the_reading_limit_is_not_called_damaged(path: Path) -> None:
    lines = [json.dumps(vars(entry(n))) for n in range(1, 2001)]
    path.write_text("\n".join(lines) + "\n")
    listing = History(path, max_file=1000).read(5000)
    assert listing.damaged == 0
    assert 300 < len(listing.entries) < 1000


def test_lines_longer_than_a_block_are_one_damaged_line(path: Path) -> None:
    history = History(path)
    history.append(entry(1))
    path.write_bytes(path.read_bytes() + b"x" * 500_000 + b"\n")
    history.append(entry(2))
    listing = history.read()
    assert ([e.time for e in listing.entries], listing.damaged) == ([2, 1], 1)


def test_many_entries_over_many_blocks_are_all_read(path: Path) -> None:
    lines = [json.dumps(vars(entry(n, note="n" * (n % 700)))) for n in range(1, 2001)]
    path.write_text("\n".join(lines) + "\n")
    assert times(History(path), 5000) == list(range(2000, 0, -1))


@pytest.mark.parametrize("name", ["open", "write", "fsync"])
def test_an_append_that_fails_leaves_the_log_as_it_was(path: Path, name: str) -> None:
    History(path).append(entry(1))
    before = path.read_bytes()

    def fails(*args: Any, **_: Any) -> Any:
        if name == "write":
            os.write(args[0], bytes(args[1][:20]))
        raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(StateError) as caught:
        History(path, calls=Calls(**{name: fails})).append(entry(2))
    assert caught.value.hint
    assert path.read_bytes() == before


def test_a_rotation_that_fails_loses_nothing(path: Path) -> None:
    history = History(path, max_file=300)
    history.append(entry(1))

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "read-only")

    broken = History(path, max_file=100, calls=Calls(replace=fails))
    with pytest.raises(StateError):
        broken.append(entry(2))
    assert times(history) == [1]


@pytest.mark.timeout(5)
def test_a_link_or_pipe_in_the_place_of_the_log_is_refused(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    path.symlink_to(victim)
    history = History(path)
    for action in (lambda: history.append(entry()), history.read):
        with pytest.raises(StateError):
            action()
    path.unlink()
    os.mkfifo(path)
    for action in (lambda: history.append(entry()), history.read):
        with pytest.raises(StateError):
            action()
    assert victim.read_bytes() == b"untouched"


def test_twenty_writers_at_once_lose_no_line(path: Path, tmp_path: Path) -> None:
    children = []
    for number in range(20):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for turn in range(5):
                    with locked(tmp_path / "run/lock", "test", timeout=20):
                        History(path, max_file=MAX_FILE).append(entry(number * 5 + turn))
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 20
    listing = History(path).read(1000)
    assert sorted(e.time for e in listing.entries) == list(range(100))
    assert listing.damaged == 0


@settings(max_examples=50)
@given(data=st.lists(st.binary(max_size=200), max_size=20))
def test_any_content_is_listed_without_failing(
    tmp_path_factory: pytest.TempPathFactory, data: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("history") / "history.jsonl"
    path.write_bytes(b"\n".join(data))
    history = History(path)
    history.append(entry(5))
    assert times(history, 1) == [5]
    history.read()


@pytest.mark.timeout(5)
@pytest.mark.parametrize("kind", ["symbolic link", "pipe", "folder"])
def test_what_is_in_the_place_of_the_log_is_named(path: Path, kind: str) -> None:
    if kind == "symbolic link":
        path.symlink_to(path.parent / "nothing")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    history = History(path)
    for action in (lambda: history.append(entry()), history.check, history.read):
        with pytest.raises(StateError, match=f"is a {kind}") as caught:
            action()
        assert "move it away" in caught.value.hint
    assert not (path.parent / "nothing").exists()


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_log_that_others_can_change_is_not_continued_and_read_with_a_note(
    path: Path, mode: int
) -> None:
    history = History(path)
    history.append(entry(1))
    assert history.read().note == ""
    path.chmod(mode)
    with pytest.raises(StateError, match="others can change") as caught:
        history.append(entry(2))
    assert f"chmod {mode & ~0o022:04o}" in caught.value.hint
    listing = history.read()
    assert [e.time for e in listing.entries] == [1]
    assert "others can change" in listing.note
    path.chmod(0o600)
    history.append(entry(2))
    assert times(history) == [2, 1]


def test_an_older_file_that_others_can_change_is_told_of(path: Path) -> None:
    history = History(path, max_file=300)
    for number in range(4):
        history.append(entry(number))
    path.with_name(f"{path.name}.1").chmod(0o666)
    assert "others can change" in history.read().note


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_log_of_another_user_is_not_continued(path: Path) -> None:
    history = History(path)
    history.append(entry(1))
    os.chown(path, 65534, 65534)
    with pytest.raises(StateError, match="another user"):
        history.append(entry(2))
    assert "another user" in history.read().note
