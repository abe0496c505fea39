"""The record of an incident: what was seen and done, when, and how it ended.

It is written at every step, so a kill at any instant loses at most the step that was running. A
record that cannot be written never stops a recovery: it stays in memory, and ``problem`` says why.
Nothing is written before the first action: a look at a healthy host leaves no record.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from aegis_tools import __version__
from aegis_tools.control import bootclock, files
from aegis_tools.control.bootclock import Seams
from aegis_tools.errors import StateError, UsageError
from aegis_tools.incident import content
from aegis_tools.incident.content import RESULTS, SCENARIOS, Content
from aegis_tools.incident.redact import redact
from aegis_tools.incident.shelf import Shelf
from aegis_tools.paths import Paths

CONTINUED_FOR = 86400
"""Seconds for which an open record is taken up again."""
MAX_FILE = 1 << 20
MAX_FILES = 16 << 20


class Record:
    """One incident; made by ``begin`` or ``open``, let go by ``close`` or the end of a ``with``.

    Attributes:
        continued: It was begun by an earlier run, which did not end it.
        dry_run: Nothing is written.
        problem: Why it could not be written, last; empty where it could.
    """

    def __init__(
        self, paths: Paths, shelf: Shelf, held: Content, fd: int | None, clock: Seams
    ) -> None:
        self._paths = paths
        self._shelf = shelf
        self._content = held
        self._fd = fd
        self._clock = clock
        self._waiting: dict[str, bytes] = {}
        self._placed = fd is not None
        self._unsaved = False
        self.continued = fd is not None
        self.dry_run = False
        self.problem = ""

    @classmethod
    def begin(
        cls,
        paths: Paths,
        scenario: str,
        *,
        clock: Seams = bootclock.SYSTEM,
        dry_run: bool = False,
        calls: files.Calls = files.SYSTEM,
    ) -> Record:
        """Take up the open record of a scenario, or begin a new one; never raises StateError.

        An open one is taken up when it is younger than a day and no other run has it. One that
        began in the future, by a clock that was wrong, is another incident's.

        Args:
            paths: Where records are.
            scenario: One of ``content.SCENARIOS``.
            clock: Time.
            dry_run: Write nothing.
            calls: The system calls that write.
        """
        if scenario not in SCENARIOS:
            raise ValueError(f"no scenario: {scenario}")
        shelf = Shelf(paths, calls=calls)
        now = clock.wall()
        for held in shelf.open_ones(scenario, since=now - CONTINUED_FOR, until=now + CONTINUED_FOR):
            record = cls._take_up(paths, shelf, held.id, clock, dry_run)
            if record is not None:
                return record
        record = cls(paths, shelf, _new(paths, scenario, clock), None, clock)
        record.dry_run = dry_run
        return record

    @classmethod
    def open(
        cls,
        paths: Paths,
        identifier: str,
        *,
        clock: Seams = bootclock.SYSTEM,
        calls: files.Calls = files.SYSTEM,
    ) -> Record:
        """Open a record to add to it, whether it has ended or not.

        Raises:
            UsageError: There is no such record.
            StateError: It cannot be read, or another run has it.
        """
        shelf = Shelf(paths, calls=calls)
        shelf.read(identifier)
        fd = shelf.claim(identifier)
        if fd is None:
            raise StateError(
                f"incident {identifier} is being worked on by another command",
                hint="wait for it to end, then run this again",
            )
        try:
            return cls(paths, shelf, shelf.read(identifier), fd, clock)  # as it is now that we hold
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def _take_up(
        cls, paths: Paths, shelf: Shelf, identifier: str, clock: Seams, dry_run: bool
    ) -> Record | None:
        try:
            if dry_run:
                record = cls(paths, shelf, shelf.read(identifier), None, clock)
                record.continued = record.dry_run = True
                return record
            record = cls.open(paths, identifier, clock=clock, calls=shelf.calls)
        except (StateError, UsageError):  # or it has gone meanwhile
            return None
        if not record._content.open:  # ended between our look and our claim
            record.release()
            return None
        shelf.tidy(identifier)
        return record

    @property
    def id(self) -> str:
        """``20261121T170102Z-blocking``; settled with the first action, when its folder is made."""
        return self._content.id

    @property
    def scenario(self) -> str:
        """Of SCENARIOS."""
        return self._content.scenario

    @property
    def kept(self) -> bool:
        """Whether the host has it on its disk."""
        return self._placed and not self.problem

    @property
    def result(self) -> str:
        """How it ended; empty while it is open."""
        return self._content.result

    def fact(self, name: str, value: Any) -> None:
        """Keep evidence; written with the next action. A later value of the name replaces it.

        Args:
            name: Short and stable: ``mode_before``.
            value: Anything JSON can have (NamedTuple, Path and bytes are converted), without
                secrets, cut at 64 KiB.
        """
        self._content.know(name, value)
        self._unsaved = True

    def get(self, name: str, default: Any = None) -> Any:
        """Return a fact: also one that an earlier run kept, as JSON has it."""
        return self._content.facts.get(name, default)

    def rule(self, rule: Mapping[str, Any]) -> None:
        """Keep the provenance of a rule; written with the next action.

        Args:
            rule: ``id`` (one of the same id is replaced), ``text``, ``since``, ``applied_by``,
                ``signers``, ``policy`` (digest), ``hits``, ``processes`` (a list of texts),
                ``operations``: what is known of it.
        """
        self._content.blame(rule)
        self._unsaved = True

    def doing(self, action: str, message: str, **data: Any) -> None:
        """Say, on the disk, that something is about to be done.

        The ``did`` of the same action replaces it; one that stays was cut off by a kill.
        """
        self._add(action, message, None, data)

    def did(self, action: str, message: str, ok: bool = True, **data: Any) -> None:
        """Write an action down, at once.

        Args:
            action: A stable word: ``audit``, ``remove-rule``.
            message: What was done, for a person, in one line.
            ok: Whether it worked.
            data: Details: numbers, texts.
        """
        self._add(action, message, ok, data)

    def saw(self, action: str, message: str, ok: bool = True, **data: Any) -> None:
        """Write a look down: what changed nothing, and alone is no reason to keep a record.

        Args:
            action: A stable word: ``verifier``, ``probe``.
            message: What was seen, for a person, in one line.
            ok: Whether looking worked; what was seen may be as bad as it likes.
            data: Details.
        """
        self._add(action, message, ok, data, changes=False)

    def done(self, action: str) -> bool:
        """Return whether that action was done, by this run or one that it continues."""
        return any(one["action"] == action and one["ok"] is True for one in self._content.actions)

    def follow_up(self, text: str) -> None:
        """Keep what is left to do, for a person; written with the next action."""
        self._content.follow(text)
        self._unsaved = True

    def file(self, name: str, data: bytes | str) -> None:
        """Keep a text as an evidence file, without secrets; of a long one the end is kept.

        At most 1 MiB each and 16 MiB together. What is no text is not kept, but mentioned.

        Args:
            name: ``journal.txt``; one of the same name is replaced.
            data: UTF-8, or nearly.
        """
        name = re.sub(r"[^A-Za-z0-9._-]", "_", name, flags=re.ASCII).lstrip(".-")[:100] or "file"
        raw = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
        known = sum(one["bytes"] for one in self._content.files if one["name"] != name)
        kept, cut = _fit(raw, min(MAX_FILE, MAX_FILES - known))
        digest = hashlib.sha256(kept).hexdigest()
        self._content.enclose({"name": name, "bytes": len(kept), "sha256": digest, "cut": cut})
        self._unsaved = True
        if not self.dry_run:
            self._waiting[name] = kept
            self._flush()

    def close(self, result: str) -> None:
        """End the incident. One in which nothing was done is not kept.

        A run that finds ``nothing-to-do`` after an earlier one had acted has recovered the host.

        Args:
            result: ``recovered``, ``not-recovered`` or ``nothing-to-do``.
        """
        if result not in RESULTS:
            raise ValueError(f"no result: {result}")
        if result == "nothing-to-do" and self.continued and self._content.acted:
            result = "recovered"
        now = self._clock.wall()
        self._content.result = result
        self._content.ended = now
        self._content.duration = round(self._elapsed(now), 3)
        if self._placed or result != "nothing-to-do":
            self._save()
        self.release()

    def release(self) -> None:
        """Let another run have it; it stays open unless it was closed."""
        if self._fd is not None:
            if self._unsaved:
                self._save()
            if self.problem:
                self._shelf.drop_empty(self.id)
            os.close(self._fd)
            self._fd = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as the file has it: ``incident.schema.json``."""
        return self._content.to_dict()

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _add(
        self,
        action: str,
        message: str,
        ok: bool | None,
        data: Mapping[str, Any],
        *,
        changes: bool = True,
    ) -> None:
        now = self._clock.wall()
        line = content.entry(
            now, self._elapsed(now), action, message, ok=ok, changes=changes, data=data
        )
        self._content.act(line)
        if changes or self._placed:
            self._save()

    def _elapsed(self, now: float) -> float:
        """Return seconds since it began, by the boot clock where it is the same boot."""
        boot = self._content.boot
        if boot["id"] and boot["id"] == bootclock.boot_id(self._paths):
            return max(0.0, (self._clock.boot_ns() - int(boot["ns"])) / 1e9)
        return max(0.0, now - self._content.began)

    def _save(self) -> None:
        if self.dry_run:
            return
        try:
            if not self._placed:
                self._fd = self._shelf.make(self._content)
                self._placed = True
                with contextlib.suppress(StateError, OSError):
                    self._shelf.prune(self.id)
            self._shelf.write(self._content)
            self._unsaved = False
            self.problem = ""
        except (StateError, OSError) as error:
            self.problem = error.message if isinstance(error, StateError) else str(error)
        self._flush()

    def _flush(self) -> None:
        if self._fd is None:
            return
        for name in list(self._waiting):
            try:
                self._shelf.write_file(self.id, name, self._waiting[name])
            except (StateError, OSError) as error:
                self.problem = error.message if isinstance(error, StateError) else str(error)
                return
            del self._waiting[name]


def _new(paths: Paths, scenario: str, clock: Seams) -> Content:
    now = clock.wall()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    return Content(
        id=f"{stamp}-{scenario}",
        scenario=scenario,
        host=content.text(socket.gethostname(), 200),
        kernel=os.uname().release,
        version=__version__,
        began=now,
        boot={"id": bootclock.boot_id(paths), "ns": clock.boot_ns()},
        by={"uid": os.getuid(), "sudo_user": content.text(os.environ.get("SUDO_USER", ""), 64)},
    )


def _fit(data: bytes, room: int) -> tuple[bytes, bool]:
    """Return what is kept of a file, and whether that is not all of it."""
    if b"\0" in data[:65536]:
        return b"[not kept: this is no text; it had %d bytes]\n" % len(data), True
    end = data[-MAX_FILE:]
    kept = redact(end.decode("utf-8", "replace")).encode()
    cut = len(data) > len(end) or len(kept) > room
    if not cut:
        return kept, False
    note = b"[cut: only the end of %d bytes]\n" % len(data)
    left = max(0, room - len(note))
    return (note + kept[len(kept) - left :] if left else note), True
