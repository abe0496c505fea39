"""What the tests of commands that change single rules share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import apply_support
from kernel_support import REPOSITORY

from aegis_tools.cli.main import run
from aegis_tools.control.live import Live
from aegis_tools.kernel.pins import Pins


class Host(apply_support.Host):
    """A host whose commands are also run as a person and a shell do."""

    def any(self, *argv: str | Path) -> dict[str, Any]:
        """Run a command and return its JSON document, whatever its exit code."""
        self._capsys.readouterr()
        run(["--json", "--root", str(self.paths.root), *map(str, argv)])
        return dict(json.loads(self._capsys.readouterr().out))

    def text(self, *argv: str | Path, code: int = 0) -> list[str]:
        """Run a command in this process and return its lines."""
        self._capsys.readouterr()
        result = run(["--root", str(self.paths.root), *map(str, argv)])
        out, err = self._capsys.readouterr()
        assert result == code, out + err
        return out.splitlines()

    def start(self, *argv: str | Path) -> subprocess.Popen[bytes]:
        """Start a command as a process of its own."""
        command = [sys.executable, "-m", "aegis_tools", "--root", str(self.paths.root)]
        return subprocess.Popen(
            [*command, *map(str, argv)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=REPOSITORY,
        )

    def shell(self, line: str, bin_folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a shell line in which ``aegisbpf`` is this program on this host."""
        bin_folder.mkdir(exist_ok=True)
        script = bin_folder / "aegisbpf"
        script.write_text(
            f'#!/bin/sh\nexec {sys.executable} -m aegis_tools --root {self.paths.root} "$@"\n'
        )
        script.chmod(0o755)
        path = f"{bin_folder}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", line],
            env={**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
        )

    def live(self) -> Live:
        return Live(Pins(self.paths.pins))

    def paths_listed(self) -> list[str]:
        return [row["target"] for row in self("block", "list")["rules"]]

    def check(self) -> dict[str, Any]:
        """Return the verdict of verify-live, which must not be tampering."""
        verdict = self("policy", "verify-live")
        assert not verdict["tampered"], verdict
        return verdict

    def entries(self, name: str) -> list[dict[str, Any]]:
        return list(self("map", "dump", name)["entries"])
