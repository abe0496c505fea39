"""The rows of a soak: ``samples.csv``, one a turn, the columns of the seed's sampler first.

A row ends with a newline: what a killed writer left of one is no row. A file with the first eight
columns alone, as somebody's own sampler writes it, can be read, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

SEED = (
    "timestamp", "cpu_pct", "mem_mb", "blocks", "ringbuf_drops",
    "map_deny_path", "map_deny_inode", "map_allow_cgroup",
)  # fmt: skip
DEAD = "DAEMON_DEAD"
AGENT = ("running", "stopped", "dead", "none")
MODES = ("audit", "enforce", "held", "none")
CANARY = ("ok", "miss", "none")
MAX_BYTES = 64 << 20
MAX_ROWS = 1_000_000
MAX_PROBLEMS = 100
_LINE = 4096


@dataclass(frozen=True, slots=True)
class Sample:
    """What one turn saw; None for what it could not tell.

    Attributes:
        timestamp: Unix seconds.
        cpu_pct: Processor time of the agent since the last turn, in % of one core.
        mem_mb: Resident memory of the agent, MiB.
        blocks: Denials the kernel counted since the programs were loaded.
        ringbuf_drops: Events that found the ring full since then.
        map_deny_path: Entries of path rules.
        map_deny_inode: Entries of inode rules.
        map_allow_cgroup: Entries of allowed cgroups.
        boot: The first 8 hex digits of the boot's id.
        boot_s: Seconds since that boot, suspend included.
        agent: One of AGENT: stopped in order, dead otherwise, none where it has none.
        agent_pid: The agent's process id.
        agent_start_s: When that process began, in seconds since boot.
        restarts: How often systemd has restarted it.
        mode: One of MODES.
        policy: The first 12 hex digits of the live policy's digest.
        audits: Matches that were let through since the programs were loaded.
        events: Events that were sent or dropped since then.
        map_fill: The highest share of its capacity that any map holds, 0 to 1.
        canary: One of CANARY.
        probe_us: Microseconds, median, to open and close a file that no rule names.
        bpf_runs: Runs of our programs; None while the kernel does not count them.
        bpf_ns: Nanoseconds that they took.
        mem_agent_anon_mb: Memory of the agent that no file is behind, MiB.
        load1: Load average of a minute.
        turn_ms: Milliseconds that this turn took.
    """

    timestamp: int
    cpu_pct: float | None = None
    mem_mb: float | None = None
    blocks: int | None = None
    ringbuf_drops: int | None = None
    map_deny_path: int | None = None
    map_deny_inode: int | None = None
    map_allow_cgroup: int | None = None
    boot: str | None = None
    boot_s: float | None = None
    agent: str | None = None
    agent_pid: int | None = None
    agent_start_s: float | None = None
    restarts: int | None = None
    mode: str | None = None
    policy: str | None = None
    audits: int | None = None
    events: int | None = None
    map_fill: float | None = None
    canary: str | None = None
    probe_us: float | None = None
    bpf_runs: int | None = None
    bpf_ns: int | None = None
    mem_agent_anon_mb: float | None = None
    load1: float | None = None
    turn_ms: float | None = None

    @property
    def present(self) -> bool:
        """Whether the agent was there."""
        return self.agent in (None, "running")


COLUMNS = tuple(field.name for field in fields(Sample))
HEADER = ",".join(COLUMNS) + "\n"


def format_row(sample: Sample) -> str:
    """Return the row of a sample, with its newline.

    Where the agent is not there, ``cpu_pct`` says so and ``mem_mb`` is 0, as the seed has it.
    """
    values = [_text(name, getattr(sample, name)) for name in COLUMNS]
    if not sample.present:
        values[1:3] = DEAD, "0"
    return ",".join(values) + "\n"


def parse(text: str, *, most: int = MAX_ROWS) -> tuple[list[Sample], list[str]]:
    """Read the content of a file of samples; nothing in it is an error.

    Args:
        text: Of at most MAX_BYTES.
        most: How many rows are read; what follows is not.

    Returns:
        The samples in the order of the file, and what is wrong with it, one line each: at most
        MAX_PROBLEMS, and one more that says how many others there are.
    """
    samples: list[Sample] = []
    problems: list[str] = []
    names, more = COLUMNS, 0
    for number, line in enumerate(_lines(text), start=1):
        if line.startswith("timestamp,"):
            names = tuple(line.split(","))
            continue
        if len(samples) == most:
            problems.append(f"only the first {most} rows are read")
            break
        try:
            samples.append(_sample(names, line))
        except ValueError as error:
            more += len(problems) >= MAX_PROBLEMS
            if len(problems) < MAX_PROBLEMS:
                problems.append(f"line {number} is no row: {error}")
    if text and not text.endswith("\n"):
        problems.append("the last row is not whole: its writer was stopped")
    if more:
        problems.append(f"{more} more lines are no rows")
    return samples, problems


def _lines(text: str) -> list[str]:
    # Not splitlines(): that also splits at characters that are no end of a line here.
    return [line.rstrip("\r") for line in text.split("\n")[:-1]]


def _sample(names: tuple[str, ...], line: str) -> Sample:
    if len(line) > _LINE:
        raise ValueError("it is too long")
    texts = line.split(",")
    if len(texts) == len(SEED) and names[: len(SEED)] == SEED:
        names = SEED
    if len(texts) != len(names):
        raise ValueError(f"it has {len(texts)} fields of {len(names)}")
    given = dict(zip(names, texts, strict=True))
    if given.get("cpu_pct") == DEAD:
        gone = given.get("agent") or "dead"
        given |= {"cpu_pct": "", "mem_mb": "", "agent": "dead" if gone == "running" else gone}
    found: dict[str, Any] = {}
    for name, read in _READ.items():
        value = given.get(name, "")
        if value:
            try:
                found[name] = read(value)
            except ValueError:
                raise ValueError(f"{name} is not as it must be") from None
    if "timestamp" not in found:
        raise ValueError("timestamp is missing")
    return Sample(**found)


def _text(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{_DIGITS.get(name, 3)}f}"
    return str(value)


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise ValueError
    return int(text)


def _fraction(text: str) -> float:
    if len(text) > 40 or "_" in text:
        raise ValueError
    value = float(text)
    if not isfinite(value) or not 0 <= value <= 1e15:
        raise ValueError
    return value


def _hex(digits: int) -> Callable[[str], str]:
    shape = re.compile(rf"[0-9a-f]{{{digits}}}", re.ASCII)

    def read(text: str) -> str:
        if not shape.fullmatch(text):
            raise ValueError
        return text

    return read


def _word(known: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in known:
            raise ValueError
        return known[known.index(text)]

    return read


_DIGITS = {"map_fill": 6}
_FRACTIONS = (
    "cpu_pct", "mem_mb", "boot_s", "agent_start_s", "map_fill", "probe_us", "mem_agent_anon_mb",
    "load1", "turn_ms",
)  # fmt: skip
_READ: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(COLUMNS, _whole),
    **dict.fromkeys(_FRACTIONS, _fraction),
    "boot": _hex(8),
    "policy": _hex(12),
    "agent": _word(AGENT),
    "mode": _word(MODES),
    "canary": _word(CANARY),
}
