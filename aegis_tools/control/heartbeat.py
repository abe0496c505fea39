"""The agent's sign of life: ``<run>/agent.json``, renewed about once a second.

It is gone when the agent ended well. One that is there while nobody holds ``<run>/events.lock`` is
of an agent that died; an old one of an agent that hangs. ::

    {"format": 1, "pid": 812, "version": "0.1.0", "started": 1700000000.0, "updated": 1700000042.0,
     "updated_boot_ns": 42000000000, "ready": true, "ring": 12, "starts_in_window": 1,
     "deny_rate": 0.0, …}

``ring`` is the id of the map that it reads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aegis_tools.control import files
from aegis_tools.control.lock import is_held
from aegis_tools.errors import StateError
from aegis_tools.paths import Paths
from aegis_tools.policy import strictjson

FORMAT = 1
STALE_SECONDS = 15.0
"""A heartbeat older than this is none."""
_MAX_FILE = 1 << 20
_WHAT = "sign of life of the agent"


def write_heartbeat(paths: Paths, facts: Mapping[str, Any]) -> None:
    """Renew it: a new file and a rename, without a sync, for the folder is in memory.

    Raises:
        OSError: It cannot be written.
    """
    renew(paths.agent_status, {"format": FORMAT, **facts})


def renew(path: Path, facts: Mapping[str, Any]) -> None:
    """Put a sign of life in the place of the one before. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    data = json.dumps(facts).encode()
    try:
        _write(temporary, data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _write(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o644), "wb") as file:
        file.write(data)


def remove_heartbeat(paths: Paths) -> None:
    """Take it away: the agent ended as it should."""
    paths.agent_status.unlink(missing_ok=True)


def read_heartbeat(paths: Paths) -> dict[str, Any] | None:
    """Return it as it was written; None where there is none, or it is not of this version.

    Its time on the boot clock is there; everything else is as somebody wrote it.
    """
    found = read_sign(paths.agent_status)
    return found if found is not None and found.get("format") == FORMAT else None


def read_sign(path: Path) -> dict[str, Any] | None:
    """Return what ``renew`` wrote, if it tells its time on the boot clock; else None."""
    owners = {0, os.geteuid()}
    try:
        data = files.read_if_present(path, _MAX_FILE, what=_WHAT, owners=owners)
        found = None if data is None else json.loads(data)
    except (StateError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    boot = found.get("updated_boot_ns")
    return found if strictjson.is_integer(boot, 0, 2**63 - 1) else None


def agent_cpu(paths: Paths, proc: Path = Path("/proc")) -> float | None:
    """Return the CPU seconds that the agent has taken; None where it does not run.

    utime and stime are the fields 14 and 15 of ``/proc/PID/stat``, proc(5); the name in the second
    may hold anything, so they are counted from its end.
    """
    found = read_heartbeat(paths)
    pid = found.get("pid") if found else None
    if not isinstance(pid, int):
        return None
    try:
        text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        words = text.rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


class Life(NamedTuple):
    """Whether the agent lives.

    Attributes:
        runs: It does, and does not hang.
        age: Seconds since its last sign of life.
        died: It has ended without taking its sign of life away.
    """

    runs: bool
    age: float
    died: bool


def life(paths: Paths, found: Mapping[str, Any], boot_ns: int) -> Life:
    """Return whether the agent of a heartbeat lives.

    An agent that was killed has let go of its lock at once, whatever its last sign of life; one
    that holds it and gives no sign hangs.
    """
    return life_by(paths.events_lock, found, boot_ns)


def life_by(lock: Path, found: Mapping[str, Any], boot_ns: int) -> Life:
    """Return whether who holds this lock, and gave this sign, lives."""
    age = age_seconds(found, boot_ns)
    died = is_held(lock) is False
    return Life(not died and age <= STALE_SECONDS, age, died)


def age_seconds(found: Mapping[str, Any], boot_ns: int) -> float:
    """Return how old a heartbeat is, by the boot clock."""
    return max(0.0, (boot_ns - int(found["updated_boot_ns"])) / 1e9)
