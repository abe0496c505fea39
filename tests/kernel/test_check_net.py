"""Networks: the decisions of bpf/check.h, match.h and report.h on this machine's own sockets."""

from __future__ import annotations

import socket
import struct

import pytest
from check_support import BOUND, CONNECT, IN4, PORT, SENDMSG, V4, V6, Checks, only, rule, sockaddr

from aegis_tools.kernel import layout
from aegis_tools.kernel.layout import Stat
from aegis_tools.policy.model import NET_OPS, Kind, Mode, Op

UNSPEC = 0
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
SCTP, DSTADDRV4, DSTADDRV6 = 132, 7, 8


class TestNetwork:
    @pytest.mark.parametrize(
        ("kind", "target", "denied", "passing"),
        [
            (Kind.IP, IN4, [IN4], ["127.0.0.6", "127.0.0.8", "7.0.0.127", "::1"]),
            (Kind.IP, "2001:db8::7", ["2001:db8::7"], ["2001:db8::8", "2002:db8::7", IN4]),
            (
                Kind.CIDR,
                "10.1.0.0/17",
                ["10.1.0.0", "10.1.127.255"],
                ["10.1.128.0", "10.0.255.255"],
            ),
            (Kind.CIDR, "10.1.2.3/32", ["10.1.2.3"], ["10.1.2.2", "10.1.2.4"]),
            (Kind.CIDR, "0.0.0.0/0", ["1.2.3.4"], ["::2"]),
            (Kind.CIDR, "2001:db8::/33", ["2001:db8:7fff::1"], ["2001:db8:8000::1", IN4]),
            (Kind.CIDR, "2001:db8::1/128", ["2001:db8::1"], ["2001:db8::2", "2001:db8::"]),
        ],
    )
    def test_addresses(
        self, checks: Checks, kind: Kind, target: str, denied: list[str], passing: list[str]
    ) -> None:
        checks.apply(rule(kind, target, NET_OPS))
        with socket.socket(V6, UDP) as opened:
            for address in denied:
                assert not checks.net(opened, sockaddr(address)), address
                assert not checks.net(opened, sockaddr(address), 5, BOUND), address
            for address in passing:
                assert checks.net(opened, sockaddr(address)), address

    @pytest.mark.parametrize("address", [IN4, "2001:db8::7"])
    @pytest.mark.parametrize("kind", [Kind.PORT, Kind.IP_PORT])
    @pytest.mark.parametrize("protocol", ["tcp", "udp", "any"])
    def test_ports_and_pairs(self, checks: Checks, address: str, kind: Kind, protocol: str) -> None:
        shown = f"[{address}]" if ":" in address else address
        target = f"{PORT}:{protocol}" if kind is Kind.PORT else f"{shown}:{PORT}:{protocol}"
        checks.apply(rule(kind, target, Op.EGRESS))
        for name, type_, number in (("tcp", TCP, 6), ("udp", UDP, 17)):
            with socket.socket(V6, type_) as opened:
                through = protocol not in (name, "any")
                assert checks.net(opened, sockaddr(address)) is through
                if not through:
                    event = only(checks)
                    assert (event.protocol, event.port) == (number, PORT)
                    assert event.family == (6 if ":" in address else 4)
                    packed = socket.inet_pton(V6 if ":" in address else V4, address)
                    assert event.addr == packed.ljust(16, b"\0")
                assert checks.net(opened, sockaddr(address, PORT + 1))
                assert checks.net(opened, sockaddr(address), 5, BOUND)
                other = address[:-1] + "9"
                assert checks.net(opened, sockaddr(other)) is (through or kind is Kind.IP_PORT)
                checks.events()
        with socket.socket(V6, socket.SOCK_RAW, 200) as raw:
            assert checks.net(raw, sockaddr(address)) is (protocol != "any")

    @pytest.mark.parametrize("op", [Op.EGRESS, Op.BIND])
    @pytest.mark.parametrize(
        ("kind", "target"),
        [
            (Kind.IP, IN4), (Kind.CIDR, "127.0.0.0/28"), (Kind.PORT, f"{PORT}:udp"),
            (Kind.PORT, f"{PORT}:any"), (Kind.IP_PORT, f"{IN4}:{PORT}:any"),
        ],
    )  # fmt: skip
    def test_directions_are_told_apart(
        self, checks: Checks, op: Op, kind: Kind, target: str
    ) -> None:
        checks.apply(rule(kind, target, op))
        with socket.socket(V4, UDP) as opened:
            for asked, number, hook, stat in (
                (Op.EGRESS, 4, CONNECT, Stat.CONNECT_BLOCKS),
                (Op.EGRESS, 4, SENDMSG, Stat.SEND_BLOCKS),
                (Op.BIND, 5, BOUND, Stat.BIND_BLOCKS),
            ):
                with checks.counted() as counted:
                    assert checks.net(opened, sockaddr(IN4), number, hook) is (asked is not op)
                if asked is op:
                    assert counted == {Stat.BLOCKS: 1, stat: 1, Stat.EVENTS: 1}
                    event = only(checks)
                    assert (event.op, event.hook) == (number, hook)
                    assert event.addr == socket.inet_aton(IN4) + bytes(12)

    @pytest.mark.parametrize("strict", range(4))
    def test_the_strictest_rule_decides(self, checks: Checks, strict: int) -> None:
        targets = [
            (Kind.IP, IN4), (Kind.CIDR, "127.0.0.0/28"),
            (Kind.IP_PORT, f"{IN4}:{PORT}:any"), (Kind.PORT, f"{PORT}:any"),
        ]  # fmt: skip
        modes = [Mode.ENFORCE if number == strict else Mode.AUDIT for number in range(4)]
        checks.apply(
            *(
                rule(*target, NET_OPS, mode=mode)
                for target, mode in zip(targets, modes, strict=True)
            )
        )
        with socket.socket(V4, UDP) as opened:
            assert not checks.net(opened, sockaddr(IN4))
        kind, target = targets[strict]
        assert only(checks).rule == layout.uid_of(f"{kind.value}:{target}")

    def test_unspec_ends_a_connection_and_is_an_address_elsewhere(self, checks: Checks) -> None:
        checks.apply(rule(Kind.IP, IN4, NET_OPS), rule(Kind.IP, "2001:db8::7", NET_OPS))
        v4, v6 = sockaddr(IN4, family=UNSPEC), sockaddr("2001:db8::7", family=UNSPEC)
        with socket.socket(V4, UDP) as opened:
            assert checks.net(opened, v4)
            assert not checks.net(opened, v4, hook=SENDMSG)
            assert not checks.net(opened, v4, 5, BOUND)
        with socket.socket(V6, UDP) as opened:
            assert checks.net(opened, v6, hook=SENDMSG)
        with socket.socket(V6, socket.SOCK_RAW, 200) as opened:
            assert checks.net(opened, v6)
            assert not checks.net(opened, v6, hook=SENDMSG)
        with socket.socket(V4, socket.SOCK_RAW, 200) as opened:
            assert checks.net(opened, v6, hook=SENDMSG)
            assert not checks.net(opened, v4, hook=SENDMSG)

    @pytest.mark.parametrize(
        ("family", "bound", "anything", "reached"),
        [
            (V4, "127.0.0.9", "0.0.0.0", "127.0.0.9"),
            (V4, "0.0.0.0", "0.0.0.0", "127.0.0.1"),
            (V6, "::ffff:127.0.0.9", "::ffff:0.0.0.0", "127.0.0.9"),
            (V6, "::ffff:127.0.0.9", "::", "127.0.0.1"),
            (V6, "::1", "::", "::1"),
            (V6, "::", "::", "::1"),
        ],
    )
    def test_anything_is_what_the_socket_is_bound_to(
        self, checks: Checks, family: int, bound: str, anything: str, reached: str
    ) -> None:
        checks.apply(rule(Kind.IP, reached, NET_OPS))
        with socket.socket(family, UDP) as opened:
            opened.bind((bound, 0))
            assert not checks.net(opened, sockaddr(anything))
            assert checks.net(opened, sockaddr(anything), 5, BOUND), "bind means every address"

    @pytest.mark.parametrize(
        ("family", "bound", "named"),
        [
            (V4, "127.0.0.9", IN4),
            (V6, "::ffff:127.0.0.9", "::ffff:" + IN4),
            (V6, "::ffff:127.0.0.9", "2001:db8::7"),
            (V6, "::1", "2001:db8::7"),
        ],
    )
    def test_what_is_named_is_meant_wherever_the_socket_is_bound(
        self, checks: Checks, family: int, bound: str, named: str
    ) -> None:
        checks.apply(rule(Kind.IP, IN4, NET_OPS), rule(Kind.IP, "2001:db8::7", NET_OPS))
        with socket.socket(family, UDP) as opened:
            opened.bind((bound, 0))
            assert not checks.net(opened, sockaddr(named))
            assert checks.net(opened, sockaddr(named[:-1] + "8"))


