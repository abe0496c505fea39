"""Start an emulated PC, talk to it, end it."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from vmharness.kernels import HarnessError
from vmharness.system import image
from vmharness.system.wire import Agent, Wire, open_qmp

MEMORY_MIB = 2048
CPUS = 2
START_SECONDS = 60
MIGRATE_SECONDS = 120


def arguments(folder: Path, disk: Path, *, incoming: bool) -> list[str]:
    """Return QEMU's command line. A stored machine runs again only with the very same devices.

    Args:
        folder: For sockets and the console.
        disk: A qcow2 image that the machine may write.
        incoming: Wait for a stored machine, do not boot.
    """
    command = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"]
    # With a thread each, QEMU 7.2 at times lets two processors run for ever at one instruction that
    # the kernel has just patched: seen where units with system call filters start while the agent
    # turns the counters of BPF programs on. Five-level page tables are only more to walk here.
    command += ["-accel", "tcg,thread=single", "-cpu", "max,la57=off", "-smp", str(CPUS)]
    command += ["-m", str(MEMORY_MIB), "-nodefaults", "-no-user-config", "-display", "none"]
    command += ["-machine", "pc-i440fx-7.2", "-rtc", "base=utc", "-device", "virtio-rng-pci"]
    # Nothing that is written here is wanted after a crash of the host.
    command += ["-drive", f"file={disk},format=qcow2,if=virtio,cache=unsafe,discard=unmap"]
    # Only what is forwarded gets in, and nothing gets out.
    command += ["-netdev", "user,id=net0,restrict=on", "-device", "virtio-net-pci,netdev=net0"]
    command += ["-serial", f"file:{folder}/console"]
    command += ["-qmp", f"unix:{folder}/qmp,server=on,wait=off"]
    command += ["-chardev", f"socket,id=agent,path={folder}/agent,server=on,wait=off"]
    command += ["-device", "virtio-serial-pci"]
    command += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
    return [*command, "-incoming", "defer"] if incoming else command


def overlay(backing: Path, disk: Path) -> None:
    """Make an image that reads from ``backing`` what was never written to it."""
    options = ["-f", "qcow2", "-F", "qcow2", "-b", str(backing.resolve())]
    image.run(["qemu-img", "create", "-q", *options, str(disk)])


class Qemu:
    """A machine that runs while the ``with`` block does.

    Args:
        backing: The disk, which is not written.
        state: Where a machine was stored with :meth:`store`; without it, the machine boots.
        disk: Where what it writes goes; without it, to a file that is gone afterwards.
    """

    def __init__(
        self,
        backing: Path,
        *,
        state: Path | None = None,
        disk: Path | None = None,
    ) -> None:
        # Short: a Unix socket's path has 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="aegis-system-"))
        self.state = state
        self.disk = disk or self.folder / "disk.qcow2"
        self.process: subprocess.Popen[bytes] | None = None
        self.qmp: Wire | None = None
        self.agent = Agent(self.folder / "agent")
        overlay(backing, self.disk)

    def __enter__(self) -> Qemu:
        try:
            self.start()
            if self.state:
                self._restore(self.state)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the emulator: the machine boots, or waits for its stored state."""
        incoming = self.state is not None
        command = arguments(self.folder, self.disk, incoming=incoming)
        with (self.folder / "qemu.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                self.qmp = open_qmp(self.folder / "qmp")
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    text = (self.folder / "qemu.log").read_text(encoding="utf-8")
                    raise HarnessError("the machine does not start", detail=text) from None
            time.sleep(0.05)

    def close(self) -> None:
        """End the emulator and forget what the machine wrote."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """End the emulator at once, as if the power went."""
        if self.qmp:
            self.qmp.close()
            self.qmp = None
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        """Cut the power and switch it on again: same disk, nothing of the memory."""
        self.kill()
        self.state = None
        self.start()

    def forward(self, guest_port: int) -> int:
        """Return a port of this host's loopback that leads to one of the machine."""
        rule = f"hostfwd_add net0 tcp:127.0.0.1:0-:{guest_port}"
        answer = self.monitor(rule)
        if answer.strip():
            raise HarnessError("a port cannot be forwarded", detail=answer)
        # TCP[HOST_FORWARD]  12      127.0.0.1 34567       10.0.2.15    22
        pattern = rf"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+{guest_port}\s"
        return int(re.findall(pattern, self.monitor("info usernet"))[-1])

    def ask(self, name: str, **arguments: Any) -> Any:
        """Send a QMP request and return its answer."""
        if self.qmp is None:
            raise HarnessError(f"{name}: the machine is off")
        return self.qmp.ask(name, **arguments)

    def monitor(self, line: str) -> str:
        """Run a command of QEMU's human monitor."""
        return str(self.ask("human-monitor-command", **{"command-line": line}))

    def console(self) -> str:
        """Return what the machine wrote to its serial line."""
        return (self.folder / "console").read_text(encoding="utf-8", errors="replace")

    def store(self, state: Path) -> None:
        """Write memory and devices to a file; the disk stays as it is at this instant."""
        self.ask("stop")
        self._migrate("migrate", uri=f"exec:cat > {state}")
        self.ask("quit")
        if self.process:
            self.process.wait(START_SECONDS)

    def _restore(self, state: Path) -> None:
        self._migrate("migrate-incoming", uri=f"exec:cat {state}")
        self.ask("cont")

    def _migrate(self, name: str, **options: Any) -> None:
        self.ask("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        self.ask(name, **options)
        end = time.monotonic() + MIGRATE_SECONDS
        while time.monotonic() < end:
            answer = self.ask("query-migrate")
            if answer.get("status") == "completed":
                return
            if answer.get("status") in ("failed", "cancelled"):
                raise HarnessError(f"{name}: {answer.get('error-desc', 'failed')}")
            time.sleep(0.05)
        raise HarnessError(f"{name} took more than {MIGRATE_SECONDS} s")
