"""Files that a person asked for by name: unlike our own, they may be anything, or anybody's."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from aegis_tools.control.files import named, write_all, write_atomic
from aegis_tools.errors import StateError, UsageError


def write_output(
    path: Path, data: bytes, *, what: str, mode: int = 0o644, inputs: Iterable[Path] = ()
) -> None:
    """Write ``data`` to where the command line says.

    A regular file, also behind a symbolic link, is replaced in one step and keeps its
    permissions. A device or pipe is written to; it is never replaced.

    Args:
        path: Where to.
        data: The whole content.
        what: What it is, for the error message.
        mode: Permission bits of a file that did not exist.
        inputs: Files that the command reads: none of them may be the output.

    Raises:
        UsageError: The output is a folder, or one of the inputs.
        StateError: It cannot be written.
    """
    real, what = Path(os.path.realpath(path)), f"{what} {named(path)}"
    try:
        found = real.stat()
    except FileNotFoundError:
        write_atomic(real, data, what=what, mode=mode)
        return
    except OSError as error:
        raise _unwritable(what, error) from error
    for source in inputs:
        if source.exists() and source.samefile(real):
            raise UsageError(
                f"{path} is what the command reads: it would be overwritten",
                hint="choose another --output",
            )
    if stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{path} is a folder", hint="name a file in it")
    if stat.S_ISREG(found.st_mode):
        write_atomic(real, data, what=what, mode=stat.S_IMODE(found.st_mode))
        return
    try:
        fd = os.open(real, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            write_all(fd, data)
        finally:
            os.close(fd)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(what, error) from error


def _unwritable(what: str, error: OSError) -> StateError:
    return StateError(
        f"the {what} cannot be written", hint="choose another --output", detail=str(error)
    )
