"""process-monitor tells what really happened: against /proc while it runs, and waitpid after."""

from __future__ import annotations

import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from process_support import (
    Seen,
    check_drops,
    check_everything,
    copy_of_true,
    kinds,
    open_folder,
    status_of,
    watching,
)

from aegis_tools.kernel.cgroups import cgroup_id, mount_point
from aegis_tools.monitors.filters import Filter
from aegis_tools.monitors.layout import ARGS
from aegis_tools.monitors.pins import MonitorPins
from aegis_tools.monitors.status import counters
from aegis_tools.paths import Paths

NOBODY = 65534
WAITS = "read x"
SYS_EXIT = {"x86_64": 60, "aarch64": 93}[platform.machine()]


@pytest.fixture
def seen(paths: Paths) -> Iterator[Seen]:
    with watching(paths) as found:
        yield found


def waiting(*argv: str | bytes, **more: object) -> subprocess.Popen[bytes]:
    """Start a program that ends when its standard input does; return once it has begun."""
    return subprocess.Popen(argv, stdin=subprocess.PIPE, **more)  # type: ignore[call-overload, no-any-return]


def end(process: subprocess.Popen[bytes]) -> int:
    """Let it go, and return its status as waitpid has it."""
    assert process.stdin is not None
    process.stdin.close()
    status = os.waitpid(process.pid, 0)[1]
    process.returncode = 0  # it was waited for here
    return status


def python(code: str, *argv: str) -> tuple[int, int]:
    """Run a program of Python's; return its process id and status as waitpid has it."""
    process = waiting(sys.executable, "-c", code, *argv)
    return process.pid, end(process)


def test_everything_that_children_did_is_told_of_once_and_as_it_was(paths: Paths) -> None:
    check_everything(paths)


def test_a_program_that_begins_is_told_of_as_proc_shows_it(seen: Seen) -> None:
    before = datetime.now(timezone.utc)
    argv = ["sh", "-c", WAITS, "zero", "with space", "", "ümlaut\n", "--"]
    process = waiting(*argv, user=NOBODY, group=NOBODY, extra_groups=[])
    after = datetime.now(timezone.utc)
    event, proc = seen.one(process.pid, "exec"), Path(f"/proc/{process.pid}")
    program, status = (proc / "exe").stat(), status_of(process.pid)
    assert event["executable"] == str((proc / "exe").readlink())
    assert event["arguments"] == (proc / "cmdline").read_text().removesuffix("\0").split("\0")
    assert event["arguments"] == argv
    assert event["inode"] == program.st_ino
    assert event["device"] == f"{os.major(program.st_dev)}:{os.minor(program.st_dev)}"
    assert event["comm"] == (proc / "comm").read_text().strip() == "sh"
    assert (event["pid"], event["tid"]) == (process.pid, process.pid)
    assert event["ppid"] == int(status["PPid"]) == os.getpid()
    assert event["uid"] == int(status["Uid"].split()[0]) == NOBODY
    assert event["gid"] == int(status["Gid"].split()[0]) == NOBODY
    [cgroup] = [
        line[3:] for line in (proc / "cgroup").read_text().splitlines() if line.startswith("0::")
    ]
    assert event["cgroup"] == cgroup_id(cgroup)
    assert (event["cut"], event["cause_known"]) == (False, True)
    when = datetime.fromisoformat(event["time"].replace("Z", "+00:00"))
    assert before.replace(microsecond=0) <= when <= after
    end(process)


def test_users_and_groups_are_not_mistaken_for_each_other(seen: Seen) -> None:
    process = waiting("sh", "-c", WAITS, user=1, group=2, extra_groups=[])
    event = seen.one(process.pid, "exec")
    assert (event["uid"], event["gid"]) == (1, 2)
    end(process)


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_a_status_is_the_one_that_waitpid_has(seen: Seen, code: int) -> None:
    process = waiting("sh", "-c", f"{WAITS}; exit {code}")
    status = end(process)
    event = seen.one(process.pid, "exit")
    assert (event["exit_status"], event["signal"]) == (os.waitstatus_to_exitcode(status), None)
    assert event["exit_status"] == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_signal_is_the_one_that_waitpid_has(seen: Seen, number: signal.Signals) -> None:
    process = waiting(
        "sh", "-c", WAITS, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    )
    process.send_signal(number)
    status = end(process)
    event = seen.one(process.pid, "exit")
    assert (event["exit_status"], event["signal"]) == (None, os.WTERMSIG(status))
    assert event["signal"] == number


