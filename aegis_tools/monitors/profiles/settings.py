"""What the kernel is told for limits, in files of cgroup v2: planned, made, and taken back.

``memory.high`` slows allocations down and reclaims, ``memory.max`` has the kernel kill a process of
the cgroup, ``pids.max`` refuses new ones, ``io.max`` holds requests of each disk back
(admin-guide/cgroup-v2).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aegis_tools.errors import KernelError
from aegis_tools.monitors.profiles import disks
from aegis_tools.monitors.profiles.hierarchy import Hierarchy, Target, read
from aegis_tools.monitors.profiles.ledger import IO_MAX, SUBTREE, Entry, Ledger
from aegis_tools.monitors.profiles.model import (
    DISK_BANDWIDTH,
    MEMORY,
    PROCESSES,
    Action,
    Limit,
    Profile,
)

PAGE = 4096
_FILES = {
    (MEMORY, Action.THROTTLE): "memory.high",
    (MEMORY, Action.TERMINATE): "memory.max",
    (PROCESSES, Action.THROTTLE): "pids.max",
    (DISK_BANDWIDTH, Action.THROTTLE): IO_MAX,
}
_ALSO = {"io": "memory"}
"""What is written later, from the page cache, is a cgroup's own with both controllers only."""


@dataclass(frozen=True)
class Setting:
    """A file of a cgroup, and what it is to say.

    Attributes:
        cgroup: Its path.
        number: Its id.
        file: ``memory.high`` and so on, or ``cgroup.subtree_control``.
        value: What it is to say; of the latter the controller.
        profile: For whom.
    """

    cgroup: str
    number: int
    file: str
    value: str
    profile: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What no two settings share."""
        return self.entry("").key

    def entry(self, before: str) -> Entry:
        """Return what is remembered of it."""
        return Entry(self.cgroup, self.number, self.file, before, self.value, self.profile)

    def text(self) -> str:
        """Return it for a person."""
        value = f"+{self.value}" if self.file == SUBTREE else self.value
        return f"{self.cgroup}: {self.file} = {value}"


@dataclass
class Outcome:
    """What a run has done.

    Attributes:
        made: Settings that were not there.
        undone: Entries whose file says again what it said before.
        left: Entries that somebody else has changed since: they stay as they are.
    """

    made: list[Setting] = field(default_factory=list)
    undone: list[Entry] = field(default_factory=list)
    left: list[Entry] = field(default_factory=list)


def file_of(limit: Limit) -> str:
    """Return the file that a limit needs; empty where it needs none."""
    return _FILES.get((limit.kind, limit.action), "")


def needed(hierarchy: Hierarchy, limit: Limit) -> str:
    """Return the file that a limit is set by here; empty where a watcher alone acts on it.

    Raises:
        KernelError: It needs a controller that cgroup v2 has not here.
    """
    file = file_of(limit)
    if not file:
        return ""
    controller = file.partition(".")[0]
    if limit.action is Action.TERMINATE and controller not in hierarchy.available():
        return ""
    hierarchy.check(controller)
    return file


def wanted(hierarchy: Hierarchy, profiles: Iterable[tuple[Profile, list[Target]]]) -> list[Setting]:
    """Return all settings of profiles, controllers first; of two for one file the lower.

    What this host cannot do is left out: that was refused when the limit was set.
    """
    found: dict[tuple[str, str, str], tuple[int, Setting]] = {}
    above: dict[tuple[str, str, str], Setting] = {}
    for profile, targets in profiles:
        for limit in profile.limits.values():
            try:
                file = needed(hierarchy, limit)
            except KernelError:
                continue
            for target in [one for one in targets if one.number]:
                for controller in _controllers(hierarchy, limit, file):
                    for one in _on(hierarchy, target.cgroup, controller, profile.name):
                        above.setdefault(one.key, one)
                for value in _values(hierarchy, limit) if file else ():
                    one = Setting(target.cgroup, target.number, file, value, profile.name)
                    if one.key not in found or limit.threshold < found[one.key][0]:
                        found[one.key] = limit.threshold, one
    first = sorted(above.values(), key=lambda one: one.cgroup.rstrip("/").count("/"))
    return [*first, *(one for _, one in found.values())]


def _values(hierarchy: Hierarchy, limit: Limit) -> Iterator[str]:
    """Yield what a limit's file is to say, as the kernel keeps it: memory in whole pages."""
    if limit.kind is MEMORY:
        yield str(max(limit.threshold // PAGE, 1) * PAGE)
    elif limit.kind is DISK_BANDWIDTH:
        rate = max(limit.threshold // 8, 1)
        for disk in disks.disks(hierarchy.block):
            yield disks.limit(disk, rate, rate)
    else:
        yield str(limit.threshold)


def _controllers(hierarchy: Hierarchy, limit: Limit, file: str) -> list[str]:
    """Return the controllers that have to be on for a limit, to be held or only measured."""
    needs = "io" if limit.kind is DISK_BANDWIDTH else file.partition(".")[0]
    able = hierarchy.available() if needs else frozenset()
    return [one for one in (needs, _ALSO.get(needs, "")) if one in able]


def _on(hierarchy: Hierarchy, cgroup: str, controller: str, profile: str) -> Iterator[Setting]:
    """Yield what has a controller on in a cgroup: it has to be in all above it."""
    parts = cgroup.strip("/").split("/")
    for depth in range(len(parts)):
        above = "/" + "/".join(parts[:depth])
        try:
            number = hierarchy.path(above).stat().st_ino
        except FileNotFoundError:
            return
        yield Setting(above, number, SUBTREE, controller, profile)


def write_file(path: Path, text: str) -> None:
    """Write a file of a cgroup. Raises OSError."""
    # No O_CREAT: a cgroup's folder is no place for files of ours.
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)


class Settings:
    """Makes files of cgroups say what limits want.

    Args:
        hierarchy: The tree.
        ledger: What was changed before. Who calls holds the lock.
        write: Writes a file of a cgroup; a test has it fail.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        ledger: Ledger,
        write: Callable[[Path, str], None] = write_file,
    ) -> None:
        self._hierarchy = hierarchy
        self._ledger = ledger
        self._write = write

    def reconcile(self, settings: list[Setting]) -> Outcome:
        """Make these settings, and take back all others that were made.

        Harmless where it was done before, and after a run that was killed.

        Raises:
            KernelError: The kernel refuses a setting.
            StateError: The record cannot be read or written; nothing is changed that it lacks.
        """
        outcome = Outcome()
        entries = {entry.key: entry for entry in self._ledger.read()}
        keys = {one.key for one in settings}
        for entry in reversed([e for key, e in entries.items() if key not in keys]):
            self._undo(entry, outcome)
            del entries[entry.key]
            self._ledger.write(entries.values())
        for one in settings:
            self._make(one, entries, outcome)
        return outcome

    def _make(
        self, one: Setting, entries: dict[tuple[str, str, str], Entry], outcome: Outcome
    ) -> None:
        path = self._hierarchy.path(one.cgroup) / one.file
        now = _now(path, one.value)
        key = one.key
        known = entries.get(key)
        if known is not None and known.number != one.number:
            known = None
        if _says(one.file, now, one.value) and (known is None or known.wrote == one.value):
            return  # as it was before us, or as we made it
        if known is None or known.wrote != one.value:
            # What was there before us, even where we have changed it since.
            before = known.before if known else "" if one.file == SUBTREE else now
            entries[key] = one.entry(before)
            self._ledger.write(entries.values())
        self._set(path, f"+{one.value}" if one.file == SUBTREE else one.value)
        outcome.made.append(one)

    def _undo(self, entry: Entry, outcome: Outcome) -> None:
        folder = self._hierarchy.path(entry.cgroup)
        try:
            same = folder.stat().st_ino == entry.number
        except FileNotFoundError:
            same = False
        if not same:
            return  # it went, and the setting with it
        now = _now(folder / entry.file, entry.wrote)
        if not _says(entry.file, now, entry.wrote):
            if entry.file != SUBTREE and now != entry.before:
                outcome.left.append(entry)
            return
        try:
            self._write(
                folder / entry.file,
                f"-{entry.wrote}" if entry.file == SUBTREE else entry.before,
            )
            outcome.undone.append(entry)
        except OSError as error:
            if entry.file != SUBTREE and error.errno not in (errno.ENOENT, errno.ENODEV):
                raise _refused(error) from None
            outcome.left.append(entry)  # somebody else uses the controller by now

    def _set(self, path: Path, text: str) -> None:
        try:
            self._write(path, text)
        except (FileNotFoundError, NotADirectoryError) as error:
            if path.parent.is_dir():
                raise _refused(error) from None
        except OSError as error:
            if error.errno != errno.ENODEV:  # the cgroup goes at this moment
                raise _refused(error) from None


def _now(path: Path, value: str) -> str:
    """Return what a file says, of ``io.max`` what it says of the disk that a value is for."""
    text = read(path)
    return disks.limited(text, value.partition(" ")[0]) if path.name == IO_MAX else text


def _says(file: str, now: str, value: str) -> bool:
    return value in now.split() if file == SUBTREE else now == value


def _refused(error: OSError) -> KernelError:
    if error.errno == errno.EBUSY:
        return KernelError(
            "the kernel cannot control a cgroup whose parent has processes of its own",
            hint="limit the parent, or move its processes into a cgroup below it",
            detail=str(error),
        )
    return KernelError(
        "the kernel refused a limit",
        hint="is the cgroup of another namespace or container? run it again with --verbose",
        detail=str(error),
    )
