"""A profile and its limits: values, and their one JSON form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from aegis_tools.errors import StateError, UsageError
from aegis_tools.monitors.profiles import units
from aegis_tools.monitors.profiles.units import (
    COUNT,
    DISK_RATE,
    MOST,
    RATE,
    SIZE,
    TIME,
    Dimension,
)
from aegis_tools.policy import strictjson

VERSION = 1
MAX_BYTES = 65536
MAX_MEMBERS = 256
MAX_RATE = 100 * 10**9
"""Bits a second; the program of the kernel multiplies it by a second in 64 bits."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@$-]{0,63}")
_SLICE = re.compile(r"[A-Za-z0-9:_.@\\]+(?:-[A-Za-z0-9:_.@\\]+)*\.slice")
_KEYS = {"version", "name", "users", "cgroups", "slices", "limits"}


class Action(Enum):
    """What is done where a limit is exceeded."""

    ALERT = "alert"
    THROTTLE = "throttle"
    TERMINATE = "terminate"


@dataclass(frozen=True, eq=False)
class Kind:
    """What can be limited.

    Attributes:
        name: In JSON and events.
        dimension: Of its threshold.
        actions: What can be done; the first is done where nothing is said.
        refusal: Why the rest cannot.
        instead: What can, of another kind.
    """

    name: str
    dimension: Dimension
    actions: tuple[Action, ...]
    refusal: str = ""
    instead: str = ""


MEMORY = Kind("memory", SIZE, (Action.THROTTLE, Action.ALERT, Action.TERMINATE))
PROCESSES = Kind("processes", COUNT, (Action.THROTTLE, Action.ALERT, Action.TERMINATE))
BANDWIDTH = Kind("bandwidth", RATE, (Action.THROTTLE, Action.ALERT, Action.TERMINATE))
ALLOCATION = Kind(
    "allocation", SIZE, (Action.ALERT, Action.TERMINATE),
    "the kernel cannot slow down allocations as such; a memory limit can throttle",
)  # fmt: skip
DISK_LATENCY = Kind(
    "disk-latency",
    TIME,
    (Action.ALERT, Action.TERMINATE),
    "nothing makes a disk faster",
    "slow down who keeps it busy: aegisbpf profile set-disk-bandwidth-limit",
)
DISK_BANDWIDTH = Kind(
    "disk-bandwidth", DISK_RATE, (Action.THROTTLE, Action.ALERT, Action.TERMINATE)
)
KINDS = {
    kind.name: kind
    for kind in (MEMORY, DISK_LATENCY, DISK_BANDWIDTH, BANDWIDTH, PROCESSES, ALLOCATION)
}


@dataclass(frozen=True)
class Limit:
    """One limit.

    Attributes:
        kind: Of what.
        threshold: In the smallest unit: bytes, bits a second, nanoseconds, processes and threads.
        action: What is done where it is exceeded.
    """

    kind: Kind
    threshold: int
    action: Action

    def text(self) -> str:
        """Return it for a person."""
        shown = units.show(self.threshold, self.kind.dimension)
        return f"{self.kind.name} {shown} {self.action.value}"

    def to_dict(self) -> dict[str, Any]:
        """Return what is stored."""
        return {"threshold": self.threshold, "action": self.action.value}


def make_limit(kind: Kind, threshold: int, action: Action | None = None) -> Limit:
    """Return a limit.

    Raises:
        UsageError: This kind cannot be acted on so, or the threshold is beyond what can be held.
    """
    chosen = action or kind.actions[0]
    if chosen not in kind.actions:
        able = " or ".join(action.value for action in kind.actions)
        raise UsageError(
            f"a limit of {kind.name} cannot {chosen.value}: {kind.refusal}",
            hint=f"use: {able}" + (f"; or {kind.instead}" if kind.instead else ""),
        )
    highest = MAX_RATE if kind is BANDWIDTH else MOST
    if not 1 <= threshold <= highest:
        raise UsageError(
            f"a limit of {kind.name} is at most {units.show(highest, kind.dimension)}",
            hint=f"write it like {kind.dimension.example}",
        )
    return Limit(kind, threshold, chosen)


