"""How a monitor is to be loaded, as a person says it; names become numbers when it is."""

from __future__ import annotations

import pwd
from dataclasses import dataclass

from aegis_tools.control.settings import parse_rate
from aegis_tools.errors import UsageError
from aegis_tools.kernel.cgroups import cgroup_id, cgroup_ids
from aegis_tools.monitors.filters import MAX_NAMED, Filter

MIN_BYTES_MOST = 1 << 40
RING_LEAST, RING_MOST = 1 << 12, 1 << 30


@dataclass(frozen=True)
class Options:
    """How a monitor is to be loaded. Names are those of the options of ``monitor load``.

    Attributes:
        only_uid: Names or numbers of users.
        only_cgroup: Paths from the root of cgroup v2, or full ones.
        only_command: Names of processes.
        min_bytes: Nothing smaller.
        sample: A share of the rest.
        ring_size: Bytes, a power of two; None for the usual.

    Raises:
        UsageError: They cannot be what a person wants.
    """

    only_uid: tuple[str, ...] = ()
    only_cgroup: tuple[str, ...] = ()
    only_command: tuple[str, ...] = ()
    min_bytes: int = 0
    sample: str = "1"
    ring_size: int | None = None

    def __post_init__(self) -> None:
        """Check what needs no host."""
        size = self.ring_size
        if size is not None and (size & (size - 1) or not RING_LEAST <= size <= RING_MOST):
            raise UsageError(
                f"{size} is no size of a ring", hint="use a power of two from 4K to 1G, such as 4M"
            )
        if max(map(len, (self.only_uid, self.only_cgroup, self.only_command))) > MAX_NAMED:
            raise UsageError(
                f"a filter has at most {MAX_NAMED} of a kind",
                hint="name a cgroup above them instead",
            )
        if "" in self.only_command:
            raise UsageError("a command without a name", hint="write it like --only-command sshd")
        Filter(sample=parse_rate(self.sample))

    def filter(self, *, partly: bool = False) -> Filter:
        """Return the filter, as this host knows users and cgroups now.

        Args:
            partly: Leave out cgroups that are not there, as long as there is one of them.

        Raises:
            UsageError: There is no such user or cgroup.
        """
        there = self.cgroups() if partly else {}
        cgroups = there.values() or map(_cgroup, self.only_cgroup)
        return Filter(
            frozenset(map(_uid, self.only_uid)), frozenset(cgroups),
            frozenset(self.only_command), self.min_bytes, parse_rate(self.sample),
        )  # fmt: skip

    def cgroups(self) -> dict[str, int]:
        """Return the ids of those cgroups that are there now, by how they are named here."""
        return cgroup_ids(self.only_cgroup)


def _cgroup(text: str) -> int:
    number = cgroup_id(text)
    if number is None:
        raise UsageError(
            f"there is no cgroup {text or 'without a name'}",
            hint="see which there are: systemd-cgls; such as /system.slice/x.service",
        )
    return number


def _uid(text: str) -> int:
    if text.isascii() and text.isdecimal() and int(text) < 1 << 32:
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise UsageError(
            f"there is no user {text}", hint="give a name or number of: getent passwd"
        ) from None
