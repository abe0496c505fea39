"""Where records are kept: ``/var/lib/aegisbpf/incidents/<id>/record.json``, evidence beside it.

The script that breaks the glass leaves a ``record.txt`` instead (``incident.glass``).

Who writes a record holds an ``flock`` on its folder, so two runs never write the same one; the
kernel lets go of it when the run dies, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aegis_tools.control import files
from aegis_tools.errors import StateError, UsageError
from aegis_tools.incident import content, glass
from aegis_tools.incident.content import Content
from aegis_tools.paths import Paths

RECORD = "record.json"
EVIDENCE = "evidence"
MAX_RECORDS = 100
MAX_BYTES = 256 << 20
_WHAT = "incident record"
_MOST_NAMES = 10000


@dataclass(frozen=True)
class Found:
    """A record in the list.

    Attributes:
        id: Its folder's name.
        content: What it holds; None where that cannot be read.
        fault: Why it cannot be read.
    """

    id: str
    content: Content | None
    fault: str = ""


class Shelf:
    """The folder of all records.

    Args:
        paths: Where it is.
        calls: The system calls that write.
    """

    def __init__(self, paths: Paths, *, calls: files.Calls = files.SYSTEM) -> None:
        self._root = paths.incidents
        self.calls = calls

    def folder(self, identifier: str) -> Path:
        """Return the folder of a record."""
        return self._root / identifier

    def ids(self) -> list[str]:
        """Return the ids of all records, newest first.

        Raises:
            StateError: They cannot be listed.
        """
        try:
            with os.scandir(self._root) as entries:
                names = [
                    one.name
                    for _, one in zip(range(_MOST_NAMES), entries, strict=False)
                    if content.ID.fullmatch(one.name) and one.is_dir(follow_symlinks=False)
                ]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StateError(
                "cannot list the incident records", hint="run the command as root",
                detail=str(error),
            ) from error  # fmt: skip
        return sorted(names, key=_order, reverse=True)

    def read(self, identifier: str) -> Content:
        """Return what a record holds.

        Raises:
            UsageError: There is no such record.
            StateError: It cannot be read, or is damaged.
        """
        folder = self.folder(identifier)
        if not content.ID.fullmatch(identifier) or folder.is_symlink() or not folder.is_dir():
            raise UsageError(
                f"there is no incident {files.printable(identifier, 80)}",
                hint="run: aegisbpf incident list",
            )
        name, limit, parse = RECORD, content.MAX_JSON, content.parse
        if _is_of(identifier, glass.SCENARIO) and not files.exists(folder / RECORD):
            name, limit, parse = glass.RECORD, glass.MAX_BYTES, partial(glass.parse, identifier)
        data = files.read_limited(
            folder / name, limit, what=_WHAT, owners={0, os.geteuid()}, forbid=files.OTHERS_WRITE
        )
        try:
            found = parse(data)
        except ValueError as error:
            raise StateError(
                f"the {_WHAT} {identifier} is damaged", hint=files.IN_THE_WAY,
                detail=f"{folder}: {error}",
            ) from error  # fmt: skip
        if found.id != identifier:
            raise StateError(
                f"the {_WHAT} {identifier} is that of another incident", hint=files.IN_THE_WAY
            )
        return found

    def all(self) -> Iterator[Found]:
        """Yield all records, newest first; those that cannot be read say why.

        Raises:
            StateError: They cannot be listed.
        """
        for identifier in self.ids():
            try:
                yield Found(identifier, self.read(identifier))
            except (StateError, UsageError) as error:
                yield Found(identifier, None, error.message)

    def open_ones(self, scenario: str, *, since: float, until: float) -> Iterator[Content]:
        """Yield the records of a scenario that have not ended and began then, newest first."""
        with contextlib.suppress(StateError):
            for identifier in self.ids():
                if not _is_of(identifier, scenario):
                    continue
                with contextlib.suppress(StateError, UsageError):
                    found = self.read(identifier)
                    if found.open and found.scenario == scenario and since <= found.began <= until:
                        yield found

    def claim(self, identifier: str) -> int | None:
        """Return a descriptor that holds a record for writing; None where another run has it.

        Raises:
            StateError: The folder is not ours.
        """
        files.ensure_folder(self.folder(identifier))
        try:
            fd = os.open(self.folder(identifier), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                         | os.O_CLOEXEC)  # fmt: skip
        except OSError as error:
            raise _cannot(error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        return fd

    def make(self, found: Content) -> int:
        """Make a folder for a new record, under an id that is free; return what holds it.

        ``found.id`` gets ``-2`` and so on where the second holds another.

        Raises:
            StateError: It cannot be made.
        """
        files.ensure_folder(self._root)
        base = found.id
        for number in range(1, 1000):
            found.id = base if number == 1 else f"{base}-{number}"
            try:
                self.folder(found.id).mkdir(mode=0o700)
            except FileExistsError:
                continue
            except OSError as error:
                raise _cannot(error) from error
            if (fd := self.claim(found.id)) is not None:
                self._sync()
                return fd
        raise StateError(
            "cannot make an incident record: there are too many of this second",
            hint="run the command again",
        )

    def _sync(self) -> None:
        """Let a new folder outlive a loss of power, as what is written into it will."""
        with contextlib.suppress(OSError):  # a disk that fails shows with the record itself
            fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self.calls.fsync(fd)
            finally:
                os.close(fd)

    def write(self, found: Content) -> None:
        """Write a record, whole or not at all. The caller has claimed it.

        Raises:
            StateError: It cannot be written; what was there before is still there.
        """
        path = self.folder(found.id) / RECORD
        files.write_atomic(path, found.to_bytes(), what=_WHAT, calls=self.calls)

    def write_file(self, identifier: str, name: str, data: bytes) -> None:
        """Write an evidence file. The caller has claimed the record.

        Raises:
            StateError: It cannot be written.
        """
        folder = self.folder(identifier) / EVIDENCE
        files.ensure_folder(folder)
        files.write_atomic(folder / name, data, what="evidence file", calls=self.calls)

    def tidy(self, identifier: str) -> None:
        """Remove what killed writers left in a record's folder. The caller has claimed it."""
        with contextlib.suppress(OSError):
            for folder in (self.folder(identifier), self.folder(identifier) / EVIDENCE):
                if folder.is_dir() and not folder.is_symlink():
                    files.remove_leftovers(folder)

    def drop_empty(self, identifier: str) -> None:
        """Remove the folder of a record of which nothing could be written. The caller has it."""
        self.tidy(identifier)
        for folder in (self.folder(identifier) / EVIDENCE, self.folder(identifier)):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def prune(self, keep: str) -> list[str]:
        """Remove the oldest while there are too many or too much; return the ids of those.

        Closed ones go first, then those that cannot be read, then open ones; never ``keep``, and
        never one that a run holds.
        """
        found = [one for one in self.all() if one.id != keep]
        sizes = {one.id: _size(self.folder(one.id)) for one in found}
        many, much = len(found) + 1, sum(sizes.values()) + _size(self.folder(keep))
        gone = []
        found.reverse()  # oldest first
        for one in sorted(found, key=_worth):
            if many <= MAX_RECORDS and much <= MAX_BYTES:
                break
            if self._remove(one.id):
                many, much = many - 1, much - sizes[one.id]
                gone.append(one.id)
        return gone

    def _remove(self, identifier: str) -> bool:
        with contextlib.suppress(OSError, StateError):
            fd = self.claim(identifier)
            if fd is not None:
                try:
                    shutil.rmtree(self.folder(identifier))
                finally:
                    os.close(fd)
                return True
        return False


def _order(identifier: str) -> tuple[str, str, int]:
    """Order ids by time, and -10 after -9."""
    time, _, rest = identifier.partition("-")
    name, _, number = rest.rpartition("-")
    return (time, name, int(number)) if number.isdecimal() and name else (time, rest, 1)


def _is_of(identifier: str, scenario: str) -> bool:
    _, name, _ = _order(identifier)
    return name == scenario


def _worth(found: Found) -> int:
    return 1 if found.content is None else 2 if found.content.open else 0


def _size(folder: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):
        for where in (folder, folder / EVIDENCE):
            with os.scandir(where) as entries:
                for _, one in zip(range(_MOST_NAMES), entries, strict=False):
                    if one.is_file(follow_symlinks=False):
                        total += one.stat(follow_symlinks=False).st_size
    return total


def _cannot(error: OSError) -> StateError:
    return StateError(
        f"cannot make an incident record: {(error.strerror or 'unknown reason').lower()}",
        hint="free some space, or see: df",
        detail=str(error),
    )
