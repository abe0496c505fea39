"""How full the maps are, how that grows, and when they would be full.

A line of JSON is added to ``capacity.jsonl`` with every change of the live policy. The trend is
Theil-Sen's: the median of the slopes between all pairs of samples, so a few odd ones (a policy
applied by mistake and rolled back) do not bend it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from aegis_tools.control.files import ensure_folder, write_atomic
from aegis_tools.control.live import Live
from aegis_tools.control.stats import MapUse
from aegis_tools.errors import AegisError
from aegis_tools.kernel.layout import POLICY_MAPS, SPECS
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths
from aegis_tools.policy import strictjson

MAX_BYTES = 256 * 1024
"""Of the log; when it is reached the older half goes."""
MAX_SAMPLES = 200
"""Taken for a trend, evenly spread over what there is."""
MIN_SAMPLES = 5
MIN_SPAN = 86400
"""A trend needs so many samples over so many seconds."""
_MAX_LINE = 2048


class Sample(NamedTuple):
    """How full the maps were.

    Attributes:
        time: Unix seconds.
        entries: By map; empty ones are left out.
    """

    time: int
    entries: Mapping[str, int]


class Outlook(NamedTuple):
    """What is to be expected of one map.

    Attributes:
        use: How full it is.
        per_day: Entries it grows by in a day; None where there is not enough data.
        days_left: Until it is full; None where it does not grow, or nothing is known.
    """

    use: MapUse
    per_day: float | None
    days_left: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {
            **self.use._asdict(),
            "percent": round(100 * self.use.share, 2),
            "entries_per_day": None if self.per_day is None else round(self.per_day, 3),
            "days_to_full": None if self.days_left is None else round(self.days_left, 1),
        }


def read_use(live: Live) -> list[MapUse]:
    """Return how full the policy maps and the two maps that fill by themselves are."""
    info = live.info()
    found = [MapUse(spec.name, info.count(spec.name), live.capacity(spec.name))
             for spec in POLICY_MAPS]  # fmt: skip
    for name in ("rule_hits", "survival_allowlist"):
        opened = live.map(name)
        found.append(MapUse(name, opened.count(), opened.max_entries))
    return found


def note(paths: Paths, *, now: float) -> None:
    """Add a sample of what is live. The caller holds the lock, and has done what it had to.

    No error is worth telling: the change is made and in the history. A line is one write, so a
    reader sees it whole or, after a crash, cut; then it is passed over.
    """
    with contextlib.suppress(AegisError, OSError):
        with Live(Pins(paths.pins)) as live:
            entries = live.info().entries
        used = {spec.name: n for spec, n in zip(POLICY_MAPS, entries, strict=False) if n}
        line = json.dumps({"time": int(now), "entries": used}, separators=(",", ":")).encode()
        ensure_folder(paths.state)
        append(paths.capacity_log, line)


def append(path: Path, line: bytes) -> None:
    """Add a line to a log that others only read, and keep it below its size.

    Raises:
        OSError, StateError: It cannot be written, or is no regular file.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        os.write(fd, (b"\n" if torn else b"") + line + b"\n")
        newest = _tail(fd, MAX_BYTES // 2) if size > MAX_BYTES else b""
    finally:
        os.close(fd)
    if newest:
        write_atomic(path, newest.partition(b"\n")[2], what="capacity log")


def _tail(fd: int, size: int) -> bytes:
    return os.pread(fd, size, max(os.fstat(fd).st_size - size, 0))


def read_samples(path: Path) -> list[Sample]:
    """Return the samples, oldest first; lines that are none are passed over."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        data = _tail(fd, 2 * MAX_BYTES)
    except OSError:
        return []
    finally:
        os.close(fd)
    found = (_sample(line) for line in data.split(b"\n") if line)
    return sorted((sample for sample in found if sample), key=lambda sample: sample.time)


def _sample(line: bytes) -> Sample | None:
    if len(line) > _MAX_LINE:
        return None
    try:
        values = strictjson.loads(line)
        time, entries = values["time"], values["entries"]
    except (ValueError, LookupError, TypeError):
        return None
    if not strictjson.is_integer(time, 0, 1 << 40) or not isinstance(entries, dict):
        return None
    good = all(strictjson.is_integer(count, 0, 1 << 24) for count in entries.values())
    return Sample(time, {n: c for n, c in entries.items() if n in SPECS}) if good else None


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Return the median slope between pairs of points (Theil-Sen); None without two times."""
    from statistics import median  # brings decimal, 5 ms, which adding a rule does not need

    slopes = [(y - b) / (x - a) for (a, b), (x, y) in combinations(points, 2) if x != a]
    return median(slopes) if slopes else None


def thin(samples: Sequence[Sample], most: int = MAX_SAMPLES) -> list[Sample]:
    """Return at most so many samples, evenly spread, the last among them."""
    if len(samples) <= most:
        return list(samples)
    step = (len(samples) - 1) / (most - 1)
    return [samples[round(i * step)] for i in range(most)]


def outlook(uses: Iterable[MapUse], samples: Sequence[Sample]) -> list[Outlook]:
    """Return what is to be expected of every map.

    Args:
        uses: How full they are now.
        samples: How full they were, oldest first.
    """
    kept = thin(samples)
    known = len(kept) >= MIN_SAMPLES and kept[-1].time - kept[0].time >= MIN_SPAN
    return [_outlook(use, kept if known and use.name in SPECS else ()) for use in uses]


def _outlook(use: MapUse, samples: Sequence[Sample]) -> Outlook:
    growth = slope([(sample.time, sample.entries.get(use.name, 0)) for sample in samples])
    if growth is None:
        return Outlook(use, None, None)
    left = max(use.capacity - use.entries, 0)
    days = left / growth / 86400 if growth > 0 else None
    return Outlook(use, growth * 86400, days)
