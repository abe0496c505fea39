"""A program whose children are known: it runs and ends them in every way there is.

    process_activity.py FOLDER

It prints, as JSON, what is to be told of each process, in order: from /proc while it runs, and
from waitpid when it has ended. FOLDER has room for programs.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ARGS = 4096
"""What a record holds of the arguments, in bytes."""
LEVELS = 40
"""And of a path, in names."""
WAITS = "read x; exit"
CHAIN = 12
SYS_EXIT = {"x86_64": 60, "aarch64": 93}[platform.machine()]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT)
CODES = (0, 1, 2, 7, 42, 126, 127, 128, 200, 255)

Fact = dict[str, Any]


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def status_of(pid: int) -> dict[str, str]:
    """Return /proc/PID/status as it stands there."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def head_of(pid: int) -> Fact:
    """Return what each event of a process has."""
    status = status_of(pid)
    return {
        "pid": pid, "tid": pid, "ppid": int(status["PPid"]), "comm": status["Name"],
        "uid": int(status["Uid"].split()[0]), "gid": int(status["Gid"].split()[0]),
    }  # fmt: skip


def begun(pid: int) -> Fact:
    """Return what is to be told of the program that a process runs now."""
    proc = Path(f"/proc/{pid}")
    raw, shown = (proc / "cmdline").read_bytes(), str((proc / "exe").readlink())
    found = (proc / "exe").stat()
    names = shown.split("/")[1:]
    deep = len(names) > LEVELS
    return {
        "event": "exec", **head_of(pid),
        "executable": "…/" + "/".join(names[-LEVELS:]) if deep else shown,
        "arguments": os.fsdecode(raw[:ARGS]).removesuffix("\0").split("\0"),
        "inode": found.st_ino, "device": f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}",
        "cut": deep or len(raw) > ARGS,
    }  # fmt: skip


def ended(head: Fact, status: int, age: tuple[int, int]) -> Fact:
    """Return what is to be told of an end.

    Args:
        head: Of the process at its end.
        status: By waitpid.
        age: Least and most nanoseconds since its fork.
    """
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    code = os.WEXITSTATUS(status) if killed is None else None
    return {"event": "exit", **head, "exit_status": code, "signal": killed, "age": age}


