"""Events in a file: whole lines, rotation, and a disk that fills."""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from event_records import file_record

from aegis_tools.agent.decode import Decoder
from aegis_tools.agent.eventfile import EventFile
from aegis_tools.control.files import SYSTEM
from aegis_tools.errors import StateError


class Disk:
    """Writes until its room is used up."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.calls = replace(SYSTEM, write=self.write)

    def write(self, fd: int, data: Any) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = os.write(fd, bytes(data)[: self.room])
        self.room -= done
        return done


def lines(first: int, count: int, events: int = 1) -> bytes:
    decoder = Decoder()
    return b"".join(
        decoder.line(file_record(pid=n), events, 1 if events > 1 else 0)
        for n in range(first, first + count)
    )


def pids(*paths: Path) -> list[int]:
    return [
        json.loads(line)["pid"]
        for path in paths
        for line in path.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_a_new_file_is_readable_by_root_and_its_group_alone(path: Path) -> None:
    said: list[str] = []
    sink = EventFile(path, said.append)
    sink.write(lines(1, 2))
    sink.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert pids(path) == [1, 2]
    assert said == []


def test_it_goes_on_where_an_earlier_one_ended_even_half_way(path: Path) -> None:
    path.touch(mode=0o640)
    path.write_bytes(lines(1, 1) + b'{"time":"2026')
    sink = EventFile(path, print)
    sink.write(lines(2, 1))
    assert path.read_bytes().splitlines()[1:] == [b'{"time":"2026', lines(2, 1).rstrip()]


def test_files_rotate_and_the_oldest_goes(path: Path) -> None:
    one = lines(1, 1)
    sink = EventFile(path, print, size=len(one) * 2, keep=2)
    for number in range(1, 10):
        sink.write(lines(number, 1))
    older = [Path(f"{path}.{n}") for n in (2, 1)]
    assert pids(*older, path) == [5, 6, 7, 8, 9]
    assert sorted(p.name for p in path.parent.iterdir()) == sorted(
        [path.name, *(p.name for p in older)]
    )
    assert sink.status()["rotations"] == 4


def test_without_older_files_it_begins_anew(path: Path) -> None:
    sink = EventFile(path, print, size=len(lines(1, 1)), keep=0)
    for number in (1, 2, 3):
        sink.write(lines(number, 1))
    assert pids(path) == [3]
    assert len(list(path.parent.iterdir())) == 1


def test_a_full_disk_is_said_once_counted_and_gone_on_from(path: Path) -> None:
    said: list[str] = []
    disk = Disk(room=len(lines(1, 1, events=5)) + 20)
    sink = EventFile(path, said.append, calls=disk.calls)
    sink.write(lines(1, 3, events=5))  # the first fits
    for number in (4, 5):
        sink.write(lines(number, 1, events=7))
    assert len(said) == 1
    assert "cannot be written" in said[0]
    assert sink.status()["failing"]
    disk.room = 1 << 20
    sink.write(lines(6, 1))
    assert pids(path) == [1, 6]
    assert path.read_bytes().count(b"\n") == 2
    status = sink.status()
    assert status["lost_lines"] == 4
    assert status["lost_events"] == 2 * 5 + 2 * 7
    assert not status["failing"]
    assert len(said) == 2
    assert "24 events since the start are not in it" in said[1]


def test_a_rotation_that_fails_loses_only_what_it_counts(path: Path) -> None:
    said: list[str] = []
    broken = [True]

    def rename(*names: Any, **more: Any) -> None:
        if broken[0]:
            raise OSError(errno.EROFS, "Read-only file system")
        SYSTEM.replace(*names, **more)

    sink = EventFile(
        path, said.append, size=len(lines(1, 1)), calls=replace(SYSTEM, replace=rename)
    )
    for number in (1, 2, 3):
        sink.write(lines(number, 1))
    assert pids(path) == [1]
    assert sink.status()["lost_events"] == 2
    broken[0] = False
    sink.write(lines(4, 1))
    assert pids(Path(f"{path}.1"), path) == [1, 4]


def test_a_file_that_was_moved_away_is_begun_anew(path: Path) -> None:
    sink = EventFile(path, print)
    sink.write(lines(1, 1))
    path.rename(path.with_name("moved"))
    sink.tick()
    sink.write(lines(2, 1))
    assert pids(path.with_name("moved")) == [1]
    assert pids(path) == [2]
    sink.tick()
    sink.write(lines(3, 1))
    assert pids(path) == [2, 3]


def test_what_is_not_ours_is_refused(path: Path) -> None:
    target = path.with_name("target")
    target.touch(mode=0o640)
    path.symlink_to(target)
    with pytest.raises(StateError, match="cannot be opened"):
        EventFile(path, print)
    path.unlink()
    path.hardlink_to(target)
    with pytest.raises(StateError):
        EventFile(path, print)
    path.unlink()
    path.touch()
    path.chmod(0o662)
    with pytest.raises(StateError) as caught:
        EventFile(path, print)
    assert "chmod" in caught.value.hint
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StateError):
        EventFile(path, print)
    assert target.read_bytes() == b""
