"""Boot a kernel over this machine's own root, run one command as root, end the machine.

virtme-ng makes the machine. What goes in and out goes through a control folder shared by 9p,
since consoles and exit statuses of virtme-ng depend on udev and on the terminal: ``job.json`` in;
``ready``, ``stdout``, ``stderr`` and ``status`` out.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from vmharness.kernels import HarnessError, Installed

BASE = "/run/aegis-vm"
CONTROL = f"{BASE}/control"
TIMED_OUT = 124
COUNTING = "-icount shift=0"
"""An instruction takes one nanosecond of the machine's clock, and idling what it takes here."""
_GUEST = Path(__file__).with_name("guest.py")
_POLL_SECONDS = 0.05
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Job:
    """What to run, and on what kind of machine.

    Args:
        command: The program and its arguments.
        directory: Where it starts; a path of the host.
        memory: As qemu takes it.
        cpus: Virtual processors.
        seconds: Limit for boot and command together.
        cmdline: More kernel parameters.
        shared: Host folders that the command may write, at their own paths.
        keep: Host folders it reads, which must stay visible if they are below /tmp or /run.
        environment: The command's whole environment, on top of PATH, HOME and the kernel's name.
        accelerate: Use KVM.
        count: Have the emulator count instructions, and the machine's clock go by them alone.
        verbose: Show the kernel's console on stderr.
    """

    command: tuple[str, ...]
    directory: Path = Path("/")
    memory: str = "2G"
    cpus: int = 2
    seconds: float = 600
    cmdline: tuple[str, ...] = ()
    shared: tuple[Path, ...] = ()
    keep: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    accelerate: bool = False
    count: bool = False
    verbose: bool = False


@dataclass(frozen=True)
class Outcome:
    """How it went: the command's status, and seconds until it started and until all was over."""

    status: int
    boot_seconds: float
    total_seconds: float


def vng_arguments(vng: str, kernel: Installed, job: Job, control: Path) -> list[str]:
    """Render the virtme-ng command line. Shares are numbered in this order by virtme-ng."""
    python = os.path.realpath(sys.executable)
    arguments = [vng, "--verbose", "--force-9p", "--disable-monitor", "--user", "root"]
    if not job.accelerate:
        arguments.append("--disable-kvm")
    if job.count:
        arguments.append(f"--qemu-opts={COUNTING}")
    arguments += ["--run", str(kernel.image), "--cpus", str(job.cpus), "--memory", job.memory]
    # virtme-ng takes "guest=host" to mean two paths; the guest's own are fixed and free of "=".
    arguments.append(f"--rwdir={CONTROL}={control}")
    for number, folder in enumerate(job.shared):
        arguments.append(f"--rwdir={BASE}/shared/{number}={folder}")
    arguments.append(f"--rodir={BASE}/host=/")
    arguments += ["--cwd", "/"]
    for parameter in (*kernel.kernel.cmdline, *job.cmdline):
        arguments.append(f"--append={parameter}")
    return [*arguments, "--", f"exec {shlex.quote(python)} -I -S {CONTROL}/guest.py"]


def job_file(kernel: Installed, job: Job) -> str:
    """Render ``job.json``, which ``guest.py`` reads."""
    environment = {
        "PATH": SYSTEM_PATH,
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "AEGIS_VM_KERNEL": kernel.kernel.name,
        **job.environment,
    }
    fields = {
        "command": job.command,
        "environment": environment,
        "directory": str(job.directory),
        "keep": [str(path) for path in hidden((*job.keep, kernel.root, job.directory))],
        "shared": [str(path) for path in job.shared],
        "modules": str(next(iter(kernel.modules.iterdir()))),
        "deadline": int(job.seconds) + 10,
        "host_share": f"virtme.initmount{len(job.shared) + 1}",
    }
    return json.dumps(fields)


def hidden(paths: Sequence[Path]) -> list[Path]:
    """Return those of ``paths`` that a tmpfs on /tmp or /run would hide, outermost only."""
    below = [path for path in paths if path.parts[1:2] in (("tmp",), ("run",)) and path.parts[2:]]
    unique = sorted(set(below))
    return [path for path in unique if not any(other in path.parents for other in unique)]


def run(kernel: Installed, job: Job) -> Outcome:
    """Boot, run, end. The command's output goes to this process's stdout and stderr.

    Raises:
        HarnessError: No virtme-ng, or the machine ended without the command having a status.
    """
    for folder in (*job.shared, job.directory):
        if not folder.is_dir():
            raise HarnessError(f"{folder} is not a folder", hint="name one that exists")

    def start() -> Outcome:
        with tempfile.TemporaryDirectory(prefix="aegis-vm-") as name:
            return _Machine(kernel, job, Path(name).resolve()).run()

    return twice(start, lambda line: print(line, file=sys.stderr, flush=True))


