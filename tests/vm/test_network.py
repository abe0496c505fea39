"""A peer or a port under a rule cannot be reached, however the program names it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from battery import Host, Kind, Mode, Op, Stat, allowed, call, libc, net_rule, refused

CONNECT, BIND, SENDMSG = 9, 10, 11
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
V4, V6 = socket.AF_INET, socket.AF_INET6
SENDTO, SENDMMSG, CONNECT_CALL = 44, 307, 42
MSG_FASTOPEN = 0x20000000
MPTCP = 262
PORT = 4444
IN4 = "127.0.0.7"
Address = tuple[str, int]


@contextlib.contextmanager
def sock(family: int, kind: int, protocol: int = 0) -> Iterator[socket.socket]:
    with socket.socket(family, kind, protocol) as opened:
        opened.settimeout(5)
        yield opened


def connect(family: int, kind: int, to: Address, protocol: int = 0) -> None:
    with sock(family, kind, protocol) as opened:
        opened.connect(to)


def bind(family: int, kind: int, to: Address) -> None:
    with sock(family, kind) as opened:
        opened.bind(to)


def sendto(family: int, to: Address) -> None:
    with sock(family, UDP) as opened:
        opened.sendto(b"x", to)


def sendmsg(family: int, to: Address) -> None:
    with sock(family, UDP) as opened:
        opened.sendmsg([b"x"], [], 0, to)


def sockaddr(family: int, address: Address) -> bytes:
    """Return a sockaddr_in of any claimed family."""
    return (
        struct.pack("=H", family)
        + struct.pack("!H", address[1])
        + (socket.inet_aton(address[0]) + bytes(8))
    )


def raw_sendto(opened: socket.socket, name: bytes, flags: int = 0) -> None:
    call(SENDTO, opened.fileno(), b"x", ctypes.c_size_t(1), flags, name, len(name))


def sendmmsg(family: int, addresses: list[Address]) -> int:
    """Send a datagram to each address in one call; return how many were taken."""
    buffer = ctypes.create_string_buffer(b"x")
    vector = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(buffer), 1), 16)
    names = [ctypes.create_string_buffer(sockaddr(V4, to), 16) for to in addresses]
    headers = b"".join(
        struct.pack("QIxxxxQQQQIxxxxIxxxx", ctypes.addressof(name), 16,
                    ctypes.addressof(vector), 1, 0, 0, 0, 0)
        for name in names
    )  # fmt: skip
    with sock(family, UDP) as opened:
        return call(SENDMMSG, opened.fileno(), headers, len(names), 0)


def fast_open(to: Address) -> None:
    with sock(V4, TCP) as opened:
        raw_sendto(opened, sockaddr(V4, to), MSG_FASTOPEN)


class TestAddresses:
    WAYS: ClassVar[dict[str, Callable[[Address], None]]] = {
        "tcp connect": lambda to: connect(V4, TCP, to),
        "udp connect": lambda to: connect(V4, UDP, to),
        "udp sendto": lambda to: sendto(V4, to),
        "udp sendmsg": lambda to: sendmsg(V4, to),
        "tcp fast open": fast_open,
        "mapped tcp": lambda to: connect(V6, TCP, ("::ffff:" + to[0], to[1])),
        "mapped udp": lambda to: sendto(V6, ("::ffff:" + to[0], to[1])),
    }

    @pytest.mark.parametrize("kind", [Kind.IP, Kind.CIDR, Kind.PORT, Kind.IP_PORT])
    def test_every_way_to_it_is_refused_and_to_another_is_not(self, host: Host, kind: Kind) -> None:
        target = {
            Kind.IP: IN4,
            Kind.CIDR: "127.0.0.0/29",
            Kind.PORT: f"{PORT}:any",
            Kind.IP_PORT: f"{IN4}:{PORT}:any",
        }[kind]
        host.apply(net_rule(kind, target))
        for name, way in self.WAYS.items():
            assert not allowed(partial(way, (IN4, PORT))), name
            assert allowed(partial(way, ("127.0.0.8", PORT + 1))), name

    def test_sendmmsg_stops_at_the_denied_one(self, host: Host) -> None:
        host.apply(net_rule(Kind.IP, IN4))
        with refused():
            sendmmsg(V4, [(IN4, PORT), ("127.0.0.8", PORT)])
        assert sendmmsg(V4, [("127.0.0.8", PORT), (IN4, PORT), ("127.0.0.8", PORT)]) == 1

    def test_unspec_counts_as_ipv4_on_an_ipv4_socket(self, host: Host) -> None:
        host.apply(net_rule(Kind.IP, IN4))
        with sock(V4, UDP) as opened:
            with refused():
                raw_sendto(opened, sockaddr(socket.AF_UNSPEC, (IN4, PORT)))
            raw_sendto(opened, sockaddr(socket.AF_UNSPEC, ("127.0.0.8", PORT)))

    def test_an_ipv6_socket_takes_ipv4_addresses_and_is_refused(self, host: Host) -> None:
        host.apply(net_rule(Kind.IP, IN4))
        with sock(V6, UDP) as opened:
            with refused():
                raw_sendto(opened, sockaddr(V4, (IN4, PORT)))
            raw_sendto(opened, sockaddr(V4, ("127.0.0.8", PORT)))

    @pytest.mark.parametrize(
        ("family", "anything", "loopback"),
        [(V4, "0.0.0.0", "127.0.0.1"), (V6, "::", "::1"), (V6, "::ffff:0.0.0.0", "127.0.0.1")],
    )
    @pytest.mark.parametrize("kind", [TCP, UDP])
    def test_to_anything_means_to_this_host(
        self, host: Host, family: int, anything: str, loopback: str, kind: int
    ) -> None:
        host.apply(net_rule(Kind.IP, loopback, Op.EGRESS))
        assert not allowed(lambda: connect(family, kind, (anything, PORT)))
        host.apply(net_rule(Kind.IP, "203.0.113.1", Op.EGRESS))
        assert allowed(lambda: connect(family, kind, (anything, PORT)))

    @pytest.mark.parametrize(
        ("family", "source", "anything", "reached"),
        [
            (V4, "127.0.0.9", "0.0.0.0", "127.0.0.9"),
            (V6, "::ffff:127.0.0.1", "::", "127.0.0.1"),
        ],
    )
    def test_to_anything_from_a_bound_socket_means_to_its_own_address(
        self, host: Host, family: int, source: str, anything: str, reached: str
    ) -> None:
        with socket.create_server((reached, PORT)) as server:
            server.settimeout(5)
            for denied in (False, True):
                if denied:
                    host.apply(net_rule(Kind.IP, reached, Op.EGRESS))
                with sock(family, TCP) as opened:
                    opened.bind((source, 0))
                    assert allowed(partial(opened.connect, (anything, PORT))) != denied
                if not denied:
                    server.accept()[0].close()

    def test_ipv6_addresses_and_networks(self, host: Host) -> None:
        host.apply(net_rule(Kind.IP, "::1"), net_rule(Kind.CIDR, "2001:db8::/32"))
        for to in ("::1", "2001:db8::1", "2001:db8:ffff::1"):
            assert not allowed(partial(connect, V6, UDP, (to, PORT)))
            assert not allowed(partial(connect, V6, TCP, (to, PORT)))
            assert not allowed(partial(sendto, V6, (to, PORT)))
        assert allowed(lambda: connect(V6, UDP, ("2001:db9::1", PORT)))
        assert allowed(lambda: connect(V4, UDP, ("127.0.0.1", PORT)))

    def test_ipv6_address_and_port(self, host: Host) -> None:
        host.apply(net_rule(Kind.IP_PORT, f"[::1]:{PORT}:udp"))
        assert not allowed(lambda: sendto(V6, ("::1", PORT)))
        assert allowed(lambda: sendto(V6, ("::1", PORT + 1)))
        assert allowed(lambda: connect(V6, TCP, ("::1", PORT)))

    def test_multipath_tcp_is_tcp(self, host: Host, kernel_name: str) -> None:
        if not Path("/proc/sys/net/mptcp/enabled").exists():
            assert kernel_name == "5.10", "only Debian's 5.10 is built without it"
            return
        host.apply(net_rule(Kind.PORT, f"{PORT}:tcp"))
        assert not allowed(lambda: connect(V4, TCP, (IN4, PORT), MPTCP))
        assert allowed(lambda: connect(V4, TCP, (IN4, PORT + 1), MPTCP))

    @pytest.mark.parametrize("protocol", [socket.IPPROTO_TCP, socket.IPPROTO_UDP, 253])
    def test_a_raw_socket_is_refused_by_address(self, host: Host, protocol: int) -> None:
        host.apply(net_rule(Kind.IP, IN4))
        with sock(V4, socket.SOCK_RAW, protocol) as opened:
            with refused():
                opened.sendto(b"x" * 20, (IN4, 0))
            opened.sendto(b"x" * 20, ("127.0.0.8", 0))
            with refused():
                opened.connect((IN4, 0))

    def test_a_ping_socket_is_refused_by_address(self, host: Host) -> None:
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")
        echo = bytes([8, 0, 0, 0, 0, 0, 0, 0])
        host.apply(net_rule(Kind.IP, IN4), net_rule(Kind.PORT, f"{PORT}:tcp"))
        with sock(V4, UDP, socket.IPPROTO_ICMP) as opened:
            with refused():
                opened.sendto(echo, (IN4, 0))
            opened.sendto(echo, ("127.0.0.8", 0))


class TestNetworks:
    @pytest.mark.parametrize(
        ("outer", "inner"), [(Mode.ENFORCE, Mode.AUDIT), (Mode.AUDIT, Mode.ENFORCE)]
    )
    def test_a_narrow_rule_never_hides_a_wide_enforcing_one(
        self, host: Host, outer: Mode, inner: Mode
    ) -> None:
        host.apply(
            net_rule(Kind.CIDR, "127.1.0.0/16", mode=outer),
            net_rule(Kind.CIDR, "127.1.2.0/24", mode=inner),
        )
        assert not allowed(lambda: sendto(V4, ("127.1.2.3", PORT)))
        assert allowed(lambda: sendto(V4, ("127.1.3.3", PORT))) == (outer is Mode.AUDIT)
        assert allowed(lambda: sendto(V4, ("127.2.0.1", PORT)))

    def test_a_network_ends_where_its_prefix_says(self, host: Host) -> None:
        host.apply(net_rule(Kind.CIDR, "127.5.128.0/17"), net_rule(Kind.CIDR, "127.6.0.1/32"))
        results = {
            to: allowed(partial(sendto, V4, (to, PORT)))
            for to in ("127.5.127.255", "127.5.128.0", "127.5.255.255", "127.6.0.0", "127.6.0.1")
        }
        assert list(results.values()) == [True, False, False, True, False]


class TestPorts:
    @pytest.mark.parametrize(
        ("target", "ops", "tcp", "udp", "bound"),
        [
            (f"{PORT}:tcp", Op.EGRESS, False, True, True),
            (f"{PORT}:udp", Op.EGRESS, True, False, True),
            (f"{PORT}:any", Op.EGRESS, False, False, True),
            (f"{PORT}:any", Op.BIND, True, True, False),
            (f"{PORT}:tcp", Op.BIND | Op.EGRESS, False, True, False),
        ],
    )
    def test_protocol_and_direction_are_respected(
        self, host: Host, target: str, ops: Op, tcp: bool, udp: bool, bound: bool
    ) -> None:
        host.apply(net_rule(Kind.PORT, target, ops))
        assert allowed(lambda: connect(V4, TCP, (IN4, PORT))) == tcp
        assert allowed(lambda: sendto(V4, (IN4, PORT))) == udp
        assert allowed(lambda: bind(V4, TCP, (IN4, PORT))) == bound
        assert allowed(lambda: bind(V4, TCP, (IN4, PORT + 1)))

    @pytest.mark.parametrize(
        ("family", "address"), [(V4, "0.0.0.0"), (V4, IN4), (V6, "::"), (V6, "::1")]
    )
    @pytest.mark.parametrize("kind", [TCP, UDP])
    def test_a_port_cannot_be_bound_on_any_address(
        self, host: Host, family: int, address: str, kind: int
    ) -> None:
        host.apply(net_rule(Kind.PORT, f"{PORT}:any", Op.BIND))
        assert not allowed(lambda: bind(family, kind, (address, PORT)))
        bind(family, kind, (address, PORT + 1))

    def test_unspec_binds_as_ipv4(self, host: Host) -> None:
        host.apply(net_rule(Kind.PORT, f"{PORT}:any", Op.BIND))
        name = sockaddr(socket.AF_UNSPEC, ("0.0.0.0", PORT))
        with sock(V4, TCP) as opened:
            assert libc.bind(opened.fileno(), name, len(name)) == -1
            assert ctypes.get_errno() == errno.EPERM

    def test_a_pair_needs_both(self, host: Host) -> None:
        host.apply(net_rule(Kind.IP_PORT, f"{IN4}:{PORT}:udp"))
        assert not allowed(lambda: sendto(V4, (IN4, PORT)))
        assert not allowed(lambda: bind(V4, UDP, (IN4, PORT)))
        assert allowed(lambda: sendto(V4, (IN4, PORT + 1)))
        assert allowed(lambda: sendto(V4, ("127.0.0.8", PORT)))
        assert allowed(lambda: connect(V4, TCP, (IN4, PORT)))


def test_other_traffic_is_never_touched(host: Host, tmp_path: Path) -> None:
    host.apply(net_rule(Kind.IP, IN4), net_rule(Kind.CIDR, "::/0"), net_rule(Kind.PORT, "9:any"))
    with host.counted() as counted:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=5) as client,
        ):
            accepted, _ = server.accept()
            client.sendall(b"over")
            assert accepted.recv(4) == b"over"
            accepted.close()
        with sock(socket.AF_UNIX, UDP) as one, sock(socket.AF_UNIX, UDP) as other:
            one.bind(str(tmp_path / "socket"))
            other.connect(str(tmp_path / "socket"))
            other.send(b"x")
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
            netlink.bind((0, 0))
    assert counted == {}


@pytest.mark.parametrize("rule", ["127.0.0.1", IN4])
def test_a_socket_can_be_disconnected(host: Host, rule: str) -> None:
    with sock(V4, UDP) as opened:
        opened.connect((IN4, PORT))
        host.apply(net_rule(Kind.IP, rule), net_rule(Kind.PORT, "0:any"))
        call(CONNECT_CALL, opened.fileno(), bytes(16), 16)
        with pytest.raises(OSError, match="not connected"):
            opened.getpeername()


class TestReports:
    @pytest.mark.parametrize(
        ("act", "hook", "stat", "protocol"),
        [
            (lambda: connect(V4, TCP, (IN4, PORT)), CONNECT, Stat.CONNECT_BLOCKS, 6),
            (lambda: bind(V4, UDP, (IN4, PORT)), BIND, Stat.BIND_BLOCKS, 17),
            (lambda: sendto(V4, (IN4, PORT)), SENDMSG, Stat.SEND_BLOCKS, 17),
        ],
        ids=["connect", "bind", "send"],
    )
    def test_the_event_says_with_whom_and_how(
        self, host: Host, act: Callable[[], None], hook: int, stat: Stat, protocol: int
    ) -> None:
        host.apply(net_rule(Kind.IP, IN4))
        with host.counted() as counted, refused():
            act()
        (event,) = host.events()
        assert counted == {Stat.BLOCKS: 1, stat: 1, Stat.EVENTS: 1}
        assert (event.hook, event.protocol, event.port, event.family) == (hook, protocol, PORT, 4)
        assert event.addr == socket.inet_aton(IN4) + bytes(12)
        assert event.pid == os.getpid()
        assert event.path == ""

    def test_an_ipv6_peer_is_reported_whole(self, host: Host) -> None:
        host.apply(net_rule(Kind.CIDR, "2001:db8::/32"))
        with refused():
            sendto(V6, ("2001:db8::5", PORT))
        (event,) = host.events()
        assert event.addr == socket.inet_pton(V6, "2001:db8::5")

    def test_audit_lets_traffic_through_and_reports_it(self, host: Host) -> None:
        host.apply(net_rule(Kind.IP, IN4), mode=Mode.AUDIT)
        with host.counted() as counted:
            sendto(V4, (IN4, PORT))
        assert counted == {Stat.AUDITS: 1, Stat.EVENTS: 1}
