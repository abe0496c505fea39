"""A change that waits for its confirmation, as it stands in ``<state>/pending.json``.

::

    {"format": 1, "action": "policy apply", "since": 1700000000, "boot_id": "…",
     "deadline_boot_ns": 123, "was": side, "now": side, "record": record or null,
     "boot_mode": "enforce" or null, "confirmed": false, "failed": "", "failed_boot_ns": 0,
     "forced": ["rule", …]}
    side: {"digest": "64 hex digits, or empty for no policy", "mode": "audit", "serial": 0,
           "manual": ["hex", …], "absent": ["16 hex digits", …], "removed": ["16 hex digits", …],
           "back": ["16 hex digits", …]}

It is written before the kernel is touched. ``confirmed`` is the point of no return: with it,
whoever finds the file finishes the confirmation; without it, whoever finds it overdue reverts.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from aegis_tools.control import files
from aegis_tools.control.files import printable
from aegis_tools.control.store import Record, Store, parse_record
from aegis_tools.errors import StateError
from aegis_tools.kernel.layout import MANUAL_RULE, ManualRule
from aegis_tools.paths import Paths
from aegis_tools.policy import strictjson
from aegis_tools.policy.model import Mode

MAX_FILE = 32 << 20
_FORMAT = 1
_NUMBER = 2**63 - 1
_DIGEST = re.compile(r"[0-9a-f]{64}|")
_UID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Side:
    """What is, or was, in the kernel.

    Attributes:
        digest: Of the stored policy, hex; empty for none.
        mode: The host's.
        serial: Of the bundle; 0 if unsigned or none.
        manual: Rules made by hand, and modes set by hand, that the change drops or alters.
        absent: Keys of rules made by hand, and modes set by hand, that the change adds.
        removed: Uids of the policy's rules that were removed by hand.
        back: Uids of the policy's rules that the change removes by hand, and a revert brings back.
    """

    digest: str
    mode: Mode
    serial: int = 0
    manual: tuple[ManualRule, ...] = ()
    removed: frozenset[int] = frozenset()
    absent: frozenset[int] = frozenset()
    back: frozenset[int] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        """Return it as the file has it."""
        return {
            "digest": self.digest,
            "mode": self.mode.value,
            "serial": self.serial,
            "manual": [record.pack().rstrip(b"\0").hex() for record in self.manual],
            "absent": sorted(f"{uid:016x}" for uid in self.absent),
            "removed": sorted(f"{uid:016x}" for uid in self.removed),
            "back": sorted(f"{uid:016x}" for uid in self.back),
        }


@dataclass(frozen=True)
class Pending:
    """A change that is live, or about to be, and not confirmed.

    Attributes:
        action: The command that made it.
        since: When, Unix seconds.
        boot_id: On which boot.
        deadline_ns: Boot clock, ns: from here on the kernel takes enforce for audit.
        was: What a revert brings back.
        now: What a confirmation keeps.
        record: What a confirmation makes current; None where only the mode changes.
        boot_mode: The mode that a confirmation keeps for the next boot; None where none was set.
        confirmed: A confirmation has begun, and is only to be finished.
        failed: Why the last revert failed; empty without one.
        failed_ns: When, boot clock.
        forced: Rules that are enforced past the lockout proof.
        lost: Pieced together without the file, which is gone or damaged; never written.
    """

    action: str
    since: int
    boot_id: str
    deadline_ns: int
    was: Side
    now: Side
    record: Record | None = None
    boot_mode: Mode | None = None
    confirmed: bool = False
    failed: str = ""
    failed_ns: int = 0
    forced: tuple[str, ...] = ()
    lost: bool = False

    def left(self, now_ns: int) -> float:
        """Return the seconds until the deadline; negative when it has passed."""
        return (self.deadline_ns - now_ns) / 1e9

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        top = {
            "format": _FORMAT,
            "action": self.action,
            "since": self.since,
            "boot_id": self.boot_id,
            "deadline_boot_ns": self.deadline_ns,
            "was": self.was.to_dict(),
            "now": self.now.to_dict(),
            "record": asdict(self.record) if self.record else None,
            "boot_mode": self.boot_mode.value if self.boot_mode else None,
            "confirmed": self.confirmed,
            "failed": self.failed,
            "failed_boot_ns": self.failed_ns,
            "forced": list(self.forced),
        }
        return strictjson.dumps(top) + b"\n"


def overdue(pending: Pending, now_boot_ns: int) -> bool:
    """Return whether the deadline has passed, by the boot clock of the same boot.

    As the hooks see it: at the deadline itself it has not.
    """
    return now_boot_ns > pending.deadline_ns


def parse(data: bytes) -> Pending:
    """Read the file's content.

    Raises:
        ValueError: It is none.
    """
    try:
        top = strictjson.loads(data)
        if top["format"] != _FORMAT:
            raise ValueError("unknown format")
        pending = Pending(
            action=_text(top["action"]),
            since=_number(top["since"]),
            boot_id=_text(top["boot_id"]),
            deadline_ns=_number(top["deadline_boot_ns"]),
            was=_side(top["was"]),
            now=_side(top["now"]),
            record=parse_record(top["record"]),
            boot_mode=None if top["boot_mode"] is None else Mode(top["boot_mode"]),
            confirmed=_flag(top["confirmed"]),
            failed=_text(top["failed"]),
            failed_ns=_number(top["failed_boot_ns"]),
            forced=strictjson.texts(top.get("forced", [])),
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"a field is missing or of a wrong kind: {error}") from error
    if pending.record is not None and pending.record.digest != pending.now.digest:
        raise ValueError("the record is of another policy")
    return pending


def read_pending(paths: Paths) -> Pending | None:
    """Return the change that waits for its confirmation; None without one.

    Raises:
        StateError: The file is damaged, or others can change it.
    """
    owners = {0, os.geteuid()}
    data = files.read_if_present(paths.pending, MAX_FILE, what=_WHAT, owners=owners)
    if data is None:
        return None
    try:
        return parse(data)
    except ValueError as error:
        raise StateError(
            "the record of the unconfirmed change is damaged",
            hint="go back to the policy of the last boot: aegisbpf policy revert",
            detail=str(error),
        ) from error


def known_records(store: Store) -> list[Record]:
    """Return the policies that have a name here: the current, the previous, the unconfirmed one.

    Raises:
        StateError: The record of policies is damaged.
    """
    found = [*store.records()]
    with contextlib.suppress(StateError):
        pending = read_pending(store.paths)
        found.append(pending.record if pending else None)
    return [record for record in found if record]


def write_pending(paths: Paths, pending: Pending, *, calls: files.Calls = files.SYSTEM) -> None:
    """Record a change. The caller holds the lock.

    Raises:
        StateError: It cannot be written; nothing may be changed then.
    """
    files.write_atomic(paths.pending, pending.to_bytes(), what=_WHAT, calls=calls)


def remove_pending(paths: Paths) -> None:
    """Forget the change, for good. The caller holds the lock.

    Raises:
        StateError: The file cannot be removed.
    """
    files.remove(paths.pending, what=_WHAT)


_WHAT = "record of the unconfirmed change"
_SIDE = {field.name for field in fields(Side)}


def _side(values: Any) -> Side:
    values = {"back": [], **values}  # which a version before did not write
    if set(values) != _SIDE or not _DIGEST.fullmatch(values["digest"]):
        raise ValueError("a side is not as it must be")
    if not isinstance(values["manual"], list):
        raise ValueError("a list is none")
    return Side(
        digest=values["digest"],
        mode=Mode(values["mode"]),
        serial=_number(values["serial"]),
        manual=tuple(_manual(text) for text in values["manual"]),
        removed=_uids(values["removed"]),
        absent=_uids(values["absent"]),
        back=_uids(values["back"]),
    )


def _manual(text: str) -> ManualRule:
    data = bytes.fromhex(text)
    if len(data) > MANUAL_RULE.size:
        raise ValueError("a rule made by hand is too long")
    return ManualRule.unpack(data.ljust(MANUAL_RULE.size, b"\0"))


def _uids(values: Any) -> frozenset[int]:
    if not isinstance(values, list) or not all(_UID.fullmatch(uid) for uid in values):
        raise ValueError("a rule's number is none")
    return frozenset(int(uid, 16) for uid in values)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is none")
    return printable(value, 512)


def _number(value: Any) -> int:
    if not strictjson.is_integer(value, 0, _NUMBER):
        raise TypeError("a number is none")
    return int(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("a flag is none")
    return value
