"""What is *not* covered, shown. Each test has its line in docs/guarantees.md."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import socket
import struct
from pathlib import Path

import pytest
from battery import (
    FILE_OPS,
    Host,
    Kind,
    Op,
    allowed,
    bind_mount,
    call,
    can_read,
    file_rule,
    in_child,
    loop_ext4,
    mount,
    net_rule,
    overlay,
    refused,
    run,
    touch,
    umount,
)

PIDFD_OPEN, PIDFD_GETFD = 434, 438
SCTP, SCTP_BINDX_ADD, SCTP_GET_PEER_ADDRS = 132, 100, 108
IN4, PORT = "127.0.0.7", 4444


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "ruled" / "secret"
    path.parent.mkdir()
    path.write_text("secret")
    return path


class TestFiles:
    def test_a_descriptor_opened_before_still_reads(self, host: Host, secret: Path) -> None:
        with secret.open() as old:
            host.apply(file_rule(secret, FILE_OPS))
            assert old.read() == "secret"

    def test_a_mapping_made_before_still_reads_and_writes(self, host: Host, secret: Path) -> None:
        with secret.open("r+b") as old, mmap.mmap(old.fileno(), 6) as mapped:
            host.apply(file_rule(secret, FILE_OPS))
            assert mapped[:] == b"secret"
            mapped[:] = b"SECRET"

    def test_a_descriptor_can_be_had_from_a_process_that_has_it_open(
        self, host: Host, secret: Path
    ) -> None:
        with secret.open() as old:
            host.apply(file_rule(secret, FILE_OPS))
            holder = os.getpid()

            def take() -> None:
                taken = call(PIDFD_GETFD, call(PIDFD_OPEN, holder, 0), old.fileno(), 0)
                assert os.read(taken, 6) == b"secret"

            assert in_child(take) == 0

    def test_memory_of_a_process_that_has_read_it_can_be_read(
        self, host: Host, secret: Path
    ) -> None:
        content = ctypes.create_string_buffer(secret.read_bytes())
        holder = os.getpid()
        host.apply(file_rule(secret, FILE_OPS))

        def peek() -> None:
            memory = os.open(f"/proc/{holder}/mem", os.O_RDONLY)
            assert os.pread(memory, 6, ctypes.addressof(content)) == b"secret"

        assert in_child(peek) == 0

    def test_a_hardlink_made_before_a_directory_rule_opens(
        self, host: Host, secret: Path, tmp_path: Path
    ) -> None:
        outside = tmp_path / "outside"
        outside.hardlink_to(secret)
        host.apply(file_rule(secret.parent, FILE_OPS, depth=32))
        assert not can_read(secret)
        assert can_read(outside)

    def test_what_is_mounted_below_a_directory_rule_opens(
        self, host: Host, secret: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "file").touch()
        target = secret.parent / "mount"
        target.mkdir()
        host.apply(file_rule(secret.parent, FILE_OPS, depth=32))
        with bind_mount(tmp_path / "elsewhere", target):
            assert can_read(target / "file")
        mount("tmpfs", target, "tmpfs")
        (target / "file").touch()
        assert can_read(target / "file")
        umount(target)

    def test_a_name_rule_is_lost_with_its_directory(
        self, host: Host, secret: Path, tmp_path: Path
    ) -> None:
        host.apply(file_rule(secret))
        secret.parent.rename(tmp_path / "away")
        secret.parent.mkdir()
        secret.write_text("another")
        assert can_read(secret)
        assert not can_read(tmp_path / "away" / "secret")

    def test_names_and_attributes_can_be_read(self, host: Host, secret: Path) -> None:
        host.apply(file_rule(secret, FILE_OPS))
        assert secret.stat().st_size == 6
        assert os.access(secret, os.R_OK)
        assert [path.name for path in secret.parent.iterdir()] == ["secret"]
        os.close(os.open(secret, os.O_PATH))

    def test_extended_attributes_can_be_read_and_set(self, host: Host, ext4: Path) -> None:
        path = ext4 / "attributes"
        path.touch()
        host.apply(file_rule(path, FILE_OPS))
        os.setxattr(path, "user.note", b"set")
        assert os.getxattr(path, "user.note") == b"set"

    def test_an_interpreter_reads_a_script_that_may_not_be_run(
        self, host: Host, tmp_path: Path
    ) -> None:
        script = tmp_path / "script"
        script.write_text("exit 7\n")
        host.apply(file_rule(script, Op.EXEC))
        assert in_child(lambda: os.execv("/bin/sh", ["sh", str(script)])) == 7

    def test_a_copy_is_another_file(self, host: Host, tmp_path: Path) -> None:
        program = tmp_path / "program"
        shutil.copy("/bin/true", program)
        host.apply(file_rule(program, Op.EXEC))
        shutil.copy(program, tmp_path / "copy")
        assert in_child(lambda: os.execv(tmp_path / "copy", ["copy"])) == 0

    def test_the_block_device_below_holds_the_bytes(self, host: Host, ext4: Path) -> None:
        path = ext4 / "bytes"
        path.write_bytes(b"on the block device 4711")
        os.sync()
        host.apply(file_rule(path, FILE_OPS))
        image = ext4.parent / "image"
        assert b"on the block device 4711" in image.read_bytes()

    def test_a_handle_finds_a_file_without_its_directory(self, host: Host, ext4: Path) -> None:
        """Only where the file is known by name or directory; the inode's rule holds."""
        folder = ext4 / "handles"
        folder.mkdir()
        path, known = folder / "file", folder / "known"
        for file in (path, known):
            file.write_text("data")
        handles = [file_handle(file) for file in (path, known)]
        anchor = os.open(ext4, os.O_RDONLY)
        host.apply(file_rule(folder, Op.READ, depth=1), file_rule(known, Op.READ))
        forget_names()
        try:
            os.close(call(304, anchor, handles[0], os.O_RDONLY))
            with refused():
                call(304, anchor, handles[1], os.O_RDONLY)
        finally:
            os.close(anchor)

    def test_another_spelling_of_a_name_is_another_name(
        self, host: Host, ext4: Path, tmp_path: Path, kernel_name: str
    ) -> None:
        """On a file system that takes them for one, where the inode is not known."""
        if not Path("/sys/fs/ext4/features/casefold").exists():
            assert ext4
            assert kernel_name == "5.10", "only Debian's 5.10 is built without it"
            return
        features = ("-O", "casefold", "-E", "encoding=utf8")
        with loop_ext4(tmp_path, *features) as mounted:
            folder = mounted / "folder"
            folder.mkdir()
            run("chattr", "+F", str(folder))
            host.apply(file_rule(folder / "later", Op.READ))
            (folder / "later").write_text("data")
            with refused():
                touch(folder / "later")
            forget_names()
            assert can_read(folder / "LATER")

    def test_directories_of_an_overlay_over_several_file_systems_change_their_numbers(
        self, host: Host, ext4: Path, tmp_path: Path
    ) -> None:
        lower = ext4 / "layer"
        (lower / "folder").mkdir(parents=True)
        (lower / "folder" / "file").touch()
        with overlay(tmp_path, lower=lower, options=",xino=off") as merged:
            file = merged / "folder" / "file"
            host.apply(file_rule(file.parent, depth=1))
            with refused():
                touch(file)
            forget_names()
            assert can_read(file)
            host.apply(file_rule(merged, depth=2))
            forget_names()
            with refused():
                touch(file)


