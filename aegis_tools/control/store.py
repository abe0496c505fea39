"""The policies this host has accepted, which of them is current, and the accepted serials.

::

    <state>/bundles/<digest>.json     a signed bundle, as it came; the digest is of its payload
    <state>/bundles/<digest>.policy   an unsigned policy; the digest is of its text
    <state>/current.json              {"format": 1, "current": record, "previous": record or null}
    <state>/serials.json              see policy.trust.TrustState

Content is looked up by digest and checked against it on every read, so a stored policy is the one
that was accepted or it is refused. Whoever calls a method that writes holds the lock.
"""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aegis_tools.control import files
from aegis_tools.errors import StateError, TrustError
from aegis_tools.paths import Paths
from aegis_tools.policy import dsse, strictjson
from aegis_tools.policy.bundle import MAX_SERIAL, digest_of
from aegis_tools.policy.trust import Seen, TrustState, damaged_serials

KEPT = 10
_FORMAT = 1
_SIGNED, _PLAIN = ".json", ".policy"
_HEX = re.compile(r"[0-9a-f]{64}")
_MAX_RECORD = 1 << 20
_TEXTS = ("digest", "name", "group")


@dataclass(frozen=True)
class Record:
    """A policy that was applied.

    Args:
        digest: Under which it is stored, 64 hex digits.
        name: The policy's file name; its suffix decides the format.
        signed: Whether it is a signed bundle.
        applied: When, Unix seconds.
        serial: The bundle's; 0 if unsigned.
        group: The bundle's; empty if unsigned.
        signers: Key ids that had signed it.
    """

    digest: str
    name: str
    signed: bool
    applied: int
    serial: int = 0
    group: str = ""
    signers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stored:
    """The content of a stored policy: an envelope's bytes if ``signed``, else the policy's text."""

    digest: str
    signed: bool
    data: bytes