@dataclass(frozen=True)
class Profile:
    """Who belongs together.

    Attributes:
        name: Letters, digits, ``-`` and ``_``.
        users: Names or numbers of users.
        cgroups: Paths from the root of cgroup v2: ``/system.slice/x.service``.
        slices: Slices of systemd: ``user-1000.slice``.
        limits: By the name of their kind.
    """

    name: str
    users: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    limits: Mapping[str, Limit] = field(default_factory=dict)

    def with_limit(self, kind: Kind, limit: Limit | None) -> Profile:
        """Return the profile with this limit, or with none of this kind."""
        rest = {name: one for name, one in self.limits.items() if name != kind.name}
        return replace(self, limits=rest if limit is None else {**rest, kind.name: limit})

    def to_dict(self) -> dict[str, Any]:
        """Return what is stored."""
        return {
            "version": VERSION,
            "name": self.name,
            "users": list(self.users),
            "cgroups": list(self.cgroups),
            "slices": list(self.slices),
            "limits": {name: self.limits[name].to_dict() for name in sorted(self.limits)},
        }


def check(profile: Profile) -> Profile:
    """Return a profile whose names are sound.

    Raises:
        UsageError: One is not.
    """
    if not NAME.fullmatch(profile.name):
        raise UsageError(
            f"{profile.name[:40]!r} is no name for a profile",
            hint="use letters, digits, - and _; at most 64",
        )
    members = (*profile.users, *profile.cgroups, *profile.slices)
    if not members:
        raise UsageError(
            "a profile needs somebody who belongs to it",
            hint="name at least one of --user, --cgroup, --slice",
        )
    if len(members) > MAX_MEMBERS:
        raise UsageError(
            f"a profile has at most {MAX_MEMBERS} members", hint="put them into one slice"
        )
    for user in profile.users:
        if not _USER.fullmatch(user):
            raise UsageError(f"{user[:40]!r} is no user", hint="give a name or number: --user anna")
    for text in profile.cgroups:
        check_cgroup(text)
    for text in profile.slices:
        if not _SLICE.fullmatch(text) or len(text) > 255:
            raise UsageError(
                f"{text[:40]!r} is no slice", hint="give it like: --slice user-1000.slice"
            )
    return profile


def check_cgroup(text: str) -> None:
    """Raise UsageError where it is no path of a cgroup below the root."""
    parts = text.split("/")
    sound = text.startswith("/") and text.isprintable() and len(text.encode()) < 4096
    if not sound or any(part in ("", ".", "..") or len(part) > 255 for part in parts[1:]):
        raise UsageError(
            f"{text[:60]!r} is no cgroup that can be limited",
            hint="give its path from the root of cgroup v2: --cgroup /system.slice/x.service",
        )


def parse(data: bytes, name: str) -> Profile:
    """Return the profile that a file holds.

    Args:
        data: Its content.
        name: The profile it must be of.

    Raises:
        StateError: It is damaged, of a later version, or of another profile.
    """
    try:
        found = strictjson.loads(data)
        profile = _from_dict(found)
        if profile.name != name:
            raise ValueError("it has another name inside")
        return check(profile)
    except UsageError as error:
        reason = error.message
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error)
    raise StateError(
        f"the profile {name} is damaged",
        hint=f"make it again: aegisbpf profile delete {name}; then aegisbpf profile create",
        detail=reason,
    )


def _from_dict(found: Any) -> Profile:
    if not isinstance(found, dict) or set(found) != _KEYS:
        raise ValueError("its keys are not those of a profile")
    if not strictjson.is_integer(found["version"], VERSION, VERSION):
        raise ValueError("it is of another version")
    if not isinstance(found["name"], str) or not isinstance(found["limits"], dict):
        raise ValueError("its name or limits are none")
    users, cgroups, slices = (strictjson.texts(found[k]) for k in ("users", "cgroups", "slices"))
    limits = {name: _limit(name, value) for name, value in found["limits"].items()}
    return Profile(found["name"], users, cgroups, slices, limits)


def _limit(name: str, value: Any) -> Limit:
    if name not in KINDS or not isinstance(value, dict) or set(value) != {"threshold", "action"}:
        raise ValueError("a limit is none")
    if not strictjson.is_integer(value["threshold"], 1, MOST):
        raise ValueError("a threshold is none")
    return make_limit(KINDS[name], value["threshold"], Action(value["action"]))