class NotBootedError(HarnessError):
    """The machine ended before anything of ours ran in it."""


def twice(start: Callable[[], Outcome], say: Callable[[str], None]) -> Outcome:
    """Start a machine; one that never came up is started once more, and that is said.

    An emulated processor at times stops at an instruction that the kernel has just patched (an
    ``int3`` oops in the first seconds, seen with Linux 7.2 in QEMU 7.2): no fault of a test, and
    none that a test could see, as none has begun.

    Raises:
        HarnessError: It did not come up the second time, or ended without a status.
    """
    try:
        return start()
    except NotBootedError as error:
        say(f"{error.detail}\nvm: the machine did not come up; it is started once more")
    return start()


class _Machine:
    def __init__(self, kernel: Installed, job: Job, folder: Path) -> None:
        self.kernel = kernel
        self.job = job
        self.folder = folder
        self.control = folder / "control"
        self.started = time.monotonic()
        self.boot_seconds = 0.0

    def run(self) -> Outcome:
        self._prepare()
        arguments = vng_arguments(_find_vng(), self.kernel, self.job, self.control)
        with (self.folder / "console").open("wb") as console:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=self._host_environment(),
                cwd="/",
                # A process group of its own: ending the machine ends nothing else.
                start_new_session=True,
            )
            before = signal.signal(signal.SIGTERM, _interrupt)
            try:
                status = self._watch(process)
            finally:
                _end(process)
                signal.signal(signal.SIGTERM, before)
        return Outcome(status, self.boot_seconds, time.monotonic() - self.started)

    def _prepare(self) -> None:
        self.control.mkdir()
        shutil.copy(_GUEST, self.control)
        text = job_file(self.kernel, self.job)
        (self.control / "job.json").write_text(text, encoding="utf-8")
        for name in ("stdout", "stderr"):
            (self.control / name).touch()

    def _host_environment(self) -> dict[str, str]:
        # virtme-ng finds its parts through PATH, reads the user's settings in HOME, and leaves
        # files in TMPDIR when it is killed.
        path = f"{Path(_find_vng()).parent}:{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
        return {
            **os.environ,
            "PATH": path,
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
        }

    def _watch(self, process: subprocess.Popen[bytes]) -> int:
        with (
            (self.control / "stdout").open("rb") as out,
            (self.control / "stderr").open("rb") as err,
            (self.folder / "console").open("rb") as console,
        ):
            streams = [(out, sys.stdout.buffer), (err, sys.stderr.buffer)]
            if self.job.verbose:
                streams.append((console, sys.stderr.buffer))
            while True:
                # The end is looked for first, so that what was written before it is shown.
                gone = process.poll() is not None
                status = self._status()
                for source, target in streams:
                    _forward(source, target)
                if status is None and gone:
                    raise self._ended_early()
                if status is None and time.monotonic() - self.started > self.job.seconds:
                    status = self._timed_out()
                if status is not None:
                    return status
                time.sleep(_POLL_SECONDS)

    def _ended_early(self) -> HarnessError:
        kind = HarnessError if self.boot_seconds else NotBootedError
        return kind(
            "the machine ended before the command did",
            hint="run again with --verbose for the whole console",
            detail=self._console_tail(),
        )

    def _timed_out(self) -> int:
        where = "the command has not ended" if self.boot_seconds else "the machine has not booted"
        print(f"vm: {where} after {self.job.seconds:g} s", file=sys.stderr)
        if not self.boot_seconds:
            print(self._console_tail(), file=sys.stderr)
        return TIMED_OUT

    def _status(self) -> int | None:
        if not self.boot_seconds and (self.control / "ready").exists():
            self.boot_seconds = time.monotonic() - self.started
        try:
            return int((self.control / "status").read_text(encoding="ascii"))
        except FileNotFoundError:
            return None

    def _console_tail(self) -> str:
        text = (self.folder / "console").read_bytes().decode("utf-8", "replace")
        return "\n".join(text.replace("\0", "").splitlines()[-30:])


def _find_vng() -> str:
    beside = Path(sys.executable).with_name("vng")
    found = str(beside) if beside.is_file() else shutil.which("vng")
    if found is None:
        raise HarnessError("virtme-ng is not installed", hint="pip install 'virtme-ng>=1.30'")
    return found


def _forward(source: BinaryIO, target: BinaryIO) -> None:
    data = source.read()
    if data:
        target.write(data)
        target.flush()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the machine's process group, and nothing else."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
