"""From records to lines in the sinks: counted, never waited for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from event_records import file_record

from aegis_tools.agent.decode import Decoder
from aegis_tools.agent.fold import Fold
from aegis_tools.agent.pipeline import Pipeline
from aegis_tools.agent.sinks import Output


class Pipe:
    """A pipe whose reader reads when told to."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def read(self) -> bytes:
        found = b""
        try:
            while piece := os.read(self.reader, 1 << 16):
                found += piece
        except BlockingIOError:
            pass
        return found


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    found = Pipe()
    yield found
    for fd in (found.reader, found.writer):
        try:
            os.close(fd)
        except OSError:
            continue


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make(pipe: Pipe, clock: Clock) -> Pipeline:
    return Pipeline(
        Decoder(), Fold(clock, interval=10), [Output(pipe.writer)],
        boot_ns=lambda: 7_000_000_000, offset_ns=lambda: 0,
    )  # fmt: skip


def events(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def test_every_event_is_in_a_count(pipe: Pipe) -> None:
    clock = Clock()
    pipeline = make(pipe, clock)
    pipeline.take([file_record(rule=n % 3 + 1, at=5_000_000_000) for n in range(100)])
    assert pipeline.held == 97
    clock.now = 10
    pipeline.tick()
    pipeline.take([file_record(rule=1)] * 5)
    pipeline.take([b"too short"])
    pipeline.close()
    found = events(pipe.read())
    assert sum(event["count"] for event in found) == 105
    status = pipeline.status()
    assert status["events"] == 106
    assert status["written"] == len(found)
    assert status["undecodable"] == 1
    assert status["folded"] == 105 - len(found)
    assert status["held"] == 0


def test_lag_is_the_age_of_the_newest(pipe: Pipe) -> None:
    pipeline = make(pipe, Clock())
    pipeline.take([file_record(at=1_000_000_000), file_record(at=6_500_000_000)])
    assert pipeline.lag_seconds == 0.5
    assert pipeline.status()["lag_seconds"] == 0.5


def test_a_reader_who_does_not_read_holds_nobody_up(pipe: Pipe) -> None:
    pipeline = make(pipe, Clock())
    records = [file_record(rule=n) for n in range(1, 400)]
    pipeline.take(records)
    assert not pipeline.flush()
    assert pipeline.blocked == [pipe.writer]
    got = b""
    while not pipeline.flush():
        got += pipe.read()
    got += pipe.read()
    assert pipeline.blocked == []
    assert [event["count"] for event in events(got)] == [1] * 399


def test_a_reader_who_never_reads_does_not_keep_it_from_closing(pipe: Pipe) -> None:
    pipeline = make(pipe, Clock())
    pipeline.take([file_record(rule=n) for n in range(1, 400)])
    pipeline.close()
    assert pipeline.status()["sinks"]["stdout"]["waiting"] > 0


def test_a_reader_who_has_left_is_an_error(pipe: Pipe) -> None:
    pipeline = make(pipe, Clock())
    os.close(pipe.reader)
    with pytest.raises(BrokenPipeError):
        pipeline.take([file_record()])
    pipeline.close()
