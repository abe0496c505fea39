"""bpf(2) by ctypes: the calls that bpftool has no verb for, or is too slow for.

Byte layouts are those of ``union bpf_attr`` in include/uapi/linux/bpf.h; a shorter
attribute than the kernel's is legal, the rest counts as zero.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator

_NUMBERS = {"x86_64": 321, "aarch64": 280}

MAP_CREATE = 0
MAP_LOOKUP_ELEM = 1
MAP_UPDATE_ELEM = 2
MAP_DELETE_ELEM = 3
MAP_GET_NEXT_KEY = 4
OBJ_PIN = 6
OBJ_GET = 7
PROG_TEST_RUN = 10
PROG_GET_NEXT_ID = 11
PROG_GET_FD_BY_ID = 13
MAP_GET_FD_BY_ID = 14
OBJ_GET_INFO_BY_FD = 15
RAW_TRACEPOINT_OPEN = 17
BTF_GET_FD_BY_ID = 19
MAP_LOOKUP_BATCH = 24
MAP_UPDATE_BATCH = 26
LINK_CREATE = 28
ENABLE_STATS = 32
ITER_CREATE = 33

MAP_TYPE_HASH = 1
MAP_TYPE_ARRAY = 2
MAP_TYPE_PERCPU_ARRAY = 6
MAP_TYPE_LPM_TRIE = 11
MAP_TYPE_ARRAY_OF_MAPS = 12
MAP_TYPE_RINGBUF = 27
F_NO_PREALLOC = 1
F_NOEXIST = 1
PROG_TYPE_LSM = 29
TRACE_ITER = 28
STATS_RUN_TIME = 0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def bpf(command: int, attr: bytes | ctypes.Array[ctypes.c_char]) -> int:
    """Call bpf(2).

    Args:
        command: One of the numbers above.
        attr: The attribute; pass a ctypes buffer to read back what the kernel wrote.

    Returns:
        The call's result: a descriptor, or 0.

    Raises:
        OSError: With the call's errno.
    """
    buffer = ctypes.create_string_buffer(attr, len(attr)) if isinstance(attr, bytes) else attr
    number = _NUMBERS.get(os.uname().machine, 321)
    result: int = _libc.syscall(number, command, buffer, len(buffer))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def _bytes_address(data: bytes) -> int:
    """Return where the bytes themselves are, for the kernel to read; keep ``data`` meanwhile."""
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0


def obj_get(path: str) -> int:
    """Return a descriptor for the object pinned at ``path``."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return bpf(OBJ_GET, struct.pack("QII", _address(name), 0, 0))


def obj_pin(path: str, fd: int) -> None:
    """Pin the object behind ``fd`` at ``path``."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    bpf(OBJ_PIN, struct.pack("QII", _address(name), fd, 0))


def map_create(kind: int, key_size: int, value_size: int, entries: int, name: str) -> int:
    """Create a map without preallocation. ``name`` is cut to the kernel's 15 bytes."""
    attr = struct.pack(
        "IIIIIII16s", kind, key_size, value_size, entries, F_NO_PREALLOC, 0, 0, name.encode()[:15]
    )
    return bpf(MAP_CREATE, attr)


def map_info(fd: int) -> tuple[int, int, int, int, int, int]:
    """Return (type, id, key size, value size, max entries, flags) of a map."""
    info = ctypes.create_string_buffer(24)
    bpf(OBJ_GET_INFO_BY_FD, struct.pack("IIQ", fd, len(info), _address(info)))
    kind, ident, key_size, value_size, entries, flags = struct.unpack("6I", info.raw)
    return kind, ident, key_size, value_size, entries, flags


def map_get_fd_by_id(ident: int) -> int:
    """Return a descriptor for the map with this id."""
    return bpf(MAP_GET_FD_BY_ID, struct.pack("III", ident, 0, 0))


def lookup(fd: int, key: bytes, value_size: int) -> bytes:
    """Return the value at ``key``. Raises OSError ENOENT where there is none."""
    value = ctypes.create_string_buffer(value_size)
    key_buffer = ctypes.create_string_buffer(key, len(key))
    bpf(MAP_LOOKUP_ELEM, struct.pack("IIQQQ", fd, 0, _address(key_buffer), _address(value), 0))
    return value.raw


