"""Rarer ways to a file or a peer under a rule."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
import subprocess
from functools import partial
from pathlib import Path

import pytest
from battery import (
    FILE_OPS,
    Host,
    Kind,
    Op,
    call,
    file_rule,
    io_uring,
    net_rule,
    refused,
    run,
    touch,
)

CONNECT, BIND, SENDTO, RENAMEAT2, EXECVEAT, OPEN_TREE = 42, 49, 44, 316, 322, 428
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
AF_SMC, IPPROTO_SMC, SMC_V4, SMC_V6 = 43, 256, 0, 1
PORT = 4444
IN4 = "127.0.0.7"


@pytest.fixture
def secret(place: Path) -> Path:
    path = place / "ruled" / "secret"
    path.parent.mkdir()
    path.write_text("secret")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("flags", [EXCHANGE, WHITEOUT, NOREPLACE])
@pytest.mark.parametrize("by", ["name", "directory"])
def test_no_kind_of_rename_carries_it_out(host: Host, secret: Path, by: str, flags: int) -> None:
    other = secret.parent.parent / "other"
    if flags == EXCHANGE:
        other.write_text("other")
    if by == "name":
        host.apply(file_rule(secret, Op.READ))
        secret.unlink()
        secret.write_text("secret")
    else:
        host.apply(file_rule(secret.parent, Op.READ, depth=32))
    with refused():
        call(RENAMEAT2, -100, os.fsencode(secret), -100, os.fsencode(other), flags)
    if flags == EXCHANGE:
        with refused():
            call(RENAMEAT2, -100, os.fsencode(other), -100, os.fsencode(secret), flags)


def test_it_cannot_be_moved_deeper_than_a_directory_rule_reaches(host: Host, secret: Path) -> None:
    deep = secret.parent.joinpath(*"abcdefghijklmnopqrstuvwxyzabcdefghijklmnop")
    deep.mkdir(parents=True)
    folder = secret.with_name("folder")
    folder.mkdir()
    host.apply(file_rule(secret.parent, Op.READ, depth=32))
    for path in (secret, folder):
        with refused():
            path.rename(deep / path.name)
    with refused():
        (deep / "link").hardlink_to(secret)


def test_a_tree_that_is_mounted_nowhere_is_no_way_around(host: Host, secret: Path) -> None:
    host.apply(file_rule(secret, FILE_OPS))
    tree = call(OPEN_TREE, -100, os.fsencode(secret.parent), 1)
    try:
        with refused():
            touch("secret", dir_fd=tree)
        with refused():
            call(EXECVEAT, tree, b"secret", (ctypes.c_char_p * 1)(None), None, 0)
    finally:
        os.close(tree)


def test_the_mappings_of_a_process_are_no_way_around(host: Host, secret: Path) -> None:
    with secret.open("rb") as file, mmap.mmap(file.fileno(), 6, prot=mmap.PROT_READ):
        maps = Path("/proc/self/maps").read_text().splitlines()
        at = next(line.split()[0] for line in maps if line.endswith(str(secret.name)))
        host.apply(file_rule(secret))
        with refused():
            touch(f"/proc/self/map_files/{at}")


def sockaddr(family: int, port: int, address: str) -> bytes:
    """Return a sockaddr_in or sockaddr_in6 of any claimed family."""
    head = struct.pack("=H", family) + struct.pack("!H", port)
    if ":" in address:
        return head + bytes(4) + socket.inet_pton(socket.AF_INET6, address) + bytes(4)
    return head + socket.inet_aton(address) + bytes(8)


@pytest.fixture
def smc(kernel_name: str) -> None:
    if kernel_name != "7.2":
        run("modprobe", "smc")


@pytest.mark.usefixtures("smc")
class TestSmc:
    """TCP under another name, with a socket family of its own."""

    @pytest.mark.parametrize("protocol", [SMC_V4, SMC_V6])
    def test_it_is_tcp(self, host: Host, protocol: int, kernel_name: str) -> None:
        if kernel_name == "7.2":
            with pytest.raises(OSError, match="not supported"):
                socket.socket(AF_SMC, socket.SOCK_STREAM, protocol)
            return
        host.apply(net_rule(Kind.PORT, f"{PORT}:tcp"))
        name = {
            SMC_V4: sockaddr(socket.AF_INET, PORT, IN4),
            SMC_V6: sockaddr(socket.AF_INET6, PORT, "::ffff:" + IN4),
        }[protocol]
        with (
            socket.create_server((IN4, PORT + 1)),
            socket.socket(AF_SMC, socket.SOCK_STREAM, protocol) as peer,
            refused(),
        ):
            call(CONNECT, peer.fileno(), name, len(name))

    def test_unspec_binds_as_ipv4(self, host: Host, kernel_name: str) -> None:
        if kernel_name == "7.2":
            return
        host.apply(net_rule(Kind.PORT, f"{PORT}:tcp", Op.BIND))
        name = sockaddr(socket.AF_UNSPEC, PORT, "0.0.0.0")
        with socket.socket(AF_SMC, socket.SOCK_STREAM, SMC_V4) as server, refused():
            call(BIND, server.fileno(), name, len(name))

    def test_its_protocol_is_tcp(self, host: Host, kernel_name: str) -> None:
        """IPPROTO_SMC, since 6.11."""
        if kernel_name != "6.12":
            return
        host.apply(net_rule(Kind.PORT, f"{PORT}:tcp"))
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_SMC) as peer,
            refused(),
        ):
            peer.connect((IN4, PORT))


def test_unspec_counts_as_ipv6_on_a_raw_socket(host: Host) -> None:
    host.apply(net_rule(Kind.IP, "::1"))
    name = sockaddr(socket.AF_UNSPEC, 0, "::1")
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, 200) as raw, refused():
        call(SENDTO, raw.fileno(), b"x", ctypes.c_size_t(1), 0, name, len(name))


def test_an_overlay_of_a_user_namespace_is_no_way_around(
    host: Host, secret: Path, tmp_path: Path, kernel_name: str
) -> None:
    """Since 5.11 anybody may mount one."""
    if kernel_name == "5.10":
        return
    host.apply(file_rule(secret))
    empty, merged = tmp_path / "empty", tmp_path / "over"
    empty.mkdir()
    merged.mkdir()
    layers = f"lowerdir={secret.parent}:{empty}"
    script = f"mount -t overlay overlay -o userxattr,{layers} {merged} && cat {merged}/secret"
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    assert f"{merged}/secret: Operation not permitted" in done.stderr
    assert done.stdout == ""


SEND_ZC, URING_BIND, URING_CONNECT, URING_SENDMSG = 47, 56, 16, 9


def io_uring_net(opened: socket.socket, way: int, address: str) -> int:
    """Connect, bind or send by io_uring; return the result."""
    name = ctypes.create_string_buffer(sockaddr(socket.AF_INET, PORT, address), 16)
    data = ctypes.create_string_buffer(b"x", 1)
    at, size = ctypes.addressof(name), len(name)
    vector = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(data), 1), 16)
    message = struct.pack("QQQQQQQ", at, size, ctypes.addressof(vector), 1, 0, 0, 0)
    held = ctypes.create_string_buffer(message, len(message))
    second, first, length, tail = {
        URING_CONNECT: (size, at, 0, 0),
        URING_BIND: (size, at, 0, 0),
        URING_SENDMSG: (0, ctypes.addressof(held), 1, 0),
        SEND_ZC: (at, ctypes.addressof(data), 1, size),
    }[way]
    entry = struct.pack(
        "BBHiQQIIQHHHH", way, 0, 0, opened.fileno(), second, first, length, 0, 1, 0, 0, tail, 0
    )
    return io_uring(entry)


@pytest.mark.parametrize(
    ("way", "since"),
    [(URING_CONNECT, 0), (URING_SENDMSG, 0), (SEND_ZC, 1), (URING_BIND, 2)],
    ids=["connect", "sendmsg", "send", "bind"],
)
def test_io_uring_is_no_way_to_a_peer(host: Host, way: int, since: int, kernel_name: str) -> None:
    if since > ["5.10", "6.1", "6.12", "7.2"].index(kernel_name):
        return
    host.apply(net_rule(Kind.IP, IN4))
    for address, denied in ((IN4, True), ("127.0.0.8", False)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
            result = io_uring_net(opened, way, address)
        assert result == -errno.EPERM if denied else result >= 0


def test_fast_open_by_option_is_no_way_to_a_peer(host: Host) -> None:
    """Only connect() names the peer, and answers before a packet is sent."""
    host.apply(net_rule(Kind.IP, IN4))
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as opened:
        opened.setsockopt(socket.IPPROTO_TCP, 30, 1)
        with refused():
            opened.connect((IN4, PORT))


def test_udp_lite_is_udp(host: Host, kernel_name: str) -> None:
    kind = (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDPLITE)
    if kernel_name == "7.2":  # has none
        with pytest.raises(OSError, match="not supported"):
            socket.socket(*kind)
        return
    host.apply(net_rule(Kind.PORT, f"{PORT}:udp"))
    with socket.socket(*kind) as peer:
        for way in (peer.connect, partial(peer.sendto, b"x")):
            with refused():
                way((IN4, PORT))
        peer.sendto(b"x", (IN4, PORT + 1))
