"""Records of the monitors' rings to events: known bytes, and any bytes at all."""

from __future__ import annotations

import contextlib
import json
import signal
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monitor_records import (
    HEADS,
    SECOND,
    disk_record,
    exec_record,
    exit_record,
    file_record,
    memory_record,
    net_record,
)

from aegis_tools.cli.monitor_live import readable
from aegis_tools.errors import KernelError
from aegis_tools.monitors.decode import PATH_LEVELS, Decoder, place
from aegis_tools.monitors.layout import ARGS, CUT, HEAD, NOT_CAUSE, PATH
from aegis_tools.monitors.registry import MONITORS

NOON = 1_767_268_800  # 2026-01-01T12:00:00Z
SCHEMA: dict[str, Any] = json.loads(
    files("aegis_tools.monitors").joinpath("event.schema.json").read_text(encoding="utf-8")
)
VALID = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())


def decode(monitor: str, record: bytes) -> dict[str, Any]:
    decoder = Decoder(lambda dev, path: f"/dev{dev >> 20}{path}", (NOON - 5) * SECOND)
    event = decoder.decode(MONITORS[f"{monitor}-monitor"], record)
    VALID.validate(event)
    assert json.loads(json.dumps(event)) == event
    assert "\n" not in readable(event)
    return event


def body(event: dict[str, Any]) -> dict[str, Any]:
    """Return what is not in every event."""
    return {k: v for k, v in event.items() if k not in {*HEADS, "time", "monitor", "event"}}


def test_an_exec_names_everything_that_the_kernel_said() -> None:
    assert decode("process", exec_record()) == {
        "time": "2026-01-01T12:00:00.000123Z",
        "monitor": "process-monitor",
        "event": "exec",
        **HEADS,
        "executable": "/dev254/usr/bin/cat",
        "arguments": ["cat", "/etc/passwd"],
        "device": "254:1",
        "inode": 42,
    }


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (b"", []),
        (b"\0", [""]),
        (b"a\0\0b\0", ["a", "", "b"]),
        (b"a\0not ended", ["a", "not ended"]),
        (b"\xff\xfe\n\0", ["\\xff\\xfe\n"]),
    ],
)
def test_arguments_are_the_ones_that_there_were(args: bytes, shown: list[str]) -> None:
    assert decode("process", exec_record(args=args))["arguments"] == shown


@pytest.mark.parametrize(
    ("status", "code", "killed"),
    [(0, 0, None), (7 << 8, 7, None), (255 << 8, 255, None), (9, None, 9), (11 | 0x80, None, 11)],
)
def test_an_exit_says_what_waitpid_says(status: int, code: int | None, killed: int | None) -> None:
    event = decode("process", exit_record(status))
    assert body(event) == {"age_seconds": 1.5, "exit_status": code, "signal": killed}
    shown = readable(event)
    assert (f"status {code}" if killed is None else signal.Signals(killed).name) in shown


def test_arguments_that_were_cut_leave_the_path_whole() -> None:
    event = decode("process", exec_record(args=b"a" * ARGS, total=ARGS + 1, flags=CUT))
    assert event["cut"] is True
    assert event["executable"] == "/dev254/usr/bin/cat"


@pytest.mark.parametrize(
    "names",
    [
        b"x\0" * PATH_LEVELS,
        (b"y" * 250 + b"\0") * 16,
        b"one\0name\0",
    ],
)
def test_a_path_that_was_cut_says_so(names: bytes) -> None:
    event = decode("process", exec_record(names, b"a\0", flags=CUT))
    assert event["executable"].startswith("…/")


def test_a_path_that_was_cut_says_so_where_the_arguments_were_as_well() -> None:
    record = exec_record(b"x\0" * PATH_LEVELS, b"a" * ARGS, total=ARGS + 1, flags=CUT)
    assert decode("process", record)["executable"].startswith("…/x/x")


def test_who_did_it_may_not_be_known() -> None:
    event = decode("disk-io", disk_record(flags=NOT_CAUSE))
    assert event["cause_known"] is False
    assert "cat[10]?" in readable(event)


def test_an_open_names_the_file_and_how() -> None:
    event = decode("filesystem", file_record(1, names=b"hosts\0etc\0", result=3, flags=0o101))
    assert body(event) == {
        "path": "/dev254/etc/hosts", "device": "254:1", "inode": 42, "bytes": 0, "result": 3,
        "flags": 0o101,
    }  # fmt: skip


def test_the_root_of_a_file_system_has_a_path_and_an_open_that_failed_has_none() -> None:
    assert decode("filesystem", file_record(1, result=4))["path"] == "/dev254/"
    failed = decode("filesystem", file_record(1, dev=0, result=-2))
    assert (failed["path"], failed["device"], failed["result"]) == (None, None, -2)
    assert "ENOENT" in readable(failed)


