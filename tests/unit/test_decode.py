"""Records of the event ring to events: known bytes, and any bytes at all."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.agent.decode import ACTIONS, HOOKS, Decoder, encode
from aegis_tools.agent.names import CgroupNames, RuleNames
from aegis_tools.errors import KernelError
from aegis_tools.kernel.layout import EVENT, EVENT_PATH, FILE_EVENT_TAIL

NOON = 1_767_268_800  # 2026-01-01T12:00:00Z
OPEN, SYSCALL = HOOKS.index("open"), HOOKS.index("syscall")


def head(
    *, hook: int = OPEN, op: int = 0, action: int = 2, reason: int = 0, port: int = 0,
    protocol: int = 0, family: int = 0, address: bytes = b"", comm: bytes = b"cat",
) -> bytes:  # fmt: skip
    return EVENT.pack(
        5_000_123_456, 77, 0xABCD, 42, 0x800001, 10, 11, 9, 1000, 100, hook, op, action, reason,
        port, protocol, family, address, comm, b"bash",
    )  # fmt: skip


def file_record(raw: bytes, *, cut: int = 0, hook: int = OPEN, comm: bytes = b"cat") -> bytes:
    tail = FILE_EVENT_TAIL.pack(len(raw), cut)
    return head(hook=hook, comm=comm) + tail + raw.ljust(EVENT_PATH, b"\0")


def decoder() -> Decoder:
    return Decoder(
        rule=lambda uid: f"rule-{uid:x}",
        cgroup=lambda number: f"/group-{number}",
        locate=lambda dev, path: f"/mnt{dev:x}{path}",
        offset_ns=(NOON - 5) * 1_000_000_000,
    )


def test_a_file_event_names_everything_that_the_kernel_said() -> None:
    assert decoder().decode(file_record(b"shadow\0etc\0")) == {
        "time": "2026-01-01T12:00:00.000123Z",
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
    record = head(
        hook=HOOKS.index("connect"), op=4, port=443, protocol=6, family=family, address=address
    )
    event = decoder().decode(record)
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


@given(st.binary(min_size=EVENT.size, max_size=EVENT.size + FILE_EVENT_TAIL.size + EVENT_PATH))
def test_any_bytes_of_the_right_length_give_one_valid_line(record: bytes) -> None:
    (line,) = decoder().lines([record])
    assert line.isascii()
    assert line.count(b"\n") == 1
    json.loads(line)["path" if json.loads(line)["type"] == "file" else "address"].encode()


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
    assert EVENT.size == 8 * 4 + 4 * 6 + 4 + 4 + 16 * 3
    assert struct.calcsize("II") == FILE_EVENT_TAIL.size


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
    live[7] = "path:/x"
    assert names.get(7) == "unknown:0000000000000007"
    assert reads == [0.0]
    now[0] = 1.5
    assert names.get(7) == "path:/x"
    now[0] = 9.0
    assert names.get(7) == "path:/x"
    assert reads == [0.0, 1.5]


def test_cgroup_paths_are_asked_for_once_and_bounded_in_number() -> None:
    asked: list[int] = []

    def find(number: int) -> str | None:
        asked.append(number)
        return f"/c{number}" if number % 2 else None

    names = CgroupNames(find, room=3)
    assert [names.get(n) for n in (1, 2, 1, 2, 3)] == ["/c1", "", "/c1", "", "/c3"]
    assert asked == [1, 2, 3]
    names.get(5)  # the oldest has to go
    names.get(3)
    assert asked == [1, 2, 3, 5]
    names.get(1)
    assert asked == [1, 2, 3, 5, 1]
