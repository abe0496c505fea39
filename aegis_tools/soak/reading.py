"""Reading soaks: which there are, which one runs, and all that the files of one say."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aegis_tools.control import files
from aegis_tools.errors import StateError
from aegis_tools.paths import Paths
from aegis_tools.soak import columns, happened, hits
from aegis_tools.soak.columns import Sample
from aegis_tools.soak.folder import folder
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.hits import Hit
from aegis_tools.soak.settings import (
    ID,
    MAX_JSON,
    Result,
    Settings,
    parse_result,
    parse_settings,
)

_MOST_NAMES = 10_000
_LIST = "run: aegisbpf soak list"


@dataclass(frozen=True)
class Soak:
    """All that the files of a soak say.

    Attributes:
        settings: What it is.
        samples: Its rows, oldest first.
        happened: What happened, oldest first.
        hits: What rules matched, oldest first.
        now: Unix seconds when it was read.
        result: How it ended; None while it runs, and where that cannot be told.
        current: It is the one that runs, if it has not ended.
        problems: What is wrong with the files, one line each.
    """

    settings: Settings
    samples: tuple[Sample, ...] = ()
    happened: tuple[Happened, ...] = ()
    hits: tuple[Hit, ...] = ()
    now: float = 0.0
    result: Result | None = None
    current: bool = True
    problems: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """``running``, ``done``, ``stopped``, or ``left``: not ended, and not the one that runs."""
        if self.result:
            return self.result.state
        return "running" if self.current else "left"

    @property
    def running(self) -> bool:
        """Whether there is more to come."""
        return self.state == "running"

    @property
    def first(self) -> float:
        """When its first turn was made, Unix seconds; rows until then tell what was before."""
        turn = self.samples[0].timestamp if self.samples else 0
        return max(self.settings.started, turn)

    @property
    def until(self) -> float:
        """When it ended, was read, or was left; Unix seconds."""
        if self.result:
            return self.result.ended
        turn = self.samples[-1].timestamp if self.samples else 0
        return self.now if self.running else max(self.settings.started, turn)


def soaks(paths: Paths) -> list[str]:
    """Return the ids of all soaks, newest first.

    Raises:
        StateError: They cannot be listed.
    """
    try:
        with os.scandir(paths.soaks) as entries:
            names = [
                one.name
                for _, one in zip(range(_MOST_NAMES), entries, strict=False)
                if ID.fullmatch(one.name) and one.is_dir(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StateError(
            "cannot list the soaks", hint="run the command as root", detail=str(error)
        ) from error
    return sorted(names, reverse=True)


def newest(paths: Paths) -> str:
    """Return the id of the newest soak; empty where there is none.

    Raises:
        StateError: They cannot be listed.
    """
    return next(iter(soaks(paths)), "")


def running(paths: Paths) -> str:
    """Return the id of the soak that runs; empty where none does.

    Raises:
        StateError: It cannot be told.
    """
    data = _read(paths.soak_running, 256, "name of the running soak")
    name = "" if data is None else data.decode("ascii", "replace").strip()
    if name and not ID.fullmatch(name):
        raise StateError(
            "the name of the running soak is damaged",
            hint=files.IN_THE_WAY,
            detail=str(paths.soak_running),
        )
    return name


def read_soak(paths: Paths, identifier: str, *, clock: Callable[[], float] = time.time) -> Soak:
    """Read a soak. What is damaged in its rows is left out, and told in ``problems``.

    Args:
        paths: Where soaks are.
        identifier: Its id.
        clock: Tells Unix seconds.

    Raises:
        StateError: There is no such soak; its ``soak.json`` is damaged; a file of it cannot be
            read, is too large, or can be changed by others.
    """
    at = folder(paths, identifier)
    if not ID.fullmatch(identifier) or at.path.is_symlink() or not at.path.is_dir():
        raise StateError(f"there is no soak {files.printable(identifier, 80)}", hint=_LIST)
    problems: list[str] = []
    current = running(paths) == identifier
    if current and not files.exists(at.settings):
        raise StateError(
            f"the soak {identifier} is beginning just now",
            hint="look again in a moment; if it was killed, `aegisbpf soak stop` takes it away",
        )
    settings = _settings(at.settings, identifier)
    samples, found = columns.parse(_text(at.samples, columns.MAX_BYTES, "samples of the soak"))
    problems += found
    events, found = happened.parse(
        _text(at.happened, happened.MAX_BYTES, "list of what happened in the soak")
    )
    problems += found
    matched, found = hits.parse(_text(at.hits, hits.MAX_BYTES, "list of what rules matched"))
    problems += found
    return Soak(
        settings=settings,
        samples=tuple(samples),
        happened=tuple(events),
        hits=tuple(matched),
        now=clock(),
        result=_result(at.result, problems),
        current=current,
        problems=tuple(problems),
    )


def _settings(path: Path, identifier: str) -> Settings:
    what = "settings of the soak"
    data = _read(path, MAX_JSON, what)
    if data is None:
        raise StateError("the settings of the soak are missing", hint=_LIST, detail=str(path))
    try:
        found = parse_settings(data)
        if found.id != identifier:
            raise ValueError("it is that of another soak")
    except ValueError as error:
        raise StateError(
            f"the {what} are damaged", hint=files.IN_THE_WAY, detail=f"{path}: {error}"
        ) from error
    return found


def _result(path: Path, problems: list[str]) -> Result | None:
    data = _read(path, MAX_JSON, "result of the soak")
    with contextlib.suppress(ValueError):
        return None if data is None else parse_result(data)
    problems.append("how the soak ended cannot be read")
    return None


def _text(path: Path, limit: int, what: str) -> str:
    data = _read(path, limit, what)
    return "" if data is None else data.decode("utf-8", "replace")


def _read(path: Path, limit: int, what: str) -> bytes | None:
    return files.read_if_present(path, limit, what=what, owners={0, os.geteuid()})
