"""The real thing: log in, become root, look names up, run Python. What a proof cannot foresee.

It is run before a change and again after it, inside the confirm window; what worked before
and does not any more is the change's fault.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aegis_tools.control.files import ensure_folder
from aegis_tools.control.lockout.login import ssh_options
from aegis_tools.control.lockout.tree import SEARCH, Tree
from aegis_tools.errors import AegisError, CommandError
from aegis_tools.kernel.run import Runner, run

TIMEOUT = 30.0
_PYTHON = "import json, os, socket, tempfile; tempfile.TemporaryFile().close()"


class Absent(Exception):  # noqa: N818
    """There is nothing to try on this host."""


class Outcome(NamedTuple):
    """What became of one attempt.

    Attributes:
        name: What was tried.
        state: ``ok``, ``failed``, or ``absent`` where the host has no such thing.
        detail: Why, for a person.
    """

    name: str
    state: str
    detail: str = ""

    def text(self) -> str:
        """Return it in one line."""
        return f"{self.state:<7} {self.name}" + (f"  ({self.detail})" if self.detail else "")


Check = Callable[[], None]


def attempt(checks: Iterable[tuple[str, Check]]) -> list[Outcome]:
    """Try everything, one after the other; nothing is raised."""
    found = []
    for name, check in checks:
        try:
            check()
        except Absent as absent:
            found.append(Outcome(name, "absent", str(absent)))
        except AegisError as error:
            said = error.detail.strip().splitlines()[-1:]
            found.append(Outcome(name, "failed", ": ".join([error.message, *said])))
        except (OSError, subprocess.SubprocessError) as error:
            found.append(Outcome(name, "failed", str(error)))
        else:
            found.append(Outcome(name, "ok"))
    return found


def broken(before: Iterable[Outcome], after: Iterable[Outcome]) -> list[Outcome]:
    """Return what failed after a change and did not before."""
    worked = {one.name for one in before if one.state == "ok"}
    return [one for one in after if one.state != "ok" and one.name in worked]


def checks(place: Path, runner: Runner = run) -> list[tuple[str, Check]]:
    """Return what is tried on this host.

    Args:
        place: A folder of ours, in which a folder for keys is made for the time of a login.
        runner: Starts programs.
    """
    return [
        ("log in through sshd on loopback", lambda: login(place, runner)),
        ("sshd answers on its own port", banner),
        ("sudo", lambda: _sudo(runner)),
        ("look up a host name", lambda: _quiet(runner, "getent", "hosts", "localhost")),
        ("look up an account", lambda: _quiet(runner, "getent", "passwd", "root")),
        ("run the Python of aegisbpf", lambda: _quiet(runner, sys.executable, "-c", _PYTHON)),
        ("run the Python of Ansible", lambda: _system_python(runner)),
    ]


def _quiet(runner: Runner, *argv: str) -> None:
    runner(argv, timeout=TIMEOUT)


def _sudo(runner: Runner) -> None:
    _program("sudo")
    _quiet(runner, "sudo", "-n", "true")


def _system_python(runner: Runner) -> None:
    _quiet(runner, _program("python3"), "-c", _PYTHON)


def _program(name: str) -> str:
    path = shutil.which(name, path=":".join(SEARCH))
    if path is None:
        raise Absent(f"{name} is not installed")
    return path


def login(place: Path, runner: Runner) -> None:
    """Log in as root through an sshd of our own on loopback, configured as the host's is.

    Raises:
        Absent: No sshd is installed.
        CommandError: It did not work.
    """
    sshd, client, keygen = _program("sshd"), _program("ssh"), _program("ssh-keygen")
    with _folder(place) as folder:
        key = folder / "key"
        _quiet(runner, keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        port = _free_port()
        settings = folder / "sshd_config"
        settings.write_text(sshd_config(Tree(), port, f"{key}.pub"))
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with _started([sshd, "-D", "-e", "-f", str(settings)], folder / "log") as log:
            _wait_for(port, log)
            options = (
                "BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no",
                "UserKnownHostsFile=/dev/null", "GlobalKnownHostsFile=/dev/null",
                "ConnectTimeout=5", "LogLevel=ERROR",
            )  # fmt: skip
            words = [word for option in options for word in ("-o", option)]
            argv = [client, "-F", "none", "-p", str(port), "-i", str(key), *words]
            try:
                _quiet(runner, *argv, "root@127.0.0.1", "true")
            except CommandError as error:
                said = log.read_text(errors="replace")
                raise CommandError(error.message, detail=f"{error.detail}\n{said}") from None


def sshd_config(tree: Tree, port: int, keys: str) -> str:
    """Return the host's sshd_config for one login of root on loopback.

    Of most keywords the first value counts (sshd_config(5)), so ours come first; those that add
    up are taken out of the rest.
    """
    ours = [
        f"ListenAddress 127.0.0.1:{port}",
        f"AuthorizedKeysFile {keys}",
        "PermitRootLogin prohibit-password",
        "PubkeyAuthentication yes",
        "AuthenticationMethods publickey",
        "PidFile none",
    ]
    others = ("listenaddress", "port", "allowusers", "allowgroups", "denyusers", "denygroups")
    rest = [
        line
        for line in tree.text("/etc/ssh/sshd_config").splitlines()
        if line.strip().partition(" ")[0].lower() not in others
    ]
    return "\n".join([*ours, *rest, ""])


@contextlib.contextmanager
def _folder(place: Path) -> Iterator[Path]:
    ensure_folder(place, mode=0o755)
    with tempfile.TemporaryDirectory(prefix="probe-", dir=place) as name:
        yield Path(name)


@contextlib.contextmanager
def _started(argv: Sequence[str], log: Path) -> Iterator[Path]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, close_fds=True
        )
    try:
        yield log
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait_for(port: int, log: Path) -> None:
    end = time.monotonic() + TIMEOUT
    while True:
        try:
            _hear(port)
            return
        except (ConnectionRefusedError, TimeoutError) as error:
            if time.monotonic() > end:
                said = log.read_text(errors="replace")
                raise CommandError("sshd does not start", detail=said or str(error)) from None
            time.sleep(0.05)


def _hear(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        if not sock.recv(4).startswith(b"SSH-"):
            raise CommandError(f"what listens on port {port} does not answer as sshd does")


def banner() -> None:
    """Hear the greeting of the sshd that listens.

    Raises:
        Absent: None listens, or a rule keeps this host from connecting there (not others).
        CommandError: It does not answer.
    """
    from aegis_tools.control.lockout.config import ssh_ports

    for port in ssh_ports(ssh_options(Tree())):
        try:
            _hear(port)
        except ConnectionRefusedError:
            continue
        except PermissionError:
            raise Absent(f"this host may not connect to its own port {port}") from None
        return
    raise Absent("no sshd listens")


def to_dict(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Return outcomes as ``--json`` prints them."""
    return [one._asdict() for one in outcomes]


def as_text(outcomes: Iterable[Outcome]) -> str:
    """Return outcomes for a person."""
    return "\n".join(one.text() for one in outcomes)