def control(*messages: tuple[int, int, bytes]) -> bytes:
    """Return control messages: each a head of 16 bytes, padded to 8 at the end."""
    packed = b""
    for level, kind, data in messages:
        packed += struct.pack("Qii", 16 + len(data), level, kind) + data + bytes(-len(data) % 8)
    return packed


class TestLists:
    OTHER, OTHER6 = "127.0.0.8", "2001:db8::8"

    @pytest.mark.parametrize(
        ("names", "through"),
        [
            ([IN4], False),
            (["127.0.0.8", IN4], False),
            (["2001:db8::8", IN4], False),
            (["2001:db8::8", "127.0.0.8", "2001:db8::7"], False),
            (["127.0.0.8"] * 31 + [IN4], False),
            (["2001:db8::8"] * 31 + [IN4], False),
            (["127.0.0.8"] * 32, True),
            (["127.0.0.8"] * 33, False),
            (["127.0.0.8", "2001:db8::8"], True),
            ([], True),
        ],
    )
    def test_addresses_one_behind_the_other(
        self, checks: Checks, names: list[str], through: bool
    ) -> None:
        checks.apply(rule(Kind.IP, IN4, NET_OPS), rule(Kind.IP, "2001:db8::7", NET_OPS))
        listed = b"".join(map(sockaddr, names))
        with socket.socket(V6, TCP) as opened:
            for op, hook in ((4, CONNECT), (5, BOUND)):
                assert checks.net(opened, listed, op, hook, name="test_list") is through
                checks.set(MODE=0)
                assert checks.net(opened, listed, op, hook, name="test_list")
                checks.set(MODE=1)

    def test_what_is_behind_the_list_is_not_read(self, checks: Checks) -> None:
        checks.apply(rule(Kind.IP, IN4, NET_OPS))
        with socket.socket(V4, TCP) as opened:
            head = struct.pack("6I", opened.fileno(), 4, CONNECT, 16, 0, 0)
            listed = sockaddr(self.OTHER) + sockaddr(IN4)
            assert checks._run("test_list", head + listed.ljust(1024, b"\0"))

    def test_a_list_too_long_is_refused_only_where_rules_are_enforced(self, checks: Checks) -> None:
        listed = sockaddr(self.OTHER) * 33
        with socket.socket(V4, TCP) as opened:
            assert checks.net(opened, listed, name="test_list"), "no rules for the network"
            checks.apply(rule(Kind.IP, IN4, NET_OPS))
            assert not checks.net(opened, listed, name="test_list")
            for settings in ({"DEADLINE": 1}, {"DEADLINE": 0, "MODE": 0}):
                checks.set(**settings)
                assert checks.net(opened, listed, name="test_list")

    V4_DENIED = (SCTP, DSTADDRV4, socket.inet_aton(IN4))
    V4_OTHER = (SCTP, DSTADDRV4, socket.inet_aton(OTHER))
    V6_DENIED = (SCTP, DSTADDRV6, socket.inet_pton(V6, "2001:db8::7"))
    V6_OTHER = (SCTP, DSTADDRV6, socket.inet_pton(V6, OTHER6))

    @pytest.mark.parametrize(
        ("messages", "through"),
        [
            ([V4_DENIED], False),
            ([V6_DENIED], False),
            ([V4_OTHER, V6_OTHER, V4_DENIED], False),
            ([V6_OTHER, (0, 0, b""), (1, 1, b"12345"), V6_DENIED], False),
            ([V4_OTHER, V6_OTHER], True),
            ([(0, DSTADDRV4, V4_DENIED[2]), (SCTP, 0, V4_DENIED[2])], True),
            ([], True),
            ([(0, 0, b"")] * 31 + [V4_DENIED], False),
            ([(0, 0, b"")] * 32, True),
            ([(0, 0, b"")] * 33, False),
        ],
    )
    @pytest.mark.parametrize("kind", [Kind.IP, Kind.IP_PORT])
    def test_addresses_in_control_messages(
        self, checks: Checks, kind: Kind, messages: list[tuple[int, int, bytes]], through: bool
    ) -> None:
        targets = [IN4, "2001:db8::7"]
        if kind is Kind.IP_PORT:
            targets = [f"{IN4}:{PORT}:any", f"[2001:db8::7]:{PORT}:any"]
        checks.apply(*(rule(kind, target, Op.EGRESS) for target in targets))
        packed = control(*messages)
        port = socket.htons(PORT)
        with socket.socket(V6, TCP) as opened:
            assert checks.net(opened, packed, name="test_control", port=port) is through
            if kind is Kind.IP_PORT and messages == [self.V4_DENIED]:
                event = only(checks)
                assert (event.port, event.hook) == (PORT, SENDMSG)
                assert checks.net(opened, packed, name="test_control", port=port + 1)

    def test_a_control_message_without_a_head_ends_it(self, checks: Checks) -> None:
        checks.apply(rule(Kind.IP, IN4, NET_OPS))
        short = struct.pack("Qii", 15, 0, 0) + control(self.V4_DENIED)
        with socket.socket(V4, TCP) as opened:
            assert checks.net(opened, short, name="test_control")