class Store:
    """The state folder of a host.

    Args:
        paths: Where it is.
        calls: The system calls that write.
    """

    def __init__(self, paths: Paths, *, calls: files.Calls = files.SYSTEM) -> None:
        self._paths = paths
        self._calls = calls
        self._owners = {0, os.geteuid()}

    @property
    def paths(self) -> Paths:
        """Where it is."""
        return self._paths

    def prepare(self) -> None:
        """Make the folders where they are missing, and sweep what killed writers left.

        Raises:
            StateError: A folder cannot be made, or others could change it.
        """
        for folder in (self._paths.state, self._paths.bundles):
            files.ensure_folder(folder)
            files.remove_leftovers(folder)

    def add(self, data: bytes, *, signed: bool, digest: str = "") -> str:
        """Store a policy and return its digest.

        Args:
            data: An envelope that was verified, or the text of an unsigned policy.
            signed: Which of the two.
            digest: Of its payload or text, where the caller has it from these very bytes.

        Raises:
            TrustError: ``signed``, without ``digest``, and it is no envelope.
            StateError: It cannot be written.
        """
        if not digest:
            digest = digest_of(dsse.Envelope.from_bytes(data).payload if signed else data)
        self._write(self._file(digest, signed), data, "stored policy")
        return digest

    def load(self, digest: str) -> Stored:
        """Return a stored policy, proven to be the one of that digest; signatures are not checked.

        Raises:
            StateError: Not stored, damaged, or of a wrong owner.
        """
        if not _HEX.fullmatch(digest):
            raise StateError("this is not a policy digest", hint="see: aegisbpf policy history")
        for signed in (True, False):
            data = files.read_if_present(
                self._file(digest, signed),
                files.MAX_POLICY,
                what="stored policy",
                owners=self._owners,
            )
            if data is not None:
                _prove(digest, data, signed=signed)
                return Stored(digest, signed, data)
        raise StateError(
            "the policy is not stored on this host any more",
            hint="apply the policy file again",
            detail=f"no stored content for {digest}",
        )

    def digests(self) -> list[str]:
        """Return the digests of the stored policies, newest first; other files are left out."""
        try:
            with os.scandir(self._paths.bundles) as found:
                times = {_digest(e.name): e.stat(follow_symlinks=False).st_mtime_ns for e in found}
        except FileNotFoundError:
            return []
        times.pop("", None)
        return sorted(times, key=lambda digest: -times[digest])

    def records(self) -> tuple[Record | None, Record | None]:
        """Return what is current, and what was before it; ``None`` where there is none.

        Raises:
            StateError: The file is damaged or of a wrong owner.
        """
        data = self._current()
        if data is None:
            return None, None
        try:
            top = strictjson.loads(data)
            if top["format"] != _FORMAT:
                raise ValueError("unknown form")
            return parse_record(top["current"]), parse_record(top["previous"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise StateError(
                "the record of the current policy is damaged",
                hint="apply the policy file again; the kernel goes on enforcing meanwhile",
                detail=str(error),
            ) from error

    def set_current(self, record: Record) -> None:
        """Make a stored policy the one that the next boot applies.

        The one before becomes the previous, unless it is the same policy. A damaged record is
        replaced: applying a policy is the way out of it.

        Raises:
            StateError: The policy is not stored, or the record cannot be written.
        """
        self.load(record.digest)
        try:
            current, previous = self.records()
        except StateError:
            current, previous = None, None
        if current is not None and current.digest != record.digest:
            previous = current
        if previous is not None and previous.digest == record.digest:
            previous = None
        self._save_records(record, previous)

    def replace_damaged(self, record: Record) -> None:
        """Make a stored policy current where the current one, or the record of it, is damaged.

        There is no previous one then: nobody may roll back to what is damaged.

        Raises:
            StateError: The policy is not stored, or the record cannot be written.
        """
        self.load(record.digest)
        self._save_records(record, None)

    def serials(self) -> TrustState:
        """Return the serials that were accepted.

        Raises:
            StateError: The file is damaged; or it is missing though a signed policy was applied
                here, or that cannot be told.
        """
        data = files.read_if_present(
            self._paths.serials, _MAX_RECORD, what="record of serials", owners=self._owners
        )
        if data is not None:
            return TrustState.from_bytes(data)
        self._current()  # what is no file at all is told as that
        try:
            known = self.records()
        except StateError as error:
            raise damaged_serials(f"serials.json is missing; {error.message}") from error
        if any(record and record.signed for record in known):
            raise damaged_serials("serials.json is missing, current.json has a signed policy")
        return TrustState()

    def save_serials(self, state: TrustState) -> None:
        """Remember accepted serials; called before the kernel changes, so that none is forgotten.

        Raises:
            StateError: The file cannot be written.
        """
        self._write(self._paths.serials, state.to_bytes(), "record of serials")

    def reset_serials(self) -> TrustState:
        """Start the record of serials anew, from the known signed policies: the way out of damage.

        Raises:
            StateError: The file cannot be written.
        """
        state = self.known_serials()
        self.save_serials(state)
        return state

    def known_serials(self) -> TrustState:
        """Return what the known signed policies say of serials."""
        try:
            known = self.records()
        except StateError:
            known = (None, None)
        groups: dict[str, Seen] = {}
        for record in known:
            if record and record.signed and record.serial > _serial(groups, record.group):
                groups[record.group] = Seen(record.serial, record.digest)
        return TrustState(groups)

    def prune(self, live: Collection[str] = (), keep: int = KEPT) -> list[str]:
        """Remove the oldest stored policies beyond ``keep``.

        The current one, the previous one and those of ``live`` (what the kernel's slots hold)
        always stay. Files that are not ours stay as well.

        Returns:
            The digests that were removed.

        Raises:
            StateError: The record is damaged, so nothing is removed; or a file cannot be removed.
        """
        needed = {record.digest for record in self.records() if record} | set(live)
        removed = [digest for digest in self.digests()[keep:] if digest not in needed]
        try:
            for digest in removed:
                for signed in (True, False):
                    self._file(digest, signed).unlink(missing_ok=True)
        except OSError as error:
            raise StateError(
                "cannot remove an old policy", hint="run the command as root", detail=str(error)
            ) from error
        return removed

    def _current(self) -> bytes | None:
        return files.read_if_present(
            self._paths.current, _MAX_RECORD, what="record of policies", owners=self._owners
        )

    def _file(self, digest: str, signed: bool) -> Path:
        return self._paths.bundles / (digest + (_SIGNED if signed else _PLAIN))

    def _save_records(self, current: Record | None, previous: Record | None) -> None:
        top = {
            "format": _FORMAT,
            "current": asdict(current) if current else None,
            "previous": asdict(previous) if previous else None,
        }
        self._write(self._paths.current, strictjson.dumps(top) + b"\n", "record of policies")

    def _write(self, path: Path, data: bytes, what: str) -> None:
        files.write_atomic(path, data, what=what, calls=self._calls)


def _prove(digest: str, data: bytes, *, signed: bool) -> None:
    try:
        payload = dsse.Envelope.from_bytes(data).payload if signed else data
    except TrustError as error:
        raise _damaged(error.message) from error
    if not hmac.compare_digest(digest_of(payload), digest):
        raise _damaged(f"content does not have the digest {digest}")


def _damaged(detail: str) -> StateError:
    return StateError(
        "a stored policy is damaged",
        hint="apply the policy file again; the kernel goes on enforcing meanwhile",
        detail=detail,
    )


def _digest(name: str) -> str:
    stem, dot, suffix = name.partition(".")
    return stem if _HEX.fullmatch(stem) and dot + suffix in (_SIGNED, _PLAIN) else ""


def _serial(groups: dict[str, Seen], group: str) -> int:
    return groups[group].serial if group in groups else 0


def parse_record(values: Any) -> Record | None:
    """Return a record as a file has it; ``None`` for none.

    Raises:
        ValueError, LookupError, TypeError: It is no record.
    """
    if values is None:
        return None
    record = Record(**{**values, "signers": tuple(values["signers"])})
    good = (
        all(isinstance(getattr(record, name), str) for name in _TEXTS)
        and all(isinstance(signer, str) for signer in record.signers)
        and isinstance(record.signed, bool)
        and strictjson.is_integer(record.serial, int(record.signed), MAX_SERIAL)
        and strictjson.is_integer(record.applied, 0, MAX_SERIAL)
        and _HEX.fullmatch(record.digest)
    )
    if not good:
        raise ValueError("a field is not as it must be")
    return record
