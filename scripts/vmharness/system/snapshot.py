"""A machine that has booted, with our program installed: where every test starts, in a second."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vmharness.kernels import HarnessError
from vmharness.system import image, package, recipe
from vmharness.system.qemu import Qemu, arguments

BOOT_SECONDS = 400
KINDS = ("converged", "loaded", "ready", "bare")
"""Each lies on the disk of one after it."""
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


def machine_key() -> list[object]:
    """Return what a stored machine depends on besides what was done in it."""
    qemu = image.run(["qemu-system-x86_64", "--version"])
    hardware = arguments(Path("/folder"), Path("/disk"), incoming=True)
    host = hashlib.sha256(Path("/proc/cpuinfo").read_bytes().split(b"\n\n")[0].split(b"MHz")[0])
    return [recipe.base_key(), qemu, hardware, host.hexdigest()]


def bare(environment: Mapping[str, str]) -> Snapshot:
    """Return a machine that nothing of ours was ever in, made now if need be.

    Raises:
        HarnessError: It cannot be made.
    """
    disk = image.base(environment)
    key = recipe.key(machine_key())
    return cached(environment, "bare", key, lambda fresh: _boot(disk, fresh))


def ready(environment: Mapping[str, str]) -> Snapshot:
    """Return the machine with this checkout installed and nothing loaded, made now if need be.

    Raises:
        HarnessError: It cannot be made.
    """
    before = bare(environment)
    return cached(environment, "ready", _key(), lambda fresh: _make(before, fresh, environment))


def loaded(environment: Mapping[str, str]) -> Snapshot:
    """Return the same after ``aegisbpf load``, which takes many seconds: in audit, no policy.

    Raises:
        HarnessError: It cannot be made.
    """
    before = ready(environment)
    return cached(environment, "loaded", _key(), lambda fresh: _load(before, fresh))


def _key() -> str:
    return recipe.key([*machine_key(), package.content_key(), INSTALL])


def cached(
    environment: Mapping[str, str], kind: str, key: str, make: Callable[[Snapshot], None]
) -> Snapshot:
    """Return a stored machine, made now if the cache has none of this key.

    Args:
        environment: Says where the cache is.
        kind: One of KINDS.
        key: Names what it is made of.
        make: Makes it in the folder that it is given.
    """
    cache = recipe.folder(environment)
    found = Snapshot(cache / f"{kind}-{key}")
    with image.locked(cache / f".{kind}.lock"):
        if not found.folder.is_dir():
            forget_old(cache, time.time())
            with tempfile.TemporaryDirectory(prefix=f".{kind}-", dir=cache) as name:
                fresh = Snapshot(Path(name) / kind)
                fresh.folder.mkdir()
                make(fresh)
                fresh.folder.rename(found.folder)
        os.utime(found.folder)
    return found


def forget_old(cache: Path, now: float) -> None:
    """Remove snapshots that nobody has started from for two days."""
    for folder in (found for kind in KINDS for found in cache.glob(f"{kind}-*")):
        if now - folder.stat().st_mtime > KEEP_SECONDS:
            shutil.rmtree(folder)


def _load(before: Snapshot, fresh: Snapshot) -> None:
    # The disk of this one lies on that of the other; whoever uses this one asks for both.
    with Qemu(before.disk, state=before.state, disk=fresh.disk) as machine:
        machine.agent.wait(BOOT_SECONDS)
        _in(machine, "aegisbpf load && sync")
        machine.store(fresh.state)


def _in(machine: Qemu, command: str) -> None:
    status, output = machine.agent.run("/bin/sh", "-c", command, seconds=BOOT_SECONDS)
    if status:
        raise HarnessError(f"in the machine: {command}: status {status}", detail=output)


def _boot(base: Path, fresh: Snapshot) -> None:
    with Qemu(base, disk=fresh.disk) as machine:
        machine.agent.wait(BOOT_SECONDS)
        _in(machine, "systemctl is-system-running --wait")
        machine.store(fresh.state)


def _make(before: Snapshot, fresh: Snapshot, environment: Mapping[str, str]) -> None:
    started = time.monotonic()
    archive = fresh.folder / "package.tar.gz"
    package.archive(archive, environment)
    image.say(f"our package after {time.monotonic() - started:.0f} s")
    with Qemu(before.disk, state=before.state, disk=fresh.disk) as machine:
        machine.agent.wait(BOOT_SECONDS)
        machine.agent.put("/root/package.tar.gz", archive.read_bytes())
        for command in INSTALL:
            _in(machine, command)
        machine.store(fresh.state)
    archive.unlink()
    image.say(f"a machine that is ready after {time.monotonic() - started:.0f} s")
