"""Records of the monitors' rings to what a person or a program reads: layout.py, in words.

Whatever the bytes are, the result is an event of event.schema.json or a KernelError.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from aegis_tools.errors import KernelError
from aegis_tools.monitors.layout import (
    ARGS,
    CUT,
    DISK_IO,
    FILESYSTEM,
    HEAD,
    MEMORY,
    NETWORK,
    NOT_CAUSE,
    PATH,
    PROCESS,
)
from aegis_tools.monitors.registry import Monitor

EXEC, EXIT = 1, 2
OPEN = 1
PAGE_ALLOC = 3
PATH_LEVELS, NAME_BYTES = 40, 256
"""bpf/monitors/common.h: a path has fewer names than that, unless it was cut."""
OPERATIONS = {
    0: "read", 1: "write", 2: "flush", 3: "discard", 5: "secure-erase", 9: "write-zeroes",
    11: "zone-open", 13: "zone-close", 15: "zone-finish", 17: "zone-reset", 19: "zone-reset-all",
    34: "driver-in", 35: "driver-out",
}  # fmt: skip
"""enum req_op of those that mean the same on every kernel since 5.10."""
FAMILIES = {2: "IPv4", 10: "IPv6"}
PROTOCOLS = {6: "tcp", 17: "udp"}
CUT_MARK = "…/"
_Y10K = 253_402_300_800
_MINOR = (1 << 20) - 1


def _not_mounted(dev: int, path: str) -> str | None:
    return f"dev:{dev}:{path}" if path != "/" else None


class Decoder:
    """Records to events.

    Args:
        locate: Finds the path from ``/`` of a path in the file system of a device; None where
            there is none to find. ``place`` makes one of ``kernel.mountpaths.MountPaths``.
        offset_ns: What to add to the boot clock to get Unix time; set anew for each batch.
    """

    def __init__(
        self, locate: Callable[[int, str], str | None] = _not_mounted, offset_ns: int = 0
    ) -> None:
        self.offset_ns = offset_ns
        self._locate = locate
        self._second = (-1, "")
        self._bodies = {
            "process-monitor": self._process,
            "filesystem-monitor": self._filesystem,
            "network-monitor": _network,
            "memory-monitor": _memory,
            "disk-io-monitor": _disk_io,
        }

    def decode(self, monitor: Monitor, record: bytes) -> dict[str, Any]:
        """Return a record of a monitor's ring as an event.

        Raises:
            KernelError: It is too short, or of a kind that this version does not know.
        """
        try:
            at, cgroup, pid, tid, ppid, uid, gid, kind, flags, comm = HEAD.unpack_from(record)
            name = monitor.types[kind]
            body = self._bodies[monitor.name](kind, flags, record)
        except (LookupError, ValueError, struct.error) as error:
            raise KernelError(
                f"a record of {monitor.name} is not of this version's form",
                hint=f"run: aegisbpf monitor unload {monitor.name} "
                f"&& aegisbpf monitor load {monitor.name}",
                detail=f"{len(record)} bytes: {error!r}",
            ) from None
        return {
            "time": self._time(at + self.offset_ns),
            "monitor": monitor.name,
            "event": name,
            "pid": pid,
            "tid": tid,
            "ppid": ppid,
            "uid": uid,
            "gid": gid,
            "comm": text(comm.partition(b"\0")[0]),
            "cgroup": cgroup,
            "cut": bool(flags & CUT),
            "cause_known": not flags & NOT_CAUSE,
            **body,
        }

    def _process(self, kind: int, flags: int, record: bytes) -> dict[str, Any]:
        age, ino, dev, status, path_len, args_len, args_total, _ = PROCESS.unpack_from(
            record, HEAD.size
        )
        if kind == EXIT:
            signal = status & 0x7F
            return {
                "age_seconds": age / 1_000_000_000,
                "exit_status": None if signal else status >> 8 & 0xFF,
                "signal": signal or None,
            }
        start = HEAD.size + PROCESS.size
        names = _part(record, start, path_len, PATH)
        args = _part(record, start + path_len, args_len, ARGS)
        return {
            "executable": self._path(
                names, dev, cut=bool(flags & CUT), only=args_len == args_total
            ),
            "arguments": [text(a) for a in args.removesuffix(b"\0").split(b"\0")] if args else [],
            "device": device(dev),
            "inode": ino,
        }

    def _filesystem(self, kind: int, flags: int, record: bytes) -> dict[str, Any]:
        moved, ino, dev, result, open_flags, path_len = FILESYSTEM.unpack_from(record, HEAD.size)
        names = _part(record, HEAD.size + FILESYSTEM.size, path_len, PATH)
        opened = kind == OPEN
        cut = bool(flags & CUT)
        return {
            "path": self._path(names, dev, cut=cut, only=True) if opened else None,
            "device": device(dev) if dev else None,
            "inode": ino,
            "bytes": moved,
            "result": result,
            "flags": open_flags if opened else None,
        }

    def _path(self, names: bytes, dev: int, *, cut: bool, only: bool) -> str | None:
        """Return a path of names, the file's first.

        Args:
            names: Each ended by 0; none of a root, and where nothing was opened.
            dev: Its device; 0 where nothing was opened.
            cut: Something of the record was.
            only: It can have been nothing but the path.
        """
        parts = names.removesuffix(b"\0").split(b"\0") if names else []
        if not dev and not parts:
            return None
        path = text(b"/".join(reversed(parts)))
        long = len(parts) >= PATH_LEVELS or len(names) > PATH - NAME_BYTES
        if cut and (only or long):
            return CUT_MARK + path
        return self._locate(dev, f"/{path}")

    def _time(self, unix_ns: int) -> str:
        """RFC 3339 in UTC with microseconds; the seconds' text is kept for the next event."""
        second, rest = divmod(unix_ns, 1_000_000_000)
        if second != self._second[0]:
            # Past the year 9999 RFC 3339 ends; only a record that is none says so.
            shown = time.gmtime(second if 0 <= second < _Y10K else 0)
            self._second = (second, time.strftime("%Y-%m-%dT%H:%M:%S", shown))
        return f"{self._second[1]}.{rest // 1000:06d}Z"


