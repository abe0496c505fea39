"""A transient systemd timer that reverts an unconfirmed change where no agent does.

Its clock stands still while the machine is suspended, so after a suspend it may come late. What
is refused does not wait for it: the kernel's own deadline counts the suspend.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from aegis_tools.errors import AegisError, CommandError
from aegis_tools.kernel.run import Runner, run
from aegis_tools.paths import Paths

UNIT = "aegisbpf-revert"
_GRACE = 1
_RETRY = 15


def has_systemd(paths: Paths) -> bool:
    """Return whether systemd runs this host, as sd_booted(3) tells."""
    return (paths.root / "run/systemd/system").is_dir()


def command(paths: Paths) -> list[str]:
    """Return the command that the timer runs, whatever the PATH."""
    root = [] if paths.root == Path("/") else ["--root", str(paths.root)]
    return [sys.executable, "-m", "aegis_tools", *root, "policy", "revert", "--if-overdue"]


def arm(paths: Paths, seconds: float, *, runner: Runner = run) -> str:
    """Start the timer, in the place of an older one; return why not where it cannot be."""
    if not has_systemd(paths):
        return "systemd does not run this host"
    disarm(paths, runner=runner)
    package = Path(__file__).resolve().parents[2]
    words = [
        "systemd-run",
        "--quiet",
        "--collect",
        f"--unit={UNIT}",
        "--description=Revert a policy change that nobody confirmed",
        f"--on-active={int(seconds) + _GRACE}s",
        "--timer-property=AccuracySec=1s",
        "--property=Restart=on-failure",
        f"--property=RestartSec={_RETRY}s",
        f"--working-directory={package}",
        *command(paths),
    ]
    try:
        runner(words, timeout=30)
    except CommandError as error:
        return f"systemd-run failed ({error.detail.strip() or error.message})"
    return ""


def disarm(paths: Paths, *, runner: Runner = run) -> None:
    """Stop the timer; one that is not there, or a systemd that does not answer, is no error.

    Whoever the timer starts afterwards finds nothing overdue.
    """
    if has_systemd(paths):
        with contextlib.suppress(AegisError):
            runner(["systemctl", "stop", f"{UNIT}.timer"], timeout=30)
