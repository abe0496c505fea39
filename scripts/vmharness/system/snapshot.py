"""A machine that has booted, with our program installed: where every test starts, in a second."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vmharness.kernels import HarnessError
from vmharness.system import image, package, recipe
from vmharness.system.qemu import Qemu, arguments

BOOT_SECONDS = 180
KEEP_SECONDS = 2 * 24 * 3600
INSTALL = (
    "tar -xzf /root/package.tar.gz -C / && rm /root/package.tar.gz",
    # In memory already when a test asks for it.
    "aegisbpf --version && aegisbpf health --json >/dev/null || true",
    "sync",
)


@dataclass(frozen=True)
class Snapshot:
    """A stored machine: its disk and its memory, which belong together."""

    folder: Path

    @property
    def disk(self) -> Path:
        """A qcow2 image on top of the base."""
        return self.folder / "disk.qcow2"

    @property
    def state(self) -> Path:
        """Memory and devices at the instant the disk was left."""
        return self.folder / "state"


def snapshot_key() -> str:
    """Return a name for everything that goes into a snapshot."""
    qemu = image.run(["qemu-system-x86_64", "--version"])
    hardware = arguments(Path("/folder"), Path("/disk"), incoming=True)
    host = hashlib.sha256(Path("/proc/cpuinfo").read_bytes().split(b"\n\n")[0].split(b"MHz")[0])
    return recipe.key(
        [recipe.base_key(), package.content_key(), qemu, hardware, INSTALL, host.hexdigest()]
    )


def ready(environment: Mapping[str, str]) -> Snapshot:
    """Return the snapshot of this checkout, made now if the cache has none.

    Raises:
        HarnessError: It cannot be made.
    """
    disk = image.base(environment)
    cache = recipe.folder(environment)
    found = Snapshot(cache / f"ready-{snapshot_key()}")
    with image.locked(cache / ".ready.lock"):
        if not found.folder.is_dir():
            forget_old(cache, time.time())
            with tempfile.TemporaryDirectory(prefix=".ready-", dir=cache) as name:
                fresh = Snapshot(Path(name) / "ready")
                fresh.folder.mkdir()
                _make(disk, fresh, environment)
                fresh.folder.rename(found.folder)
        os.utime(found.folder)
    return found


def forget_old(cache: Path, now: float) -> None:
    """Remove snapshots that nobody has started from for two days."""
    for folder in cache.glob("ready-*"):
        if now - folder.stat().st_mtime > KEEP_SECONDS:
            shutil.rmtree(folder)


def _make(base: Path, fresh: Snapshot, environment: Mapping[str, str]) -> None:
    started = time.monotonic()
    archive = fresh.folder / "package.tar.gz"
    package.archive(archive, environment)
    image.say(f"our package after {time.monotonic() - started:.0f} s")
    with Qemu(base, disk=fresh.disk) as machine:
        machine.agent.wait(BOOT_SECONDS)
        machine.agent.put("/root/package.tar.gz", archive.read_bytes())
        wait = "systemctl is-system-running --wait"
        for command in (wait, *INSTALL):
            status, output = machine.agent.run("/bin/sh", "-c", command, seconds=BOOT_SECONDS)
            if status:
                raise HarnessError(f"in the machine: {command}: status {status}", detail=output)
        machine.store(fresh.state)
    archive.unlink()
    image.say(f"a machine that is ready after {time.monotonic() - started:.0f} s")
