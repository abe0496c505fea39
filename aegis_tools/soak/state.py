"""What a turn must remember for the next: ``state.json``, written whole or not at all, and last.

A turn that was killed before is made again. What it had told by then is told once: ``told`` says
how much of ``happened.ndjson`` belongs to turns that were finished.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from aegis_tools.control import files
from aegis_tools.policy import strictjson

FORMAT = 1
MAX_NAMES = 2000
"""Of rules; beyond, they are looked up anew."""
_MAX_FILE = 2 << 20
_WHAT = "state of the soak"
_FLOATS = ("elapsed_s", "wall", "boot_s")
_INTEGERS = ("turn", "kmsg", "maps", "told", "lines", "warnings")
_FLAGS = ("placed", "evidence")


class Agent(NamedTuple):
    """The agent as a turn saw it.

    Attributes:
        pid: Of its process; 0 for none seen since boot.
        start_s: When that began, in seconds since boot.
        cpu_s: Processor time that it had taken.
        seen_s: When that was, in seconds since boot.
        restarts: How often systemd had restarted it; None where it is not systemd's.
        mourned: Its death has been told.
    """

    pid: int = 0
    start_s: float = 0.0
    cpu_s: float = 0.0
    seen_s: float = 0.0
    restarts: int | None = None
    mourned: bool = False


@dataclass(frozen=True)
class State:
    """What is remembered.

    Attributes:
        turn: How many turns were made.
        elapsed_s: Seconds that the soak has lasted: boot clock within a boot, wall clock between.
        wall: Unix seconds of the last turn.
        boot: The first 8 hex digits of its boot's id.
        boot_s: Seconds since that boot.
        kmsg: Number of the last message of the kernel's log that was read; -1 for none.
        pstore: What crashes of the kernel had left.
        mode: The host's.
        policy: The live policy's digest, 64 hex digits; empty for none.
        maps: What names the load: the id of one of its maps; 0 where nothing is loaded.
        placed: The canary's rule was there.
        agent: The agent.
        names: Ids of rules by what the kernel calls them, in hex.
        told: Bytes of ``happened.ndjson``.
        lines: How many lines it has.
        warnings: How many of them are warnings of the kernel's.
        failing: What cannot be read at present, and was told.
        evidence: Evidence of the first failure was collected.
    """

    turn: int = 0
    elapsed_s: float = 0.0
    wall: float = 0.0
    boot: str = ""
    boot_s: float = 0.0
    kmsg: int = -1
    pstore: tuple[str, ...] = ()
    mode: str = ""
    policy: str = ""
    maps: int = 0
    placed: bool = False
    agent: Agent = field(default_factory=Agent)
    names: Mapping[str, str] = field(default_factory=dict)
    told: int = 0
    lines: int = 0
    warnings: int = 0
    failing: tuple[str, ...] = ()
    evidence: bool = False


def to_bytes(state: State) -> bytes:
    """Return the content of ``state.json``."""
    values = asdict(state)
    values["agent"] = dict(zip(Agent._fields, state.agent, strict=True))
    values["names"] = dict(state.names) if len(state.names) <= MAX_NAMES else {}
    return strictjson.dumps({"format": FORMAT, **values}) + b"\n"


def from_bytes(data: bytes) -> State:
    """Return what :func:`to_bytes` wrote.

    Raises:
        ValueError: It is nothing of that kind.
    """
    values = strictjson.loads(data, fractions=True)
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise ValueError("a format of another version")
    try:
        values["agent"] = _agent(**values["agent"])
        for name in ("pstore", "failing"):
            values[name] = strictjson.texts(values[name])
        found = State(**values)
    except (LookupError, TypeError) as error:
        raise ValueError("a field is missing, unknown or of a wrong kind") from error
    _check(found)
    return found


def _agent(**values: Any) -> Agent:
    found = Agent(**values)
    _require(strictjson.is_integer(found.pid, 0, 1 << 31))
    _require(all(map(_number, (found.start_s, found.cpu_s, found.seen_s))))
    _require(found.restarts is None or strictjson.is_integer(found.restarts, 0, 1 << 40))
    _require(isinstance(found.mourned, bool))
    return found


def _check(one: State) -> None:
    _require(all(_number(getattr(one, name)) for name in _FLOATS))
    _require(all(strictjson.is_integer(getattr(one, name), -1, 1 << 63) for name in _INTEGERS))
    _require(all(isinstance(getattr(one, name), bool) for name in _FLAGS))
    _require(all(isinstance(text, str) for text in (one.boot, one.mode, one.policy)))
    named = isinstance(one.names, dict) and all(isinstance(v, str) for v in one.names.values())
    _require(named)


def _number(value: object) -> bool:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    return good and isfinite(value) and value >= 0  # type: ignore[arg-type,operator]


def _require(good: object) -> None:
    if not good:
        raise ValueError("a field is not as it must be")


def read(path: Path) -> State | None:
    """Read it; None where it is missing or damaged.

    Raises:
        StateError: It cannot be read, or others can change it.
    """
    data = files.read_if_present(path, _MAX_FILE, what=_WHAT, owners={0, os.geteuid()})
    try:
        return None if data is None else from_bytes(data)
    except ValueError:
        return None


def write(path: Path, state: State, *, calls: files.Calls = files.SYSTEM) -> None:
    """Write it: with this a turn is made. The caller holds the lock.

    Raises:
        StateError: It cannot be written; the old one is still there.
    """
    files.write_atomic(path, to_bytes(state), what=_WHAT, calls=calls)