def _network(_kind: int, _flags: int, record: bytes) -> dict[str, Any]:
    moved, family, protocol, local_port, remote_port, result, local, remote = NETWORK.unpack_from(
        record, HEAD.size
    )
    return {
        "family": FAMILIES.get(family, f"unknown:{family}"),
        "protocol": PROTOCOLS.get(protocol, f"unknown:{protocol}"),
        "local": _address(family, local),
        "local_port": local_port,
        "remote": _address(family, remote),
        "remote_port": remote_port,
        "bytes": moved,
        "result": result,
    }


def _memory(kind: int, _flags: int, record: bytes) -> dict[str, Any]:
    size, order, _ = MEMORY.unpack_from(record, HEAD.size)
    return {"bytes": size or None, "order": order if kind >= PAGE_ALLOC else None}


def _disk_io(_kind: int, _flags: int, record: bytes) -> dict[str, Any]:
    sector, size, queued, latency, dev, part, operation, error = DISK_IO.unpack_from(
        record, HEAD.size
    )
    return {
        "device": device(dev),
        "partition": device(part) if part != dev else None,
        "operation": OPERATIONS.get(operation, f"unknown:{operation}"),
        "sector": sector,
        "bytes": size,
        "queued_ns": queued or None,
        "latency_ns": latency or None,
        "error": error,
    }


def _part(record: bytes, start: int, length: int, limit: int) -> bytes:
    """Return so many bytes of a record. Raises ValueError where it has fewer."""
    found = record[start : start + length]
    if len(found) != length or length > limit:
        raise ValueError(f"{length} bytes at {start}")
    return found


def _address(family: int, raw: bytes) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[:4])
    return socket.inet_ntop(socket.AF_INET6, raw)


def device(dev: int) -> str:
    """Return ``major:minor`` of a kernel's dev_t."""
    return f"{dev >> 20}:{dev & _MINOR}"


def text(raw: bytes) -> str:
    """Return text; bytes that are not UTF-8 as escapes."""
    return raw.decode(errors="backslashreplace")


def place(locate: Callable[[int, str], str]) -> Callable[[int, str], str | None]:
    """Return ``MountPaths.locate`` for a Decoder: a file without a name has no path.

    So is one in memory alone, whose file system is mounted nowhere.
    """

    def found(dev: int, path: str) -> str | None:
        shown = locate(dev, path)
        return None if path == "/" and shown.startswith("dev:") else shown

    return found
