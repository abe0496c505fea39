"""SCTP: several addresses at once, by socket option or by ancillary data."""

from __future__ import annotations

import socket
import struct

import pytest
from battery import Host, Kind, Mode, Stat, allowed, net_rule, refused, run

CONNECT, BIND = 9, 10
V4, V6, TCP = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM
SCTP = 132
SCTP_PRIMARY_ADDR, SCTP_BINDX_ADD, SCTP_CONNECTX = 6, 100, 110
SCTP_DSTADDRV4, SCTP_DSTADDRV6 = 7, 8
PORT = 4444
IN4 = "127.0.0.7"
OTHER = "127.0.0.8"
WAYS = {"connectx": SCTP_CONNECTX, "bindx": SCTP_BINDX_ADD}


def sctp(family: int = V4, kind: int = TCP) -> socket.socket:
    opened = socket.socket(family, kind, SCTP)
    opened.settimeout(5)
    return opened


def sockaddrs(*addresses: str) -> bytes:
    """Return the list that sctp_connectx() and sctp_bindx() take, all of one port."""
    listed = b""
    for address in addresses:
        family = V6 if ":" in address else V4
        listed += struct.pack("=H", family) + struct.pack("!H", PORT)
        raw = socket.inet_pton(family, address)
        listed += bytes(4) + raw + bytes(4) if family == V6 else raw + bytes(8)
    return listed


@pytest.fixture(autouse=True)
def _module() -> None:
    run("modprobe", "sctp")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("names", [(IN4,), (OTHER, IN4), (IN4, OTHER), (OTHER, OTHER, IN4)])
def test_a_denied_one_among_them_is_refused(host: Host, way: str, names: tuple[str, ...]) -> None:
    host.apply(net_rule(Kind.IP, IN4))
    with sctp() as opened, host.counted() as counted, refused():
        opened.setsockopt(SCTP, WAYS[way], sockaddrs(*names))
    stat = Stat.CONNECT_BLOCKS if way == "connectx" else Stat.BIND_BLOCKS
    assert counted == {Stat.BLOCKS: 1, stat: 1, Stat.EVENTS: 1}
    (event,) = host.events()
    assert (event.hook, event.port) == (CONNECT if way == "connectx" else BIND, PORT)
    assert event.addr[:4] == socket.inet_aton(IN4)


def test_others_are_bound_and_connected(host: Host) -> None:
    host.apply(net_rule(Kind.IP, IN4))
    with sctp() as server, sctp() as client:
        server.setsockopt(SCTP, SCTP_BINDX_ADD, sockaddrs(OTHER, "127.0.0.9"))
        server.listen()
        client.settimeout(None)
        with host.counted() as counted:
            client.setsockopt(SCTP, SCTP_CONNECTX, sockaddrs(OTHER, "127.0.0.9"))
        server.accept()[0].close()
    assert counted == {}


@pytest.mark.parametrize("last", [IN4, "::ffff:" + IN4, "::2"])
def test_lists_hold_both_families(host: Host, last: str) -> None:
    host.apply(net_rule(Kind.IP, IN4), net_rule(Kind.IP, "::2"))
    with sctp(V6) as opened, refused():
        opened.setsockopt(SCTP, SCTP_CONNECTX, sockaddrs("::1", OTHER, "::1", last))


@pytest.mark.parametrize("way", WAYS)
def test_one_too_long_to_look_through_is_refused(host: Host, way: str) -> None:
    def put(count: int) -> bool:
        names = sockaddrs(*[OTHER] * count)
        with sctp() as opened:
            return allowed(lambda: opened.setsockopt(SCTP, WAYS[way], names))

    host.apply(net_rule(Kind.IP, IN4))
    stat = Stat.CONNECT_BLOCKS if way == "connectx" else Stat.BIND_BLOCKS
    with host.counted() as counted:
        assert (put(32), put(33)) == (True, False)
    assert counted == {Stat.BLOCKS: 1, stat: 1, Stat.EVENTS: 1}
    host.apply(net_rule(Kind.IP, IN4), mode=Mode.AUDIT)
    with host.counted() as counted:
        assert put(33)
    assert counted == {Stat.AUDITS: 1, Stat.EVENTS: 1}
    told = [(event.hook, event.rule, any(event.addr)) for event in host.events()]
    assert told == [(CONNECT if way == "connectx" else BIND, 0, False)] * 2
    host.apply()
    assert put(33)


def test_audit_passes_and_tells_of_each(host: Host) -> None:
    host.apply(net_rule(Kind.CIDR, "127.0.0.0/24"), mode=Mode.AUDIT)
    with sctp() as opened:
        names = sockaddrs(OTHER, IN4)
        assert allowed(lambda: opened.setsockopt(SCTP, SCTP_CONNECTX, names))
    addresses = [socket.inet_ntoa(event.addr[:4]) for event in host.events()]
    assert addresses == [OTHER, IN4]


def test_a_denied_one_cannot_be_made_the_primary(host: Host) -> None:
    with sctp() as server, sctp() as client:
        server.setsockopt(SCTP, SCTP_BINDX_ADD, sockaddrs(OTHER, IN4))
        server.listen()
        client.connect((OTHER, PORT))
        host.apply(net_rule(Kind.IP, IN4))
        primary = struct.pack("i128s", 0, sockaddrs(IN4))
        with refused():
            client.setsockopt(SCTP, SCTP_PRIMARY_ADDR, primary)
        primary = struct.pack("i128s", 0, sockaddrs(OTHER))
        client.setsockopt(SCTP, SCTP_PRIMARY_ADDR, primary)


@pytest.mark.parametrize(("kind", "target"), [(Kind.IP, IN4), (Kind.IP_PORT, f"{IN4}:{PORT}:any")])
def test_ancillary_data_names_further_ones(host: Host, kind: Kind, target: str) -> None:
    def send(*names: str, empty: int = 0) -> None:
        told = [(SCTP, SCTP_DSTADDRV4, socket.inet_aton(name)) for name in names]
        nothing = [(socket.IPPROTO_IP, 99, b"")] * empty
        with sctp(V4, socket.SOCK_SEQPACKET) as opened:
            opened.sendmsg([b"x"], nothing + told, 0, (OTHER, PORT))

    host.apply(net_rule(kind, target))
    send("127.0.0.9")
    send("127.0.0.9", empty=31)
    for names in ((IN4,), ("127.0.0.9", IN4)):
        with host.counted() as counted, refused():
            send(*names)
        assert counted == {Stat.BLOCKS: 1, Stat.SEND_BLOCKS: 1, Stat.EVENTS: 1}
    with host.counted() as counted, refused():
        send(IN4, empty=32)
    assert counted == {Stat.BLOCKS: 1, Stat.SEND_BLOCKS: 1, Stat.EVENTS: 1}


def test_ancillary_data_names_ipv6_ones(host: Host) -> None:
    host.apply(net_rule(Kind.IP, "::2"))
    with sctp(V6, socket.SOCK_SEQPACKET) as opened, refused():
        further = [(SCTP, SCTP_DSTADDRV6, socket.inet_pton(V6, "::2"))]
        opened.sendmsg([b"x"], further, 0, ("::1", PORT))
