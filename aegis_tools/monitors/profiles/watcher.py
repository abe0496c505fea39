"""Watches limits: one ``step`` a second or so makes the kernel hold them, measures, acts, tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from aegis_tools.control.lock import locked
from aegis_tools.errors import AegisError
from aegis_tools.monitors.profiles import decide, enforce
from aegis_tools.monitors.profiles.bandwidth import Bandwidth
from aegis_tools.monitors.profiles.decide import Decision, Measure, State
from aegis_tools.monitors.profiles.hierarchy import Hierarchy, Target
from aegis_tools.monitors.profiles.measure import Feed, Reader
from aegis_tools.monitors.profiles.model import Action, Limit, Profile
from aegis_tools.monitors.profiles.processes import end, look
from aegis_tools.monitors.profiles.settings import file_of, needed
from aegis_tools.monitors.profiles.store import ProfileStore
from aegis_tools.paths import Paths

Event = dict[str, Any]
AGAIN = 5.0
"""Seconds after which what the kernel was told is looked at again: systemd may have changed it."""
_ACTIONS = ("throttled", "terminated")


@dataclass
class Level:
    """How a limit stands.

    Attributes:
        limit: Which.
        value: What was measured last.
        over: It is exceeded.
        actions: How often somebody was throttled or ended for it.
    """

    limit: Limit
    value: int = 0
    over: bool = False
    actions: int = 0


class Watcher:
    """Watches the limits of all profiles of a host.

    ``step`` never raises an ``AegisError``: what goes wrong is told as an event of its own and
    tried again at the next step.

    Args:
        paths: Where profiles and records are.
        emit: Is given each event (limit.schema.json); it must not block.
        feed: What the monitors tell; the same object that the reader of events fills.
        seams: Clock, users, processes, cgroups.

    Attributes:
        levels: How each limit stands, by profile and kind.
    """

    def __init__(
        self,
        paths: Paths,
        emit: Callable[[Event], None],
        *,
        feed: Feed | None = None,
        seams: enforce.Seams = enforce.SYSTEM,
    ) -> None:
        self.feed = feed or Feed()
        self.levels: dict[tuple[str, str], Level] = {}
        self._paths = paths
        self._emit = emit
        self._seams = seams
        self._hierarchy = seams.hierarchy()
        self._bandwidth = Bandwidth(paths, self._hierarchy)
        self._reader = Reader(self._hierarchy, self._bandwidth, self.feed, seams.proc)
        self._states: dict[tuple[tuple[str, str], Limit], State] = {}
        self._plan: enforce.Plan | None = None
        self._again = 0.0
        self._last: float | None = None
        self._troubles: dict[str, str] = {}

    def step(self) -> list[Event]:
        """Do it once; return the events that were told."""
        told: list[Event] = []
        now = self._seams.clock()
        elapsed = now - self._last if self._last is not None else 0.0
        self._last = now
        store = ProfileStore(self._paths)
        profiles, damaged = store.load_all()
        for one in damaged:
            self._trouble(told, one.name, one.error)
        for name in {*self._troubles} - {"", *(one.name for one in damaged)}:
            del self._troubles[name]
        found = enforce.resolve(profiles, self._hierarchy, self._seams)
        self._set_members(found)
        # While one cannot be read, what it asks for is unknown: nothing may be taken back then.
        if not damaged:
            self._enforce(told, enforce.plan(self._hierarchy, found), now)
        alive = set()
        for profile, targets in found:
            for limit, measure in self._reader.measure(profile, targets, elapsed):
                key = (profile.name, limit.kind.name)
                alive.add(key)
                self._judge(told, (profile, targets), limit, measure, now)
        self._states = {key: state for key, state in self._states.items() if key[0] in alive}
        self.levels = {key: level for key, level in self.levels.items() if key in alive}
        for event in told:
            self._emit(event)
        return told

    def _judge(
        self,
        told: list[Event],
        whose: tuple[Profile, list[Target]],
        limit: Limit,
        measure: Measure,
        now: float,
    ) -> None:
        profile, _ = whose
        key = (profile.name, limit.kind.name)
        by_kernel = _by_kernel(self._hierarchy, limit)
        state, decision = decide.decide(
            limit, measure, self._states.get((key, limit), State()), now, by_kernel=by_kernel
        )
        # Another threshold or action begins anew, however fast it came.
        self._states = {one: kept for one, kept in self._states.items() if one[0] != key}
        self._states[key, limit] = state
        level = self.levels.setdefault(key, Level(limit))
        level.limit, level.value, level.over = limit, measure.value, state.active
        if decision.change is not None:
            done = self._act(limit, measure, decision, whose, by_kernel=by_kernel)
            level.actions += done in _ACTIONS
            told.append(
                {
                    "time": self._time(),
                    "event": "limit",
                    "state": decision.change.value,
                    "profile": profile.name,
                    **described(limit, measure),
                    "done": done,
                }
            )

    def _act(
        self,
        limit: Limit,
        measure: Measure,
        decision: Decision,
        whose: tuple[Profile, list[Target]],
        *,
        by_kernel: bool,
    ) -> str:
        if decision.change is decide.Change.ENDED or limit.action is Action.ALERT:
            return "nothing"
        if limit.action is Action.THROTTLE:
            return "throttled" if not file_of(limit) or by_kernel else "failed"
        if by_kernel:
            return "terminated" if measure.killed else "nothing"
        if not decision.terminate or measure.process is None:
            return "nothing"
        ended = end(measure.process, lambda pid: self._belongs(pid, whose), proc=self._seams.proc)
        return "terminated" if ended else "failed"

    def _belongs(self, pid: int, whose: tuple[Profile, list[Target]]) -> bool:
        """Return whether a process is in a cgroup of a profile, or of one of its users."""
        profile, targets = whose
        seen = look(pid, self._seams.proc)
        users = {self._seams.uid_of(user) for user in profile.users}
        return seen is not None and (seen.process.uid in users or pid in self._reader.pids(targets))

    def _enforce(self, told: list[Event], plan: enforce.Plan, now: float) -> None:
        """Make the plan where it is another, or was made a while ago, or could not be made."""
        if plan == self._plan and now < self._again:
            return
        self._plan, self._again = None, now + AGAIN
        try:
            with locked(self._paths.lock, command="monitor limits", timeout=0.2):
                enforce.enforce(self._paths, self._hierarchy, plan)
            self._plan = plan
            self._troubles.pop("", None)
        except AegisError as error:
            self._trouble(told, "", error)

    def _trouble(self, told: list[Event], profile: str, error: AegisError) -> None:
        """Tell of an error once, until it is another."""
        if self._troubles.get(profile) != error.message:
            self._troubles[profile] = error.message
            told.append(
                {
                    "time": self._time(),
                    "event": "limit-trouble",
                    "profile": profile or None,
                    "message": error.message,
                    "hint": error.hint,
                }
            )

    def _set_members(self, found: list[tuple[Profile, list[Target]]]) -> None:
        users: dict[int, set[str]] = {}
        cgroups: dict[int, set[str]] = {}
        for profile, targets in found:
            for user in profile.users:
                uid = self._seams.uid_of(user)
                if uid is not None:
                    users.setdefault(uid, set()).add(profile.name)
            for target in targets:
                for folder in self._hierarchy.below(target.cgroup) if target.number else ():
                    try:
                        cgroups.setdefault(folder.stat().st_ino, set()).add(profile.name)
                    except FileNotFoundError:
                        continue
        self.feed.set_members(users, cgroups)

    def _time(self) -> str:
        at = datetime.fromtimestamp(self._seams.wall(), timezone.utc)
        return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _by_kernel(hierarchy: Hierarchy, limit: Limit) -> bool:
    try:
        return bool(needed(hierarchy, limit))
    except AegisError:
        return False


def described(limit: Limit, measure: Measure) -> Event:
    """Return what an event says of a limit and a measure (limit.schema.json)."""
    process = measure.process
    return {
        "limit": limit.kind.name,
        "unit": limit.kind.dimension.base,
        "measured": measure.value,
        "threshold": limit.threshold,
        "action": limit.action.value,
        "device": measure.device,
        "process": asdict(process) if process else None,
        "held": measure.held,
        "killed": measure.killed,
    }
