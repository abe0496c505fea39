"""What the tests of enforcement share: apply rules, try something, read what was reported."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from aegis_tools.control.commit import commit
from aegis_tools.control.live import Live
from aegis_tools.control.resolve import Rules, resolve
from aegis_tools.kernel.cgroups import cgroup_ids
from aegis_tools.kernel.features import read_features
from aegis_tools.kernel.inode_keys import Identifier, InodeId
from aegis_tools.kernel.layout import EVENT, FILE_EVENT_TAIL, SAMPLE_ALL, Config, Stat, uid_of
from aegis_tools.kernel.loader import LoadOptions, load
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths
from aegis_tools.policy.model import (
    FILE_OPS,
    NET_OPS,
    OPEN_OPS,
    Kind,
    Mode,
    Op,
    Policy,
    Rule,
    Signal,
)

__all__ = [
    "FILE_OPS",
    "NET_OPS",
    "OPEN_OPS",
    "Kind",
    "Mode",
    "Op",
    "Pins",
    "Rule",
    "Signal",
    "Stat",
]

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
CLONE_NEWNS = 0x20000


def file_rule(path: Path | str, ops: Op = OPEN_OPS, **more: object) -> Rule:
    """Return a rule for a path; a directory rule where ``depth`` is given."""
    kind = Kind.DIRECTORY if "depth" in more else Kind.PATH
    return _rule(kind, str(path), ops, more)


def net_rule(kind: Kind, target: str, ops: Op = NET_OPS, **more: object) -> Rule:
    """Return a network rule."""
    return _rule(kind, target, ops, more)


def _rule(kind: Kind, target: str, ops: Op, more: dict[str, object]) -> Rule:
    rule = Rule(f"{kind.value}:{target}", kind, target, ops)
    return rule._replace(**more)  # type: ignore[arg-type]


class Event(NamedTuple):
    """The decoded struct event, and the path of struct file_event."""

    time_ns: int
    ino: int
    pid: int
    tid: int
    ppid: int
    dev: int
    uid: int
    gid: int
    cgroup: int
    rule: int
    bundle: int
    hook: int
    op: int
    action: int
    reason: int
    port: int
    protocol: int
    family: int
    addr: bytes
    comm: bytes
    parent_comm: bytes
    path: str
    path_cut: bool


class Ring:
    """The consumer's side of a BPF ring buffer (kernel/bpf/ringbuf.c), by mmap(2)."""

    PAGE = 4096
    BUSY, DISCARD, LENGTH = 1 << 31, 1 << 30, (1 << 30) - 1

    def __init__(self, fd: int, size: int) -> None:
        libc.mmap.restype = ctypes.c_void_p
        self.size = size
        self.consumer = self._map(fd, self.PAGE, 1 | 2, 0)
        self.producer = self._map(fd, self.PAGE + 2 * size, 1, self.PAGE)

    def _map(self, fd: int, length: int, prot: int, offset: int) -> int:
        address = libc.mmap(None, ctypes.c_size_t(length), prot, 1, fd, ctypes.c_long(offset))
        if address in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), "mmap")
        return int(address)

    def drain(self) -> list[bytes]:
        """Return the records that are there."""
        position = ctypes.c_uint64.from_address(self.consumer)
        records = []
        while position.value < ctypes.c_uint64.from_address(self.producer).value:
            at = self.producer + self.PAGE + position.value % self.size
            header = ctypes.c_uint32.from_address(at).value
            if header & self.BUSY:
                break
            length = header & self.LENGTH
            if not header & self.DISCARD:
                records.append(ctypes.string_at(at + 8, length))
            position.value += (length + 8 + 7) & ~7
        return records


def decode(record: bytes) -> Event:
    """Decode a record of the events ring."""
    *fields, addr, comm, parent = EVENT.unpack_from(record)
    path, cut = "", 0
    if len(record) > EVENT.size:
        length, cut = FILE_EVENT_TAIL.unpack_from(record, EVENT.size)
        start = EVENT.size + FILE_EVENT_TAIL.size
        names = record[start : start + length].split(b"\0")[:-1]
        path = "/".join(os.fsdecode(name) for name in reversed(names))
    comms = (comm.rstrip(b"\0"), parent.rstrip(b"\0"))
    return Event._make((*fields, addr, *comms, path, bool(cut)))


