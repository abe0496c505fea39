"""What a test holds: one whole system, reached as an operator would, and its power switch."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmharness.kernels import HarnessError
from vmharness.system import image, recipe
from vmharness.system.qemu import Qemu

# Limits, not expectations: a host that is busy makes everything many times slower.
LOGIN_SECONDS = 60.0
BOOT_SECONDS = 900.0
COMMAND_SECONDS = 180.0
TOGETHER = ("setpriv", "--pdeathsig", "KILL")
"""What is begun by this ends with whoever began it."""
SSH_FAILED = 255
READ_BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
GRUB_CONFIGURATION = "/boot/grub/grub.cfg"


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    command: str
    status: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """Return what it printed, as JSON."""
        return json.loads(self.stdout)


class CommandError(AssertionError):
    """A command in the machine ended with another status than 0; says all that it printed."""

    def __init__(self, done: Done) -> None:
        super().__init__(f"{done.command}: status {done.status}\n{done.stdout}{done.stderr}")
        self.done = done


def with_kernel_arguments(text: str, arguments: str) -> str:
    """Return a ``grub.cfg`` whose every entry gives the kernel more arguments."""
    return re.sub(r"(?m)^(\s*linux\s.*)$", lambda match: f"{match[1]} {arguments}", text)


class Keys:
    """The SSH key of one run; nothing of it outlives the folder.

    Args:
        folder: Where it is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.private = folder / "id_ed25519"
        image.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.private)])

    @property
    def public(self) -> str:
        """One line for authorized_keys."""
        return self.private.with_suffix(".pub").read_text(encoding="ascii").strip()


