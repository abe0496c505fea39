"""When a match refuses, what else it does, and what is counted and reported of it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from battery import (
    FILE_OPS,
    OPEN_OPS,
    Host,
    Kind,
    Mode,
    Op,
    Signal,
    Stat,
    can_read,
    file_rule,
    in_child,
    net_rule,
    refused,
    touch,
)

from aegis_tools.kernel.cgroups import mount_point
from aegis_tools.kernel.layout import SAMPLE_ALL, uid_of

OPEN, MMAP, MPROTECT, SETATTR, UNLINK, RENAME, LINK, CREATE = range(1, 9)
AUDIT, BLOCK, TERM, KILL, INT = range(1, 6)
NONE, RULE_AUDIT, MODE_AUDIT, DEADLINE, CGROUP, SURVIVAL = range(6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("data")
    return path


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class TestAudit:
    def test_the_host_in_audit_mode_refuses_nothing(self, host: Host, path: Path) -> None:
        host.apply(file_rule(path, FILE_OPS, signal=Signal.KILL), mode=Mode.AUDIT)
        with host.counted() as counted:
            path.write_text("changed")
            path.rename(path.with_name("moved"))
        assert counted[Stat.AUDITS] >= 2
        assert Stat.BLOCKS not in counted
        assert {event.reason for event in host.events()} == {MODE_AUDIT}

    def test_a_rule_in_audit_mode_refuses_nothing(self, host: Host, path: Path) -> None:
        host.apply(file_rule(path, FILE_OPS, mode=Mode.AUDIT, signal=Signal.KILL))
        path.write_text("changed")
        assert {(event.action, event.reason) for event in host.events()} == {(AUDIT, RULE_AUDIT)}

    @pytest.mark.parametrize("enforcing", ["inode", "name", "directory", "outer", "none"])
    def test_the_strictest_of_several_rules_decides(
        self, host: Host, path: Path, enforcing: str
    ) -> None:
        """A replaced file is known by its name; a rule by number is one for the inode."""
        linked = path.with_name("linked")
        linked.hardlink_to(path)
        rules = {
            "inode": file_rule(linked),
            "name": file_rule(path),
            "directory": file_rule(path.parent, depth=1),
            "outer": file_rule(path.parent.parent, depth=2),
        }
        host.apply(
            *(
                rule._replace(mode=Mode.ENFORCE if name == enforcing else Mode.AUDIT)
                for name, rule in rules.items()
            )
        )
        assert can_read(path) == (enforcing == "none")

    def test_the_name_rule_of_a_replaced_file_decides_over_an_auditing_directory(
        self, host: Host, path: Path
    ) -> None:
        host.apply(file_rule(path), file_rule(path.parent, depth=9, mode=Mode.AUDIT))
        new = path.with_name("new")
        new.touch()
        new.rename(path)
        assert not can_read(path)


class TestSettings:
    def test_past_the_deadline_enforcing_is_auditing(self, host: Host, path: Path) -> None:
        host.apply(file_rule(path))
        host.set(DEADLINE=boot_ns() + 3_600_000_000_000)
        assert not can_read(path)
        host.set(DEADLINE=boot_ns() + 300_000_000)
        assert not can_read(path)
        time.sleep(0.4)
        host.events()
        assert can_read(path)
        assert [event.reason for event in host.events()] == [DEADLINE]
        host.set(DEADLINE=0)
        assert not can_read(path)

    def test_disabled_nothing_is_refused_or_counted(self, host: Host, path: Path) -> None:
        host.apply(file_rule(path))
        host.set(DISABLED=1)
        with host.counted() as counted:
            assert can_read(path)
        assert counted == {}
        host.set(DISABLED=0)
        assert not can_read(path)

    @pytest.mark.parametrize(("sample", "least", "most"), [(0, 0, 0), (1 << 31, 40, 160)])
    def test_sampling_drops_events_and_decides_nothing(
        self, host: Host, path: Path, sample: int, least: int, most: int
    ) -> None:
        host.apply(file_rule(path))
        host.set(SAMPLE=sample)
        with host.counted() as counted:
            assert not any(can_read(path) for _ in range(200))
        host.set(SAMPLE=SAMPLE_ALL)
        events = len(host.events())
        assert least <= events <= most
        assert counted[Stat.BLOCKS] == 200
        assert counted.get(Stat.EVENTS, 0) == events
        assert counted[Stat.SAMPLED_OUT] == 200 - events

    def test_a_full_ring_drops_events_and_decides_nothing(self, host: Host, path: Path) -> None:
        host.apply(file_rule(path))
        with host.counted() as counted:
            assert not any(can_read(path) for _ in range(600))
        assert counted[Stat.BLOCKS] == 600
        assert counted[Stat.RINGBUF_DROPS] == 600 - counted[Stat.EVENTS] > 0
        assert len(host.events()) == counted[Stat.EVENTS]
        assert not can_read(path)
        assert len(host.events()) == 1


@pytest.mark.parametrize(
    ("wanted", "number", "action", "stat"),
    [
        (Signal.TERM, signal.SIGTERM, TERM, Stat.TERM),
        (Signal.KILL, signal.SIGKILL, KILL, Stat.KILL),
        (Signal.INT, signal.SIGINT, INT, Stat.INT),
    ],
)
class TestSignals:
    def test_the_process_dies_and_has_not_opened(
        self, host: Host, path: Path, wanted: Signal, number: int, action: int, stat: Stat
    ) -> None:
        host.apply(file_rule(path, signal=wanted))

        def read() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            touch(path)

        with host.counted() as counted:
            assert in_child(read) == -number
        assert counted == {Stat.BLOCKS: 1, stat: 1, Stat.EVENTS: 1}
        assert [event.action for event in host.events()] == [action]

    def test_one_that_catches_the_signal_is_refused_nevertheless(
        self, host: Host, path: Path, wanted: Signal, number: int, action: int, stat: Stat
    ) -> None:
        del action, stat
        host.apply(file_rule(path, signal=wanted))

        def read() -> None:
            if number != signal.SIGKILL:
                signal.signal(number, signal.SIG_IGN)
            with refused():
                touch(path)

        assert in_child(read) == (-number if number == signal.SIGKILL else 0)


class TestCgroups:
    @pytest.fixture
    def groups(self) -> Iterator[Path]:
        base = mount_point()
        assert base is not None
        folder = base / "aegis-battery"
        made = [folder, folder / "own", folder / "own" / "child", folder / "sibling"]
        for path in made:
            path.mkdir()
        yield folder
        for path in reversed(made):
            path.rmdir()

    def test_an_allowed_group_and_those_below_it_pass_and_a_sibling_does_not(
        self, host: Host, path: Path, groups: Path
    ) -> None:
        host.apply(
            file_rule(path), net_rule(Kind.PORT, "7:udp"), allow_cgroups=[str(groups / "own")]
        )

        def reading_in(group: Path) -> Callable[[], None]:
            def read() -> None:
                (group / "cgroup.procs").write_text(str(os.getpid()))
                touch(path)

            return read

        with host.counted() as counted:
            assert in_child(reading_in(groups / "own")) == 0
            assert in_child(reading_in(groups / "own" / "child")) == 0
        assert counted == {Stat.CGROUP_ALLOWED: 2}
        assert host.events() == []
        assert in_child(reading_in(groups / "sibling")) == 1
        assert in_child(reading_in(groups)) == 1
        identities = {event.cgroup for event in host.events()}
        assert identities == {groups.stat().st_ino, (groups / "sibling").stat().st_ino}


class TestSurvival:
    def test_what_recovery_needs_is_never_refused(self, host: Host, path: Path) -> None:
        known = host.identify(path)
        host.apply(file_rule(path))
        survivors = host.live.map("survival_allowlist")
        survivors.set(known.key, known.generation.to_bytes(4, "little"))
        with host.counted() as counted:
            assert can_read(path)
        assert counted == {Stat.AUDITS: 1, Stat.SURVIVAL_ALLOWED: 1, Stat.EVENTS: 1}
        assert [event.reason for event in host.events()] == [SURVIVAL]
        with refused():
            path.write_text("replaced")
        survivors.set(known.key, (known.generation ^ 1).to_bytes(4, "little"))
        assert not can_read(path)


class TestHits:
    def test_each_rule_counts_its_own_and_knows_its_last(self, host: Host, path: Path) -> None:
        other = path.with_name("other")
        other.touch()
        host.apply(file_rule(path), file_rule(other, mode=Mode.AUDIT))
        before = boot_ns()
        for _ in range(3):
            can_read(path)
        for _ in range(2):
            can_read(other)
        blocks, audits, last = host.hits(f"path:{path}")
        assert (blocks, audits) == (3, 0)
        assert before <= last <= boot_ns()
        assert host.hits(f"path:{other}")[:2] == (0, 2)

    def test_a_rule_that_stays_keeps_its_hits_and_one_that_goes_loses_them(
        self, host: Host, path: Path
    ) -> None:
        host.apply(file_rule(path))
        can_read(path)
        host.apply(file_rule(path), net_rule(Kind.PORT, "7:udp"))
        assert host.hits(f"path:{path}")[0] == 1
        host.clear()
        assert host.hits(f"path:{path}") == (0, 0, 0)

    def test_counts_add_up_over_processors(self, host: Host, path: Path) -> None:
        host.apply(file_rule(path))
        host.set(SAMPLE=0)

        def read_often() -> None:
            for _ in range(500):
                can_read(path)

        with host.counted() as counted:
            children = []
            for cpu in range(os.cpu_count() or 1):
                child = os.fork()
                if child == 0:
                    os.sched_setaffinity(0, {cpu})
                    read_often()
                    os._exit(0)
                children.append(child)
            for child in children:
                os.waitpid(child, 0)
        assert counted[Stat.BLOCKS] == 500 * len(children)
        assert host.hits(f"path:{path}")[0] == 500 * len(children)


class TestEvents:
    """One event a match, with what a person needs to know."""

    @pytest.mark.parametrize(
        ("hook", "op", "act"),
        [
            (OPEN, Op.READ, touch),
            (OPEN, Op.WRITE, lambda path: touch(path, os.O_WRONLY)),
            (OPEN, Op.EXEC, lambda path: os.execv(path, ["x"])),
            (SETATTR, Op.WRITE, lambda path: os.truncate(path, 0)),
            (SETATTR, Op.MODIFY, lambda path: path.chmod(0o600)),
            (UNLINK, Op.MODIFY, lambda path: path.unlink()),
            (RENAME, Op.MODIFY, lambda path: path.rename(path.with_name("away"))),
            (LINK, Op.MODIFY, lambda path: path.with_name("link").hardlink_to(path)),
        ],
        ids=str,
    )
    def test_it_says_what_was_tried_on_which_file_and_by_whom(
        self, host: Host, path: Path, hook: int, op: Op, act: Callable[[Path], object]
    ) -> None:
        path.chmod(0o755)
        rule = file_rule(path, op)
        host.apply(rule)
        host.events()
        known = host.identify(path)
        before = boot_ns()

        def try_it() -> None:
            Path("/proc/self/comm").write_text("intruder")
            os.setgid(23)
            act(path)

        pid = self.child_of(try_it)
        (event,) = host.events()
        assert (event.hook, 1 << event.op, event.action, event.reason) == (hook, op, BLOCK, NONE)
        assert event.path == self.below_mount(path)
        assert not event.path_cut
        assert (event.ino, event.dev) == (known.ino, known.dev)
        assert (event.pid, event.tid, event.ppid) == (pid, pid, os.getpid())
        assert (event.uid, event.gid) == (0, 23)
        assert event.comm == b"intruder"
        assert event.parent_comm == Path("/proc/self/comm").read_bytes().strip()
        assert event.rule == uid_of(rule.id)
        assert before <= event.time_ns <= boot_ns()

    def test_creation_names_the_file_that_did_not_come_to_be(
        self, host: Host, tmp_path: Path
    ) -> None:
        host.apply(file_rule(tmp_path / "new", Op.MODIFY))
        with refused():
            (tmp_path / "new").mkdir()
        (event,) = host.events()
        assert (event.hook, event.ino) == (CREATE, 0)
        assert event.path == self.below_mount(tmp_path / "new")

    def test_a_mapping_to_run_is_reported_as_running(self, host: Host, tmp_path: Path) -> None:
        program = tmp_path / "program"
        shutil.copy("/bin/true", program)
        host.apply(file_rule(program, Op.EXEC))
        loader = "/lib64/ld-linux-x86-64.so.2"
        assert in_child(lambda: os.execv(loader, [loader, str(program)])) != 0
        assert [(event.hook, 1 << event.op) for event in host.events()] == [(MMAP, Op.EXEC)]

    def test_a_path_too_long_lacks_its_beginning_and_says_so(
        self, host: Host, tmp_path: Path
    ) -> None:
        folder = tmp_path
        for letter in "abc":
            folder /= letter * 200
        folder.mkdir(parents=True)
        path = folder / "file"
        path.touch()
        host.apply(file_rule(path))
        assert not can_read(path)
        (event,) = host.events()
        assert event.path_cut
        assert str(path).endswith("/" + event.path)
        assert event.path.endswith("c" * 200 + "/file")

    def test_a_thread_is_told_from_its_process(self, host: Host, path: Path) -> None:
        from threading import Thread, get_native_id

        seen: list[int] = []
        host.apply(file_rule(path))

        def read() -> None:
            seen.append(get_native_id())
            can_read(path)

        thread = Thread(target=read)
        thread.start()
        thread.join()
        (event,) = host.events()
        assert (event.pid, event.tid) == (os.getpid(), seen[0])

    @staticmethod
    def child_of(action: Callable[[], object]) -> int:
        """Run an action that is refused in a process of its own, and return its pid."""
        reader, writer = os.pipe()
        assert in_child(lambda: (os.write(writer, str(os.getpid()).encode()), action())) == 1
        os.close(writer)
        with os.fdopen(reader) as pipe:
            return int(pipe.read())

    @staticmethod
    def below_mount(path: Path) -> str:
        """Events carry the path below the root of the file system: /tmp is one here."""
        return str(path.relative_to("/tmp"))


def test_a_rule_for_every_operation_reports_the_one_that_was_asked_for(
    host: Host, path: Path
) -> None:
    host.apply(file_rule(path, OPEN_OPS))
    with refused():
        touch(path, os.O_WRONLY)
    assert [1 << event.op for event in host.events()] == [Op.WRITE]
