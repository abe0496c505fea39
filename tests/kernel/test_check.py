"""The decisions of bpf/check.h, match.h and report.h, run on this machine's own objects.

What a hook would answer, without a hook: nothing is denied. The hooks themselves, with what
they hand in, are tests/vm's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from battery import Event, Host, in_child
from kernel_support import NO_LSM, TEST_OBJECTS

from aegis_tools.kernel import cgroups, layout, syscall
from aegis_tools.kernel.features import mount_if_missing
from aegis_tools.kernel.layout import Stat
from aegis_tools.kernel.loader import LoadOptions, load
from aegis_tools.kernel.pins import Pins
from aegis_tools.policy.model import FILE_OPS, NET_OPS, Kind, Mode, Op, Rule, Signal

READ, WRITE, EXEC, MODIFY, EGRESS, BIND = (op.value for op in Op)
OPEN_HOOK, CONNECT, BOUND, SENDMSG = 1, 9, 10, 11
STAYS, LEAVES_NAME, LEAVES_DIR = range(3)
ALLOW, AUDIT, BLOCK, TERM, KILL, INT = range(6)
NONE, RULE_AUDIT, MODE_AUDIT, DEADLINE, CGROUP, SURVIVAL = range(6)
UNSPEC, V4, V6 = 0, socket.AF_INET, socket.AF_INET6
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
SCTP, DSTADDRV4, DSTADDRV6 = 132, 7, 8
MAX_HITS = 8
PORT = 4444
IN4 = "127.0.0.7"
REFUSED = 2**32 - errno.EPERM


class Checks(Host):
    """A loaded host, with programs that answer as its hooks would."""

    def __init__(self, pins: Pins, programs: Pins) -> None:
        super().__init__(pins)
        self.programs = {name: programs.open_program(name) for name in programs.names("progs")}

    def __exit__(self, *_: object) -> None:
        for fd in self.programs.values():
            os.close(fd)
        super().__exit__()

    def _run(self, name: str, context: bytes) -> bool:
        """Return whether it was let through."""
        answer = syscall.test_run(self.programs[name], context)[0]
        assert answer in (0, REFUSED)
        return answer == 0

    def file(
        self,
        path: Path,
        ops: int = READ,
        *,
        move: int = STAYS,
        hook: int = OPEN_HOOK,
        nameless: bool = False,
    ) -> bool:
        """Ask as a file hook does, for a file that is opened by its path for it."""
        fd = os.open(path, os.O_PATH)
        try:
            return self._run("test_file", struct.pack("6I", fd, ops, move, hook, nameless, 0))
        finally:
            os.close(fd)

    def net(
        self,
        opened: socket.socket,
        address: bytes,
        op: int = 4,
        hook: int = CONNECT,
        *,
        name: str = "test_net",
        port: int = 0,
    ) -> bool:
        """Ask as a network hook does."""
        head = struct.pack("6I", opened.fileno(), op, hook, len(address), port, 0)
        return self._run(name, head + address.ljust(1024, b"\0"))


@pytest.fixture(scope="module")
def loaded_checks(tmp_path_factory: pytest.TempPathFactory, built: None) -> Iterator[Checks]:
    del built
    bpffs = tmp_path_factory.mktemp("check") / "bpf"
    mount_if_missing("bpf", bpffs)
    pins, programs = Pins(bpffs / "aegis"), Pins(bpffs / "check")
    load(pins, NO_LSM, LoadOptions(max_hits=MAX_HITS))
    programs.path("progs").mkdir(parents=True)
    shared = [
        word
        for name in pins.names("maps")
        for word in ("map", "name", name, "pinned", str(pins.path("maps", name)))
    ]
    argv = ["bpftool", "prog", "loadall", str(TEST_OBJECTS / "check_test.bpf.o")]
    subprocess.run(
        [*argv, str(programs.path("progs")), *shared], check=True, capture_output=True
    )
    with Checks(pins, programs) as checks:
        yield checks
    assert ctypes.CDLL(None).umount2(os.fsencode(bpffs), 2) == 0


@pytest.fixture
def host(loaded_checks: Checks) -> Checks:
    loaded_checks.clear()
    for key, _ in list(loaded_checks.live.map("rule_hits").items()):
        loaded_checks.live.map("rule_hits").delete(key)
    return loaded_checks


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ruled" / "secret"
    path.parent.mkdir()
    path.write_text("secret")
    return path


def rule(kind: Kind, target: object, ops: Op = Op.READ, **more: object) -> Rule:
    made = Rule(f"{kind.value}:{target}", kind, str(target), ops)
    return made._replace(**more)  # type: ignore[arg-type]


def replace(path: Path) -> None:
    """Make it another file of the same name."""
    other = path.with_name("other")
    other.write_text("other")
    other.rename(path)


def number_of(host: Checks, path: Path) -> str:
    """Return the target of an inode rule."""
    found = host.identify(path)
    return f"{found.dev}:{found.ino}"


def only(host: Checks) -> Event:
    (event,) = host.events()
    return event


class TestFiles:
    @pytest.mark.parametrize("kind", [Kind.PATH, Kind.DIRECTORY])
    @pytest.mark.parametrize("by_name", [False, True])
    def test_each_operation_has_its_own_rule(
        self, host: Checks, file: Path, kind: Kind, by_name: bool
    ) -> None:
        ops = (Op.READ, Op.WRITE, Op.EXEC, Op.MODIFY)
        target = file if kind is Kind.PATH else file.parent
        for number, op in enumerate(ops):
            host.apply(rule(kind, target, op, **({"depth": 1} if kind is Kind.DIRECTORY else {})))
            if by_name:
                replace(file)
            for asked in ops:
                assert host.file(file, asked.value) is (asked is not op)
            assert host.file(file, FILE_OPS.value) is False
            events = host.events()
            assert [event.op for event in events] == [number, number]
            assert host.file(file, FILE_OPS.value & ~op.value)

    def test_another_file_or_name_is_not_meant(self, host: Checks, file: Path) -> None:
        host.apply(rule(Kind.PATH, file))
        near = file.with_name("secret2")
        elsewhere = file.parent.parent / "secret"
        for other in (near, elsewhere):
            other.touch()
            assert host.file(other)
        assert host.file(file.parent)

    def test_names_of_every_length_are_told_apart(self, host: Checks, file: Path) -> None:
        names = [file.with_name("n" * length) for length in (1, 15, 16, 254, 255)]
        host.apply(*(rule(Kind.PATH, name) for name in names), rule(Kind.PATH, file))
        for name in names:
            name.touch()
            assert not host.file(name)
        other = file.with_name("n" * 253)
        other.touch()
        assert host.file(other)

    @pytest.mark.parametrize("flag", [0, layout.ANY_GENERATION])
    @pytest.mark.parametrize("of", ["deny_inode_map", "deny_dir_map"])
    def test_a_number_that_another_inode_has_now_is_not_meant(
        self, host: Checks, file: Path, of: str, flag: int
    ) -> None:
        if of == "deny_inode_map":
            host.apply(rule(Kind.INODE, number_of(host, file)))
        else:
            host.apply(rule(Kind.DIRECTORY, file.parent, depth=1))
        inner = host.live.inner(of)
        assert inner is not None
        with inner:
            found = {key: layout.FILE_ENTRY.unpack(value) for key, value in inner.items()}
            own = host.identify(file if of == "deny_inode_map" else file.parent).generation
            for generation in (own, own ^ 1):
                for key, (*rules, _, depth, _) in found.items():
                    inner.set(key, layout.FILE_ENTRY.pack(*rules, generation, depth, flag))
                assert host.file(file) is (generation != own and not flag)

    @pytest.mark.parametrize("depth", [1, 2, 3, 32])
    def test_a_directory_reaches_as_deep_as_it_says(
        self, host: Checks, file: Path, depth: int
    ) -> None:
        root = file.parent
        host.apply(rule(Kind.DIRECTORY, root, depth=depth))
        assert not host.file(root)
        assert host.file(root.parent)
        folder = root
        for level in range(1, 35):
            (folder / "file").touch()
            assert host.file(folder / "file") is (level > depth), level
            folder = folder / "d"
            folder.mkdir()
            assert host.file(folder) is (level > depth), level

    @pytest.mark.parametrize("strict", ["inode", "outer", "inner"])
    def test_the_strictest_rule_decides(self, host: Checks, file: Path, strict: str) -> None:
        def mode(name: str) -> Mode:
            return Mode.ENFORCE if name == strict else Mode.AUDIT

        host.apply(
            rule(Kind.PATH, file, mode=mode("inode")),
            rule(Kind.DIRECTORY, file.parent, depth=4, mode=mode("inner")),
            rule(Kind.DIRECTORY, file.parent.parent, depth=4, mode=mode("outer")),
        )
        assert not host.file(file)
        by = {"inode": file, "inner": file.parent, "outer": file.parent.parent}[strict]
        kind = Kind.PATH if strict == "inode" else Kind.DIRECTORY
        assert only(host).rule == layout.uid_of(f"{kind.value}:{by}")

    def test_the_first_of_two_audit_rules_is_told_of(self, host: Checks, file: Path) -> None:
        host.apply(
            rule(Kind.PATH, file, mode=Mode.AUDIT),
            rule(Kind.DIRECTORY, file.parent, depth=1, mode=Mode.AUDIT),
        )
        assert host.file(file)
        assert only(host).rule == layout.uid_of(f"path:{file}")

    def test_a_name_without_a_file_is_known(self, host: Checks, file: Path) -> None:
        host.apply(rule(Kind.PATH, file, Op.MODIFY))
        assert not host.file(file, MODIFY, nameless=True)
        event = only(host)
        assert (event.ino, event.dev) == (0, host.identify(file).dev)
        host.apply(rule(Kind.INODE, number_of(host, file), Op.MODIFY))
        assert host.file(file, MODIFY, nameless=True)
        assert not host.file(file, MODIFY)


class TestMoves:
    """What would leave its rule behind, with only reading denied."""

    def test_a_rule_by_inode_goes_along(self, host: Checks, file: Path) -> None:
        host.apply(rule(Kind.PATH, file))
        for move in (STAYS, LEAVES_NAME, LEAVES_DIR):
            assert host.file(file, MODIFY, move=move)

    @pytest.mark.parametrize("op", [Op.READ, Op.WRITE, Op.EXEC])
    def test_a_rule_by_name_only_does_not(self, host: Checks, file: Path, op: Op) -> None:
        host.apply(rule(Kind.PATH, file, op))
        replace(file)
        assert host.file(file, MODIFY)
        assert not host.file(file, MODIFY, move=LEAVES_NAME)
        assert not host.file(file, MODIFY, move=LEAVES_DIR)

    @pytest.mark.parametrize("op", [Op.READ, Op.WRITE, Op.EXEC])
    def test_a_rule_by_directory_does_not(self, host: Checks, file: Path, op: Op) -> None:
        host.apply(rule(Kind.DIRECTORY, file.parent, op, depth=2))
        inner = file.with_name("inner")
        inner.mkdir()
        for path in (file, inner):
            assert host.file(path, MODIFY)
            assert host.file(path, MODIFY, move=LEAVES_NAME)
            assert not host.file(path, MODIFY, move=LEAVES_DIR)
        assert host.file(file.parent, MODIFY, move=LEAVES_DIR), "it takes its own rule along"

    @pytest.mark.parametrize("mode", list(Mode))
    @pytest.mark.parametrize("op", [Op.READ, Op.WRITE, Op.EXEC])
    def test_what_the_inode_denies_itself_is_not_lost(
        self, host: Checks, file: Path, mode: Mode, op: Op
    ) -> None:
        host.apply(
            rule(Kind.PATH, file, op, mode=mode), rule(Kind.DIRECTORY, file.parent, op, depth=2)
        )
        assert host.file(file, MODIFY, move=LEAVES_DIR) is (mode is Mode.ENFORCE)
        other = Op.WRITE if op is Op.READ else Op.READ
        host.apply(rule(Kind.PATH, file, op), rule(Kind.DIRECTORY, file.parent, other, depth=2))
        assert not host.file(file, MODIFY, move=LEAVES_DIR)


class TestCircumstances:
    def test_settings_are_respected(self, host: Checks, file: Path) -> None:
        host.apply(rule(Kind.PATH, file))
        for settings, through, reason in (
            ({"MODE": 0}, True, MODE_AUDIT),
            ({"MODE": 1, "DEADLINE": 1}, True, DEADLINE),
            ({"DEADLINE": 2**63}, False, NONE),
            ({"DEADLINE": 0}, False, NONE),
        ):
            host.set(**settings)
            assert host.file(file) is through
            assert only(host).reason == reason
        host.set(DISABLED=1)
        assert host.file(file)
        assert host.events() == []

    def test_an_empty_slot_holds_nothing(self, host: Checks, file: Path) -> None:
        host.apply(rule(Kind.PATH, file))
        host.live.set_config(layout.Config.ACTIVE_SLOT, host.live.slot ^ 1)
        assert host.file(file)

    def test_who_may_read_to_get_in_may_not_write(self, host: Checks, file: Path) -> None:
        host.apply(rule(Kind.PATH, file, FILE_OPS))
        found = host.identify(file)
        key = layout.INODE_KEY.pack(found.ino, found.dev, 0)
        allowed = host.live.map("survival_allowlist")
        allowed.set(key, layout.GENERATION.pack(found.generation))
        for op in (READ, EXEC):
            with host.counted() as counted:
                assert host.file(file, op)
            assert counted == {Stat.AUDITS: 1, Stat.SURVIVAL_ALLOWED: 1, Stat.EVENTS: 1}
            assert only(host).reason == SURVIVAL
        for op in (WRITE, MODIFY):
            assert not host.file(file, op)
        allowed.set(key, layout.GENERATION.pack(found.generation ^ 1))
        assert not host.file(file)
        allowed.set(key, layout.GENERATION.pack(found.generation))
        assert not host.file(file, nameless=True), "no file yet, so it is not that one"

    def test_an_allowed_cgroup_is_exempt_with_all_below(self, host: Checks, file: Path) -> None:
        own = cgroups.mount_point()
        assert own is not None
        outer, inner, other = (own / f"check-{name}" for name in ("outer", "outer/in", "other"))
        outer = own / "check-outer"
        inner, other = outer / "inner", own / "check-other"
        for folder in (outer, inner, other):
            folder.mkdir()

        def ask() -> None:
            (inner / "cgroup.procs").write_text(str(os.getpid()))
            os._exit(0 if host.file(file) else 7)

        try:
            for allowed, answer in ((inner, 0), (outer, 0), (other, 7)):
                host.apply(rule(Kind.PATH, file), allow_cgroups=[str(allowed)])
                with host.counted() as counted:
                    assert in_child(ask) == answer
                if not answer:
                    assert counted == {Stat.CGROUP_ALLOWED: 1}
                    assert host.hits(f"path:{file}") == (0, 0, 0)
        finally:
            for folder in (other, inner, outer):
                folder.rmdir()


class TestReports:
    @pytest.mark.parametrize(
        ("sent", "stat", "action"),
        [
            (Signal.TERM, Stat.TERM, TERM),
            (Signal.KILL, Stat.KILL, KILL),
            (Signal.INT, Stat.INT, INT),
        ],
    )
    def test_a_signal_is_sent_and_counted(
        self, host: Checks, file: Path, sent: Signal, stat: Stat, action: int
    ) -> None:
        host.apply(rule(Kind.PATH, file, signal=sent))
        fallen = {TERM: 15, KILL: 9, INT: 2}[action]
        def ask() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            host.file(file)

        with host.counted() as counted:
            assert in_child(ask) == -fallen
        assert counted == {Stat.BLOCKS: 1, stat: 1, Stat.EVENTS: 1}
        assert only(host).action == action

    def test_hits_are_counted_by_rule(self, host: Checks, file: Path) -> None:
        host.apply(rule(Kind.PATH, file))
        for _ in range(2):
            host.file(file)
        last = host.events()[-1].time_ns
        assert host.hits(f"path:{file}") == (2, 0, last)
        host.set(MODE=0)
        host.file(file)
        assert host.hits(f"path:{file}") == (2, 1, only(host).time_ns)

    def test_hits_without_room_are_counted_as_lost(self, host: Checks, file: Path) -> None:
        host.apply(rule(Kind.PATH, file))
        hits = host.live.map("rule_hits")
        hits.fill({number.to_bytes(8, "little"): bytes(24) for number in range(1, MAX_HITS + 1)})
        with host.counted() as counted:
            assert not host.file(file)
        assert counted == {Stat.BLOCKS: 1, Stat.HITS_LOST: 1, Stat.EVENTS: 1}

    def test_what_is_sampled_away_is_decided_and_counted(self, host: Checks, file: Path) -> None:
        host.apply(rule(Kind.PATH, file))
        host.set(SAMPLE=0)
        with host.counted() as counted:
            assert not host.file(file)
        assert counted == {Stat.BLOCKS: 1, Stat.SAMPLED_OUT: 1}
        assert host.hits(f"path:{file}")[0] == 1
        host.set(SAMPLE=1 << 31)
        with host.counted() as counted:
            for _ in range(200):
                host.file(file)
        assert 50 < counted[Stat.EVENTS] < 150

    def test_a_full_ring_changes_nothing_else(self, host: Checks, file: Path) -> None:
        host.apply(rule(Kind.PATH, file), rule(Kind.IP, IN4, NET_OPS))
        while True:
            with host.counted() as counted:
                assert not host.file(file)
            if Stat.EVENTS not in counted:
                break
        assert counted == {Stat.BLOCKS: 1, Stat.RINGBUF_DROPS: 1}
        with socket.socket(V4, UDP) as opened, host.counted() as counted:
            for _ in range(10):
                assert not host.net(opened, sockaddr(IN4))
        assert counted[Stat.RINGBUF_DROPS] + counted.get(Stat.EVENTS, 0) == 10
        assert counted[Stat.RINGBUF_DROPS] > 0

    def test_the_event_says_who_did_what(self, host: Checks, file: Path) -> None:
        host.apply(rule(Kind.PATH, file, Op.EXEC))
        info = host.live.info()
        host.live.set_info(host.live.slot, info._replace(bundle=bytes(range(1, 33))))
        found = host.identify(file)
        asked: list[tuple[bool, int]] = []
        thread = threading.Thread(
            target=lambda: asked.append((host.file(file, EXEC, hook=3), threading.get_native_id()))
        )
        thread.start()
        thread.join()
        ((through, tid),) = asked
        assert not through
        event = only(host)
        assert tid != os.getpid()
        assert (event.pid, event.tid, event.ppid) == (os.getpid(), tid, os.getppid())
        assert (event.ino, event.dev) == (found.ino, found.dev)
        assert (event.hook, event.op, event.action, event.reason) == (3, 2, BLOCK, NONE)
        assert event.rule == layout.uid_of(f"path:{file}")
        assert event.bundle == int.from_bytes(bytes(range(1, 9)), "little")
        assert event.comm.decode() == Path("/proc/self/comm").read_text().strip()
        parent = Path(f"/proc/{os.getppid()}/comm").read_text().strip()
        assert event.parent_comm.decode() == parent
        assert (event.family, event.protocol, event.port, event.addr) == (0, 0, 0, bytes(16))
        assert str(file).endswith(event.path)
        assert event.path.endswith("ruled/secret")
        assert not event.path_cut

    def test_a_thread_another_user_and_group_are_told_of(self, host: Checks, file: Path) -> None:
        host.apply(rule(Kind.PATH, file))
        fd = os.open(file, os.O_PATH)
        case = struct.pack("6I", fd, READ, 0, OPEN_HOOK, 0, 0)
        setresgid, setresuid = 119, 117
        libc = ctypes.CDLL(None)

        def ask() -> None:
            libc.prctl(8, 1, 0, 0, 0)
            assert libc.syscall(setresgid, 54, 54, 54) == 0
            assert libc.syscall(setresuid, 53, 53, 0) == 0
            host._run("test_file", case)

        child = in_child(ask)
        os.close(fd)
        if child:
            pytest.fail(f"asking failed: {child}")
        event = only(host)
        assert (event.uid, event.gid) == (53, 54)

    def test_a_path_that_does_not_fit_lacks_its_beginning(self, host: Checks, file: Path) -> None:
        deep = file.parent
        for _ in range(3):
            deep = deep / ("d" * 200)
        deep.mkdir(parents=True)
        last = deep / "file"
        last.touch()
        host.apply(rule(Kind.DIRECTORY, file.parent, depth=32))
        assert not host.file(last)
        event = only(host)
        assert event.path_cut
        assert event.path == "/".join(["d" * 200, "d" * 200, "file"])


def sockaddr(address: str, port: int = PORT, family: int | None = None) -> bytes:
    kind = V6 if ":" in address else V4
    head = struct.pack("=H", kind if family is None else family) + struct.pack("!H", port)
    raw = socket.inet_pton(kind, address)
    return head + (bytes(4) + raw + bytes(4) if kind == V6 else raw + bytes(8))


class TestNetwork:
    @pytest.mark.parametrize(
        ("kind", "target", "denied", "passing"),
        [
            (Kind.IP, IN4, [IN4], ["127.0.0.6", "127.0.0.8", "7.0.0.127", "::1"]),
            (Kind.IP, "2001:db8::7", ["2001:db8::7"], ["2001:db8::8", "2002:db8::7", IN4]),
            (Kind.CIDR, "10.1.0.0/17", ["10.1.0.0", "10.1.127.255"], ["10.1.128.0", "10.0.255.255"]),
            (Kind.CIDR, "10.1.2.3/32", ["10.1.2.3"], ["10.1.2.2", "10.1.2.4"]),
            (Kind.CIDR, "0.0.0.0/0", ["1.2.3.4"], ["::2"]),
            (Kind.CIDR, "2001:db8::/33", ["2001:db8:7fff::1"], ["2001:db8:8000::1", IN4]),
            (Kind.CIDR, "2001:db8::1/128", ["2001:db8::1"], ["2001:db8::2", "2001:db8::"]),
        ],
    )
    def test_addresses(
        self, host: Checks, kind: Kind, target: str, denied: list[str], passing: list[str]
    ) -> None:
        host.apply(rule(kind, target, NET_OPS))
        with socket.socket(V6, UDP) as opened:
            for address in denied:
                assert not host.net(opened, sockaddr(address)), address
                assert not host.net(opened, sockaddr(address), 5, BOUND), address
            for address in passing:
                assert host.net(opened, sockaddr(address)), address

    @pytest.mark.parametrize("address", [IN4, "2001:db8::7"])
    @pytest.mark.parametrize("kind", [Kind.PORT, Kind.IP_PORT])
    @pytest.mark.parametrize("protocol", ["tcp", "udp", "any"])
    def test_ports_and_pairs(
        self, host: Checks, address: str, kind: Kind, protocol: str
    ) -> None:
        shown = f"[{address}]" if ":" in address else address
        target = f"{PORT}:{protocol}" if kind is Kind.PORT else f"{shown}:{PORT}:{protocol}"
        host.apply(rule(kind, target, Op.EGRESS))
        for name, type_, number in (("tcp", TCP, 6), ("udp", UDP, 17)):
            with socket.socket(V6, type_) as opened:
                through = protocol not in (name, "any")
                assert host.net(opened, sockaddr(address)) is through
                if not through:
                    event = only(host)
                    assert (event.protocol, event.port) == (number, PORT)
                    assert event.family == (6 if ":" in address else 4)
                assert host.net(opened, sockaddr(address, PORT + 1))
                assert host.net(opened, sockaddr(address), 5, BOUND)
                other = address[:-1] + "9"
                assert host.net(opened, sockaddr(other)) is (through or kind is Kind.IP_PORT)
                host.events()
        with socket.socket(V6, socket.SOCK_RAW, 200) as raw:
            assert host.net(raw, sockaddr(address)) is (protocol != "any")

    @pytest.mark.parametrize("op", [Op.EGRESS, Op.BIND])
    @pytest.mark.parametrize(
        ("kind", "target"),
        [
            (Kind.IP, IN4), (Kind.CIDR, "127.0.0.0/28"), (Kind.PORT, f"{PORT}:udp"),
            (Kind.PORT, f"{PORT}:any"), (Kind.IP_PORT, f"{IN4}:{PORT}:any"),
        ],
    )  # fmt: skip
    def test_directions_are_told_apart(
        self, host: Checks, op: Op, kind: Kind, target: str
    ) -> None:
        host.apply(rule(kind, target, op))
        with socket.socket(V4, UDP) as opened:
            for asked, number, hook, stat in (
                (Op.EGRESS, 4, CONNECT, Stat.CONNECT_BLOCKS),
                (Op.EGRESS, 4, SENDMSG, Stat.SEND_BLOCKS),
                (Op.BIND, 5, BOUND, Stat.BIND_BLOCKS),
            ):
                with host.counted() as counted:
                    assert host.net(opened, sockaddr(IN4), number, hook) is (asked is not op)
                if asked is op:
                    assert counted == {Stat.BLOCKS: 1, stat: 1, Stat.EVENTS: 1}
                    event = only(host)
                    assert (event.op, event.hook) == (number, hook)
                    assert event.addr == socket.inet_aton(IN4) + bytes(12)

    @pytest.mark.parametrize("strict", range(4))
    def test_the_strictest_rule_decides(self, host: Checks, strict: int) -> None:
        targets = [
            (Kind.IP, IN4), (Kind.CIDR, "127.0.0.0/28"),
            (Kind.IP_PORT, f"{IN4}:{PORT}:any"), (Kind.PORT, f"{PORT}:any"),
        ]  # fmt: skip
        modes = [Mode.ENFORCE if number == strict else Mode.AUDIT for number in range(4)]
        host.apply(
            *(rule(*target, NET_OPS, mode=mode) for target, mode in zip(targets, modes, strict=True))
        )
        with socket.socket(V4, UDP) as opened:
            assert not host.net(opened, sockaddr(IN4))
        kind, target = targets[strict]
        assert only(host).rule == layout.uid_of(f"{kind.value}:{target}")

    def test_unspec_ends_a_connection_and_is_an_address_elsewhere(self, host: Checks) -> None:
        host.apply(rule(Kind.IP, IN4, NET_OPS), rule(Kind.IP, "2001:db8::7", NET_OPS))
        v4, v6 = sockaddr(IN4, family=UNSPEC), sockaddr("2001:db8::7", family=UNSPEC)
        with socket.socket(V4, UDP) as opened:
            assert host.net(opened, v4)
            assert not host.net(opened, v4, hook=SENDMSG)
            assert not host.net(opened, v4, 5, BOUND)
        with socket.socket(V6, UDP) as opened:
            assert host.net(opened, v6, hook=SENDMSG)
        with socket.socket(V6, socket.SOCK_RAW, 200) as opened:
            assert host.net(opened, v6)
            assert not host.net(opened, v6, hook=SENDMSG)
        with socket.socket(V4, socket.SOCK_RAW, 200) as opened:
            assert host.net(opened, v6, hook=SENDMSG)
            assert not host.net(opened, v4, hook=SENDMSG)

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
        self, host: Checks, family: int, bound: str, anything: str, reached: str
    ) -> None:
        host.apply(rule(Kind.IP, reached, NET_OPS))
        with socket.socket(family, UDP) as opened:
            opened.bind((bound, 0))
            assert not host.net(opened, sockaddr(anything))
            assert host.net(opened, sockaddr(anything), 5, BOUND), "bind means every address"


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
        self, host: Checks, names: list[str], through: bool
    ) -> None:
        host.apply(rule(Kind.IP, IN4, NET_OPS), rule(Kind.IP, "2001:db8::7", NET_OPS))
        listed = b"".join(map(sockaddr, names))
        with socket.socket(V6, TCP) as opened:
            for op, hook in ((4, CONNECT), (5, BOUND)):
                assert host.net(opened, listed, op, hook, name="test_list") is through
                host.set(MODE=0)
                assert host.net(opened, listed, op, hook, name="test_list")
                host.set(MODE=1)

    def test_what_is_behind_the_list_is_not_read(self, host: Checks) -> None:
        host.apply(rule(Kind.IP, IN4, NET_OPS))
        with socket.socket(V4, TCP) as opened:
            head = struct.pack("6I", opened.fileno(), 4, CONNECT, 16, 0, 0)
            listed = sockaddr(self.OTHER) + sockaddr(IN4)
            assert host._run("test_list", head + listed.ljust(1024, b"\0"))

    def test_a_list_too_long_is_refused_only_where_rules_are_enforced(self, host: Checks) -> None:
        listed = sockaddr(self.OTHER) * 33
        with socket.socket(V4, TCP) as opened:
            assert host.net(opened, listed, name="test_list"), "no rules for the network"
            host.apply(rule(Kind.IP, IN4, NET_OPS))
            assert not host.net(opened, listed, name="test_list")
            for settings in ({"DEADLINE": 1}, {"DEADLINE": 0, "MODE": 0}):
                host.set(**settings)
                assert host.net(opened, listed, name="test_list")

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
        self, host: Checks, kind: Kind, messages: list[tuple[int, int, bytes]], through: bool
    ) -> None:
        targets = [IN4, "2001:db8::7"]
        if kind is Kind.IP_PORT:
            targets = [f"{IN4}:{PORT}:any", f"[2001:db8::7]:{PORT}:any"]
        host.apply(*(rule(kind, target, Op.EGRESS) for target in targets))
        packed = control(*messages)
        port = socket.htons(PORT)
        with socket.socket(V6, TCP) as opened:
            assert host.net(opened, packed, name="test_control", port=port) is through
            if kind is Kind.IP_PORT and messages == [self.V4_DENIED]:
                event = only(host)
                assert (event.port, event.hook) == (PORT, SENDMSG)
                assert host.net(opened, packed, name="test_control", port=port + 1)

    def test_a_control_message_without_a_head_ends_it(self, host: Checks) -> None:
        host.apply(rule(Kind.IP, IN4, NET_OPS))
        short = struct.pack("Qii", 15, 0, 0) + control(self.V4_DENIED)
        with socket.socket(V4, TCP) as opened:
            assert host.net(opened, short, name="test_control")