class Host:
    """The loaded programs of one pins folder."""

    def __init__(self, pins: Pins) -> None:
        self.pins = pins
        self.live = Live(pins)
        events = self.live.map("events")
        self.ring = Ring(events.fd, events.max_entries)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.live.__exit__()

    def clear(self) -> None:
        """Leave no rule, default settings, and an empty ring."""
        commit(self.live, Rules())
        self.set(MODE=1, DEADLINE=0, SAMPLE=SAMPLE_ALL, DISABLED=0)
        for key, _ in list(self.live.map("survival_allowlist").items()):
            self.live.map("survival_allowlist").delete(key)
        self.ring.drain()

    def set(self, **settings: int) -> None:
        """Write settings by their names."""
        for name, value in settings.items():
            self.live.set_config(Config[name], value)

    def compile(self, *rules: Rule, allow_cgroups: Sequence[str] = ()) -> Rules:
        """Compile rules."""
        policy = Policy(rules, tuple(allow_cgroups))
        with Identifier(self.pins) as identify:
            return resolve(policy, identify, cgroup_ids(allow_cgroups), now=time.time())

    def apply(
        self, *rules: Rule, mode: Mode = Mode.ENFORCE, allow_cgroups: Sequence[str] = ()
    ) -> Rules:
        """Make rules live."""
        compiled = self.compile(*rules, allow_cgroups=allow_cgroups)
        commit(self.live, compiled)
        self.set(MODE=int(mode is Mode.ENFORCE))
        return compiled

    def identify(self, path: Path) -> InodeId:
        """Return what the kernel calls a file."""
        with Identifier(self.pins) as identify:
            found = identify.identify([str(path)])[str(path)]
        assert found is not None
        return found

    def events(self) -> list[Event]:
        """Return the events since the last call."""
        return [decode(record) for record in self.ring.drain()]

    def hits(self, rule_id: str) -> tuple[int, int, int]:
        """Return a rule's blocks, audits and time of the last hit."""
        return self.live.hits().get(uid_of(rule_id), (0, 0, 0))

    @contextlib.contextmanager
    def counted(self) -> Iterator[dict[Stat, int]]:
        """Yield a mapping that holds, afterwards, what each counter rose by (zeros left out)."""
        before = self.live.stats()
        rose: dict[Stat, int] = {}
        yield rose
        after = self.live.stats()
        rose.update({stat: n - before[stat] for stat, n in after.items() if n != before[stat]})


def load_at(base: Path) -> Pins:
    """Load into ``base``."""
    pins = Pins(base)
    loaded = load(pins, read_features(), LoadOptions(), require_lsm=True)
    assert not loaded.fallback
    return pins


def load_and_be_killed(base: Path) -> Pins:
    """Load in a process that ends by SIGKILL afterwards."""

    def work() -> None:
        load_at(base)
        os.kill(os.getpid(), signal.SIGKILL)

    # The verifier takes seconds, and minutes where others want the processors as well.
    assert in_child(work, seconds=500) == -signal.SIGKILL
    return Pins(base)


def in_child(action: Callable[[], object], *, seconds: float = 120) -> int:
    """Run ``action`` in a process of its own.

    Returns:
        0, or the errno it failed with, or minus the signal that ended it.
    """
    child = os.fork()
    if child == 0:
        code = 255
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.alarm(int(seconds))
            action()
            code = 0
        except OSError as error:
            code = error.errno or 254
        except BaseException as error:
            os.write(2, f"in a child: {error!r}\n".encode())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """Expect EPERM: root gets it from nobody else here."""
    with pytest.raises(PermissionError) as caught:
        yield
    assert caught.value.errno == errno.EPERM


def touch(path: Path | str, flags: int = os.O_RDONLY, **more: int) -> None:
    """Open and close."""
    os.close(os.open(path, flags, **more))


def can_read(path: Path | str) -> bool:
    """Return whether a file can be opened for reading."""
    return allowed(lambda: touch(path))


def allowed(action: Callable[[], object]) -> bool:
    """Return whether an action was not refused; other errors are none of ours."""
    try:
        action()
    except OSError as error:
        return error.errno != errno.EPERM
    return True


