"""The one place that starts programs.

``sh`` does the work; its three unrelated exceptions become :class:`CommandError`. It is
imported on the first call, because it costs more than most commands do altogether.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, Protocol

from aegis_tools.errors import CommandError

_ENVIRONMENT = {
    "LC_ALL": "C",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_libc = ctypes.CDLL(None)


class Runner(Protocol):
    """Runs a program and returns what it wrote to stdout."""

    def __call__(self, argv: Sequence[str], *, timeout: float = 60) -> str:
        """Run ``argv``.

        Raises:
            CommandError: It failed, was killed, took too long or does not exist.
        """


def run(argv: Sequence[str], *, timeout: float = 60) -> str:
    """Run a program; see :class:`Runner`."""
    import sh

    name, *arguments = argv
    try:
        with _starting(name) as command:
            return str(
                command(
                    *arguments,
                    _env=_ENVIRONMENT,
                    _timeout=timeout,
                    _tty_out=False,
                    _return_cmd=True,
                    _preexec_fn=_die_with_parent,
                    _decode_errors="replace",
                )
            )
    except sh.TimeoutException:
        raise CommandError(
            f"{name} did not finish within {timeout:.0f} s",
            hint="is the machine very busy? see: uptime; then run the command again",
        ) from None
    except sh.ErrorReturnCode as error:
        output = error.stderr.decode(errors="replace")
        raise CommandError(
            f"{name} failed",
            hint="run the command again with --verbose to see what it said",
            detail=output,
            data={"stderr": output},
        ) from None


@contextmanager
def _starting(name: str) -> Iterator[Any]:
    """Yield a program as ``sh`` calls it; that it does not start is a CommandError."""
    import sh

    try:
        command = sh.Command(name, search_paths=_ENVIRONMENT["PATH"].split(":"))
    except sh.CommandNotFound:
        raise CommandError(
            f"{name} is not installed", hint=f"install the package that brings {name}"
        ) from None
    try:
        yield command
    except sh.ForkException as error:  # execve(2) was refused, by a rule of ours perhaps
        raise CommandError(
            f"{name} cannot be started",
            hint=f"see whether a rule denies it: aegisbpf why {command}",
            detail=str(error),
        ) from None


@contextmanager
def stream(argv: Sequence[str]) -> Iterator[int]:
    """Start a program and yield a descriptor to read what it writes to stdout from.

    Leaving the context ends the program; where that is before its output has ended, nobody cares
    how it ends.

    Raises:
        CommandError: It does not exist; or it failed, told when its output has been read.
    """
    import tempfile

    name, *arguments = argv
    reader, writer = os.pipe2(os.O_CLOEXEC)
    said = tempfile.TemporaryFile()  # noqa: SIM115 # closed below
    try:
        with os.fdopen(writer, "wb") as output, _starting(name) as command:
            running = command(
                *arguments,
                _env=_ENVIRONMENT,
                _out=output,
                _err=said,
                _bg=True,
                _bg_exc=False,
                _return_cmd=True,
                _preexec_fn=_die_with_parent,
                _decode_errors="replace",
            )
        try:
            yield reader
        except BaseException:
            _end(running, name, said, finished=False)
            raise
        _end(running, name, said, finished=_is_at_end(reader))
    finally:
        said.close()
        os.close(reader)


def _is_at_end(reader: int) -> bool:
    os.set_blocking(reader, False)
    try:
        return not os.read(reader, 1)
    except BlockingIOError:
        return False


def _end(running: Any, name: str, said: IO[bytes], *, finished: bool) -> None:
    """Wait for a program that has said all; end one that has not."""
    import sh

    if not finished:
        with suppress(ProcessLookupError):
            running.terminate()
    try:
        running.wait(timeout=10)
    except (sh.ErrorReturnCode, sh.TimeoutException) as error:
        if finished:
            said.seek(0)
            output = said.read(65536).decode(errors="replace")
            raise CommandError(
                f"{name} failed",
                hint="run the command again with --verbose to see what it said",
                detail=output,
                data={"stderr": output},
            ) from error


def _die_with_parent() -> None:
    """Have the kernel kill this process with the one that started it.

    A bpftool left behind by a load that was killed would go on pinning into the next one.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
