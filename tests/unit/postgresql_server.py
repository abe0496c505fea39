"""A PostgreSQL server of a test's own: in a folder, on a socket there, and not run by root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

PASSWORD = "correct-horse"  # of a server that lives for a test, on a socket of its own


class Server:
    """Begins with the first ``start``; ``remove`` ends it and all it had."""

    def __init__(self) -> None:
        [*_, newest] = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        self.bin = newest
        # Not the test's own folder: the name of a socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self.user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self.data = self.folder / "data"
        self.passfile = self.folder / "pgpass"
        self.passfile.write_text(f"*:*:*:*:{PASSWORD}\n")
        self.passfile.chmod(0o600)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address, without a password."""
        return f"postgresql://owner@/postgres?host={self.folder}"

    def make(self) -> None:
        """Make the cluster."""
        secret = self.folder / "secret"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (self.folder, secret):
                shutil.chown(path, self.user)
        self._run(
            "initdb", "--pgdata", str(self.data), "--username", "owner", "--auth", "scram-sha-256",
            "--pwfile", str(secret), "--no-sync", "--encoding", "UTF8", "--no-locale",
        )  # fmt: skip

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {
            "listen_addresses": "", "unix_socket_directories": str(self.folder), "fsync": "off",
        }  # fmt: skip
        argv = [str(self.bin / "postgres"), "-D", str(self.data)]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **self._as()
            )
        end = time.monotonic() + 60
        while self._ready() != 0:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a power loss would: none of its processes can do anything more."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        self.process.kill()
        for pid in children.split():
            try:
                os.kill(int(pid), 9)
            except ProcessLookupError:
                continue
        self.process.wait()
        self.process = None
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def remove(self) -> None:
        """End it, and remove its folder."""
        if self.process is not None:
            self.kill()
        shutil.rmtree(self.folder)

    def _ready(self) -> int:
        ready = ["pg_isready", "--quiet", "--host", str(self.folder)]
        return subprocess.run([str(self.bin / ready[0]), *ready[1:]], check=False).returncode

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.bin / name), *arguments], capture_output=True, text=True, check=False,
            cwd=self.folder, **self._as(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def _as(self) -> dict[str, str]:
        """Return how a program is run: PostgreSQL refuses to be root."""
        return {"user": self.user, "group": self.user} if os.geteuid() == 0 else {}