def forget_names() -> None:
    """Drop cached dentries and inodes that are not in use."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("2")


def file_handle(path: Path) -> bytes:
    """name_to_handle_at(2)."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    call(303, -100, os.fsencode(path), handle, ctypes.byref(ctypes.c_int()), 0)
    return handle.raw


class TestNetwork:
    def test_a_connection_made_before_goes_on(self, host: Host) -> None:
        with socket.create_server((IN4, PORT)) as server:
            client = socket.create_connection((IN4, PORT), timeout=5)
            accepted, _ = server.accept()
            datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            datagrams.connect((IN4, PORT))
            host.apply(net_rule(Kind.IP, IN4))
            client.sendall(b"on")
            assert accepted.recv(2) == b"on"
            datagrams.send(b"x")
            for opened in (client, accepted, datagrams):
                opened.close()

    def test_a_rule_for_an_address_does_not_keep_from_binding_all(self, host: Host) -> None:
        host.apply(net_rule(Kind.IP, IN4, Op.BIND))
        with pytest.raises(PermissionError), socket.create_server((IN4, PORT)):
            pass
        with (
            socket.create_server(("0.0.0.0", PORT)),
            socket.create_connection((IN4, PORT), timeout=5),
        ):
            pass

    def test_what_comes_in_is_accepted(self, host: Host) -> None:
        with socket.create_server(("127.0.0.1", PORT)) as server:
            server.settimeout(5)
            host.apply(net_rule(Kind.IP, IN4))
            with socket.socket() as client:
                client.bind(("127.0.0.9", 0))
                client.connect(("127.0.0.1", PORT))
                server.accept()[0].close()

    def test_packet_sockets_send_frames_to_anyone(self, host: Host) -> None:
        host.apply(net_rule(Kind.CIDR, "127.0.0.0/8"))
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as packets:
            header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 1, 0, 64, 17, 0,
                                 socket.inet_aton("127.0.0.1"), socket.inet_aton(IN4))  # fmt: skip
            packets.sendto(header + bytes(8), ("lo", 0x0800))

    def test_a_source_in_ancillary_data_makes_any_address_mean_it(self, host: Host) -> None:
        host.apply(net_rule(Kind.IP, "127.0.0.9", Op.EGRESS))
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            server.bind(("127.0.0.9", PORT))
            server.settimeout(5)
            source = struct.pack("i4s4s", 0, socket.inet_aton("127.0.0.9"), bytes(4))
            ancillary = [(socket.IPPROTO_IP, 8, source)]  # IP_PKTINFO
            client.sendmsg([b"x"], ancillary, 0, ("0.0.0.0", PORT))
            assert server.recv(1) == b"x"

    def test_a_raw_socket_has_no_port(self, host: Host) -> None:
        host.apply(net_rule(Kind.PORT, f"{PORT}:udp"))
        datagram = struct.pack("!HHHH", 1, PORT, 8, 0)
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
            raw.sendto(datagram, (IN4, 0))

    def test_a_route_given_by_the_sender_leads_elsewhere(self, host: Host) -> None:
        """Loose source routing: the packet goes to the first hop, the name is the last one."""
        host.apply(net_rule(Kind.IP, IN4))
        with (
            socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as wire,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
        ):
            wire.bind(("lo", 0x0800))
            wire.settimeout(5)
            route = bytes([131, 7, 4]) + socket.inet_aton(IN4) + bytes(1)
            peer.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, route)
            peer.sendto(b"x", ("127.0.0.8", PORT))
            assert wire.recv(100)[16:20] == socket.inet_aton(IN4)

    def test_a_route_given_by_the_sender_leads_elsewhere_by_ipv6(self, host: Host) -> None:
        host.apply(net_rule(Kind.IP, "::1"))
        first, last = (socket.inet_pton(socket.AF_INET6, name) for name in ("::1", "::2"))
        header = struct.pack("BBBBBBH", 0, 4, 4, 1, 1, 0, 0) + last + first
        with (
            socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x86DD)) as wire,
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer,
        ):
            wire.bind(("lo", 0x86DD))
            wire.settimeout(5)
            peer.setsockopt(socket.IPPROTO_IPV6, 57, header)  # IPV6_RTHDR
            peer.sendto(b"x", ("::2", PORT))
            assert wire.recv(200)[24:40] == first

    def test_sockets_that_are_no_ip_are_not_looked_at(self, host: Host) -> None:
        """The same for AF_UNIX, Bluetooth, TIPC and CAN."""
        run("modprobe", "vsock_loopback")
        host.apply(net_rule(Kind.PORT, f"{PORT}:any"))
        with (
            socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as server,
            socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as client,
        ):
            server.bind((1, PORT))
            server.listen()
            client.settimeout(5)
            client.connect((1, PORT))

    def test_an_sctp_peer_names_further_addresses_itself(self, host: Host) -> None:
        run("modprobe", "sctp")
        further = struct.pack("=H", socket.AF_INET) + struct.pack("!H", PORT)
        further += socket.inet_aton(IN4) + bytes(8)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP) as server,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP) as client,
        ):
            server.bind(("127.0.0.8", PORT))
            server.setsockopt(SCTP, SCTP_BINDX_ADD, further)
            server.listen()
            host.apply(net_rule(Kind.IP, IN4))
            client.connect(("127.0.0.8", PORT))
            peers = client.getsockopt(SCTP, SCTP_GET_PEER_ADDRS, 200)
            assert struct.unpack_from("iI", peers)[1] == 2

    def test_an_address_translated_on_the_way_is_another_address(self, host: Host) -> None:
        """64:ff9b::/96 is IPv4 behind NAT64: rule it as well where there is one."""
        host.apply(net_rule(Kind.IP, "203.0.113.9"))
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer:
            assert allowed(lambda: peer.sendto(b"x", ("64:ff9b::203.0.113.9", PORT)))
        host.apply(net_rule(Kind.IP, "64:ff9b::203.0.113.9"))
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer, refused():
            peer.sendto(b"x", ("64:ff9b::203.0.113.9", PORT))


def test_root_can_end_it(host: Host, secret: Path) -> None:
    """Whoever may write the maps or the pins may lift every rule."""
    host.apply(file_rule(secret))
    assert not can_read(secret)
    host.set(DISABLED=1)
    touch(secret)
