"""Records of the monitors as the kernel would send them."""

from __future__ import annotations

import socket
import struct
from typing import Any

from aegis_tools.monitors.layout import (
    DISK_IO,
    FILESYSTEM,
    HEAD,
    MEMORY,
    NETWORK,
    PROCESS,
)

SECOND = 1_000_000_000
DISK, PART = 254 << 20, 254 << 20 | 1
HEADS = {
    "pid": 10, "tid": 11, "ppid": 9, "uid": 1000, "gid": 100, "comm": "cat", "cgroup": 77,
    "cut": False, "cause_known": True,
}  # fmt: skip
"""What ``head`` says, in an event."""


def head(kind: int, *, at: int = 5 * SECOND + 123_456, pid: int = 10, flags: int = 0,
         comm: bytes = b"cat") -> bytes:  # fmt: skip
    return HEAD.pack(at, 77, pid, pid + 1, 9, 1000, 100, kind, flags, comm)


def exec_record(
    names: bytes = b"cat\0bin\0usr\0",
    args: bytes = b"cat\0/etc/passwd\0",
    *,
    flags: int = 0,
    dev: int = PART,
    total: int | None = None,
    **more: Any,
) -> bytes:
    total = len(args) if total is None else total
    body = PROCESS.pack(0, 42, dev, 0, len(names), len(args), total, 0)
    return head(1, flags=flags, **more) + body + names + args


def exit_record(status: int, age: int = 3 * SECOND // 2) -> bytes:
    return head(2) + PROCESS.pack(age, 0, 0, status, 0, 0, 0, 0)


def file_record(kind: int, *, names: bytes = b"", dev: int = PART, moved: int = 0, result: int = 0,
                flags: int = 0, marks: int = 0) -> bytes:  # fmt: skip
    body = FILESYSTEM.pack(moved, 42 if dev else 0, dev, result, flags, len(names))
    return head(kind, flags=marks) + body + names


def net_record(kind: int, local: str, remote: str, *, protocol: int = 6, moved: int = 0,
               result: int = 0, **more: Any) -> bytes:  # fmt: skip
    family = socket.AF_INET6 if ":" in local else socket.AF_INET
    ends = [socket.inet_pton(family, text) for text in (local, remote)]
    return head(kind, **more) + NETWORK.pack(moved, family, protocol, 40000, 443, result, *ends)


def memory_record(kind: int, size: int, order: int = 0) -> bytes:
    return head(kind) + MEMORY.pack(size, order, 0)


def disk_record(kind: int = 2, *, operation: int = 1, size: int = 4096, latency: int = 7_000_000,
                part: int = PART, error: int = 0, **more: Any) -> bytes:  # fmt: skip
    body = DISK_IO.pack(2048, size, 1000, latency, DISK, part, operation, error)
    return head(kind, **more) + body


def cut_short(record: bytes, length: int) -> bytes:
    return struct.pack(f"{length}s", record)[:length]
