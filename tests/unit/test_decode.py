"""Records of the event ring to events: known bytes, and any bytes at all."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from event_records import (
    DIGEST,
    NOON,
    SYSCALL,
    any_record,
    file_record,
    head,
    net_record,
)
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.agent.decode import ACTIONS, KINDS_KEPT, MAX_PATH, Decoder, encode
from aegis_tools.agent.enrich import Bundle, Place
from aegis_tools.agent.names import Places, RuleNames
from aegis_tools.errors import KernelError
from aegis_tools.kernel.layout import EVENT, EVENT_PATH, EVENT_SAME, FILE_EVENT_TAIL

CONTAINER = "0123456789abcdef" * 4
SCHEMA: dict[str, Any] = json.loads(
    files("aegis_tools.agent").joinpath("event.schema.json").read_text(encoding="utf-8")
)
VALID = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())


def decoder() -> Decoder:
    return Decoder(
        rule=lambda uid: f"rule-{uid:x}",
        place=lambda number: Place(f"/group-{number}", "x.service", ""),
        locate=lambda dev, path: f"/mnt{dev:x}{path}",
        bundle=lambda _: Bundle(DIGEST, ("ops",)),
        host="web1",
        offset_ns=(NOON - 5) * 1_000_000_000,
    )


def test_a_file_event_names_everything_that_the_kernel_said() -> None:
    assert decoder().decode(file_record(b"shadow\0etc\0")) == {
        "time": "2026-01-01T12:00:00.000123Z",
        "host": "web1",
        "type": "file",
        "action": "BLOCK",
        "reason": "",
        "hook": "open",
        "operation": "read",
        "path": "/mnt800001/etc/shadow",
        "inode": "8388609:42",
        "rule": "rule-abcd",
        "pid": 10,
        "tid": 11,
        "ppid": 9,
        "comm": "cat",
        "parent_comm": "bash",
        "uid": 1000,
        "gid": 100,
        "cgroup_id": 77,
        "cgroup": "/group-77",
        "unit": "x.service",
        "bundle": DIGEST,
        "signers": ["ops"],
        "count": 1,
    }


def test_the_line_is_compact_as_the_runbook_greps_for_it() -> None:
    (line,) = decoder().lines([file_record(b"shadow\0etc\0")])
    assert b'"action":"BLOCK"' in line
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1


@pytest.mark.parametrize(
    ("family", "address", "shown"),
    [
        (4, bytes([10, 0, 0, 1]), "10.0.0.1"),
        (6, bytes.fromhex("20010db8") + bytes(11) + b"\1", "2001:db8::1"),
    ],
)
def test_a_network_event_has_the_peer_and_no_path(family: int, address: bytes, shown: str) -> None:
    event = decoder().decode(net_record(address))
    assert event["type"] == "net"
    assert (event["address"], event["port"], event["protocol"]) == (shown, 443, "tcp")
    assert event["family"] == f"ipv{family}"
    assert event["operation"] == "egress"
    assert not {"path", "inode"} & set(event)


def test_a_path_that_lost_its_beginning_says_so() -> None:
    assert decoder().decode(file_record(b"name\0deep\0", cut=1))["path"] == "…/deep/name"


def test_the_path_of_a_system_call_is_taken_as_it_was_typed() -> None:
    event = decoder().decode(file_record(b"/etc/../etc/shadow\0", hook=SYSCALL))
    assert event["path"] == "/etc/../etc/shadow"


def test_the_root_of_a_file_system_is_a_path() -> None:
    assert decoder().decode(file_record(b""))["path"] == "/mnt800001/"


@pytest.mark.parametrize(
    "name", [b'"}\n{"action":"ALLOW', b"\xff\xfe", b"\x1b[2J", b"\xed\xa0\x80"]
)
def test_a_hostile_name_stays_one_line_of_plain_json(name: bytes) -> None:
    (line,) = decoder().lines([file_record(name + b"\0etc\0", comm=name[:16])])
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert all(byte >= 32 for byte in line[:-1])
    event = json.loads(line)
    assert event["action"] == "BLOCK"
    assert event["path"].startswith("/mnt800001/etc/")
    event["path"].encode()  # no lone surrogates


def test_a_record_of_another_form_is_an_error_that_names_the_way_out() -> None:
    with pytest.raises(KernelError) as caught:
        decoder().decode(bytes(EVENT.size - 1))
    assert "reset" in caught.value.hint


@given(any_record(), st.integers(1, 2**40), st.integers(0, 2**64))
def test_any_bytes_give_one_line_that_the_schema_accepts(
    record: bytes, count: int, first: int
) -> None:
    line = decoder().line(record, count, first)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert all(byte >= 32 for byte in line[:-1])
    event = json.loads(line)
    VALID.validate(event)
    assert event["count"] == count
    assert [value.encode() for value in event.values() if isinstance(value, str)]
    assert decoder().decode(record[: EVENT.size + 8 + EVENT_PATH])  # what is behind is no matter


def whole() -> dict[str, Any]:
    event = decoder().decode(file_record())
    return {**event, "first": event["time"], "last": event["time"]}


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1}, {"time": "2026-01-01 12:00:00"}, {"action": "DENY"}, {"pid": -1},
        {"pid": "1"}, {"count": 0}, {"bundle": "abc"}, {"container": "x"}, {"address": "10.0.0.1"},
        {"type": "other"}, {"signers": "ops"}, {"first": None}, {"exe": ""},
    ],
    ids=str,
)  # fmt: skip
def test_the_schema_refuses_what_no_event_is(change: dict[str, Any]) -> None:
    VALID.validate(whole())
    assert not VALID.is_valid({**whole(), **change})


@pytest.mark.parametrize("missing", SCHEMA["required"] + ["path", "last"])
def test_the_schema_wants_every_field(missing: str) -> None:
    event = whole()
    del event[missing]
    assert not VALID.is_valid(event)


def test_the_schema_itself_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert all(field.get("description") for field in SCHEMA["properties"].values())


def test_a_line_of_repetitions_says_how_many_and_when() -> None:
    event = json.loads(decoder().line(file_record(), 7, 4_000_000_000))
    VALID.validate(event)
    assert event["count"] == 7
    assert event["first"] == "2026-01-01T11:59:59.000000Z"
    assert event["last"] == event["time"] == "2026-01-01T12:00:00.000123Z"


def test_container_and_program_are_told_where_there_are_any() -> None:
    found = decoder()
    found.place = lambda _: Place("/docker/" + CONTAINER, "", CONTAINER)
    found.program = lambda pid, tid, comm: f"/proc/{pid}/{tid}/{comm[:3].decode()}"
    event = found.decode(file_record())
    VALID.validate(event)
    assert (event["container"], event["exe"]) == (CONTAINER, "/proc/10/11/cat")


def test_the_longest_line_is_shorter_than_the_journal_splits() -> None:
    found = Decoder(
        rule=lambda _: "path:/" + "ü" * 2048,
        place=lambda _: Place("\x01" * 1024, "\x01" * 250 + ".service", CONTAINER),
        locate=lambda _, path: "/" + "\x01" * 4096 + path,
        bundle=lambda _: Bundle(DIGEST, ("f" * 16,) * 32),
        program=lambda *_: "\x01" * 1024,
        host="h" * 64,
    )
    line = found.line(file_record(b"\x01" * EVENT_PATH, comm=b"\x01" * 16), 10**9, 1)
    assert len(line) < 48 << 10  # LineMax= of journald.conf(5)
    path = json.loads(line)["path"]
    assert path.startswith("…/")
    assert len(path) == MAX_PATH + 2


def test_what_was_unknown_is_asked_for_again_after_a_while() -> None:
    found, names = decoder(), {}
    found.rule = lambda uid: names.get(uid, "unknown:0")
    assert found.decode(file_record())["rule"] == "unknown:0"
    names[0xABCD] = "shadow"
    assert found.decode(file_record())["rule"] == "unknown:0"
    found.forget()
    assert found.decode(file_record())["rule"] == "shadow"


def test_kinds_are_kept_in_bounded_number() -> None:
    asked: list[int] = []
    found = decoder()
    found.rule = lambda uid: f"r{uid}{asked.append(uid) or ''}"
    for rule in range(1, KINDS_KEPT + 2):
        found.line(file_record(rule=rule))
    found.line(file_record(rule=KINDS_KEPT))
    assert len(asked) == KINDS_KEPT + 1
    found.line(file_record(rule=1))
    assert len(asked) == KINDS_KEPT + 2


@given(
    st.lists(st.binary(min_size=1, max_size=40).filter(lambda b: not set(b) & {0, 47}), max_size=9)
)
def test_names_come_back_in_order_whatever_they_are(names: list[bytes]) -> None:
    raw = b"".join(name + b"\0" for name in reversed(names))
    path = decoder().decode(file_record(raw))["path"]
    wanted = "/".join(name.decode(errors="backslashreplace") for name in names)
    assert path == f"/mnt800001/{wanted}"


def test_every_action_has_its_word() -> None:
    words = [decoder().decode(head(action=number))["action"] for number in range(len(ACTIONS))]
    assert words == list(ACTIONS)
    assert decoder().decode(head(action=200))["action"] == "unknown:200"


def test_the_sizes_are_those_of_the_header() -> None:
    assert EVENT.size == 8 * 5 + 4 * 6 + 4 + 4 + 16 * 3
    assert FILE_EVENT_TAIL.size == 8
    assert head(at=1, pid=1, ino=1)[EVENT_SAME:] == head(at=2, pid=2, ino=2)[EVENT_SAME:]


def test_encoding_has_no_blanks() -> None:
    assert encode({"a": [1, 2], "b": "ö"}) == '{"a":[1,2],"b":"\\u00f6"}'


def test_an_unknown_rule_reads_the_policy_again_but_once_a_second() -> None:
    now, reads = [0.0], []
    live: dict[int, str] = {}

    def read() -> dict[int, str]:
        reads.append(now[0])
        return live

    names = RuleNames(read, lambda: now[0])
    assert names.get(7) == "unknown:0000000000000007"
    live = {7: "path:/x"}
    assert names.get(7) == "unknown:0000000000000007"
    assert reads == [0.0]
    now[0] = 1.5
    assert names.get(7) == "path:/x"
    now[0] = 9.0
    assert names.get(7) == "path:/x"
    assert reads == [0.0, 1.5]


def test_places_are_asked_for_once_and_bounded_in_number() -> None:
    asked: list[int] = []

    def find(number: int) -> str | None:
        asked.append(number)
        return f"/c{number}" if number % 2 else None

    names = Places(find, room=3)
    found = [names.get(n).cgroup for n in (1, 2, 1, 2, 3)]
    assert found == ["/c1", "", "/c1", "", "/c3"]
    assert asked == [1, 2, 3]
    names.get(5)  # the oldest has to go
    names.get(3)
    assert asked == [1, 2, 3, 5]
    names.get(1)
    assert asked == [1, 2, 3, 5, 1]


def test_the_document_s_table_is_the_schema_s() -> None:
    document = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")
    rows = [
        f"| `{name}`{'' if name in SCHEMA['required'] else ' *'} | "
        f"{field['description'].replace('|', '&#124;')} |"
        for name, field in SCHEMA["properties"].items()
    ]
    assert [line for line in document.splitlines() if line.startswith("| `")] == rows