def test_the_age_of_a_process_is_the_time_since_its_fork(seen: Seen) -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    process = waiting("sh", "-c", WAITS)
    began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    time.sleep(0.3)
    ending = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    end(process)
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    age = seen.one(process.pid, "exit")["age_seconds"] * 1e9
    assert ending - began <= age <= after - before


def test_of_a_script_the_interpreter_is_told_and_the_script_is_an_argument(
    seen: Seen, tmp_path: Path
) -> None:
    script = tmp_path / "a script"
    script.write_text(f"#!/bin/sh -e\n{WAITS} || exit 3\n")
    script.chmod(0o755)
    process = waiting(str(script), "one")
    event = seen.one(process.pid, "exec")
    assert event["executable"] == str(Path(f"/proc/{process.pid}/exe").readlink())
    assert event["executable"] == str(Path("/bin/sh").resolve())
    assert event["arguments"] == ["/bin/sh", "-e", str(script), "one"]
    assert event["comm"] == "a script"
    end(process)
    assert seen.one(process.pid, "exit")["exit_status"] == 3


@pytest.mark.parametrize(("spare", "cut"), [(0, False), (-1, True)])
def test_arguments_that_are_too_long_are_cut_and_it_is_told(
    seen: Seen, spare: int, cut: bool
) -> None:
    fixed = ["sh", "-c", WAITS, "x"]
    room = ARGS - sum(len(word) + 1 for word in fixed) - 1 - spare
    process = waiting(*fixed, "y" * room)
    event = seen.one(process.pid, "exec")
    raw = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert len(raw) == ARGS - spare
    assert event["cut"] is cut
    assert event["arguments"] == raw[:ARGS].decode().removesuffix("\0").split("\0")
    assert event["executable"] == str(Path("/bin/sh").resolve())
    end(process)


def test_a_path_that_is_too_deep_is_cut_and_it_is_told(seen: Seen, tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["d"] * 45)
    folder.mkdir(parents=True)
    program = folder / "program"
    program.write_bytes(Path("/bin/sh").read_bytes())
    program.chmod(0o755)
    process = waiting(str(program), "-c", WAITS)
    event = seen.one(process.pid, "exec")
    assert event["cut"] is True
    assert event["executable"] == "…/" + "d/" * 39 + "program"
    end(process)


def test_a_program_in_memory_has_no_path(seen: Seen) -> None:
    code = (
        "import os; fd = os.memfd_create('hidden'); os.write(fd, open('/bin/sh', 'rb').read())\n"
        "os.execve(fd, ['sh', '-c', 'exit 5'], {})"
    )
    pid, status = python(code)
    first, second = seen.of(pid, "exec")
    assert first["arguments"][1] == "-c"
    assert (second["executable"], second["arguments"]) == (None, ["sh", "-c", "exit 5"])
    assert os.waitstatus_to_exitcode(status) == seen.one(pid, "exit")["exit_status"] == 5


def test_a_fork_that_runs_nothing_else_ends_once_and_begins_nothing(seen: Seen) -> None:
    pid = os.fork()
    if not pid:
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    [event] = seen.of(pid)
    assert (event["event"], event["exit_status"], event["ppid"]) == ("exit", 9, os.getpid())


def test_threads_that_end_are_no_processes_that_end(seen: Seen) -> None:
    code = (
        "import threading; all = [threading.Thread(target=lambda: None) for _ in range(20)]\n"
        "for one in all: one.start()\n"
        "for one in all: one.join()"
    )
    pid, _ = python(code)
    assert kinds(seen.of(pid)) == ["exec", "exit"]


def test_a_process_whose_threads_all_end_at_once_ends_once(seen: Seen) -> None:
    code = (
        "import os, threading, time\n"
        "for _ in range(20): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "os._exit(4)"
    )
    for _ in range(20):
        pid, _ = python(code)
        assert kinds(seen.of(pid)) == ["exec", "exit"]
        assert seen.one(pid, "exit")["exit_status"] == 4