def call(number: int, *arguments: object) -> int:
    """Call a system call that Python has no function for. Raises OSError."""
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def io_uring(entry: bytes) -> int:
    """Have a ring of its own do one thing (struct io_uring_sqe); return the result."""
    params = ctypes.create_string_buffer(120)
    ring = call(425, 4, params)
    offsets = struct.unpack("10I", params.raw[40:80]), struct.unpack("10I", params.raw[80:120])
    libc.mmap.restype = ctypes.c_void_p

    def area(length: int, offset: int) -> int:
        address = libc.mmap(None, ctypes.c_size_t(length), 3, 1, ring, ctypes.c_long(offset))
        assert address not in (None, ctypes.c_void_p(-1).value)
        return int(address)

    queue, completions, entries = area(4096, 0), area(4096, 0x8000000), area(4096, 0x10000000)
    ctypes.memmove(entries, entry.ljust(64, b"\0"), 64)
    (_, tail, *_), array = offsets[0], offsets[0][6]
    ctypes.c_uint32.from_address(queue + array).value = 0
    ctypes.c_uint32.from_address(queue + tail).value = 1
    call(426, ring, 1, 1, 1, None, 0)
    at = completions + offsets[1][5]
    os.close(ring)
    return ctypes.c_int32.from_address(at + 8).value


def mount(
    source: Path | str, target: Path, kind: str | None = None, flags: int = 0, options: str = ""
) -> None:
    """mount(2)."""
    arguments = (os.fsencode(source), os.fsencode(target), kind and kind.encode(), flags)
    if libc.mount(*arguments, options.encode() or None):
        raise OSError(ctypes.get_errno(), f"mount {target}")


def umount(target: Path) -> None:
    """umount2(2), detaching."""
    if libc.umount2(os.fsencode(target), 2):
        raise OSError(ctypes.get_errno(), f"umount {target}")


def unshare_mounts() -> None:
    """Give this process mounts of its own."""
    if libc.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", Path("/"), None, MS_REC | MS_PRIVATE)


@contextlib.contextmanager
def bind_mount(source: Path, target: Path) -> Iterator[None]:
    """Bind ``source`` to ``target`` meanwhile."""
    mount(source, target, None, MS_BIND)
    try:
        yield
    finally:
        umount(target)


@contextlib.contextmanager
def overlay(folder: Path, *, lower: Path | None = None, options: str = "") -> Iterator[Path]:
    """Mount ``folder``/merged over ``lower``, by default ``folder``/lower."""
    lower = lower or folder / "lower"
    upper, work, merged = (folder / name for name in ("upper", "work", "merged"))
    for path in (lower, upper, work, merged):
        path.mkdir(exist_ok=True)
    layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
    mount("overlay", merged, "overlay", 0, layers + options)
    try:
        yield merged
    finally:
        umount(merged)


@contextlib.contextmanager
def loop_ext4(folder: Path, *features: str, size: int = 32 << 20) -> Iterator[Path]:
    """Mount an ext4 in a file, ``folder``/image, through a loop device."""
    image, mounted = folder / "image", folder / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    run("modprobe", "-a", "loop", "ext4")
    run("mke2fs", "-q", "-F", "-t", "ext4", *features, str(image))
    run("mount", "-o", "loop", str(image), str(mounted))
    try:
        yield mounted
    finally:
        umount(mounted)


def run(*command: str) -> str:
    """Run a program that must succeed, and return what it wrote."""
    return subprocess.run(
        command, check=True, timeout=120, stdin=subprocess.DEVNULL, capture_output=True, text=True
    ).stdout


@contextlib.contextmanager
def searched_once(paths: Paths) -> Iterator[None]:
    """Let hosts below different roots share what the search for the needs of recovery found.

    It takes milliseconds on a host and half a minute here: a hundred programs are asked for their
    libraries by an emulated processor.
    """
    names = ("needs.json", "needs.index")
    shared = Path("/run/searched-once")
    shared.mkdir(mode=0o700, exist_ok=True)
    for folder in (paths.state, paths.bundles, paths.etc, paths.keys, paths.run):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # their coming is a change, too
    for name in names:
        if (shared / name).exists():
            shutil.copy(shared / name, paths.run)
    yield
    for name in names:
        if (paths.run / name).exists():
            shutil.copy(paths.run / name, shared)


@contextlib.contextmanager
def opened_without_end(path: Path) -> Iterator[list[int]]:
    """Have a process open a file as often as it can; yield a list that is (successes, tries)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        stopped: list[int] = []
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
        os.nice(5)
        opened = tries = 0
        while not stopped:
            tries += 1
            opened += can_read(path)
        os.write(writer, f"{opened} {tries}".encode())
        os._exit(0)
    os.close(writer)
    counts: list[int] = []
    try:
        yield counts
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        with os.fdopen(reader) as pipe:
            counts += map(int, pipe.read().split())
