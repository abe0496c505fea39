"""Records as the kernel would send them."""

from __future__ import annotations

import struct

from hypothesis import strategies as st

from aegis_tools.agent.decode import HOOKS
from aegis_tools.kernel.layout import EVENT, EVENT_PATH, FILE_EVENT_TAIL

NOON = 1_767_268_800  # 2026-01-01T12:00:00Z
OPEN, CONNECT, SYSCALL = (HOOKS.index(name) for name in ("open", "connect", "syscall"))
DIGEST = "abcd" * 16
BUNDLE = int.from_bytes(bytes.fromhex(DIGEST)[:8], "little")


def head(
    *, at: int = 5_000_123_456, hook: int = OPEN, op: int = 0, action: int = 2, reason: int = 0,
    port: int = 0, protocol: int = 0, family: int = 0, address: bytes = b"", comm: bytes = b"cat",
    pid: int = 10, uid: int = 1000, rule: int = 0xABCD, cgroup: int = 77, ino: int = 42,
    bundle: int = BUNDLE,
) -> bytes:  # fmt: skip
    """Return a struct event."""
    return EVENT.pack(
        at, ino, pid, pid + 1, 9, 0x800001, uid, 100, cgroup, rule, bundle, hook, op, action,
        reason, port, protocol, family, address, comm, b"bash",
    )  # fmt: skip


def net_record(address: bytes = bytes([10, 0, 0, 1]), **more: int) -> bytes:
    """Return the struct event of a connection."""
    family = 4 if len(address) == 4 else 6
    base = {"hook": CONNECT, "op": 4, "port": 443, "protocol": 6, "ino": 0}
    return head(family=family, address=address, **{**base, **more})  # type: ignore[arg-type]


def file_record(raw: bytes = b"shadow\0etc\0", *, cut: int = 0, **more: object) -> bytes:
    """Return a struct file_event; ``raw`` are its names from the file upwards."""
    tail = FILE_EVENT_TAIL.pack(len(raw), cut)
    return head(**more) + tail + raw.ljust(EVENT_PATH, b"\xaa")  # type: ignore[arg-type]


def any_record() -> st.SearchStrategy[bytes]:
    """Return records of the right sizes with anything in them, often what the kernel writes."""
    size = EVENT.size + FILE_EVENT_TAIL.size + EVENT_PATH
    wild = st.binary(min_size=EVENT.size, max_size=size)
    names = st.lists(st.binary(min_size=1, max_size=60), max_size=6)
    real = st.builds(
        lambda parts, comm, hook, action, family, path_len: (
            head(comm=comm, hook=hook, action=action, family=family)
            + struct.pack("II", path_len, 0)
            + b"".join(part + b"\0" for part in parts).ljust(EVENT_PATH, b"\0")[:EVENT_PATH]
        ),
        names,
        st.binary(max_size=16),
        st.integers(0, 20),
        st.integers(0, 20),
        st.sampled_from([0, 0, 4, 6, 9]),
        st.integers(0, 2**32 - 1),
    )
    return wild | real