class Machine:
    """A running system.

    Args:
        qemu: The emulator, started.
        keys: What to log in with.
    """

    def __init__(self, qemu: Qemu, keys: Keys) -> None:
        self.qemu = qemu
        self.keys = keys
        self.agent = qemu.agent
        """A way in without network, sshd, PAM or shell: to look at a host that is locked out."""
        self.folder = Path(tempfile.mkdtemp(prefix="aegis-ssh-", dir=qemu.folder))
        self.kept: dict[str, subprocess.Popen[bytes]] = {}
        self.port = 0

    def open(self) -> None:
        """Put the key in, set the clock (a stored machine's stands still), wait for sshd."""
        self.agent.wait(BOOT_SECONDS)
        for user in ("root", recipe.USER):
            self.agent.ask("guest-ssh-add-authorized-keys", username=user, keys=[self.keys.public])
        self.set_clock(time.time())
        self.port = self.qemu.forward(22)
        self.wait_ssh()
        self.run("sync")  # the key must be there after a power cut

    def close(self) -> None:
        """Let go of the kept connections. The machine itself is the emulator's."""
        for process in self.kept.values():
            process.kill()
            process.wait()
        self.kept.clear()

    # Commands

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        user: str = "root",
        new: bool = False,
        stdin: bytes | str = b"",
        seconds: float = COMMAND_SECONDS,
    ) -> Done:
        """Run a command in the machine, over SSH.

        Args:
            command: For the user's shell.
            check: Another status than 0 is an error.
            user: ``root``, or ``admin`` who may use sudo.
            new: Log in again instead of using the kept connection: what a locked out operator
                cannot do.
            stdin: What it reads.
            seconds: How long it may take.

        Raises:
            CommandError: Its status is not 0; 255 is also what a failed login gives.
            HarnessError: It took too long.
        """
        data = stdin.encode() if isinstance(stdin, str) else stdin
        arguments = self._ssh(user, None if new else self._keep(user))
        try:
            ended = subprocess.run(
                [*arguments, "--", command],
                input=data,
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise HarnessError(f"in the machine: {command} took more than {seconds:g} s") from None
        out, err = (part.decode("utf-8", "replace") for part in (ended.stdout, ended.stderr))
        done = Done(command, ended.returncode, out, err)
        if check and done.status:
            raise CommandError(done)
        return done

    def aegis(self, *words: str, **options: Any) -> Any:
        """Run ``aegisbpf --json WORDS`` as root and return its document."""
        return self.run(shlex.join(["aegisbpf", "--json", *words]), **options).json()

    def put(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        """Write a file of root's, with its folders."""
        quoted, folder = shlex.quote(path), shlex.quote(str(Path(path).parent))
        command = f"mkdir -p {folder} && cat > {quoted} && chmod {mode:o} {quoted}"
        self.run(command, stdin=content)

    def get(self, path: str) -> str:
        """Return a file's text."""
        return self.run(f"cat {shlex.quote(path)}").stdout

    def journal(self, unit: str) -> str:
        """Return what a unit has logged, of every boot that the journal has."""
        return self.run(f"journalctl --no-pager --output=short-monotonic -u {unit}").stdout

    def ssh_command(self, user: str = "root") -> list[str]:
        """Return the command that logs in, for a terminal."""
        return self._ssh(user, None)

    def forward(self, port: int) -> int:
        """Return a port of this host's loopback that leads to the machine's ``port``."""
        return self.qemu.forward(port)

    @contextmanager
    def tunnel(self, port: int) -> Iterator[int]:
        """Let a port of this host's loopback lead to one of the machine's, while the block runs.

        Unlike :meth:`forward` it reaches what listens on loopback there. It outlives a reboot.
        """
        with socket.create_server(("127.0.0.1", 0)) as probe:
            own = int(probe.getsockname()[1])
        options = ["-N", "-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=5"]
        options += ["-L", f"127.0.0.1:{own}:127.0.0.1:{port}"]
        again = ["sh", "-c", 'while :; do "$@"; sleep 1; done', "sh"]
        process = subprocess.Popen(
            [*TOGETHER, *again, *TOGETHER, *self._ssh("root", None), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield own
        finally:
            process.kill()
            process.wait()

    # Being let in

    def can_login(self, *, user: str = "root", seconds: float = LOGIN_SECONDS) -> bool:
        """Say whether a new login works and runs a command."""
        try:
            return self.run("true", check=False, user=user, new=True, seconds=seconds).status == 0
        except HarnessError:
            return False

    def wait_ssh(self, seconds: float = BOOT_SECONDS) -> None:
        """Wait until a new login works.

        Raises:
            HarnessError: None has in ``seconds``; says what the machine's console shows.
        """
        self._wait(self.can_login, seconds)

    # Power, time

    def reboot(self, arguments: str = "") -> None:
        """Reboot through GRUB and wait for sshd.

        Args:
            arguments: Added to the kernel's command line this once, as with GRUB's editor.
        """
        before = self.boot_id()
        if arguments:
            self._once(arguments)
        # The answer may be lost with the connection.
        self.run("systemctl reboot", check=False)
        self._booted(before)
        if arguments:
            self.run(f"mv {GRUB_CONFIGURATION}.aegis {GRUB_CONFIGURATION} && sync")

    def power_cut(self) -> None:
        """Cut the power and switch it on again at once; wait for sshd.

        What the machine has not written to its disk yet is lost, as it would be.
        """
        before = self.boot_id()
        self.close()
        self.qemu.restart()
        self.port = self.qemu.forward(22)
        self._booted(before)

    def boot_id(self) -> str:
        """Return what names this boot."""
        return self.run(READ_BOOT_ID).stdout.strip()

    def suspend(self, seconds: float) -> None:
        """Suspend to RAM for at least ``seconds``, then wake up by the power button.

        The clock of the boot counts the time, the monotonic one does not.
        """
        self.close()
        self.agent.run("/bin/systemctl", "start", "--no-block", "systemd-suspend.service")
        self._status("suspended")
        time.sleep(seconds)
        self.qemu.ask("system_wakeup")
        self._status("running")
        self.agent.wait(COMMAND_SECONDS)

    def set_clock(self, seconds: float) -> None:
        """Set the wall clock, as a person or NTP would; no other clock follows.

        Args:
            seconds: Since 1970.
        """
        status, output = self.agent.run("/bin/date", "--set", f"@{seconds:.3f}")
        if status:
            raise HarnessError("the machine's clock cannot be set", detail=output)

    def clocks(self) -> dict[str, float]:
        """Return the machine's clocks in seconds: ``boot``, ``monotonic``, ``wall``."""
        names = {"boot": "BOOTTIME", "monotonic": "MONOTONIC", "wall": "REALTIME"}
        pairs = ",".join(f"'{key}':time.clock_gettime(time.CLOCK_{c})" for key, c in names.items())
        program = f"import json,time;print(json.dumps({{{pairs}}}))"
        return dict(self.run(f"python3 -c {shlex.quote(program)}").json())

    def kill(self, unit: str, signal: str = "KILL") -> None:
        """Send a signal to the main process of a unit."""
        self.run(f"systemctl kill --kill-who=main --signal={signal} {unit}")

    def _booted(self, before: str) -> None:
        self.close()

        def up(*, seconds: float) -> bool:
            try:
                done = self.run(READ_BOOT_ID, check=False, new=True, seconds=seconds)
            except HarnessError:
                return False
            return done.status == 0 and done.stdout.strip() != before

        self._wait(up, BOOT_SECONDS)

    def _wait(self, attempt: Callable[..., bool], seconds: float) -> None:
        """Try again and again, for longer each time.

        What goes to a machine that is not up yet is never answered, and one that is busy answers
        late.
        """
        begun = time.monotonic()
        while not attempt(seconds=3 + (time.monotonic() - begun) / 4):
            if time.monotonic() - begun > seconds:
                tail = "\n".join(self.qemu.console().splitlines()[-30:])
                raise HarnessError(f"sshd lets nobody in after {seconds:g} s", detail=tail)
            time.sleep(0.2)

    def _once(self, arguments: str) -> None:
        text = with_kernel_arguments(self.get(GRUB_CONFIGURATION), arguments)
        self.run(f"cp -a {GRUB_CONFIGURATION} {GRUB_CONFIGURATION}.aegis")
        self.put(GRUB_CONFIGURATION, text, mode=0o600)
        self.run("sync")

    def _status(self, wanted: str) -> None:
        end = time.monotonic() + COMMAND_SECONDS
        while self.qemu.ask("query-status")["status"] != wanted:
            if time.monotonic() > end:
                raise HarnessError(f"the machine is not {wanted} after {COMMAND_SECONDS:g} s")
            time.sleep(0.1)

    def _keep(self, user: str) -> Path:
        """Return the socket of a connection that is kept, opened now if there is none."""
        socket = self.folder / user
        process = self.kept.get(user)
        if process is None or process.poll() is not None:
            socket.unlink(missing_ok=True)
            arguments = self._ssh(user, socket)
            self.kept[user] = subprocess.Popen(
                [*TOGETHER, *arguments, "-M", "-N"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            end = time.monotonic() + LOGIN_SECONDS
            while not socket.exists() and time.monotonic() < end:
                if self.kept[user].poll() is not None:
                    break
                time.sleep(0.02)
        return socket

    def _ssh(self, user: str, socket: Path | None) -> list[str]:
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": f"{LOGIN_SECONDS:.0f}",
            "ControlPath": str(socket or "none"),
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
        }
        flags = [f"-o{name}={value}" for name, value in options.items()]
        where = ["-p", str(self.port), f"{user}@127.0.0.1"]
        return ["ssh", "-F", "none", "-i", str(self.keys.private), *flags, *where]
