"""Writing down what happened: once, within bounds, and later where the disk is full now."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from aegis_tools.control import files
from aegis_tools.errors import StateError
from aegis_tools.paths import Paths
from aegis_tools.soak.append import append
from aegis_tools.soak.folder import folder
from aegis_tools.soak.happened import MAX_LINES, MAX_TEXT, Happened, format_line, parse
from aegis_tools.soak.state import State

WHAT = "list of what happened"
MAX_WARNINGS = 1000
"""Lines of the kernel's warnings: they tell of others, and must not use up the room."""
RESERVED = 1000
"""The last lines are kept for what a verdict rests on."""
_ALWAYS = ("begun", "ended", "stopped", "override")
_TAIL = 65536
_FULL = "no more is written down here but what the verdict rests on"


def untold(paths: Paths) -> Path:
    """Return where that waits which a full disk had no room for."""
    return paths.run / "soak-untold.ndjson"


def tell(
    paths: Paths,
    identifier: str,
    state: State,
    found: Iterable[Happened],
    *,
    calls: files.Calls = files.SYSTEM,
) -> State:
    """Write down what happened, and return the state with how much that is by now.

    What a turn that was killed had written down already is left out. The caller holds the lock.

    Raises:
        StateError: It cannot be written; it waits in memory, for the next time.
    """
    at, waiting = folder(paths, identifier).happened, untold(paths)
    before = _read(waiting, 0)
    known = set(map(_key, before))  # a turn that could not be finished sees the same again
    events = before + [one for one in found if _key(one) not in known]
    there = set(map(_key, _read(at, state.told)))
    fresh = [one for one in events if _key(one) not in there]
    chosen, state = bounded(state, fresh)
    lines = "".join(map(format_line, chosen))
    try:
        told = append(at, lines, what=WHAT, calls=calls) if lines else _size(at)
    except StateError:
        _wait(waiting, fresh)
        raise
    files.remove(waiting, what=WHAT)
    return replace(state, told=told, lines=state.lines + len(chosen))


def bounded(state: State, found: Sequence[Happened]) -> tuple[list[Happened], State]:
    """Return what there is room for, and the state with the warnings counted."""
    chosen: list[Happened] = []
    warnings = state.warnings
    for one in found:
        lines = state.lines + len(chosen)
        warning = one.class_ == "warning"
        warnings += warning
        if lines >= MAX_LINES or (warning and warnings > MAX_WARNINGS):
            continue
        if lines < MAX_LINES - RESERVED or is_judged(one):
            chosen.append(one)
        elif lines == MAX_LINES - RESERVED:
            chosen.append(Happened(one.time, "reading-failed", _FULL, boot_s=one.boot_s))
    return chosen, replace(state, warnings=warnings)


def is_failure(one: Happened) -> bool:
    """Return whether a soak fails for it."""
    return one.kind in ("crash", "canary-miss") or (
        one.kind == "kernel" and one.class_ != "warning"
    )


def is_judged(one: Happened) -> bool:
    """Return whether a verdict rests on it."""
    return is_failure(one) or one.kind in _ALWAYS


def newest(path: Path) -> list[Happened]:
    """Return the last of what was written down."""
    return _read(path, max(0, _size(path) - _TAIL))


def cut(text: str) -> str:
    """Return a text as a line may have it."""
    return files.printable(text)[:MAX_TEXT]


def _key(one: Happened) -> tuple[str, str, str]:
    if one.kind in ("gap", "reboot"):  # how long it was differs by who tells it; not since when
        return one.kind, one.class_, f"{one.time - (one.value or 0):.0f}"
    return one.kind, one.class_, one.text


def _read(path: Path, start: int) -> list[Happened]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data = os.pread(fd, 1 << 20, start)
        finally:
            os.close(fd)
    except OSError:
        return []
    return parse(data.decode("utf-8", "replace"))[0]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _wait(path: Path, found: Sequence[Happened]) -> None:
    """Keep it where a reboot may forget it: that is better than nowhere."""
    kept = [one for one in found if is_judged(one)][:MAX_WARNINGS]
    lines = "".join(map(format_line, kept))
    if lines:
        files.ensure_folder(path.parent, mode=0o755)
        files.write_atomic(path, lines.encode(), what=WHAT)