def update(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """Set the value at ``key``."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value_buffer = ctypes.create_string_buffer(value, len(value))
    attr = struct.pack("IIQQQ", fd, 0, _address(key_buffer), _address(value_buffer), flags)
    bpf(MAP_UPDATE_ELEM, attr)


def delete(fd: int, key: bytes) -> None:
    """Delete ``key``. Raises OSError ENOENT where there is none."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    bpf(MAP_DELETE_ELEM, struct.pack("IIQQQ", fd, 0, _address(key_buffer), 0, 0))


def keys(fd: int, key_size: int) -> Iterator[bytes]:
    """Yield the keys of a map, one call each.

    A key deleted meanwhile makes the kernel start over, so the walk is bounded by what
    it has seen.
    """
    seen: set[bytes] = set()
    following = ctypes.create_string_buffer(key_size)
    current = 0
    key_buffer = None
    while True:
        try:
            bpf(MAP_GET_NEXT_KEY, struct.pack("IIQQQ", fd, 0, current, _address(following), 0))
        except FileNotFoundError:
            return
        key = following.raw
        if key in seen:
            return
        seen.add(key)
        yield key
        key_buffer = ctypes.create_string_buffer(key, key_size)
        current = _address(key_buffer)


def update_batch(fd: int, packed_keys: bytes, packed_values: bytes, count: int) -> int:
    """Set ``count`` entries in one call (Linux 5.6, for LPM tries 5.13).

    Returns:
        How many the kernel took; fewer than ``count`` means the map is full.
    """
    keys_at, values_at = _bytes_address(packed_keys), _bytes_address(packed_values)
    attr = ctypes.create_string_buffer(
        struct.pack("QQQQIIQQ", 0, 0, keys_at, values_at, count, fd, 0, 0), 56
    )
    try:
        bpf(MAP_UPDATE_BATCH, attr)
    except OSError as error:
        error.done = struct.unpack_from("I", attr, 32)[0]  # type: ignore[attr-defined]
        raise
    done: int = struct.unpack_from("I", attr, 32)[0]
    return done


def lookup_batch(
    fd: int, key_size: int, value_size: int, room: int
) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield (packed keys, packed values, count) until the map is read.

    Args:
        fd: A hash map.
        key_size: Bytes of a key.
        value_size: Bytes of a value.
        room: Entries read in one call; a bucket that does not fit doubles it.
    """
    position = ctypes.create_string_buffer(max(key_size, 8))
    started = False
    while True:
        key_buffer = ctypes.create_string_buffer(key_size * room)
        value_buffer = ctypes.create_string_buffer(value_size * room)
        attr = ctypes.create_string_buffer(
            struct.pack(
                "QQQQIIQQ",
                _address(position) if started else 0,
                _address(position),
                _address(key_buffer),
                _address(value_buffer),
                room,
                fd,
                0,
                0,
            ),
            56,
        )
        last = False
        try:
            bpf(MAP_LOOKUP_BATCH, attr)
        except FileNotFoundError:
            last = True
        except OSError as error:
            if error.errno != 28:  # ENOSPC: the next bucket has more entries than room
                raise
            room *= 2
            continue
        count = struct.unpack_from("I", attr, 32)[0]
        at = ctypes.string_at  # one copy of what was read; .raw would copy all the room first
        yield at(key_buffer, key_size * count), at(value_buffer, value_size * count), count
        if last:
            return
        started = True


def attach(program_fd: int) -> int:
    """Attach an LSM or tp_btf program where its BTF says, and return the link.

    BPF_RAW_TRACEPOINT_OPEN without a name serves every program that knows its target.
    """
    return bpf(RAW_TRACEPOINT_OPEN, struct.pack("QII", 0, program_fd, 0))


def link_cgroup(program_fd: int, cgroup_fd: int, kind: int) -> int:
    """Attach a program to a cgroup beside others that are there, and return the link (5.7).

    Args:
        program_fd: The program.
        cgroup_fd: The folder of the cgroup, opened.
        kind: BPF_CGROUP_INET_INGRESS and so on.
    """
    return bpf(LINK_CREATE, struct.pack("IIII", program_fd, cgroup_fd, kind, 0))


def open_task_iterator(program_fd: int, pid: int) -> int:
    """Return a descriptor to read a ``task_file`` iterator from.

    Limited to one process where the kernel can (6.1); older kernels walk all.
    """
    info = ctypes.create_string_buffer(struct.pack("III", 0, pid, 0), 16)
    limited = struct.pack("IIIIQII", program_fd, 0, TRACE_ITER, 0, _address(info), 16, 0)
    try:
        link = bpf(LINK_CREATE, limited)
    except OSError:
        link = bpf(LINK_CREATE, struct.pack("IIII", program_fd, 0, TRACE_ITER, 0))
    try:
        return bpf(ITER_CREATE, struct.pack("II", link, 0))
    finally:
        os.close(link)


def test_run(program_fd: int, context: bytes) -> tuple[int, bytes]:
    """Run a SEC("syscall") program on ``context``; return (its result, the context after)."""
    buffer = ctypes.create_string_buffer(context, len(context))
    fields = (program_fd, 0, 0, 0, 0, 0, 0, 0, len(context), 0, _address(buffer), 0)
    attr = ctypes.create_string_buffer(struct.pack("IIIIQQIIIIQQ", *fields), 80)
    bpf(PROG_TEST_RUN, attr)
    result: int = struct.unpack_from("I", attr, 4)[0]
    return result, buffer.raw


def enable_run_stats() -> int:
    """Make the kernel count program runs until the returned descriptor is closed (5.8)."""
    return bpf(ENABLE_STATS, struct.pack("I", STATS_RUN_TIME))


def program_ids() -> Iterator[int]:
    """Yield the ids of all programs in the kernel."""
    ident = 0
    while True:
        attr = ctypes.create_string_buffer(struct.pack("III", ident, 0, 0), 12)
        try:
            bpf(PROG_GET_NEXT_ID, attr)
        except FileNotFoundError:
            return
        ident = struct.unpack_from("I", attr, 4)[0]
        yield ident


def program_fd(ident: int) -> int:
    """Return a descriptor for the program with this id."""
    return bpf(PROG_GET_FD_BY_ID, struct.pack("III", ident, 0, 0))


def program_name(fd: int) -> tuple[int, str]:
    """Return (type, name cut to 15 bytes) of a program."""
    info = ctypes.create_string_buffer(232)
    bpf(OBJ_GET_INFO_BY_FD, struct.pack("IIQ", fd, len(info), _address(info)))
    kind: int = struct.unpack_from("I", info, 0)[0]
    return kind, info.raw[64:80].split(b"\0")[0].decode(errors="replace")


def program_info(fd: int) -> dict[str, int]:
    """Return ``id``, ``run_time_ns``, ``run_cnt`` and the like of a program.

    ``recursion_misses`` is how often it was not run because it ran on that CPU already; 0 before
    5.12. ``verified_insns`` is 0 before 5.16. Offsets: struct bpf_prog_info.
    """
    info = ctypes.create_string_buffer(232)
    bpf(OBJ_GET_INFO_BY_FD, struct.pack("IIQ", fd, len(info), _address(info)))
    return {
        "id": struct.unpack_from("I", info, 4)[0],
        "run_time_ns": struct.unpack_from("Q", info, 192)[0],
        "run_cnt": struct.unpack_from("Q", info, 200)[0],
        "recursion_misses": struct.unpack_from("Q", info, 208)[0],
        "verified_insns": struct.unpack_from("I", info, 216)[0],
    }


def program_sizes(fd: int) -> dict[str, int]:
    """Return ``jited_len``, ``xlated_len`` and ``btf_id`` (0 = none) of a program."""
    info = ctypes.create_string_buffer(232)
    bpf(OBJ_GET_INFO_BY_FD, struct.pack("IIQ", fd, len(info), _address(info)))
    jited, xlated = struct.unpack_from("II", info, 16)
    return {
        "jited_len": jited,
        "xlated_len": xlated,
        "btf_id": struct.unpack_from("I", info, 128)[0],
    }


def btf_size(ident: int) -> int:
    """Return the bytes of the BTF with this id. Offsets: struct bpf_btf_info."""
    fd = bpf(BTF_GET_FD_BY_ID, struct.pack("III", ident, 0, 0))
    try:
        info = ctypes.create_string_buffer(32)
        bpf(OBJ_GET_INFO_BY_FD, struct.pack("IIQ", fd, len(info), _address(info)))
        size: int = struct.unpack_from("I", info, 8)[0]
    finally:
        os.close(fd)
    return size
