"""A program of the tests: it uses files in every way there is, and prints what it did.

    filesystem_activity.py FOLDER BLOCK_DEVICE everything|compat|flood

What it did is a list of :class:`Done`, as JSON, on stdout. It counts from where the thread's name
is that of ``comm_of``, to where it is not any more. FOLDER is the root of a file system of its own.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import json
import os
import select
import socket
import stat
import struct
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

UID, GID = 1233, 1234
DEEP = 45
FLOOD_PROCESSES, FLOOD_ROUNDS = 4, 250
OPEN, READ, WRITE, CLOSE = 1, 2, 3, 4
NR_OPEN, NR_CREAT, NR_PREADV2, NR_PWRITEV2, NR_OPENAT2 = 2, 85, 327, 328, 437
NR_EVENTFD2, NR_USERFAULTFD = 290, 323
RESOLVE_NO_SYMLINKS = 4
PR_SET_NAME = 15
AT_FDCWD = -100

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


@dataclass(frozen=True)
class Done:
    """One thing that was done, as a monitor should tell of it.

    Attributes:
        names: Of an open that succeeded: the path below the file system's root.
        functions: Only what sees closes without close(2) tells of it.
    """

    type: int
    tid: int
    dev: int = 0
    ino: int = 0
    bytes: int = 0
    result: int = 0
    flags: int = 0
    names: str | None = None
    functions: bool = False


def comm_of(starter: int) -> str:
    """Return the name that a filter finds the program by that this process starts."""
    return f"files-{starter}"


def call(number: int, *arguments: object) -> int:
    """Make a system call; return its result, or -errno."""
    result: int = libc.syscall(number, *arguments)
    return -ctypes.get_errno() if result < 0 else result


def compat_call(number: int, *arguments: int) -> int:
    """Make a system call as a 32-bit program would, by int 0x80; pointers must fit 32 bits."""
    words = (*arguments, 0, 0, 0)[:3]
    loads = b"".join(
        opcode + struct.pack("<I", word)
        for opcode, word in zip((b"\xb8", b"\xbb", b"\xb9", b"\xba"), (number, *words), strict=True)
    )
    code = low_memory()
    ctypes.memmove(code, b"\x53" + loads + b"\xcd\x80\x5b\xc3", 1 + len(loads) + 4)
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(code)())


def low_memory() -> int:
    """Return the address of a page in the lowest 2 GiB, which may be executed."""
    libc.mmap.restype = ctypes.c_void_p
    anything, private_anonymous_low = 7, 0x62
    address: int = libc.mmap(None, 4096, anything, private_anonymous_low, -1, ctypes.c_long(0))
    return address


def vector(room: ctypes.Array[ctypes.c_char]) -> bytes:
    """Return one struct iovec; keep the room while it is used."""
    return struct.pack("QQ", ctypes.addressof(room), len(room))


class Activity:
    """Does things, and notes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[Done] = []

    def note(self, type_: int, fd: int | None, result: int, **more: object) -> None:
        """Note what was done with a descriptor that is open."""
        found = os.fstat(fd) if fd is not None else None
        one = Done(type_, threading.get_native_id(), result=result)
        if found:
            dev = os.major(found.st_dev) << 20 | os.minor(found.st_dev)
            one = dataclasses.replace(one, dev=dev, ino=found.st_ino)
        if type_ in (READ, WRITE):
            one = dataclasses.replace(one, bytes=max(result, 0))
        self.done.append(dataclasses.replace(one, **more))  # type: ignore[arg-type]

    def opened(self, result: int, flags: int, names: str) -> int:
        if result < 0:
            self.note(OPEN, None, result, flags=flags)
        else:
            self.note(OPEN, result, result, flags=flags, names=names)
        return result

    def open(self, names: str, flags: int, real: str = "") -> int:
        """Open below the folder by openat(2), as os.open does it, which adds O_CLOEXEC."""
        try:
            result = os.open(self.folder / names, flags, 0o600)
        except OSError as error:
            result = -(error.errno or 0)
        return self.opened(result, flags | os.O_CLOEXEC, real or names)

    def close(self, fd: int) -> None:
        self.note(CLOSE, fd, 0)
        os.close(fd)

    def moved(self, type_: int, fd: int, result: int) -> None:
        self.note(type_, fd, result)

    def write(self) -> None:
        """400 bytes, in each way to write."""
        fd = self.open("data", os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self.moved(WRITE, fd, os.write(fd, b"x" * 100))
        self.moved(WRITE, fd, os.pwrite(fd, b"y" * 150, 100))
        os.lseek(fd, 250, os.SEEK_SET)
        self.moved(WRITE, fd, os.writev(fd, [b"z" * 20, b"z" * 30]))
        self.moved(WRITE, fd, os.pwritev(fd, [b"z" * 10, b"z" * 40], 300))
        more = ctypes.create_string_buffer(50)
        self.moved(WRITE, fd, call(NR_PWRITEV2, fd, vector(more), 1, ctypes.c_long(350), 0, 0))
        self.moved(WRITE, fd, os.write(fd, b""))
        assert os.fstat(fd).st_size == 400
        self.close(fd)

    def read(self) -> None:
        fd = self.open("data", os.O_RDONLY)
        self.moved(READ, fd, len(os.read(fd, 150)))
        self.moved(READ, fd, len(os.read(fd, 4096)))  # less than was asked for
        self.moved(READ, fd, len(os.read(fd, 4096)))  # the end
        self.moved(READ, fd, len(os.pread(fd, 33, 390)))
        os.lseek(fd, 0, os.SEEK_SET)
        self.moved(READ, fd, os.readv(fd, [bytearray(7), bytearray(11)]))
        self.moved(READ, fd, os.preadv(fd, [bytearray(300), bytearray(300)], 5))
        room = ctypes.create_string_buffer(25)
        self.moved(READ, fd, call(NR_PREADV2, fd, vector(room), 1, ctypes.c_long(0), 0, 0))
        self.moved(WRITE, fd, self.refused(os.write, fd, b"no"))
        self.close(fd)

    @staticmethod
    def refused(function: object, *arguments: object) -> int:
        try:
            function(*arguments)  # type: ignore[operator]
        except OSError as error:
            return -(error.errno or 0)
        raise AssertionError("that should have failed")

    def calls_to_open(self) -> None:
        """Each that there is, with and without success."""
        path = os.fsencode(self.folder / "data")
        self.close(self.opened(call(NR_OPEN, path, os.O_WRONLY), os.O_WRONLY, "data"))
        made = os.fsencode(self.folder / "made")
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        self.close(self.opened(call(NR_CREAT, made, 0o600), flags, "made"))
        self.open("missing", os.O_RDONLY)
        self.open("data", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self.open("data", os.O_RDONLY | os.O_DIRECTORY)
        link = os.fsencode(self.folder / "link")
        for resolve in (0, RESOLVE_NO_SYMLINKS):
            how = struct.pack("QQQ", os.O_RDONLY, 0, resolve)
            fd = self.opened(call(NR_OPENAT2, AT_FDCWD, link, how, 24), os.O_RDONLY, "data")
            assert fd == -errno.ELOOP if resolve else fd >= 0
            if fd >= 0:
                self.close(fd)

    def kinds(self) -> None:
        """Directories, block devices, files that are only named, and without a name."""
        fd = self.open("a/b", os.O_RDONLY)
        self.moved(READ, fd, self.refused(os.read, fd, 10))
        self.close(fd)
        self.close(self.open(".", os.O_RDONLY, real="/"))
        fd = self.open("disk", os.O_RDONLY)
        self.moved(READ, fd, len(os.read(fd, 512)))
        self.close(fd)
        fd = self.open("data", os.O_PATH)
        self.refused(os.read, fd, 10)
        self.close(fd)
        fd = os.memfd_create("nobody")
        self.moved(WRITE, fd, os.write(fd, b"12345"))
        self.close(fd)
        self.close(self.open("/".join(["deep", *map(str, range(DEEP))]), os.O_RDONLY))

    def descriptors(self) -> None:
        """Several for one file."""
        fd = self.open("data", os.O_RDONLY)
        other = os.dup(fd)
        self.moved(READ, other, len(os.read(other, 10)))
        self.close(fd)
        self.moved(READ, other, len(os.read(other, 10)))
        third = self.open("made", os.O_RDONLY)
        self.note(CLOSE, third, 0, functions=True)
        os.dup2(other, third)
        self.close(third)
        self.close(other)
        self.refused(os.close, other)

    def thread(self) -> None:
        fd = self.open("made", os.O_WRONLY | os.O_APPEND)
        other = threading.Thread(target=lambda: self.moved(WRITE, fd, os.write(fd, b"thread")))
        other.start()
        other.join()
        self.close(fd)

    def untold(self) -> None:
        """What is no file."""
        ends = os.pipe()
        pair = socket.socketpair()
        for reader, writer in (ends, (one.fileno() for one in pair)):
            os.write(writer, b"hello")
            os.read(reader, 10)
        null = os.open("/dev/null", os.O_RDWR)
        os.write(null, b"nothing")
        os.read(null, 10)
        counter = call(NR_EVENTFD2, 1, 0)
        os.write(counter, struct.pack("Q", 1))
        os.read(counter, 8)
        poll = select.epoll()
        poll.close()
        faults = call(NR_USERFAULTFD, 0)
        process = os.pidfd_open(os.getpid())
        assert min(counter, faults, process) > 0
        for fd in (*ends, null, counter, faults, process):
            os.close(fd)
        for one in pair:
            one.close()

    def compat(self) -> None:
        """What a 32-bit program calls: open, read and close."""
        page = low_memory()
        path = os.fsencode(self.folder / "compat") + b"\0"
        ctypes.memmove(page, path, len(path))
        fd = self.opened(compat_call(5, page, os.O_RDONLY), os.O_RDONLY, "compat")
        self.moved(READ, fd, compat_call(3, fd, page, 100))
        self.note(CLOSE, fd, 0)
        assert compat_call(6, fd) == 0

    def flood(self) -> None:
        """Several processes at once, each the same again and again."""
        children = []
        for child in range(FLOOD_PROCESSES):
            pid = os.fork()
            if not pid:
                self._rounds(os.fsencode(self.folder / str(child)))
                libc.prctl(PR_SET_NAME, b"done")
                os._exit(0)
            children.append(pid)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        rounds = [Done(type_, pid) for pid in children for type_ in (OPEN, WRITE, READ, CLOSE)]
        self.done += rounds * FLOOD_ROUNDS

    @staticmethod
    def _rounds(path: bytes) -> None:
        for _ in range(FLOOD_ROUNDS):
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            os.write(fd, b"flood")
            os.read(fd, 5)
            os.close(fd)

    def everything(self) -> None:
        self.write()
        self.read()
        self.calls_to_open()
        self.kinds()
        self.descriptors()
        self.thread()
        self.untold()


def prepare(folder: Path, device: int) -> None:
    """Make what is there before."""
    (folder / "a/b").mkdir(parents=True)
    (folder / "link").symlink_to("data")
    (folder / "compat").write_text("32 bits")
    os.mknod(folder / "disk", stat.S_IFBLK | 0o600, device)
    deep = folder / "deep"
    for level in range(DEEP):
        deep.mkdir()
        deep /= str(level)
    deep.touch()


def main(folder: Path, device: Path, what: str) -> None:
    prepare(folder, device.stat().st_rdev)
    os.setresgid(GID, 0, 0)
    os.setresuid(UID, 0, 0)
    activity = Activity(folder)
    do = getattr(activity, what)
    own = Path("/proc/self/comm").read_bytes().strip()
    libc.prctl(PR_SET_NAME, comm_of(os.getppid()).encode())
    do()
    libc.prctl(PR_SET_NAME, own)
    print(json.dumps([dataclasses.asdict(one) for one in activity.done]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
