"""What a soak is: ``soak.json``, written once when it begins, and ``result.json`` when it ends."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from aegis_tools.policy import strictjson

FORMAT = 1
SCENARIOS = ("shadow", "enforce", "stress")
WORKLOADS = ("none", "idle", "developer", "git", "web", "database", "stress")
MODES = ("audit", "enforce", "held", "none")
STATES = ("done", "stopped")
ID = re.compile(rf"[0-9]{{8}}T[0-9]{{6}}Z-(?:{'|'.join(SCENARIOS)})", re.ASCII)

DURATION = (10, 366 * 86400)
INTERVAL = (1, 3600)
MAX_TURNS = 300_000
"""Rows of some 200 bytes, in a file that is read whole."""
MAX_JSON = 1 << 20
_DIGEST = re.compile(r"(?:sha256:)?[0-9a-f]{64}", re.ASCII)
_BOOT = re.compile(r"[0-9a-f]{8}|", re.ASCII)
LONGEST = 2000
"""Characters of a note, a reason, a rule's id."""
MOST_RULES = 1000
_SHORT = 256
_LATEST = 2**40


@dataclass(frozen=True)
class PolicyFacts:
    """The policy that was live when the soak began.

    Attributes:
        digest: Of its content, 64 hex digits.
        serial: Of its bundle; 0 if unsigned.
        signers: Ids of the keys that signed it.
    """

    digest: str
    serial: int = 0
    signers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Host:
    """The host of a soak.

    Attributes:
        name: Its name.
        kernel: Its kernel's release.
        cpus: Processors online.
        cpu_model: Of the first.
        memory_mb: MiB of memory.
        virtualised: What it is virtualised by, as ``systemd-detect-virt`` says; empty if by
            nothing that is known.
        version: Of this program.
    """

    name: str = ""
    kernel: str = ""
    cpus: int = 0
    cpu_model: str = ""
    memory_mb: int = 0
    virtualised: str = ""
    version: str = ""


@dataclass(frozen=True)
class Settings:
    """What a soak is; nothing of it changes while it runs.

    Attributes:
        id: ``20261122T101500Z-shadow``: its folder's name.
        scenario: One of SCENARIOS.
        started: Unix seconds.
        boot: The first 8 hex digits of the boot's id; empty where nothing tells.
        boot_s: Seconds since that boot (CLOCK_BOOTTIME) when it began.
        duration_s: How long it is to run, in seconds.
        interval_s: Seconds between two turns.
        mode: The host's when it began, one of MODES.
        workload: One of WORKLOADS.
        policy: What was live; None where nothing was.
        host: Where.
        override: Why it was begun although it should not have been; empty where it was in order.
        expected: Ids of rules whose denials are expected.
        note: Anything else, by whoever began it.
    """

    id: str
    scenario: str
    started: float
    duration_s: int
    interval_s: int
    boot: str = ""
    boot_s: float = 0.0
    mode: str = "audit"
    workload: str = "none"
    policy: PolicyFacts | None = None
    host: Host = Host()
    override: str = ""
    expected: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        """Check it.

        Raises:
            ValueError: Something of it is not as it must be.
        """
        _check(self)

    @property
    def turns(self) -> int:
        """How many turns are due in all."""
        return self.duration_s // self.interval_s

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``soak.json`` has it."""
        values = asdict(self)
        values["expected"] = list(self.expected)
        if self.policy is not None:
            values["policy"]["signers"] = list(self.policy.signers)
        return {"format": FORMAT, **values}

    def to_bytes(self) -> bytes:
        """Return the content of ``soak.json``."""
        return strictjson.dumps(self.to_dict()) + b"\n"


@dataclass(frozen=True)
class Result:
    """How a soak ended.

    Attributes:
        state: ``done`` after its duration, ``stopped`` before.
        ended: Unix seconds.
    """

    state: str
    ended: float

    def __post_init__(self) -> None:
        """Check it.

        Raises:
            ValueError: Something of it is not as it must be.
        """
        _require(self.state in STATES, "state")
        _require(_number(self.ended, 0, _LATEST), "ended")

    def to_bytes(self) -> bytes:
        """Return the content of ``result.json``."""
        return strictjson.dumps({"format": FORMAT, **asdict(self)}) + b"\n"


def new_id(scenario: str, started: float) -> str:
    """Return the id of a soak that begins then (Unix seconds)."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(started))}-{scenario}"