def test_a_process_lives_on_after_its_first_thread(seen: Seen) -> None:
    code = (
        "import ctypes, os, threading, time\n"
        "def rest(): time.sleep(0.3); os._exit(6)\n"
        "threading.Thread(target=rest).start()\n"
        f"ctypes.CDLL(None).syscall({SYS_EXIT}, 3)"
    )
    pid, status = python(code)
    event = seen.one(pid, "exit")
    assert event["exit_status"] == os.waitstatus_to_exitcode(status) == 6
    assert event["age_seconds"] > 0.3


def test_an_exec_by_a_thread_is_one_of_its_process(seen: Seen) -> None:
    code = (
        "import os, threading, time\n"
        "go = lambda: os.execv('/bin/sh', ['sh', '-c', 'exit 8'])\n"
        "threading.Thread(target=go).start(); time.sleep(60)"
    )
    pid, status = python(code)
    events = seen.of(pid)
    assert kinds(events) == ["exec", "exec", "exit"]
    assert [event["tid"] for event in events] == [pid, pid, pid]
    assert events[1]["arguments"] == ["sh", "-c", "exit 8"]
    assert events[2]["exit_status"] == os.waitstatus_to_exitcode(status) == 8


def test_an_exec_that_fails_is_none(seen: Seen) -> None:
    pid, _ = python("import os\ntry: os.execv('/nowhere', ['x'])\nexcept OSError: pass")
    assert kinds(seen.of(pid)) == ["exec", "exit"]


def test_what_finds_no_room_is_counted_and_nothing_else_is_lost(
    paths: Paths, tmp_path: Path
) -> None:
    check_drops(paths, tmp_path)


@pytest.fixture
def place() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture
def group() -> Iterator[Path]:
    """Return a cgroup in another."""
    top = mount_point()
    assert top is not None
    made = top / f"monitor-test-{os.getpid()}" / "below"
    made.mkdir(parents=True)
    yield made
    made.rmdir()
    made.parent.rmdir()


@pytest.mark.parametrize("which", ["uid", "command", "cgroup"])
def test_what_is_not_of_interest_is_left_out_in_the_kernel(
    paths: Paths, place: Path, group: Path, which: str
) -> None:
    program, other = (copy_of_true(place, name) for name in ("of-interest", "of-none"))
    wanted = {
        "uid": lambda: Filter(uids=frozenset({NOBODY})),
        "command": lambda: Filter(commands=frozenset({"of-interest"})),
        "cgroup": lambda: Filter(cgroups=frozenset({group.parent.stat().st_ino})),
    }[which]()

    def enter() -> None:
        if which == "uid":
            os.setuid(NOBODY)
        if which == "cgroup":
            (group / "cgroup.procs").write_text(str(os.getpid()))

    with watching(paths, wanted) as seen:
        subprocess.run([other], check=True)
        argv = ["/bin/sh", "-c", f"exec '{program}'"]
        inside = subprocess.Popen(argv, preexec_fn=enter)  # noqa: PLW1509 # as no thread runs here
        assert inside.wait() == 0
        events = [e for e in seen.read() if e["comm"] in ("of-interest", "of-none")]
        assert {event["pid"] for event in events} == {inside.pid}
        assert kinds(events) == ["exec", "exit"]
        assert counters(MonitorPins(paths.monitor_pins, "process-monitor"))["filtered"] >= 2


def test_a_sample_is_a_share_and_the_rest_is_counted(paths: Paths, tmp_path: Path) -> None:
    program = copy_of_true(tmp_path, "in-the-sample")
    wanted = Filter(commands=frozenset({"in-the-sample"}), sample=0.25)
    with watching(paths, wanted) as seen:
        for _ in range(200):
            subprocess.run([program], check=True)
        told = counters(MonitorPins(paths.monitor_pins, "process-monitor"))
        assert told["sent"] + told["sampled_out"] == 400
        assert len(seen.read()) == told["sent"]
        assert 50 <= told["sent"] <= 160  # 100 expected; six standard deviations


def test_what_has_no_size_is_told_whatever_the_minimum_is(paths: Paths) -> None:
    with watching(paths, Filter(min_bytes=1 << 20)) as seen:
        process = waiting("sh", "-c", WAITS)
        end(process)
        assert kinds(seen.of(process.pid)) == ["exec", "exit"]
