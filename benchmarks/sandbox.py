"""A root folder of its own to measure in: own bpffs, own keys, own files; gone afterwards."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aegis_tools.control.keystore import KeyStore
from aegis_tools.kernel import loader
from aegis_tools.kernel.features import mount_if_missing, read_features
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths
from aegis_tools.policy.bundle import make_bundle
from aegis_tools.policy.keys import PrivateKey

REPOSITORY = Path(__file__).resolve().parent.parent
_EXPEDITED = Path("/sys/kernel/rcu_expedited")
_MNT_DETACH = 2
_DEFAULTS = loader.LoadOptions()
_LIBC = ctypes.CDLL(None, use_errno=True)


class Sandbox:
    """A loaded Aegis below a temporary folder on a tmpfs.

    Attributes:
        folder: The temporary folder; ``paths`` is below it.
        paths: The seam that every command gets by ``--root``.
        pins: What is loaded.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = Paths(folder / "root")
        self.pins = Pins(self.paths.pins)
        self._key = PrivateKey.generate()
        self._serial = 0

    def load(self, options: loader.LoadOptions = _DEFAULTS) -> loader.Loaded:
        """Load, by the LSM hooks where this kernel lets us, else the audit fallback."""
        KeyStore(self.paths).add(self._key.public.to_text().encode())
        return loader.load(self.pins, read_features(), options)

    def bundle(self, lines: Sequence[str], section: str) -> Path:
        """Sign a policy of one section, and return the bundle's file."""
        self._serial += 1
        text = f"version=1\n[{section}]\n" + "\n".join(lines) + "\n"
        envelope = make_bundle(
            text,
            policy_name="bench.conf",
            serial=self._serial,
            created=int(time.time()),
            expires=None,
            keys=[self._key],
        )
        path = self.folder / "policy.bundle"
        path.write_bytes(envelope.to_bytes())
        path.chmod(0o600)
        return path

    def command(self, *words: str) -> list[str]:
        """Return the command line of one of our commands, here."""
        return [sys.executable, "-m", "aegis_tools", "--root", str(self.paths.root), *words]

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of a command: compiled once and kept, as an installed one is."""
        others = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        return {**others, "PYTHONPYCACHEPREFIX": str(self.folder / "pycache")}

    def run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Run one of our commands to its end."""
        return subprocess.run(self.command(*words), cwd=REPOSITORY, capture_output=True,
                              env=self.environment, check=False)  # fmt: skip


@contextmanager
def sandbox(options: loader.LoadOptions = _DEFAULTS) -> Iterator[Sandbox]:
    """Make a sandbox, load, and take all of it away again."""
    with empty_sandbox() as box:
        try:
            box.load(options)
            yield box
        finally:
            box.pins.remove_all()


@contextmanager
def empty_sandbox() -> Iterator[Sandbox]:
    """Make a sandbox with nothing loaded, and a BPF file system of its own."""
    shm = Path("/dev/shm")
    place = shm if os.access(shm, os.W_OK) and os.path.ismount(shm) else None
    with tempfile.TemporaryDirectory(prefix="aegis-bench-", dir=place) as folder:
        box = Sandbox(Path(folder))
        try:
            mount_if_missing("bpf", box.paths.bpffs)
            yield box
        finally:
            _LIBC.umount2(os.fsencode(box.paths.bpffs), _MNT_DETACH)


@contextmanager
def expedited() -> Iterator[None]:
    """Have commits, attaching and detaching not wait long meanwhile; no hook is the faster."""
    before = _EXPEDITED.read_text(encoding="ascii")
    _EXPEDITED.write_text("1", encoding="ascii")
    try:
        yield
    finally:
        _EXPEDITED.write_text(before, encoding="ascii")
