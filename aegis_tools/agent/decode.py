"""A record of the event ring to the facts it holds: bytes in, a dict out, and nothing else.

Names in it were chosen by whoever made the file or the process, so they may be any bytes:
what is not UTF-8 is shown with escapes (``\\xff``), and the JSON of it is plain ASCII.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from aegis_tools.errors import KernelError
from aegis_tools.kernel.layout import EVENT, EVENT_PATH, FILE_EVENT_TAIL

ACTIONS = ("ALLOW", "AUDIT", "BLOCK", "TERM", "KILL", "INT")
REASONS = (
    "", "rule-audit", "mode-audit", "deadline", "cgroup", "survival", "audit-fallback",
)  # fmt: skip
HOOKS = (
    "", "open", "mmap", "mprotect", "setattr", "unlink", "rename", "link", "create",
    "connect", "bind", "sendmsg", "syscall",
)  # fmt: skip
OPERATIONS = ("read", "write", "exec", "modify", "egress", "bind")
PROTOCOLS = {0: "other", 6: "tcp", 17: "udp"}
HOOK_SYSCALL = HOOKS.index("syscall")
CUT = "…/"
_FAMILIES = {4: (socket.AF_INET, 4), 6: (socket.AF_INET6, 16)}
_TAIL_END = EVENT.size + FILE_EVENT_TAIL.size

encode: Callable[[object], str] = json.JSONEncoder(separators=(",", ":")).encode
"""One event as one line of NDJSON: compact, ASCII, no lone surrogates."""


def _no_text(number: int) -> str:
    del number
    return ""


def _unknown_rule(uid: int) -> str:
    return f"unknown:{uid:016x}"


def _no_mount(dev: int, path: str) -> str:
    del dev
    return path


@dataclass
class Decoder:
    """Decodes records, with what only this host knows.

    Attributes:
        rule: Rule id by uid.
        cgroup: cgroup path by id; empty where it is gone.
        locate: (dev, path from the root of the file system) to the path from ``/``.
        offset_ns: What to add to the boot clock to get Unix time.
    """

    rule: Callable[[int], str] = _unknown_rule
    cgroup: Callable[[int], str] = _no_text
    locate: Callable[[int, str], str] = _no_mount
    offset_ns: int = 0
    _second: tuple[int, str] = field(default=(-1, ""), repr=False)

    def decode(self, record: bytes) -> dict[str, Any]:
        """Return the event of a record: struct event, or struct file_event.

        Raises:
            KernelError: The record is of neither size.
        """
        if len(record) < EVENT.size:
            raise KernelError(
                "an event is not of this version's form",
                hint="run: aegisbpf reset && aegisbpf load",
                detail=f"{len(record)} bytes",
            )
        (at, cgroup, rule, ino, dev, pid, tid, ppid, uid, gid, hook, op, action, reason,
         port, protocol, family, address, comm, parent) = EVENT.unpack_from(record)  # fmt: skip
        event: dict[str, Any] = {
            "time": self._time(at + self.offset_ns),
            "type": "net" if family else "file",
            "action": _name(ACTIONS, action),
            "reason": _name(REASONS, reason),
            "hook": _name(HOOKS, hook),
            "operation": _name(OPERATIONS, op),
        }
        if family:
            event |= _peer(family, address, port, protocol)
        else:
            event["path"] = self._path(record, dev, hook)
            if ino:
                event["inode"] = f"{dev}:{ino}"
        event |= {
            "rule": self.rule(rule),
            "pid": pid,
            "tid": tid,
            "ppid": ppid,
            "comm": text(comm),
            "parent_comm": text(parent),
            "uid": uid,
            "gid": gid,
            "cgroup_id": cgroup,
            "cgroup": self.cgroup(cgroup),
        }
        return event

    def lines(self, records: Iterable[bytes]) -> list[bytes]:
        """Return each record as a line of NDJSON."""
        decode = self.decode
        return [encode(decode(record)).encode() + b"\n" for record in records]

    def _path(self, record: bytes, dev: int, hook: int) -> str:
        if len(record) < _TAIL_END:
            return ""
        length, cut = FILE_EVENT_TAIL.unpack_from(record, EVENT.size)
        raw = record[_TAIL_END : _TAIL_END + min(length, EVENT_PATH)]
        if hook == HOOK_SYSCALL:
            return text(raw)
        names = raw.split(b"\0")[:-1] if raw.endswith(b"\0") else raw.split(b"\0")
        path = b"/".join(reversed(names)).decode(errors="backslashreplace")
        return CUT + path if cut else self.locate(dev, "/" + path)

    def _time(self, unix_ns: int) -> str:
        """RFC 3339 in UTC with microseconds; the seconds' text is kept for the next event."""
        second, rest = divmod(unix_ns, 1_000_000_000)
        if second != self._second[0]:
            self._second = (second, _second_text(second))
        return f"{self._second[1]}.{rest // 1000:06d}Z"


def _second_text(second: int) -> str:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    except (OverflowError, OSError, ValueError):
        return "1970-01-01T00:00:00"


def _name(names: tuple[str, ...], number: int) -> str:
    return names[number] if number < len(names) else f"unknown:{number}"


def text(raw: bytes) -> str:
    """Return a C string's text; bytes that are not UTF-8 as escapes."""
    return raw.partition(b"\0")[0].decode(errors="backslashreplace")


def _peer(family: int, address: bytes, port: int, protocol: int) -> dict[str, Any]:
    kind, size = _FAMILIES.get(family, (socket.AF_INET6, 16))
    return {
        "address": socket.inet_ntop(kind, address[:size]),
        "port": port,
        "protocol": PROTOCOLS.get(protocol, str(protocol)),
        "family": {4: "ipv4", 6: "ipv6"}.get(family, str(family)),
    }
