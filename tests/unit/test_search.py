"""Which lines are found, among whatever lines there are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from event_records import NOON, file_record, net_record
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.agent.decode import Decoder
from aegis_tools.agent.enrich import Place
from aegis_tools.agent.search import Query, Search, Top, path_condition, read_event, time_text

DECODER = Decoder(
    rule=lambda uid: f"rule-{uid}",
    place=lambda number: Place(f"/system.slice/s{number}.service", f"s{number}.service"),
    offset_ns=NOON * 10**9,
)


def line(record: bytes = b"", count: int = 1, first_ns: int = 0, **more: Any) -> bytes:
    return DECODER.line(record or file_record(**more), count, first_ns).rstrip()


def found(query: Query, *lines: bytes) -> list[dict[str, Any]]:
    return [event for batch in Search(query).among([list(lines)]) for _, event in batch]


LINES = [
    line(at=1 * 10**9, rule=1, comm=b"cat", cgroup=5),
    line(file_record(b"passwd\0etc\0", at=2 * 10**9, rule=2, comm=b"dd", cgroup=6, action=1)),
    line(file_record(b"x\0etcetera\0", at=3 * 10**9, rule=1, cgroup=5)),
    line(net_record(at=4 * 10**9, rule=3)),
    line(file_record(at=60 * 10**9, rule=1, cgroup=5), 40, 30 * 10**9),
]


def altered(new: bytes, old: bytes = b'"count":1') -> bytes:
    assert old in LINES[0]
    return LINES[0].replace(old, new)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), [0, 1, 2, 3, 4]),
        (Query(rule="rule-1"), [0, 2, 4]),
        (Query(rule="rule-"), []),
        (Query(comm="dd"), [1]),
        (Query(unit="s5.service"), [0, 2, 4]),
        (Query(action="AUDIT"), [1]),
        (Query(path="/etc"), [0, 1, 4]),
        (Query(path="/etc/"), [0, 1, 4]),
        (Query(path="/etc/shadow"), [0, 4]),
        (Query(path="/etc/sha*"), [0, 4]),
        (Query(path="*passwd"), [1]),
        (Query(path="/etc[er]*"), [2]),
        (Query(path="/etc/shado"), []),
        (Query(since=time_text(NOON + 3)), [2, 3, 4]),
        (Query(until=time_text(NOON + 2)), [0, 1]),
        (Query(since=time_text(NOON + 40), until=time_text(NOON + 45)), [4]),
        (Query(since=time_text(NOON + 4), until=time_text(NOON + 29)), [3]),
        (Query(rule="rule-1", path="/etc", comm="cat", unit="s5.service", action="BLOCK"), [0, 4]),
    ],
)
def test_every_condition_must_hold(query: Query, expected: list[int]) -> None:
    assert found(query, *LINES) == [json.loads(LINES[index]) for index in expected]


@pytest.mark.parametrize(
    "bad",
    [
        b"aegisbpf: events follow on stdout", b"", b"{", b"null", b"[]", LINES[0][:-1],
        LINES[0][:100], b'{"time":"2026-01-01T12:00:00.000000Z"}', b'{"time":"' + b"[" * 60000,
        altered(b'"count":' + b"[" * 60000),
        altered(b'"count":true'), altered(b'"count":0'),
        altered(b'"count":-1'), altered(b'"count":1e3'),
        altered(b'"count":' + b"9" * 5000),
        altered(b'"comm":null', b'"comm":"cat"'),
        altered(b'"path":7,"x":', b'"path":'),
        LINES[0].replace(b"T12", b" 12"), LINES[0] + b"}", b"\xff" + LINES[0],
    ],
)  # fmt: skip
def test_what_is_no_event_is_passed_over_and_counted(bad: bytes) -> None:
    search = Search(Query())
    batches = list(search.among([[LINES[0], bad, LINES[1]]]))
    assert len(batches[0]) == 2
    assert search.foreign + search.damaged == int(bad != b"")


@given(st.lists(st.binary(max_size=300) | st.sampled_from(LINES)), st.integers(0, 40))
def test_any_bytes_are_borne(lines: list[bytes], cut: int) -> None:
    search = Search(Query(rule="rule-1"))
    everything = [*lines, *(each[:cut] + each[cut + 3 :] for each in lines)]
    for batch in search.among([everything]):
        assert all(event["rule"] == "rule-1" for _, event in batch)


def test_a_name_that_looks_like_another_field_deceives_nobody() -> None:
    hostile = line(file_record(b'","rule":"rule-9"\0etc\0', comm=b'"comm":"sshd"'))
    assert found(Query(rule="rule-9"), hostile) == []
    assert found(Query(comm="sshd"), hostile) == []
    assert len(found(Query(comm='"comm":"sshd"'), hostile)) == 1
    assert len(found(Query(path='/etc/","rule":"rule-9"'), hostile)) == 1
    nested = altered(b'"count":1,"later":{"rule":"rule-9","path":"/srv/x"}')
    assert found(Query(rule="rule-9"), nested) == []
    assert found(Query(path="/srv"), nested) == []


def test_names_that_are_not_ascii_are_found() -> None:
    named = line(file_record("süß\0etc\0".encode(), comm="ü".encode()))
    assert len(found(Query(path="/etc/süß", comm="ü"), named)) == 1


def test_fields_of_later_versions_are_kept() -> None:
    event = read_event(altered(b'"count":1,"new":[1]'))
    assert event is not None
    assert event["new"] == [1]


def test_without_a_path_every_one_is_wanted() -> None:
    assert path_condition("") is None


def test_times_out_of_bounds_are_the_nearest_there_are() -> None:
    assert time_text(-5) == "1970-01-01T00:00:00.000000Z"
    assert time_text(1e15).startswith("9999-12-31")


def test_the_most_frequent_are_counted_in_events() -> None:
    top = Top()
    for each in found(Query(), *LINES):
        top.add(each)
    assert (top.events, top.lines) == (44, 5)
    ranked = top.ranked(2)
    assert ranked["rule"] == [("rule-1", 42), ("rule-2", 1)]
    assert ranked["path"] == [("/etc/shadow", 41), ("/etc/etcetera/x", 1)] or ranked["path"][0] == (
        "/etc/shadow", 41,
    )  # fmt: skip
    assert ranked["unit"][0] == ("s5.service", 42)
    assert not top.approximate


def test_of_very_many_values_the_frequent_stay() -> None:
    top = Top(room=100)
    event = json.loads(LINES[0])
    for number in range(1000):
        top.add({**event, "path": f"/once/{number}"})
        top.add({**event, "path": "/often"})
    assert top.ranked(1)["path"] == [("/often", 1000)]
    assert top.approximate
    assert len(top.counts["path"]) <= 101
    assert top.events == 2000
