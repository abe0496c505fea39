"""What the numbers in an event stand for on this host: cgroup, unit, container, program, policy.

Everything is looked up once and kept in tables of bounded size, or looked up a bounded number of
times a batch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from aegis_tools.control.live import Live
from aegis_tools.errors import AegisError
from aegis_tools.paths import Paths

if TYPE_CHECKING:
    from aegis_tools.control.store import Store

MAX_TEXT = 1024
"""Characters of a cgroup's or a program's path that an event shows."""

_UNIT = re.compile(r"[^/]+\.(?:service|scope|socket|mount|automount|swap|timer|path|target|device)")
_CONTAINER = re.compile(
    r"(?:(?:docker|cri-containerd|containerd|nerdctl|crio|libpod|podman)-)?([0-9a-f]{64})(?:\.scope)?"
    r"|[^/]+:(?:cri-containerd|containerd|crio|docker):([0-9a-f]{64})"
)


class Place(NamedTuple):
    """Where a process runs.

    Attributes:
        cgroup: Its path below the mount point; empty where it is gone.
        unit: The systemd unit; empty where it is in none.
        container: The container's id, 64 hex digits; empty where it is in none.
    """

    cgroup: str = ""
    unit: str = ""
    container: str = ""


def place_of(cgroup: str) -> Place:
    """Return what a cgroup's path says.

    The unit is the first part of the path that is one but no slice, as systemd's own
    cg_path_get_unit() finds it; a ``_`` before it only escapes it. Of containers within containers
    it is the outermost: the one that the host's own tools know. Forms: Docker, containerd, CRI-O
    and Podman, with the systemd and the cgroupfs driver (OCI's ``linux.cgroupsPath``).
    """
    parts = cgroup.split("/")
    unit = next((part for part in parts if _UNIT.fullmatch(part)), "")
    found = (_CONTAINER.fullmatch(part) for part in parts)
    container = next((match[1] or match[2] for match in found if match), "")
    return Place(cgroup[:MAX_TEXT], unit.removeprefix("_"), container)


class Bundle(NamedTuple):
    """A policy that an event's rule came from.

    Attributes:
        digest: 64 hex digits; 16 where no stored policy has that beginning, none without a policy.
        signers: Key ids that signed it.
    """

    digest: str = ""
    signers: tuple[str, ...] = ()


class Bundles:
    """Policies by the first 8 bytes of their digest (struct event, little-endian), kept.

    Args:
        find: Returns the policy of a digest that begins so (16 hex digits); None where unknown.
        clock: Seconds that only grow; each unknown one is looked for once a second at most.
        room: The most that are kept.
    """

    def __init__(
        self, find: Callable[[str], Bundle | None], clock: Callable[[], float], room: int = 64
    ) -> None:
        self._find = find
        self._clock = clock
        self._room = room
        self._known: dict[int, tuple[Bundle, float]] = {}

    def get(self, number: int) -> Bundle:
        """Return the policy, or what is known of it."""
        if not number:
            return Bundle()
        found, until = self._known.get(number) or (None, 0.0)
        now = self._clock()
        if found is not None and now < until:
            return found
        start = number.to_bytes(8, "little").hex()
        known = self._find(start)
        if len(self._known) >= self._room:
            del self._known[next(iter(self._known))]
        self._known[number] = (known, inf) if known is not None else (Bundle(start), now + 1)
        return self._known[number][0]


def find_bundle(paths: Paths, live: Live, start: str) -> Bundle | None:
    """Return the policy whose digest begins with ``start``: live in a slot, or stored."""
    from aegis_tools.control.store import Store

    store = Store(paths)
    digests = list(_live_digests(live))
    with suppress(AegisError, OSError):
        digests += store.digests()
    digest = next((found for found in digests if found.startswith(start)), None)
    return Bundle(digest, _signers(paths, store, digest)) if digest else None


def _live_digests(live: Live) -> list[str]:
    with suppress(AegisError, OSError):
        return [live.info(slot).bundle.hex() for slot in (0, 1)]
    return []


def _signers(paths: Paths, store: Store, digest: str) -> tuple[str, ...]:
    """Return who signed it: as recorded when it was applied, else as the trusted keys say now."""
    from aegis_tools.control.keystore import KeyStore
    from aegis_tools.policy import bundle as bundles

    with suppress(AegisError, OSError):
        for record in store.records():
            if record is not None and record.digest == digest:
                return record.signers
    with suppress(AegisError, OSError):
        stored = store.load(digest)
        if stored.signed:
            return bundles.open_bundle(stored.data, KeyStore(paths).trusted(), 1)[1]
    return ()


class Programs:
    """The program that a process runs, while it still runs.

    An event is read a moment after it happened: by then the process may have ended, or run
    another program, or its number may be another's. So the answer counts only while the thread
    bears the name that the event says it had.

    Args:
        proc: Where procfs is.
        budget: Look-ups between two calls of :meth:`renew`; in a flood the rest goes without.
    """

    def __init__(self, proc: str = "/proc", budget: int = 64) -> None:
        self._proc = proc
        self._budget = budget
        self._left = budget
        self._known: dict[tuple[int, bytes], str] = {}

    def renew(self) -> None:
        """Forget all, and begin a new budget: before each batch of events."""
        self._left = self._budget
        self._known.clear()

    def get(self, pid: int, tid: int, comm: bytes) -> str:
        """Return the path of the program; empty where it cannot be known."""
        found = self._known.get((tid, comm))
        if found is not None:
            return found
        if self._left <= 0:
            return ""
        self._left -= 1
        exe = self._look(pid, tid, comm)
        self._known[tid, comm] = exe
        return exe

    def _look(self, pid: int, tid: int, comm: bytes) -> str:
        try:
            exe = os.readlink(f"{self._proc}/{pid}/exe".encode())  # noqa: PTH115 # any bytes
            fd = os.open(f"{self._proc}/{pid}/task/{tid}/comm", os.O_RDONLY | os.O_CLOEXEC)
            try:
                now = os.read(fd, 64)
            finally:
                os.close(fd)
        except OSError:
            return ""
        if now.removesuffix(b"\n") != comm.rstrip(b"\0"):
            return ""
        return exe.decode(errors="backslashreplace")[:MAX_TEXT]
