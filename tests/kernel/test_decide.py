"""The decisions of bpf/decide.h, compiled for BPF and run by the kernel on tables."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kernel_support import TEST_OBJECTS

from aegis_tools.kernel import syscall
from aegis_tools.kernel.pins import Pins

DECIDE = struct.Struct("QQ8B")
OPS = struct.Struct("II")
PEER = struct.Struct("=H2s4s16sHHIBBH16s4x")
ALLOW, AUDIT, BLOCK, TERM, KILL, INT = range(6)
NONE, RULE_AUDIT, MODE_AUDIT, DEADLINE, CGROUP, SURVIVAL, FALLBACK = range(7)
READ, WRITE, EXEC, MODIFY = 1, 2, 4, 8
F_READ, F_WRITE, F_EXEC, O_TRUNC = 1, 2, 0x20, 0o1000
TCP, UDP, UDPLITE, MPTCP, ICMP, SMC = 6, 17, 136, 262, 1, 256
AF_SMC = 43
UNSPEC, UNIX, INET, INET6 = 0, 1, 2, 10

Call = Callable[[str, bytes], tuple[int, bytes]]


@pytest.fixture
def call(pins: Pins) -> Iterator[Call]:
    """Return a function that runs a test program on a context."""
    folder = pins.path("progs")
    folder.mkdir(parents=True)
    argv = ["bpftool", "prog", "loadall", str(TEST_OBJECTS / "decide_test.bpf.o"), str(folder)]
    subprocess.run(argv, check=True, capture_output=True)
    opened = {name: pins.open_program(name) for name in pins.names("progs")}
    yield lambda name, context: syscall.test_run(opened[name], context)
    for fd in opened.values():
        os.close(fd)


def decide(
    call: Call,
    *,
    mode: int = 1,
    enforce: int = 1,
    sent: int = 0,
    cgroup: int = 0,
    survival: int = 0,
    deadline: int = 0,
    now: int = 100,
) -> tuple[int, int]:
    """Return (action, reason)."""
    context = DECIDE.pack(deadline, now, mode, enforce, sent, cgroup, survival, 99, 99, 0)
    _, after = call("test_decide", context)
    return after[21], after[22]


@pytest.mark.parametrize(
    ("circumstances", "wanted"),
    [
        ({}, (BLOCK, NONE)),
        ({"sent": 15}, (TERM, NONE)),
        ({"sent": 9}, (KILL, NONE)),
        ({"sent": 2}, (INT, NONE)),
        ({"sent": 1}, (BLOCK, NONE)),
        ({"cgroup": 1}, (ALLOW, CGROUP)),
        ({"survival": 1}, (AUDIT, SURVIVAL)),
        ({"enforce": 0}, (AUDIT, RULE_AUDIT)),
        ({"mode": 0}, (AUDIT, MODE_AUDIT)),
        ({"deadline": 99}, (AUDIT, DEADLINE)),
        ({"deadline": 100}, (BLOCK, NONE)),
        ({"deadline": 101, "sent": 9}, (KILL, NONE)),
        ({"deadline": 1, "now": 2**63}, (AUDIT, DEADLINE)),
        ({"cgroup": 1, "survival": 1, "enforce": 0, "mode": 0}, (ALLOW, CGROUP)),
        ({"survival": 1, "sent": 9}, (AUDIT, SURVIVAL)),
        ({"enforce": 0, "mode": 0}, (AUDIT, RULE_AUDIT)),
        ({"mode": 0, "deadline": 1}, (AUDIT, MODE_AUDIT)),
        ({"mode": 7}, (AUDIT, MODE_AUDIT)),
    ],
)
def test_a_match_leads_to(
    call: Call, circumstances: dict[str, int], wanted: tuple[int, int]
) -> None:
    assert decide(call, **circumstances) == wanted


def test_something_is_refused_only_when_everything_asks_for_it(call: Call) -> None:
    bits = (0, 1)
    for mode, enforce, cgroup, survival, late in itertools.product(bits, repeat=5):
        action, reason = decide(
            call,
            mode=mode,
            enforce=enforce,
            cgroup=cgroup,
            survival=survival,
            deadline=50,
            now=51 if late else 50,
        )
        refused = bool(mode and enforce and not cgroup and not survival and not late)
        assert (action == BLOCK) is refused
        assert (reason == NONE) is refused


@pytest.mark.parametrize(
    ("flags", "mode", "wanted"),
    [
        (0, 0, 0),
        (0, F_READ, READ),
        (0, F_WRITE, WRITE),
        (0, F_READ | F_WRITE, READ | WRITE),
        (O_TRUNC, F_READ, READ | WRITE),
        (O_TRUNC, 0, WRITE),
        (O_TRUNC, F_WRITE, WRITE),
        (F_EXEC, F_READ, EXEC),
        (F_EXEC | O_TRUNC, F_READ | F_WRITE, EXEC),
        (os.O_CREAT | os.O_NOFOLLOW | os.O_DIRECTORY, F_READ, READ),
        (0, 0x4000, 0),
    ],
)
def test_an_open_asks_for(call: Call, flags: int, mode: int, wanted: int) -> None:
    assert call("test_ops_of_open", OPS.pack(flags, mode))[0] == wanted


@pytest.mark.parametrize(
    ("option", "wanted"),
    [(100, 5), (110, 4), (6, 4), (5, -1), (101, -1), (126, -1), (0x01C0, -1), (0x04C0, -1)],
)
def test_an_option_of_sctp_names_addresses_for(call: Call, option: int, wanted: int) -> None:
    """Options of a socket; not a sendmsg, nor what a packet asks (SCTP_PARAM_ADD_IP)."""
    assert call("test_op_of_sctp", OPS.pack(option, 0))[0] == wanted % (1 << 32)


ATTR_MODE, ATTR_UID, ATTR_GID, ATTR_SIZE, ATTR_ATIME, ATTR_MTIME, ATTR_CTIME = (
    1 << bit for bit in range(7)
)


@pytest.mark.parametrize(
    ("valid", "wanted"),
    [
        (0, 0),
        (ATTR_SIZE, WRITE),
        (ATTR_SIZE | ATTR_MTIME | ATTR_CTIME, WRITE),
        (ATTR_MODE, MODIFY),
        (ATTR_UID, MODIFY),
        (ATTR_GID, MODIFY),
        (ATTR_ATIME, MODIFY),
        (ATTR_MTIME, MODIFY),
        (ATTR_CTIME, 0),
        (1 << 12, 0),
    ],
)
def test_a_change_of_attributes_asks_for(call: Call, valid: int, wanted: int) -> None:
    assert call("test_ops_of_setattr", OPS.pack(valid, 0))[0] == wanted


def peer(
    call: Call,
    address: str,
    *,
    family: int | None = None,
    sock: int = INET6,
    protocol: int = TCP,
    port: int = 443,
    egress: int = 1,
) -> tuple[int, int, int, str]:
    """Return (family, protocol, port, address) that rules are compared with."""
    v6 = ":" in address
    raw = socket.inet_pton(socket.AF_INET6 if v6 else socket.AF_INET, address)
    context = PEER.pack(
        (INET6 if v6 else INET) if family is None else family,
        port.to_bytes(2, "big"),
        bytes(4) if v6 else raw,
        raw if v6 else bytes(16),
        sock,
        protocol,
        egress,
        0xEE,
        0xEE,
        0xEEEE,
        b"\xee" * 16,
    )
    after = PEER.unpack(call("test_peer_of", context)[1])
    kind, number, found, out = after[7:]
    text = socket.inet_ntop(socket.AF_INET, out[:4]) if kind == 4 else ""
    assert kind != 4 or out[4:] == bytes(12), "a key may not hold bytes of another address"
    return kind, number, found, text or (socket.inet_ntop(socket.AF_INET6, out) if kind else "")


@pytest.mark.parametrize(
    ("address", "options", "wanted"),
    [
        ("192.0.2.1", {"sock": INET}, (4, 6, 443, "192.0.2.1")),
        ("2001:db8::1", {}, (6, 6, 443, "2001:db8::1")),
        ("::ffff:192.0.2.1", {}, (4, 6, 443, "192.0.2.1")),
        ("::192.0.2.1", {}, (6, 6, 443, "::192.0.2.1")),
        ("::fffe:192.0.2.1", {}, (6, 6, 443, "::fffe:c000:201")),
        ("1::ffff:192.0.2.1", {}, (6, 6, 443, "1::ffff:c000:201")),
        ("192.0.2.1", {"family": UNSPEC, "sock": INET}, (4, 6, 443, "192.0.2.1")),
        ("192.0.2.1", {"family": UNSPEC, "sock": INET6}, (0, 0, 0, "")),
        ("192.0.2.1", {"family": UNIX, "sock": UNIX}, (0, 0, 0, "")),
        ("192.0.2.1", {"sock": INET6}, (4, 6, 443, "192.0.2.1")),
        ("0.0.0.0", {"sock": INET}, (4, 6, 443, "127.0.0.1")),
        ("::", {}, (6, 6, 443, "::1")),
        ("::ffff:0.0.0.0", {}, (4, 6, 443, "127.0.0.1")),
        ("0.0.0.0", {"sock": INET, "egress": 0}, (4, 6, 443, "0.0.0.0")),
        ("::", {"egress": 0}, (6, 6, 443, "::")),
        ("192.0.2.1", {"protocol": UDP}, (4, 17, 443, "192.0.2.1")),
        ("192.0.2.1", {"protocol": UDPLITE}, (4, 17, 443, "192.0.2.1")),
        ("192.0.2.1", {"protocol": MPTCP}, (4, 6, 443, "192.0.2.1")),
        ("192.0.2.1", {"protocol": SMC, "sock": INET}, (4, 6, 443, "192.0.2.1")),
        ("192.0.2.1", {"protocol": 0, "sock": AF_SMC}, (4, 6, 443, "192.0.2.1")),
        ("2001:db8::1", {"protocol": 1, "sock": AF_SMC}, (6, 6, 443, "2001:db8::1")),
        ("0.0.0.0", {"family": UNSPEC, "sock": AF_SMC, "egress": 0}, (4, 6, 443, "0.0.0.0")),
        ("192.0.2.1", {"protocol": ICMP}, (4, 0, 443, "192.0.2.1")),
        ("192.0.2.1", {"port": 0}, (4, 6, 0, "192.0.2.1")),
        ("192.0.2.1", {"port": 65535}, (4, 6, 65535, "192.0.2.1")),
    ],
)
def test_an_address_is_known_however_it_was_written(
    call: Call, address: str, options: dict[str, int], wanted: tuple[int, int, int, str]
) -> None:
    assert peer(call, address, **options) == wanted


@pytest.mark.parametrize("position", range(12))
def test_every_byte_of_the_prefix_tells_ipv6_from_ipv4(call: Call, position: int) -> None:
    raw = bytearray(socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.1"))
    raw[position] ^= 1
    address = socket.inet_ntop(socket.AF_INET6, bytes(raw))
    assert peer(call, address) == (6, 6, 443, address)


def test_the_tables_cover_a_program_that_was_really_loaded(pins: Pins, call: Call) -> None:
    del call
    assert pins.names("progs") == [
        "test_decide",
        "test_op_of_sctp",
        "test_ops_of_open",
        "test_ops_of_setattr",
        "test_peer_of",
    ]
    assert Path(TEST_OBJECTS / "decide_test.bpf.o").is_file()
