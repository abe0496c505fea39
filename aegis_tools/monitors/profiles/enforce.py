"""From stored profiles to what the kernel does for them: one run that can be made at any time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aegis_tools.errors import AegisError
from aegis_tools.kernel.mounts import read_mounts
from aegis_tools.monitors.profiles.bandwidth import Bandwidth, Wanted
from aegis_tools.monitors.profiles.hierarchy import Hierarchy, Target, find, targets, uid_of
from aegis_tools.monitors.profiles.ledger import Ledger
from aegis_tools.monitors.profiles.model import BANDWIDTH, Action, Profile
from aegis_tools.monitors.profiles.settings import Outcome, Setting, Settings, wanted
from aegis_tools.paths import Paths


def system_hierarchy() -> Hierarchy:
    """Return cgroup v2 as it is mounted here."""
    return find(read_mounts())


@dataclass(frozen=True)
class Seams:
    """What a test puts something else in the place of.

    Attributes:
        hierarchy: Finds cgroup v2.
        uid_of: Number of a user, None where there is none.
        proc: Where processes are looked up.
        clock: Seconds that only grow.
        wall: Unix seconds.
    """

    hierarchy: Callable[[], Hierarchy] = system_hierarchy
    uid_of: Callable[[str], int | None] = uid_of
    proc: Path = Path("/proc")
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


SYSTEM = Seams()


@dataclass(frozen=True)
class Plan:
    """What limits ask of the kernel.

    Attributes:
        settings: Files of cgroups.
        bandwidth: By profile.
    """

    settings: list[Setting]
    bandwidth: dict[str, Wanted]


@dataclass(frozen=True)
class Enforced:
    """What a run has done: of cgroups, and for the bandwidth of which profiles."""

    outcome: Outcome = field(default_factory=Outcome)
    bandwidth: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether it did anything."""
        return bool(self.outcome.made or self.outcome.undone or self.bandwidth)

    def to_dict(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        return {
            "made": [one.text() for one in self.outcome.made],
            "undone": [f"{e.cgroup}: {e.file}" for e in self.outcome.undone],
            "left": [f"{e.cgroup}: {e.file}" for e in self.outcome.left],
            "bandwidth": self.bandwidth,
        }


def resolve(
    profiles: list[Profile], hierarchy: Hierarchy, seams: Seams = SYSTEM
) -> list[tuple[Profile, list[Target]]]:
    """Return profiles with their cgroups."""
    return [(profile, targets(profile, hierarchy, seams.uid_of)) for profile in profiles]


def plan(hierarchy: Hierarchy, profiles: list[tuple[Profile, list[Target]]]) -> Plan:
    """Return what these profiles ask for, as far as their cgroups exist."""
    bandwidth = {}
    for profile, found in profiles:
        limit = profile.limits.get(BANDWIDTH.name)
        if limit is not None:
            bits = limit.threshold if limit.action is Action.THROTTLE else 0
            cgroups = {one.cgroup: one.number for one in found if one.number}
            bandwidth[profile.name] = Wanted(bits, cgroups)
    return Plan(wanted(hierarchy, profiles), bandwidth)


def enforce(paths: Paths, hierarchy: Hierarchy, wanted: Plan) -> Enforced:
    """Make the kernel do what is planned and nothing else of ours. The caller holds the lock.

    Both halves are tried, whatever becomes of the first.

    Raises:
        AegisError: The first that failed.
    """
    outcome, changed, failed = Outcome(), list[str](), list[AegisError]()
    try:
        outcome = Settings(hierarchy, Ledger(paths)).reconcile(wanted.settings)
    except AegisError as error:
        failed.append(error)
    try:
        changed = Bandwidth(paths, hierarchy).reconcile(wanted.bandwidth)
    except AegisError as error:
        failed.append(error)
    if failed:
        raise failed[0]
    return Enforced(outcome, changed)
