"""The one place that starts programs.

``sh`` does the work; its three unrelated exceptions become :class:`CommandError`. It is
imported on the first call, because it costs more than most commands do altogether.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Sequence
from typing import Protocol

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
        command = sh.Command(name, search_paths=_ENVIRONMENT["PATH"].split(":"))
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
    except sh.CommandNotFound:
        raise CommandError(
            f"{name} is not installed", hint=f"install the package that brings {name}"
        ) from None
    except sh.ForkException as error:  # execve(2) was refused, by a rule of ours perhaps
        raise CommandError(f"{name} cannot be started", detail=str(error)) from None
    except sh.TimeoutException:
        raise CommandError(f"{name} did not finish within {timeout:.0f} s") from None
    except sh.ErrorReturnCode as error:
        output = error.stderr.decode(errors="replace")
        raise CommandError(f"{name} failed", detail=output, data={"stderr": output}) from None


def _die_with_parent() -> None:
    """Have the kernel kill this process with the one that started it.

    A bpftool left behind by a load that was killed would go on pinning into the next one.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
