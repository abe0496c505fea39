"""Run commands as a person would see them, and hold each to what was told of it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

BOLD, GREEN, RED, PLAIN = "\033[1m", "\033[32m", "\033[31m", "\033[0m"


@dataclass
class Show:
    """A terminal, and how many steps were not as told.

    Args:
        colour: Print with colours.
        directory: Where commands run.
    """

    colour: bool
    directory: Path
    failed: int = field(default=0)

    def paint(self, text: str, colour: str) -> str:
        """Return ``text`` in a colour, where there are colours."""
        return f"{colour}{text}{PLAIN}" if self.colour else text

    def title(self, text: str) -> None:
        """Print a heading."""
        print(f"\n{self.paint(f'== {text}', BOLD)}", flush=True)

    def run(self, command: str, *, status: int | None = 0, says: str = "") -> str:
        """Run a shell command, print it and its output, and check both.

        Args:
            command: For bash; ``aegisbpf`` is this environment's own.
            status: The exit status that was told; None for any but 0.
            says: Text that the output must hold.

        Returns:
            What it printed.
        """
        print(self.paint(f"$ {command}", BOLD), flush=True)
        process = subprocess.Popen(
            ["/bin/bash", "-o", "pipefail", "-c", command],
            cwd=self.directory,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        told = ""
        with process:
            # A playbook takes its time: each line is shown when it comes.
            for line in process.stdout or ():
                print(line, end="", flush=True)
                told += line
        status_now = process.returncode
        as_told = status_now == status if status is not None else status_now != 0
        self.check(as_told, f"status {status_now}, told was {status}")
        self.check(says in told, f"the output does not say {says!r}")
        return told

    def check(self, held: object, otherwise: str) -> None:
        """Count and print what is not as told."""
        if not held:
            self.failed += 1
            print(self.paint(f"NOT AS TOLD: {otherwise}", RED), flush=True)
