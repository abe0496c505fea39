"""What the tests of bpf/check.h share: its programs, and how they are asked."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from battery import Event, Host
from kernel_support import NO_LSM, TEST_OBJECTS

from aegis_tools.kernel import syscall
from aegis_tools.kernel.loader import LoadOptions, load
from aegis_tools.kernel.pins import Pins
from aegis_tools.policy.model import Kind, Op, Rule

MAX_HITS = 8
PORT = 4444
IN4 = "127.0.0.7"
OPEN_HOOK, CONNECT, BOUND, SENDMSG = 1, 9, 10, 11
STAYS, LEAVES_NAME, LEAVES_DIR = range(3)
V4, V6 = socket.AF_INET, socket.AF_INET6
REFUSED = 2**32 - errno.EPERM


class Checks(Host):
    """A loaded checks, with programs that answer as its hooks would."""

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
        ops: int = Op.READ.value,
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


@contextmanager
def loaded_checks(bpffs: Path) -> Iterator[Checks]:
    """Load the audit fallback, and those programs on its maps."""
    pins, programs = Pins(bpffs / "aegis"), Pins(bpffs / "check")
    load(pins, NO_LSM, LoadOptions(max_hits=MAX_HITS))
    programs.path("progs").mkdir(parents=True)
    shared = [
        word
        for name in pins.names("maps")
        for word in ("map", "name", name, "pinned", str(pins.path("maps", name)))
    ]
    argv = ["bpftool", "prog", "loadall", str(TEST_OBJECTS / "check_test.bpf.o")]
    subprocess.run([*argv, str(programs.path("progs")), *shared], check=True, capture_output=True)
    with Checks(pins, programs) as checks:
        yield checks


def rule(kind: Kind, target: object, ops: Op = Op.READ, **more: object) -> Rule:
    made = Rule(f"{kind.value}:{target}", kind, str(target), ops)
    return made._replace(**more)  # type: ignore[arg-type]


def replace(path: Path) -> None:
    """Make it another file of the same name."""
    other = path.with_name("other")
    other.write_text("other")
    other.rename(path)


def number_of(checks: Checks, path: Path) -> str:
    """Return the target of an inode rule."""
    found = checks.identify(path)
    return f"{found.dev}:{found.ino}"


def only(checks: Checks) -> Event:
    (event,) = checks.events()
    return event


def sockaddr(address: str, port: int = PORT, family: int | None = None) -> bytes:
    kind = V6 if ":" in address else V4
    head = struct.pack("=H", kind if family is None else family) + struct.pack("!H", port)
    raw = socket.inet_pton(kind, address)
    return head + (bytes(4) + raw + bytes(4) if kind == V6 else raw + bytes(8))
