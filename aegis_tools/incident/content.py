"""What the record of an incident holds, within bounds: to JSON and back.

The form of the file is ``incident.schema.json``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from aegis_tools.incident.redact import GONE, names_secret, redact
from aegis_tools.policy import strictjson

FORMAT = 1
SCENARIOS = (
    "blocking", "crash-loop", "performance", "map-full", "kernel-upgrade", "break-glass",
)  # fmt: skip
RESULTS = ("recovered", "not-recovered", "nothing-to-do")
ID = re.compile(rf"[0-9]{{8}}T[0-9]{{6}}Z-(?:{'|'.join(SCENARIOS)})(?:-[2-9]|-[1-9][0-9]{{1,3}})?")
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", re.ASCII)

MAX_JSON = 4 << 20
MAX_VALUE = 64 << 10
MAX_TEXT = 16 << 10
_MESSAGE = 2000
_WORD = 200
_ITEMS, _DEPTH = 1000, 12
_FACTS, _RULES, _ACTIONS, _FOLLOW_UPS, _FILES = 200, 200, 2000, 100, 200
_CUT = " … [cut]"


@dataclass
class Content:
    """What a record holds.

    Attributes:
        id: ``20261121T170102Z-blocking``.
        scenario: One of SCENARIOS.
        host: Its name.
        kernel: Its release.
        version: Of this program.
        began: Unix seconds.
        boot: The boot it began on, and nanoseconds since that boot: no set clock changes these.
        by: ``uid`` and ``sudo_user`` of whoever began it.
        ended: Unix seconds; None while it is open.
        duration: Seconds from begin to end.
        result: One of RESULTS; empty while it is open.
        actions: The timeline, oldest first.
        facts: Evidence by name.
        rules: Rules that were to blame, with their provenance.
        follow_ups: What is left to do.
        files: Evidence files: name, bytes, sha256, cut.
    """

    id: str
    scenario: str
    host: str = ""
    kernel: str = ""
    version: str = ""
    began: float = 0.0
    boot: dict[str, Any] = field(default_factory=lambda: {"id": "", "ns": 0})
    by: dict[str, Any] = field(default_factory=lambda: {"uid": 0, "sudo_user": ""})
    ended: float | None = None
    duration: float | None = None
    result: str = ""
    actions: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    rules: list[dict[str, Any]] = field(default_factory=list)
    follow_ups: list[str] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.ended is None

    @property
    def acted(self) -> bool:
        """Whether anything was changed on the host, or may have been."""
        return any(one["changes"] and one["ok"] is not False for one in self.actions)

    def act(self, entry: dict[str, Any]) -> None:
        """Add to the timeline; what was only begun under the same name is replaced."""
        last = next((at for at in reversed(range(len(self.actions)))
                     if self.actions[at]["action"] == entry["action"]), None)  # fmt: skip
        if last is not None and self.actions[last]["ok"] is None:
            del self.actions[last]
        self.actions.append(entry)
        if len(self.actions) > _ACTIONS:
            del self.actions[_ACTIONS // 2]  # both ends are what is read

    def know(self, name: str, value: Any) -> None:
        """Set a fact."""
        name = text(name, _WORD)
        if name in self.facts or len(self.facts) < _FACTS:
            self.facts[name] = bounded(value, name)

    def blame(self, rule: Mapping[str, Any]) -> None:
        """Add a rule; one of the same id is replaced."""
        found = bounded(rule)
        found = found if isinstance(found, dict) else {"text": str(found)}
        if "id" in found:
            found["id"] = text(str(found["id"]), _WORD)
        known = [one for one in self.rules if "id" not in one or one["id"] != found.get("id")]
        self.rules = [*known, found][-_RULES:]

    def follow(self, what: str) -> None:
        """Add what is left to do, once."""
        what = text(what, _MESSAGE)
        if what not in self.follow_ups and len(self.follow_ups) < _FOLLOW_UPS:
            self.follow_ups.append(what)

    def enclose(self, entry: dict[str, Any]) -> None:
        """Add an evidence file; one of the same name is replaced."""
        others = [one for one in self.files if one["name"] != entry["name"]]
        self.files = [*others, entry][-_FILES:]

    def to_dict(self) -> dict[str, Any]:
        """Return it as the file and ``--json`` have it."""
        return {
            "format": FORMAT,
            "id": self.id,
            "scenario": self.scenario,
            "host": self.host,
            "kernel": self.kernel,
            "version": self.version,
            "began": iso(self.began),
            "ended": None if self.ended is None else iso(self.ended),
            "duration_seconds": self.duration,
            "result": self.result,
            "by": dict(self.by),
            "boot": dict(self.boot),
            "actions": list(self.actions),
            "facts": dict(self.facts),
            "rules": list(self.rules),
            "follow_ups": list(self.follow_ups),
            "files": list(self.files),
        }

    def to_bytes(self) -> bytes:
        """Return it as the file has it, at most MAX_JSON bytes: the largest facts go first."""
        data = _encode(self.to_dict())
        while len(data) > MAX_JSON and self.facts:
            largest = max(self.facts, key=lambda name: len(_encode(self.facts[name])))
            self.facts[largest] = "[cut: the record became too large]"
            data = _encode(self.to_dict())
            if all(len(_encode(value)) < _WORD for value in self.facts.values()):
                break
        return data


def entry(
    when: float,
    seconds: float,
    action: str,
    message: str,
    *,
    ok: bool | None,
    changes: bool,
    data: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a line of the timeline.

    Args:
        when: Unix seconds.
        seconds: Since the incident began.
        action: A stable word.
        message: In one line, for a person.
        ok: Whether it worked; None for what was begun and is not known to have ended.
        changes: Whether it is one that changes the host, and not only a look.
        data: Details.
    """
    return {
        "time": iso(when),
        "seconds": round(max(0.0, seconds), 3),
        "action": text(action, _WORD),
        "message": text(message, _MESSAGE),
        "ok": ok,
        "changes": changes,
        "data": _details(data),
    }


