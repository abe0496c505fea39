"""Files: the decisions of bpf/check.h, match.h and report.h, run on this machine's own objects.

What a hook would answer, without a hook: nothing is denied. The hooks themselves, with what
they hand in, are tests/vm's.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import threading
from pathlib import Path

import pytest
from battery import in_child
from check_support import (
    IN4,
    LEAVES_DIR,
    LEAVES_NAME,
    MAX_HITS,
    OPEN_HOOK,
    STAYS,
    V4,
    Checks,
    number_of,
    only,
    replace,
    rule,
    sockaddr,
)

from aegis_tools.kernel import cgroups, layout
from aegis_tools.kernel.layout import Stat
from aegis_tools.policy.model import FILE_OPS, NET_OPS, Kind, Mode, Op, Signal

READ, WRITE, EXEC, MODIFY = (op.value for op in (Op.READ, Op.WRITE, Op.EXEC, Op.MODIFY))
BLOCK, TERM, KILL, INT = range(2, 6)
NONE, RULE_AUDIT, MODE_AUDIT, DEADLINE, CGROUP, SURVIVAL = range(6)
UDP = socket.SOCK_DGRAM


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ruled" / "secret"
    path.parent.mkdir()
    path.write_text("secret")
    return path


class TestFiles:
    @pytest.mark.parametrize("kind", [Kind.PATH, Kind.DIRECTORY])
    @pytest.mark.parametrize("by_name", [False, True])
    def test_each_operation_has_its_own_rule(
        self, checks: Checks, file: Path, kind: Kind, by_name: bool
    ) -> None:
        ops = (Op.READ, Op.WRITE, Op.EXEC, Op.MODIFY)
        target = file if kind is Kind.PATH else file.parent
        for number, op in enumerate(ops):
            checks.apply(rule(kind, target, op, **({"depth": 1} if kind is Kind.DIRECTORY else {})))
            if by_name:
                replace(file)
            for asked in ops:
                assert checks.file(file, asked.value) is (asked is not op)
            assert checks.file(file, FILE_OPS.value) is False
            events = checks.events()
            assert [event.op for event in events] == [number, number]
            assert checks.file(file, FILE_OPS.value & ~op.value)

    def test_another_file_or_name_is_not_meant(self, checks: Checks, file: Path) -> None:
        checks.apply(rule(Kind.PATH, file))
        near = file.with_name("secret2")
        elsewhere = file.parent.parent / "secret"
        for other in (near, elsewhere):
            other.touch()
            assert checks.file(other)
        assert checks.file(file.parent)

    def test_names_of_every_length_are_told_apart(self, checks: Checks, file: Path) -> None:
        names = [file.with_name("n" * length) for length in (1, 15, 16, 254, 255)]
        checks.apply(*(rule(Kind.PATH, name) for name in names), rule(Kind.PATH, file))
        for name in names:
            name.touch()
            assert not checks.file(name)
        other = file.with_name("n" * 253)
        other.touch()
        assert checks.file(other)

    @pytest.mark.parametrize("flag", [0, layout.ANY_GENERATION])
    @pytest.mark.parametrize("of", ["deny_inode_map", "deny_dir_map"])
    def test_a_number_that_another_inode_has_now_is_not_meant(
        self, checks: Checks, file: Path, of: str, flag: int
    ) -> None:
        if of == "deny_inode_map":
            checks.apply(rule(Kind.INODE, number_of(checks, file)))
        else:
            checks.apply(rule(Kind.DIRECTORY, file.parent, depth=1))
        inner = checks.live.inner(of)
        assert inner is not None
        with inner:
            found = {key: layout.FILE_ENTRY.unpack(value) for key, value in inner.items()}
            own = checks.identify(file if of == "deny_inode_map" else file.parent).generation
            for generation in (own, own ^ 1):
                for key, (*rules, _, depth, _) in found.items():
                    inner.set(key, layout.FILE_ENTRY.pack(*rules, generation, depth, flag))
                assert checks.file(file) is (generation != own and not flag)

    @pytest.mark.parametrize("depth", [1, 2, 3, 32])
    def test_a_directory_reaches_as_deep_as_it_says(
        self, checks: Checks, file: Path, depth: int
    ) -> None:
        root = file.parent
        checks.apply(rule(Kind.DIRECTORY, root, depth=depth))
        assert not checks.file(root)
        assert checks.file(root.parent)
        folder = root
        for level in range(1, 35):
            (folder / "file").touch()
            assert checks.file(folder / "file") is (level > depth), level
            folder = folder / "d"
            folder.mkdir()
            assert checks.file(folder) is (level > depth), level

    @pytest.mark.parametrize("strict", ["inode", "outer", "inner"])
    def test_the_strictest_rule_decides(self, checks: Checks, file: Path, strict: str) -> None:
        def mode(name: str) -> Mode:
            return Mode.ENFORCE if name == strict else Mode.AUDIT

        checks.apply(
            rule(Kind.PATH, file, mode=mode("inode")),
            rule(Kind.DIRECTORY, file.parent, depth=4, mode=mode("inner")),
            rule(Kind.DIRECTORY, file.parent.parent, depth=4, mode=mode("outer")),
        )
        assert not checks.file(file)
        by = {"inode": file, "inner": file.parent, "outer": file.parent.parent}[strict]
        kind = Kind.PATH if strict == "inode" else Kind.DIRECTORY
        assert only(checks).rule == layout.uid_of(f"{kind.value}:{by}")

    @pytest.mark.parametrize("mode", list(Mode))
    def test_the_first_of_two_rules_of_a_kind_counts(
        self, checks: Checks, file: Path, mode: Mode
    ) -> None:
        checks.apply(
            rule(Kind.PATH, file, mode=mode),
            rule(Kind.DIRECTORY, file.parent, depth=1, mode=mode),
        )
        for op in (READ, READ | WRITE | MODIFY):
            assert checks.file(file, op) is (mode is Mode.AUDIT)
            assert only(checks).rule == layout.uid_of(f"path:{file}")
        replace(file)
        assert checks.file(file) is (mode is Mode.AUDIT)
        assert only(checks).rule == layout.uid_of(f"path:{file}")

    def test_the_first_operation_that_is_denied_counts(self, checks: Checks, file: Path) -> None:
        checks.apply(rule(Kind.PATH, file, FILE_OPS))
        assert not checks.file(file, FILE_OPS.value)
        assert only(checks).op == 0

    def test_a_name_without_a_file_is_known(self, checks: Checks, file: Path) -> None:
        checks.apply(rule(Kind.PATH, file, Op.MODIFY))
        assert not checks.file(file, MODIFY, nameless=True)
        event = only(checks)
        assert (event.ino, event.dev) == (0, checks.identify(file).dev)
        checks.apply(rule(Kind.INODE, number_of(checks, file), Op.MODIFY))
        assert checks.file(file, MODIFY, nameless=True)
        assert not checks.file(file, MODIFY)


class TestMoves:
    """What would leave its rule behind, with only reading denied."""

    def test_a_rule_by_inode_goes_along(self, checks: Checks, file: Path) -> None:
        checks.apply(rule(Kind.PATH, file))
        for move in (STAYS, LEAVES_NAME, LEAVES_DIR):
            assert checks.file(file, MODIFY, move=move)

    @pytest.mark.parametrize("op", [Op.READ, Op.WRITE, Op.EXEC])
    def test_a_rule_by_name_only_does_not(self, checks: Checks, file: Path, op: Op) -> None:
        checks.apply(rule(Kind.PATH, file, op))
        replace(file)
        assert checks.file(file, MODIFY)
        assert not checks.file(file, MODIFY, move=LEAVES_NAME)
        assert not checks.file(file, MODIFY, move=LEAVES_DIR)

    @pytest.mark.parametrize("op", [Op.READ, Op.WRITE, Op.EXEC])
    def test_a_rule_by_directory_does_not(self, checks: Checks, file: Path, op: Op) -> None:
        checks.apply(rule(Kind.DIRECTORY, file.parent, op, depth=2))
        inner = file.with_name("inner")
        inner.mkdir()
        for path in (file, inner):
            assert checks.file(path, MODIFY)
            assert checks.file(path, MODIFY, move=LEAVES_NAME)
            assert not checks.file(path, MODIFY, move=LEAVES_DIR)
        assert checks.file(file.parent, MODIFY, move=LEAVES_DIR), "it takes its own rule along"

    @pytest.mark.parametrize("mode", list(Mode))
    @pytest.mark.parametrize("op", [Op.READ, Op.WRITE, Op.EXEC])
    def test_what_the_inode_denies_itself_is_not_lost(
        self, checks: Checks, file: Path, mode: Mode, op: Op
    ) -> None:
        checks.apply(
            rule(Kind.PATH, file, op, mode=mode), rule(Kind.DIRECTORY, file.parent, op, depth=2)
        )
        assert checks.file(file, MODIFY, move=LEAVES_DIR) is (mode is Mode.ENFORCE)
        other = Op.WRITE if op is Op.READ else Op.READ
        checks.apply(rule(Kind.PATH, file, op), rule(Kind.DIRECTORY, file.parent, other, depth=2))
        assert not checks.file(file, MODIFY, move=LEAVES_DIR)


class TestCircumstances:
    def test_settings_are_respected(self, checks: Checks, file: Path) -> None:
        checks.apply(rule(Kind.PATH, file))
        for settings, through, reason in (
            ({"MODE": 0}, True, MODE_AUDIT),
            ({"MODE": 1, "DEADLINE": 1}, True, DEADLINE),
            ({"DEADLINE": 2**63}, False, NONE),
            ({"DEADLINE": 0}, False, NONE),
        ):
            checks.set(**settings)
            assert checks.file(file) is through
            assert only(checks).reason == reason
        checks.set(DISABLED=1)
        assert checks.file(file)
        assert checks.events() == []

    def test_an_empty_slot_holds_nothing(self, checks: Checks, file: Path) -> None:
        checks.apply(rule(Kind.PATH, file))
        checks.live.set_config(layout.Config.ACTIVE_SLOT, checks.live.slot ^ 1)
        assert checks.file(file)

    def test_who_may_read_to_get_in_may_not_write(self, checks: Checks, file: Path) -> None:
        checks.apply(rule(Kind.PATH, file, FILE_OPS))
        found = checks.identify(file)
        key = layout.INODE_KEY.pack(found.ino, found.dev, 0)
        allowed = checks.live.map("survival_allowlist")
        allowed.set(key, layout.GENERATION.pack(found.generation))
        for op in (READ, EXEC):
            with checks.counted() as counted:
                assert checks.file(file, op)
            assert counted == {Stat.AUDITS: 1, Stat.SURVIVAL_ALLOWED: 1, Stat.EVENTS: 1}
            assert only(checks).reason == SURVIVAL
        for op in (WRITE, MODIFY):
            assert not checks.file(file, op)
        allowed.set(key, layout.GENERATION.pack(found.generation ^ 1))
        assert not checks.file(file)
        allowed.set(key, layout.GENERATION.pack(found.generation))
        assert not checks.file(file, nameless=True), "no file yet, so it is not that one"

    def test_an_allowed_cgroup_is_exempt_with_all_below(self, checks: Checks, file: Path) -> None:
        own = cgroups.mount_point()
        assert own is not None
        outer, other = (own / f"check-{os.getpid()}-{name}" for name in ("outer", "other"))
        inner = outer.joinpath(*map(str, range(15)))  # 16 levels are looked at
        inner.mkdir(parents=True)
        other.mkdir()

        def ask() -> None:
            (inner / "cgroup.procs").write_text(str(os.getpid()))
            os._exit(0 if checks.file(file) else 7)

        try:
            for allowed, answer in ((inner, 0), (outer, 0), (other, 7)):
                checks.apply(rule(Kind.PATH, file), allow_cgroups=[str(allowed)])
                with checks.counted() as counted:
                    assert in_child(ask) == answer
                if not answer:
                    assert counted == {Stat.CGROUP_ALLOWED: 1}
                    assert checks.hits(f"path:{file}") == (0, 0, 0)
        finally:
            for folder in (other, inner, *list(inner.parents)[:15]):
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
        self, checks: Checks, file: Path, sent: Signal, stat: Stat, action: int
    ) -> None:
        checks.apply(rule(Kind.PATH, file, signal=sent))
        fallen = {TERM: 15, KILL: 9, INT: 2}[action]

        def ask() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            checks.file(file)

        with checks.counted() as counted:
            assert in_child(ask) == -fallen
        assert counted == {Stat.BLOCKS: 1, stat: 1, Stat.EVENTS: 1}
        assert only(checks).action == action
        for settings in ({"DEADLINE": 1}, {"MODE": 0, "DEADLINE": 0}):
            checks.set(**settings)
            assert in_child(ask) == 0, "who is not refused is not signalled either"

    def test_hits_are_counted_by_rule(self, checks: Checks, file: Path) -> None:
        checks.apply(rule(Kind.PATH, file))
        for _ in range(2):
            checks.file(file)
        last = checks.events()[-1].time_ns
        assert checks.hits(f"path:{file}") == (2, 0, last)
        checks.set(MODE=0)
        with checks.counted() as counted:
            checks.file(file)
        assert counted == {Stat.AUDITS: 1, Stat.EVENTS: 1}
        assert checks.hits(f"path:{file}") == (2, 1, only(checks).time_ns)

    def test_hits_without_room_are_counted_as_lost(self, checks: Checks, file: Path) -> None:
        checks.apply(rule(Kind.PATH, file))
        hits = checks.live.map("rule_hits")
        hits.fill({number.to_bytes(8, "little"): bytes(24) for number in range(1, MAX_HITS + 1)})
        with checks.counted() as counted:
            assert not checks.file(file)
        assert counted == {Stat.BLOCKS: 1, Stat.HITS_LOST: 1, Stat.EVENTS: 1}

    def test_what_is_sampled_away_is_decided_and_counted(self, checks: Checks, file: Path) -> None:
        checks.apply(rule(Kind.PATH, file))
        checks.set(SAMPLE=0)
        with checks.counted() as counted:
            assert not checks.file(file)
        assert counted == {Stat.BLOCKS: 1, Stat.SAMPLED_OUT: 1}
        assert checks.hits(f"path:{file}")[0] == 1
        checks.set(SAMPLE=1 << 31)
        with checks.counted() as counted:
            for _ in range(200):
                checks.file(file)
        assert 50 < counted[Stat.EVENTS] < 150

    def test_a_full_ring_changes_nothing_else(self, checks: Checks, file: Path) -> None:
        checks.apply(rule(Kind.PATH, file), rule(Kind.IP, IN4, NET_OPS))
        while True:
            with checks.counted() as counted:
                assert not checks.file(file)
            if Stat.EVENTS not in counted:
                break
        assert counted == {Stat.BLOCKS: 1, Stat.RINGBUF_DROPS: 1}
        with socket.socket(V4, UDP) as opened, checks.counted() as counted:
            for _ in range(10):
                assert not checks.net(opened, sockaddr(IN4))
        assert counted[Stat.RINGBUF_DROPS] + counted.get(Stat.EVENTS, 0) == 10
        assert counted[Stat.RINGBUF_DROPS] > 0

    def test_the_event_says_who_did_what(self, checks: Checks, file: Path) -> None:
        checks.apply(rule(Kind.PATH, file, Op.EXEC))
        info = checks.live.info()
        checks.live.set_info(checks.live.slot, info._replace(bundle=bytes(range(1, 33))))
        found = checks.identify(file)
        asked: list[tuple[bool, int]] = []
        thread = threading.Thread(
            target=lambda: asked.append(
                (checks.file(file, EXEC, hook=3), threading.get_native_id())
            )
        )
        thread.start()
        thread.join()
        ((through, tid),) = asked
        assert not through
        event = only(checks)
        assert tid != os.getpid()
        assert (event.pid, event.tid, event.ppid) == (os.getpid(), tid, os.getppid())
        assert (event.ino, event.dev) == (found.ino, found.dev)
        assert (event.hook, event.op, event.action, event.reason) == (3, 2, BLOCK, NONE)
        assert event.rule == layout.uid_of(f"path:{file}")
        assert event.bundle == int.from_bytes(bytes(range(1, 9)), "little")
        unified = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip()
        assert event.cgroup == cgroups.cgroup_id(unified)
        assert event.comm.decode() == Path("/proc/self/comm").read_text().strip()
        parent = Path(f"/proc/{os.getppid()}/comm").read_text().strip()
        assert event.parent_comm.decode() == parent
        assert (event.family, event.protocol, event.port, event.addr) == (0, 0, 0, bytes(16))
        assert str(file).endswith(event.path)
        assert event.path.endswith("ruled/secret")
        assert not event.path_cut

    def test_a_thread_another_user_and_group_are_told_of(self, checks: Checks, file: Path) -> None:
        checks.apply(rule(Kind.PATH, file))
        fd = os.open(file, os.O_PATH)
        case = struct.pack("6I", fd, READ, 0, OPEN_HOOK, 0, 0)
        setresgid, setresuid = 119, 117
        libc = ctypes.CDLL(None)

        def ask() -> None:
            libc.prctl(8, 1, 0, 0, 0)
            assert libc.syscall(setresgid, 54, 54, 54) == 0
            assert libc.syscall(setresuid, 53, 53, 0) == 0
            checks._run("test_file", case)

        child = in_child(ask)
        os.close(fd)
        if child:
            pytest.fail(f"asking failed: {child}")
        event = only(checks)
        assert (event.uid, event.gid) == (53, 54)

    def test_a_path_that_does_not_fit_lacks_its_beginning(self, checks: Checks, file: Path) -> None:
        deep = file.parent
        for _ in range(3):
            deep = deep / ("d" * 200)
        deep.mkdir(parents=True)
        last = deep / "file"
        last.touch()
        checks.apply(rule(Kind.DIRECTORY, file.parent, depth=32))
        assert not checks.file(last)
        event = only(checks)
        assert event.path_cut
        assert event.path == "/".join(["d" * 200, "d" * 200, "file"])

    def test_a_deep_path_is_whole(self, checks: Checks, file: Path) -> None:
        deep = file.parent.joinpath(*"abcdefghijklmnopqrstuvwxyz")
        deep.mkdir(parents=True)
        checks.apply(rule(Kind.DIRECTORY, file.parent, depth=32))
        assert not checks.file(deep)
        event = only(checks)
        assert event.path.endswith("/ruled/" + "/".join("abcdefghijklmnopqrstuvwxyz"))
        assert not event.path_cut

    def test_a_path_is_whole_as_long_as_it_fits(self, checks: Checks, file: Path) -> None:
        longest = file.with_name("n" * 255)
        longest.touch()
        checks.apply(rule(Kind.PATH, longest))
        assert not checks.file(longest)
        assert only(checks).path == f"ruled/{longest.name}"
