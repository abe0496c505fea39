"""cgroup v2 of this host: where it is, what it controls, and which cgroups a profile means."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aegis_tools.errors import KernelError
from aegis_tools.kernel.mounts import Mount
from aegis_tools.monitors.profiles.model import Profile

V1_CONTROLLERS = {"memory": "memory", "pids": "pids", "blkio": "io"}
"""Controllers of version 1, and what version 2 calls them."""


@dataclass(frozen=True)
class Hierarchy:
    """The cgroup v2 tree.

    Attributes:
        root: Where it is mounted; None where it is not.
        on_v1: Controllers that a version 1 tree holds, so that version 2 has them not.
        block: Where the kernel shows disks.
    """

    root: Path | None
    on_v1: frozenset[str] = frozenset()
    block: Path = Path("/sys/block")

    def base(self) -> Path:
        """Return where it is mounted.

        Raises:
            KernelError: It is not.
        """
        if self.root is None:
            raise KernelError(
                "cgroup v2 is not mounted",
                hint="boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2",
            )
        return self.root

    def path(self, cgroup: str) -> Path:
        """Return the folder of a cgroup."""
        return self.base() / cgroup.lstrip("/")

    def available(self) -> frozenset[str]:
        """Return the controllers that version 2 has here."""
        return frozenset(read(self.base() / "cgroup.controllers").split())

    def check(self, controller: str) -> None:
        """Raise KernelError where version 2 has no such controller."""
        if controller in self.available():
            return
        why = "a cgroup v1 tree holds it" if controller in self.on_v1 else "the kernel lacks it"
        raise KernelError(
            f"cgroup v2 has no {controller} controller here: {why}",
            hint="boot with systemd.unified_cgroup_hierarchy=1 and without cgroup v1, "
            "or set the limit with --action alert or terminate",
        )

    def below(self, cgroup: str) -> Iterator[Path]:
        """Yield the folders of a cgroup and of all below it, those that are there."""
        for folder, _, _ in os.walk(self.path(cgroup)):
            yield Path(folder)

    def tasks(self, cgroup: str, file: str = "cgroup.procs") -> list[int]:
        """Return the processes (or with ``cgroup.threads`` the threads) in it and below."""
        found: list[int] = []
        for folder in self.below(cgroup):
            found += (int(word) for word in read(folder / file).split())
        return found


def read(path: Path) -> str:
    """Return a file of a cgroup; empty where it is gone, as cgroups do at any time."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def find(mounts: Iterable[Mount]) -> Hierarchy:
    """Return the tree that these mounts show."""
    root: Path | None = None
    on_v1: set[str] = set()
    for mount in mounts:
        if mount.kind == "cgroup2" and mount.root == "/" and root is None:
            root = Path(mount.point)
        elif mount.kind == "cgroup":
            on_v1 |= {V1_CONTROLLERS[one] for one in mount.options if one in V1_CONTROLLERS}
    return Hierarchy(root, frozenset(on_v1))


@dataclass(frozen=True)
class Target:
    """A cgroup of a profile.

    Attributes:
        cgroup: Its path from the root of cgroup v2.
        source: Whose it is: ``user anna``.
        number: The id by which BPF knows it; 0 where it does not exist now.
    """

    cgroup: str
    source: str
    number: int


def uid_of(user: str) -> int | None:
    """Return the number of a user, None where there is no such user."""
    if user.isdecimal():
        return int(user)
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(user).pw_uid
    return None


def slice_path(name: str) -> str:
    """Return where systemd has a slice: ``a-b.slice`` is in ``a.slice`` (systemd.slice(5))."""
    parts = name.removesuffix(".slice").split("-")
    steps = ("-".join(parts[: i + 1]) + ".slice" for i in range(len(parts)))
    return "/" + "/".join(steps)


def targets(
    profile: Profile,
    hierarchy: Hierarchy,
    uid_of: Callable[[str], int | None] = uid_of,
) -> list[Target]:
    """Return the cgroups of a profile; one below another of them is left out.

    A user's is the slice that systemd has for them.
    """
    wanted: dict[str, str] = {}
    for user in profile.users:
        uid = uid_of(user)
        if uid is not None:
            wanted.setdefault(slice_path(f"user-{uid}.slice"), f"user {user}")
    for name in profile.slices:
        wanted.setdefault(slice_path(name), f"slice {name}")
    for cgroup in profile.cgroups:
        wanted.setdefault(cgroup, "cgroup")
    return [
        Target(cgroup, source, _number(hierarchy, cgroup))
        for cgroup, source in wanted.items()
        if not any(cgroup.startswith(f"{other}/") for other in wanted)
    ]


def _number(hierarchy: Hierarchy, cgroup: str) -> int:
    try:
        return hierarchy.path(cgroup).stat().st_ino
    except FileNotFoundError:
        return 0