class Activity:
    """Does things, and notes them by process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Of a file below an overlay stat(2) does not say what the kernel has.
        self.shell = self.copy(folder / "sh")
        self.facts: dict[int, list[Fact]] = {}

    @staticmethod
    def copy(program: Path) -> str:
        program.write_bytes(Path("/bin/sh").read_bytes())
        program.chmod(0o755)
        return str(program)

    def child(self, what: Callable[[], object], *, change: Callable[[], object] = int) -> int:
        """Fork a process for ``what``, whose standard input ends when ours of it does."""
        reader, writer = os.pipe()
        self.before = boot_ns()
        pid = os.fork()
        if pid == 0:
            code = 99
            with contextlib.suppress(BaseException):
                os.close(writer)
                os.dup2(reader, 0)
                os.close(reader)
                change()
                what()
                code = 98
            os._exit(code)
        self.after = boot_ns()
        os.close(reader)
        self.writer = writer
        return pid

    def end(self, pid: int, head: Fact, kill: int = 0) -> Fact:
        """Let a process end, or kill it."""
        alive = boot_ns()
        if kill:
            os.kill(pid, kill)
        os.close(self.writer)
        status = os.waitpid(pid, 0)[1]
        ages = max(0, alive - self.after), boot_ns() - self.before
        return ended(head, status, ages)

    def program(
        self, *argv: str, path: str = "", change: Callable[[], object] = int, kill: int = 0
    ) -> None:
        """Run a program that waits, the shell by default, look at it, and let it end."""
        pid = self.child(lambda: os.execv(path or self.shell, argv), change=change)
        wait_for(lambda: waits_as_another(pid))
        fact = begun(pid)
        self.facts[pid] = [fact, self.end(pid, head_of(pid), kill)]

    def codes(self) -> None:
        for number, code in enumerate(CODES):
            self.program("sh", "-c", f"{WAITS} {code}", f"number {number}", "", "ümlaut\n", "--")

    def killed(self) -> None:
        def no_core() -> None:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        for number in SIGNALS:
            self.program("sh", "-c", WAITS, change=no_core, kill=number)

    def users(self) -> None:
        def become(uid: int, gid: int) -> Callable[[], None]:
            return lambda: (os.setgroups([]), os.setresgid(gid, gid, gid),
                            os.setresuid(uid, uid, uid))  # type: ignore[return-value] # fmt: skip

        for uid, gid in ((1, 2), (2, 1), (65534, 7), (4_000_000_000, 3_999_999_999)):
            self.program("sh", "-c", WAITS, change=become(uid, gid))

    def scripts(self) -> None:
        script = self.folder / "a script"
        script.write_text(f"#!{self.shell} -e\n{WAITS} 3\n")
        script.chmod(0o755)
        self.program(str(script), "one", path=str(script))

    def long(self) -> None:
        """Arguments that fit to the last byte, that do not by one, and by very much."""
        fixed = ["sh", "-c", WAITS, "x"]
        room = ARGS - sum(len(word) + 1 for word in fixed) - 1
        for more in (0, 1, 60_000):
            self.program(*fixed, "y" * (room + more))

    def deep(self) -> None:
        """A path of as many names as fit less one, and of more."""
        depth = len(self.folder.parts) - 1
        for names in (LEVELS - 1, LEVELS + 9):
            folder = self.folder.joinpath(*["d"] * (names - depth - 1))
            folder.mkdir(parents=True, exist_ok=True)
            self.program("program", "-c", WAITS, path=self.copy(folder / "program"))

    def forked(self) -> None:
        """A process that runs no program ends as whoever it is by then."""
        pid = self.child(lambda: (os.setgid(5), os.setuid(6), os.read(0, 1), os._exit(9)))
        wait_for(lambda: head_of(pid)["uid"] == 6)
        self.facts[pid] = [self.end(pid, head_of(pid))]

    def in_vain(self) -> None:
        """An exec that fails is none."""

        def attempt() -> None:
            with contextlib.suppress(OSError):
                os.execv("/nowhere", ["x"])
            os.read(0, 1)
            os._exit(4)

        pid = self.child(attempt)
        self.facts[pid] = [self.end(pid, head_of(pid))]

    def twice(self) -> None:
        """A program that becomes another; by a thread that is not its first, too."""
        for by_thread in (False, True):

            def go() -> None:
                os.read(0, 1)
                os.execv(self.shell, ["sh", "-c", WAITS, "second"])

            def start(by_thread: bool = by_thread) -> None:
                if not by_thread:
                    go()
                threading.Thread(target=go).start()
                time.sleep(60)

            pid = self.child(start)
            os.write(self.writer, b"x")
            wait_for(partial(waits_as_another, pid))
            self.facts[pid] = [begun(pid), self.end(pid, head_of(pid))]

    def threads(self) -> None:
        """Threads that end are no processes that end; nor is the first of them."""

        def many() -> None:
            for one in [threading.Thread(target=int) for _ in range(20)]:
                one.start()
                one.join()
            os.read(0, 1)
            os._exit(5)

        def first() -> None:
            def rest() -> None:
                os.read(0, 1)
                os._exit(6)

            threading.Thread(target=rest).start()
            ctypes.CDLL(None).syscall(SYS_EXIT, 3)

        for what in (many, first):
            pid = self.child(what)
            # Which of them is the last to end is not known here.
            self.facts[pid] = [self.end(pid, {**head_of(pid), "tid": None})]

    def chain(self) -> None:
        """Parents of parents: each is told of with its own."""
        reader, writer = os.pipe()

        def level(left: int) -> None:
            parent = os.getppid()
            if left:
                child = os.fork()
                if not child:
                    level(left - 1)
                os.waitpid(child, 0)
            else:
                os.read(0, 1)
            os.write(writer, f"{os.getpid()} {parent} {left}\n".encode())
            os._exit(left)

        top = self.child(lambda: level(CHAIN))
        head = head_of(top)
        self.end(top, head)
        os.close(writer)
        with os.fdopen(reader) as lines:
            for line in lines:
                pid, parent, left = map(int, line.split())
                age = 0, boot_ns() - self.before
                self.facts[pid] = [ended({**head, "pid": pid, "tid": pid, "ppid": parent},
                                         left << 8, age)]  # fmt: skip


def waits_as_another(pid: int) -> bool:
    """Return whether a process runs another program than this, and has come to where it waits.

    Its first thread is a zombie for the moment in which another takes its place.
    """
    try:
        shown = Path(f"/proc/{pid}/exe").readlink()
    except FileNotFoundError:
        return False
    return shown != Path("/proc/self/exe").readlink() and status_of(pid)["State"].startswith("S")


def wait_for(there: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not there():
        assert time.monotonic() < end
        time.sleep(0.001)


def main(folder: str) -> None:
    """Do everything."""
    activity = Activity(Path(folder))
    for step in (
        activity.codes, activity.killed, activity.users, activity.scripts, activity.long,
        activity.deep, activity.forked, activity.in_vain, activity.twice, activity.threads,
        activity.chain,
    ):  # fmt: skip
        step()
    json.dump(
        {
            "pid": os.getpid(), "ppid": os.getppid(),
            "cgroup": Path("/proc/self/cgroup").read_text(encoding="ascii"),
            "processes": [[pid, facts] for pid, facts in activity.facts.items()],
        },
        sys.stdout,
    )  # fmt: skip
