"""What the monitors and user space share: the same as bpf/monitors/monitor.h, native byte order.

Every record begins with ``HEAD``; what follows depends on the monitor. A test compares both by the
objects' BTF.
"""

from __future__ import annotations

import struct
from enum import IntEnum

COMM = 16
PATH = ARGS = 4096
HEAD = struct.Struct("QQIIIIIHH16s")
PROCESS = struct.Struct("QQIIIIII")
"""age_ns, ino, dev, status, path_len, args_len, args_total, pad; then path_len + args_len bytes."""
FILESYSTEM = struct.Struct("QQIiII")
"""bytes, ino, dev, result, open_flags, path_len; then path_len bytes."""
NETWORK = struct.Struct("QIIHHi16s16s")
"""bytes, family, protocol, local_port, remote_port, result, local, remote."""
MEMORY = struct.Struct("QII")
"""bytes, order, pad."""
MEMORY_KEY = struct.Struct("IBB2x")
"""pid, type, size_class."""
MEMORY_TOTAL = struct.Struct("QQ16s")
"""count, bytes, comm."""
DISK_IO = struct.Struct("QQQQIIIi")
"""sector, bytes, queued_ns, latency_ns, dev, part, operation, error."""
FILTER = struct.Struct("QIIBBBBI")
"""min_bytes, sample, not_pid, by_uid, by_cgroup, by_comm, off, pad."""
CUT, NOT_CAUSE = 1, 2
"""Flags of a record: something did not fit; the process is not known to be the cause."""
SAMPLE_ALL = (1 << 32) - 1


class Stat(IntEnum):
    """Elements of the ``stats`` map of each monitor: u64 for each CPU."""

    SEEN = 0
    SENT = 1
    DROPPED = 2
    FILTERED = 3
    SAMPLED_OUT = 4
    BUSY = 5
    UNTRACKED = 6