def test_a_read_says_what_was_really_moved() -> None:
    event = decode("filesystem", file_record(2, moved=100, result=100))
    assert event["event"] == "read"
    assert (event["bytes"], event["path"], event["flags"]) == (100, None, None)


@pytest.mark.parametrize(
    ("local", "remote", "family"),
    [("10.0.0.1", "192.0.2.7", "IPv4"), ("2001:db8::1", "2001:db8::2", "IPv6")],
)
def test_a_send_names_both_ends(local: str, remote: str, family: str) -> None:
    event = decode("network", net_record(2, local, remote, moved=1000, result=1000))
    assert body(event) == {
        "family": family, "protocol": "tcp", "local": local, "local_port": 40000,
        "remote": remote, "remote_port": 443, "bytes": 1000, "result": 1000,
    }  # fmt: skip


def test_memory_that_a_free_gives_back_is_not_known() -> None:
    assert body(decode("memory", memory_record(2, 0))) == {"bytes": None, "order": None}
    assert body(decode("memory", memory_record(3, 16384, 2))) == {"bytes": 16384, "order": 2}


def test_a_request_names_disk_partition_operation_and_latency() -> None:
    assert body(decode("disk-io", disk_record())) == {
        "device": "254:0", "partition": "254:1", "operation": "write", "sector": 2048,
        "bytes": 4096, "queued_ns": 1000, "latency_ns": 7_000_000, "error": 0,
    }  # fmt: skip


@pytest.mark.parametrize("number", [4, 7, 200])
def test_an_operation_that_kernels_do_not_agree_on_is_a_number(number: int) -> None:
    assert decode("disk-io", disk_record(operation=number))["operation"] == f"unknown:{number}"


def test_a_file_that_has_no_name_has_no_path() -> None:
    unknown = place(lambda dev, path: f"dev:{dev}:{path}")
    assert unknown(5, "/") is None
    assert unknown(5, "/x") == "dev:5:/x"
    assert place(lambda _, path: path)(5, "/") == "/"


WHOLE = {
    "process": exec_record(),
    "filesystem": file_record(1, names=b"hosts\0etc\0"),
    "network": net_record(1, "10.0.0.1", "10.0.0.2"),
    "memory": memory_record(1, 64),
    "disk-io": disk_record(),
}


@pytest.mark.parametrize("monitor", WHOLE)
def test_a_record_that_ends_anywhere_before_its_end_is_an_error(monitor: str) -> None:
    record = WHOLE[monitor]
    for length in range(len(record)):
        with pytest.raises(KernelError, match=f"{monitor}-monitor is not of this version's form"):
            decode(monitor, record[:length])


@pytest.mark.parametrize("monitor", WHOLE)
@pytest.mark.parametrize("kind", [0, 9, 65535])
def test_a_kind_that_is_not_known_is_an_error(monitor: str, kind: int) -> None:
    at = 36
    record = WHOLE[monitor][:at] + kind.to_bytes(2, "little") + WHOLE[monitor][at + 2 :]
    with pytest.raises(KernelError, match="not of this version's form"):
        decode(monitor, record)


@pytest.mark.parametrize("lengths", [(PATH + 1, 0), (0, ARGS + 1), (2**32 - 1, 2**32 - 1)])
def test_lengths_that_no_record_has_are_an_error(lengths: tuple[int, int]) -> None:
    record = bytearray(exec_record() + bytes(9000))
    for at, length in zip((HEAD.size + 24, HEAD.size + 28), lengths, strict=True):
        record[at : at + 4] = length.to_bytes(4, "little")
    with pytest.raises(KernelError):
        decode("process", bytes(record))


@given(st.sampled_from(sorted(WHOLE)), st.binary(max_size=400))
def test_any_bytes_are_an_event_or_an_error(monitor: str, record: bytes) -> None:
    with contextlib.suppress(KernelError):
        decode(monitor, record)


@given(
    st.sampled_from(sorted(WHOLE)),
    st.integers(1, 4),
    st.binary(min_size=36, max_size=36),
    st.binary(min_size=18, max_size=18 + 500),
)
def test_any_bytes_with_a_kind_are_an_event_or_an_error(
    monitor: str, kind: int, before: bytes, after: bytes
) -> None:
    with contextlib.suppress(KernelError):
        decode(monitor, before + kind.to_bytes(2, "little") + after)


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(0, 3))
def test_any_names_and_arguments_are_an_event(names: bytes, args: bytes, flags: int) -> None:
    event = decode("process", exec_record(names, args, flags=flags))
    assert event["cut"] == bool(flags & CUT)