def parse(data: bytes) -> Content:
    """Return what a file holds; keys of later versions are ignored.

    Raises:
        ValueError: It is no record.
    """
    top = strictjson.loads(data, fractions=True)
    try:
        if top["format"] != FORMAT:
            raise ValueError("a format of another version")
        found = Content(
            id=_match(top["id"], ID),
            scenario=_one_of(top["scenario"], SCENARIOS),
            host=text(_text(top["host"]), _WORD),
            kernel=text(_text(top["kernel"]), _WORD),
            version=text(_text(top["version"]), _WORD),
            began=seconds_of(top["began"]),
            boot={"id": text(_text(top["boot"]["id"]), 64), "ns": _whole(top["boot"]["ns"])},
            by={"uid": _whole(top["by"]["uid"]), "sudo_user": text(_text(top["by"]["sudo_user"]))},
            ended=None if top["ended"] is None else seconds_of(top["ended"]),
            duration=None if top["duration_seconds"] is None else _number(top["duration_seconds"]),
            result=_one_of(top["result"], ("", *RESULTS)),
        )
        for one in _list(top["actions"], _ACTIONS):
            found.actions.append(_action(one))
        for name, value in _dict(top["facts"]).items():
            found.know(name, value)
        for one in _list(top["rules"], _RULES):
            found.blame(_dict(one))
        for one in _list(top["follow_ups"], _FOLLOW_UPS):
            found.follow(_text(one))
        for one in _list(top["files"], _FILES):
            found.enclose(_file(one))
    except (LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("a field is not as it must be") from error
    return found


def bounded(value: Any, name: str = "") -> Any:
    """Return a value as JSON can have it: without secrets, and at most MAX_VALUE bytes of it."""
    found = _plain(value, name, 0)
    if len(encoded := _encode(found)) > MAX_VALUE:
        return encoded[: MAX_VALUE // 2].decode("utf-8", "ignore") + _CUT
    return found


def clean(value: Any) -> Any:
    """Return a value as JSON can have it, without secrets; of long lists and texts the start."""
    return _plain(value, "", 0)


def text(value: str, limit: int = MAX_TEXT) -> str:
    """Return a text without secrets, that any UTF-8 file can hold, cut where it is longer."""
    safe = redact(value[: 4 * limit].encode("utf-8", "backslashreplace").decode("utf-8"))
    return safe if len(safe) <= limit else safe[:limit] + _CUT


def iso(when: float) -> str:
    """Return Unix seconds as ``2026-11-21T17:01:02.250Z``."""
    found = datetime.fromtimestamp(min(max(when, 0.0), 4e9), tz=timezone.utc)
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_of(when: object) -> float:
    """Return what ``iso`` made of it.

    Raises:
        ValueError: It did not make that.
    """
    if not isinstance(when, str) or not re.fullmatch(r"[0-9T:.-]{10,30}Z", when, re.ASCII):
        raise ValueError("a time is none")
    return datetime.fromisoformat(when[:-1]).replace(tzinfo=timezone.utc).timestamp()


def _details(data: Mapping[str, Any]) -> dict[str, Any]:
    found = bounded(data)
    return found if isinstance(found, dict) else {"cut": found}


def _plain(value: Any, name: str, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return _number_or_text(value)
    if name and names_secret(name):
        return GONE
    if depth >= _DEPTH:
        return _CUT.strip()
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        pairs = list(value.items())[:_ITEMS]
        return {text(str(k), _WORD): _plain(v, str(k), depth + 1) for k, v in pairs}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [_plain(one, "", depth + 1) for one in list(items)[:_ITEMS]]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    return text(str(value))


def _number_or_text(value: float | None) -> float | str | None:
    """Return a number that every reader of JSON has the same idea of."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else str(value)
    too_large = value is not None and abs(value) >= 2**63
    return "a number that is too large" if too_large else value


def _encode(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _action(value: Any) -> dict[str, Any]:
    return entry(
        seconds_of(value["time"]),
        _number(value["seconds"]),
        _text(value["action"]),
        _text(value["message"]),
        ok=None if value["ok"] is None else _truth(value["ok"]),
        changes=_truth(value["changes"]),
        data=_dict(value["data"]),
    )


def _file(value: Any) -> dict[str, Any]:
    return {
        "name": _match(value["name"], FILE_NAME),
        "bytes": _whole(value["bytes"]),
        "sha256": _match(value["sha256"], re.compile("[0-9a-f]{64}")),
        "cut": _truth(value["cut"]),
    }


def _match(value: object, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError("a name is none")
    return value


def _one_of(value: object, known: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in known:
        raise ValueError("a word is not known")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a text is none")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or not strictjson.is_integer(value, 0, 2**63 - 1):
        raise ValueError("a number is none")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise ValueError("a number is none")
    return float(value)


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("a truth is none")
    return value


def _dict(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("an object is none")
    return value


def _list(value: object, limit: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > limit:
        raise ValueError("a list is none")
    return value
