"""What the kernel says that a soak is about: panics, bugs, kills for memory, trouble with BPF.

``/dev/kmsg`` gives a record a read (Documentation/ABI/testing/dev-kmsg)::

    PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;text
     KEY=value

Priority is ``facility * 8 + level``: what a process has written there is never of facility 0. A
record of the boot before can be in pstore, or where systemd has moved it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from aegis_tools.control.files import printable
from aegis_tools.paths import Paths

WORKLOAD = "aegis-soak-workload"
MAX_TEXT = 300
_RECORD = 8192
_MOST = 16 << 20
"""Bytes that are read at most: no kernel keeps so many."""
_WARNING = 4
"""KERN_WARNING: what is less urgent tells of no trouble."""
_INFO, _DEBUG = 6, 7

_PSTORE = ("sys/fs/pstore", "var/lib/systemd/pstore")
_CRASH = re.compile(r"dmesg-|[0-9]{5,}")

_OOM = re.compile(r"^oom-kill:.*?task_memcg=(?P<group>[^,]*),task=(?P<task>.*),pid=(?P<pid>[0-9]+)")
_PANIC = re.compile(r"^Kernel panic")
_STUCK = re.compile(r"soft lockup|hard LOCKUP|\brcu\w*: INFO:|blocked for more than")
_BUG = re.compile(
    r"^BUG\b|^Oops\b|^Internal error|\bkernel BUG at\b|^general protection fault"
    r"|^Unable to handle kernel|^list_(?:add|del) corruption|^refcount_t:|^UBSAN:|^watchdog: BUG"
)
_DUMP = re.compile(r"^\s|^[RE]?[A-Z0-9]{2,3}:|^Modules linked in|^Code:|^Call Trace|^Hardware name")
"""What follows the line that says what is wrong: it names whatever happened to run."""
_BPF = re.compile(r"\bbpf|\bverifier\b|\baegis_", re.IGNORECASE)
_MODULE = re.compile(r"^BPF:|failed to validate module")
"""BTF of a module that does not fit the kernel's: nothing of ours is in a module."""
_KINDS = (
    (_DEBUG, _PANIC, "panic"),
    (_DEBUG, _STUCK, "warning"),
    (_DEBUG, _BUG, "bug"),
    (_WARNING, _MODULE, "warning"),
    (_WARNING, _DUMP, ""),
    (_WARNING, _BPF, "bpf"),
    (_WARNING, re.compile("^WARNING: "), "warning"),
)
"""The first that fits: how urgent it is at least, what it says, which class that is. What is not of
the kernel is less urgent than all of them."""


class Message(NamedTuple):
    """A record of the kernel's log.

    Attributes:
        sequence: Its number since the boot.
        priority: Facility and level.
        boot_s: Seconds since the boot.
        text: What it says.
    """

    sequence: int
    priority: int
    boot_s: float
    text: str


class Found(NamedTuple):
    """A message that tells of trouble, or was lost.

    Attributes:
        class_: One of ``happened.CLASSES["kernel"]``.
        text: In one line, for a person.
        boot_s: Seconds since the boot.
    """

    class_: str
    text: str
    boot_s: float


class Log(NamedTuple):
    """What was read.

    Attributes:
        found: What tells of trouble, oldest first.
        last: The number of the newest message; what it was asked with where there is none.
        lost: How many messages were overwritten before they could be read.
    """

    found: tuple[Found, ...]
    last: int
    lost: int = 0


def parse(text: str) -> Iterator[Message]:
    """Yield the messages in the text of any number of records; what is none is passed over."""
    for line in text.split("\n"):
        head, separator, said = line.partition(";")
        fields = head.split(",")
        if not separator or line.startswith(" ") or len(fields) < 4:
            continue
        if all(field.isascii() and field.isdecimal() and len(field) <= 20 for field in fields[:3]):
            priority, sequence, micros = map(int, fields[:3])
            yield Message(sequence, priority, micros / 1e6, said)


def classify(message: Message) -> str:
    """Return of which class of trouble a message is; empty for none.

    A warning is told and not judged: of modules, of other things' stalls on a busy host, and of
    what was killed because the soak's own workload had used up what it may.
    """
    text, level = message.text, message.priority
    killed = _OOM.match(text) if level <= _INFO else None
    if killed:
        return "warning" if WORKLOAD in killed["group"] else "oom"
    kinds = (kind for least, shape, kind in _KINDS if level <= least and shape.search(text))
    return next(kinds, "")


def look(text: str, after: int) -> Log:
    """Return what the text of records tells beyond a number (-1: all of it)."""
    fresh = [one for one in parse(text) if one.sequence > after]
    found = [(classify(one), one) for one in fresh]
    lost = fresh[0].sequence - after - 1 if fresh else 0
    return Log(
        tuple(
            Found(kind, printable(one.text)[:MAX_TEXT], one.boot_s) for kind, one in found if kind
        ),
        fresh[-1].sequence if fresh else after,
        lost,
    )


def read(paths: Paths, after: int) -> Log:
    """Read what the kernel has said since.

    Args:
        paths: A test puts a file in the place of the device below its root.
        after: The number of the last message that was read; -1 for none.

    Raises:
        OSError: It cannot be read.
    """
    device = paths.root / "dev/kmsg"
    return look(_text(device if device.exists() else Path("/dev/kmsg")), after)


def _text(device: Path) -> str:
    fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    parts: list[bytes] = []
    left = _MOST
    try:
        while left > 0:
            try:
                part = os.read(fd, _RECORD)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EPIPE:  # overwritten meanwhile: the next read goes on
                    raise
                continue
            if not part:
                break
            parts.append(part)
            left -= len(part)
    finally:
        os.close(fd)
    return b"".join(parts).decode("utf-8", "backslashreplace")


def crash_records(paths: Paths) -> tuple[str, ...]:
    """Return the names of what earlier boots left when they crashed, sorted."""
    found: set[str] = set()
    for name in _PSTORE:
        with contextlib.suppress(OSError):
            found |= {one.name for one in (paths.root / name).iterdir() if _CRASH.match(one.name)}
    return tuple(sorted(found)[:100])