def parse_settings(data: bytes) -> Settings:
    """Read the content of ``soak.json``.

    Raises:
        ValueError: It is none; a key too many or too few, and a value out of its bounds, included.
    """
    return from_dict(strictjson.loads(data, fractions=True))


def from_dict(top: object) -> Settings:
    """Return what ``to_dict`` made.

    Raises:
        ValueError: It is nothing of that kind.
    """
    values = _of_format(top)
    policy, host = values.get("policy"), values.get("host")
    try:
        if policy is not None:
            policy = dict(policy)
            policy["signers"] = strictjson.texts(policy["signers"])
            values["policy"] = PolicyFacts(**policy)
        values["host"] = Host(**dict(host or {}))
        values["expected"] = strictjson.texts(values["expected"])
        return Settings(**values)
    except (LookupError, TypeError) as error:
        raise ValueError(f"a field is missing, unknown or of a wrong kind: {error}") from error


def parse_result(data: bytes) -> Result:
    """Read the content of ``result.json``.

    Raises:
        ValueError: It is none.
    """
    try:
        return Result(**_of_format(strictjson.loads(data, fractions=True)))
    except TypeError as error:
        raise ValueError(f"a field is missing or unknown: {error}") from error


def _of_format(top: object) -> dict[str, Any]:
    if not isinstance(top, Mapping):
        raise ValueError("an object is missing")
    values = dict(top)
    if values.pop("format", None) != FORMAT:
        raise ValueError("a format of another version")
    return values


def _check(one: Settings) -> None:
    _require(isinstance(one.id, str) and ID.fullmatch(one.id), "id")
    _require(one.scenario in SCENARIOS and one.id.endswith(f"-{one.scenario}"), "scenario")
    _require(_number(one.started, 0, _LATEST), "started")
    _require(strictjson.is_integer(one.duration_s, *DURATION), "duration_s")
    _require(strictjson.is_integer(one.interval_s, *INTERVAL), "interval_s")
    _require(one.turns <= MAX_TURNS, "interval_s")
    _require(isinstance(one.boot, str) and _BOOT.fullmatch(one.boot), "boot")
    _require(_number(one.boot_s, 0, _LATEST), "boot_s")
    _require(one.mode in MODES, "mode")
    _require(one.workload in WORKLOADS, "workload")
    _require(_texts((one.override, one.note), LONGEST), "override, note")
    _require(_texts(one.expected, LONGEST), "expected")
    if one.policy is not None:
        _check_policy(one.policy)
    _check_host(one.host)


def _check_policy(one: PolicyFacts) -> None:
    _require(isinstance(one.digest, str) and _DIGEST.fullmatch(one.digest), "policy.digest")
    _require(strictjson.is_integer(one.serial, 0, 2**64 - 1), "policy.serial")
    _require(_texts(one.signers, _SHORT), "policy.signers")


def _check_host(one: Host) -> None:
    texts = (one.name, one.kernel, one.cpu_model, one.virtualised, one.version)
    _require(_texts(texts, _SHORT), "host")
    _require(strictjson.is_integer(one.cpus, 0, 1 << 20), "host.cpus")
    _require(strictjson.is_integer(one.memory_mb, 0, 1 << 40), "host.memory_mb")


def _number(value: object, low: float, high: float) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and isfinite(value)
        and low <= value <= high
    )


def _texts(values: tuple[str, ...], longest: int) -> bool:
    return len(values) <= MOST_RULES and all(
        isinstance(text, str) and len(text) <= longest for text in values
    )


def _require(good: object, name: str) -> None:
    if not good:
        raise ValueError(f"{name} is not as it must be")
