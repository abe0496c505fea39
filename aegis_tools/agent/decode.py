"""A record of the event ring to the line that tells of it.

Names in it were chosen by whoever made the file or the process, so they may be any bytes: what is
not UTF-8 is shown with escapes (``\\xff``), and the line is plain ASCII.

What an event has in common with others of its kind (rule, policy, process name, cgroup, peer) is
made into text once and kept, so a line costs little more than its time, its path and its process.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quote
from typing import Any

from aegis_tools.agent.enrich import Bundle, Place
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
FAMILIES = {4: "ipv4", 6: "ipv6"}
HOOK_SYSCALL = HOOKS.index("syscall")
CUT = "…/"
MAX_PATH = 2048
"""Characters of a path that an event shows; of a longer one its end."""

KINDS_KEPT = 4096
_Y10K = 253402300800
_HEAD = struct.Struct("QQIIII")  # of struct event: time, ino, pid, tid, ppid, dev
_KIND_FIELDS = struct.Struct("IIQQQBBBBHBB16s16s16s")  # and the rest of it
_KIND = _HEAD.size
_HOOK = 64
_COMM = slice(88, 104)
_EVENT_SIZE = EVENT.size
_TAIL_END = EVENT.size + FILE_EVENT_TAIL.size
_tail = FILE_EVENT_TAIL.unpack_from
_head = _HEAD.unpack_from


def _unknown_rule(uid: int) -> str:
    return f"unknown:{uid:016x}"


def _no_place(number: int) -> Place:
    del number
    return Place()


def _unknown_bundle(number: int) -> Bundle:
    return Bundle(number.to_bytes(8, "little").hex() if number else "")


def _no_mount(dev: int, path: str) -> str:
    del dev
    return path


def _no_program(pid: int, tid: int, comm: bytes) -> str:
    del pid, tid, comm
    return ""


@dataclass
class Decoder:
    """Decodes records, with what only this host knows.

    Attributes:
        rule: Rule id by uid.
        place: Where a process runs, by cgroup id.
        locate: (dev, path from the root of the file system) to the path from ``/``.
        bundle: The policy by the beginning of its digest.
        program: (pid, tid, comm) to the program's path; empty where it is not known.
        host: This host's name.
        offset_ns: What to add to the boot clock to get Unix time.
    """

    rule: Callable[[int], str] = _unknown_rule
    place: Callable[[int], Place] = _no_place
    locate: Callable[[int, str], str] = _no_mount
    bundle: Callable[[int], Bundle] = _unknown_bundle
    program: Callable[[int, int, bytes], str] = _no_program
    host: str = ""
    offset_ns: int = 0
    _second: tuple[int, str] = field(default=(-1, ""), repr=False)
    _kinds: dict[bytes, tuple[str, str]] = field(default_factory=dict, repr=False)

    def line(self, record: bytes, count: int = 1, first_ns: int = 0) -> bytes:
        """Return one line of NDJSON.

        Args:
            record: struct event, or struct file_event (of which what follows the path may lack).
            count: How many events it stands for; with more than one of them it is the last.
            first_ns: When the first of them was, on the boot clock; 0 = no repetitions.

        Raises:
            KernelError: The record is too short.
        """
        if len(record) < _EVENT_SIZE:
            raise KernelError(
                "an event is not of this version's form",
                hint="run: aegisbpf reset && aegisbpf load",
                detail=f"{len(record)} bytes",
            )
        at, ino, pid, tid, ppid, dev = _head(record)
        kind = record[_KIND:_EVENT_SIZE]
        before, after = self._kinds.get(kind) or self._kind(kind)
        when = self._time(at + self.offset_ns)
        what = ""
        if not record[71]:  # family: a file
            what = f'"path":{quote(self._path(record, dev, record[_HOOK]))},'
            if ino:
                what += f'"inode":"{dev}:{ino}",'
        if exe := self.program(pid, tid, record[_COMM]):
            what += f'"exe":{quote(exe)},'
        line = (
            f'{{"time":"{when}",{before}{what}"pid":{pid},"tid":{tid},"ppid":{ppid},'
            f'{after},"count":{count}'
        )
        if first_ns:
            first = self._time(first_ns + self.offset_ns)
            line += f',"first":"{first}","last":"{when}"'
        return f"{line}}}\n".encode("ascii")

    def decode(self, record: bytes) -> dict[str, Any]:
        """Return the line of a record, read again. Raises KernelError."""
        found: dict[str, Any] = json.loads(self.line(record))
        return found

    def lines(self, records: Iterable[bytes]) -> list[bytes]:
        """Return each record as a line of NDJSON."""
        return [self.line(record) for record in records]

    def forget(self) -> None:
        """Forget texts that were made, so that what was unknown is asked for again."""
        self._kinds.clear()

    def _kind(self, kind: bytes) -> tuple[str, str]:
        """Return the text before the path and the text after the process, and keep them."""
        (uid, gid, cgroup, rule, bundle, hook, op, action, reason,
         port, protocol, family, address, comm, parent) = _KIND_FIELDS.unpack(kind)  # fmt: skip
        before = {
            "host": self.host,
            "type": "net" if family else "file",
            "action": _name(ACTIONS, action),
            "reason": _name(REASONS, reason),
            "hook": _name(HOOKS, hook),
            "operation": _name(OPERATIONS, op),
        }
        if family:
            before |= _peer(family, address, port, protocol)
        policy, place = self.bundle(bundle), self.place(cgroup)
        after = {
            "comm": text(comm),
            "parent_comm": text(parent),
            "uid": uid,
            "gid": gid,
            "cgroup_id": cgroup,
            **place._asdict(),
            "rule": self.rule(rule),
            "bundle": policy.digest,
            "signers": policy.signers,
        }
        if not place.container:
            del after["container"]
        found = encode(before)[1:-1] + ",", encode(after)[1:-1]
        if len(self._kinds) >= KINDS_KEPT:
            del self._kinds[next(iter(self._kinds))]
        self._kinds[kind] = found
        return found

    def _path(self, record: bytes, dev: int, hook: int) -> str:
        if len(record) < _TAIL_END:
            return ""
        length, cut = _tail(record, _EVENT_SIZE)
        raw = record[_TAIL_END : _TAIL_END + min(length, EVENT_PATH)]
        if hook == HOOK_SYSCALL:
            return text(raw)
        names = raw.removesuffix(b"\0").split(b"\0")
        names.reverse()
        path = b"/".join(names).decode(errors="backslashreplace")
        shown = CUT + path if cut else self.locate(dev, "/" + path)
        return shown if len(shown) <= MAX_PATH else CUT + shown[-MAX_PATH:]

    def _time(self, unix_ns: int) -> str:
        """RFC 3339 in UTC with microseconds; the seconds' text is kept for the next event."""
        second, rest = divmod(unix_ns, 1_000_000_000)
        if second != self._second[0]:
            self._second = (second, _second_text(second))
        return f"{self._second[1]}.{rest // 1000:06d}Z"


encode: Callable[[object], str] = json.JSONEncoder(separators=(",", ":")).encode
"""JSON as events have it: compact, ASCII, no lone surrogates."""


def _second_text(second: int) -> str:
    # Past the year 9999 RFC 3339 ends; only a record that is no event says so.
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second if 0 <= second < _Y10K else 0))


def _name(names: tuple[str, ...], number: int) -> str:
    return names[number] if number < len(names) else f"unknown:{number}"


def text(raw: bytes) -> str:
    """Return a C string's text; bytes that are not UTF-8 as escapes."""
    return raw.partition(b"\0")[0].decode(errors="backslashreplace")


def _peer(family: int, address: bytes, port: int, protocol: int) -> dict[str, Any]:
    kind, size = (socket.AF_INET, 4) if family == 4 else (socket.AF_INET6, 16)
    return {
        "address": socket.inet_ntop(kind, address[:size]),
        "port": port,
        "protocol": PROTOCOLS.get(protocol, f"unknown:{protocol}"),
        "family": FAMILIES.get(family, f"unknown:{family}"),
    }
