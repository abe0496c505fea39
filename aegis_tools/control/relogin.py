"""Let people in again: start sshd where an undone change has kept it from starting.

systemd gives up on it: Debian's unit forbids a restart after the status that sshd ends with where
it may not bind its port (``RestartPreventExitStatus=255``), and a unit that fails five times in ten
seconds is not started again. What is undone in the kernel would leave the host without a way in.
"""

from __future__ import annotations

from aegis_tools.control import timer
from aegis_tools.errors import AegisError
from aegis_tools.kernel.run import Runner, run
from aegis_tools.paths import Paths

UNITS = ("ssh.service", "sshd.service", "ssh.socket", "sshd.socket")
"""What lets people in, by the names of Debian and of all others."""


def start_failed(paths: Paths, *, runner: Runner = run) -> list[str]:
    """Start those of UNITS that have failed; return which. No error where systemd refuses."""
    if not timer.has_systemd(paths):
        return []
    shown = ["--state=failed", "--plain", "--no-legend", "--no-pager"]
    try:
        text = runner(["systemctl", "list-units", *shown, *UNITS], timeout=30)
        failed = [line.split()[0] for line in text.splitlines() if line.strip()]
        if failed:
            # Or the limit of starts still counts.
            runner(["systemctl", "reset-failed", *failed], timeout=30)
            runner(["systemctl", "start", "--no-block", *failed], timeout=30)
    except AegisError:
        return []
    return failed
