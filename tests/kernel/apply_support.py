"""What the tests of applying policies share: a host, a policy, keys and bundles."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kernel_support import REPOSITORY

from aegis_tools.cli.main import run
from aegis_tools.control.live import Live, committed_digest, live_digest
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths

BASE = "version=1\n[deny_path]\n{a}\n{b}\n[deny_ip]\n203.0.113.7\n"


class Host:
    """A host below a temporary root, with what its commands print."""

    def __init__(self, paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
        self.paths, self._capsys = paths, capsys

    def __call__(self, *argv: str | Path, code: int = 0) -> dict[str, Any]:
        """Run a command in this process and return its JSON document."""
        self._capsys.readouterr()
        result = run(["--json", "--root", str(self.paths.root), *map(str, argv)])
        out = self._capsys.readouterr().out
        assert result == code, out
        return dict(json.loads(out))

    def start(self, *argv: str | Path) -> subprocess.Popen[bytes]:
        """Start a command as a process of its own."""
        command = [sys.executable, "-m", "aegis_tools", "--json", "--root", str(self.paths.root)]
        return subprocess.Popen(
            [*command, *map(str, argv)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=REPOSITORY,
        )

    def digest(self) -> bytes:
        with Live(Pins(self.paths.pins)) as live:
            assert live_digest(live) == committed_digest(live.info())
            return live.info().bundle


def policy_files(tmp_path: Path) -> dict[str, Path]:
    """Return two files, a policy that denies both, and another that denies the first."""
    found = {name: tmp_path / name for name in "ab"}
    for path in found.values():
        path.write_text("secret")
    found["policy"] = tmp_path / "policy.conf"
    found["policy"].write_text(BASE.format(**found))
    found["other"] = tmp_path / "other.yaml"
    found["other"].write_text(f"version: 1\nrules:\n  - {{id: only, path: {found['a']}}}\n")
    return found


def signed_bundles(host: Host, files: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Return two keys, the first of them trusted, and bundles of serial 1 and 2."""
    made = {name: tmp_path / f"{name}.bundle" for name in ("one", "two")}
    for name in ("k1", "k2"):
        host("keys", "generate", tmp_path / name)
        made[name] = tmp_path / f"{name}.key"
    host("keys", "add", tmp_path / "k1.pub")
    sign = ("policy", "sign", files["policy"], "--key", made["k1"])
    host(*sign, "--serial", "1", "--output", made["one"])
    files["policy"].write_text(BASE.format(**files).replace(f"{files['b']}\n", ""))
    host(*sign, "--serial", "2", "--output", made["two"])
    return made
