"""Keys on disk: the folder of trusted keys, the host's trust settings, private key files.

A host trusts what is in ``<etc>/keys``, so that folder, every folder above it and each key file
must belong to root (or to the user the program runs as) and be writable by nobody else; links are
refused. One bad file makes every verification fail until it is put right: silently trusting fewer
keys could hide a mistake for months.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from aegis_tools.control import files
from aegis_tools.errors import StateError, UsageError
from aegis_tools.paths import Paths
from aegis_tools.policy.keys import MAX_KEY_FILE, KeyFormatError, PrivateKey, PublicKey
from aegis_tools.policy.trust import TrustConfig

_MAX_KEYS = 256
_MAX_CONFIG = 65536
_PUB = ".pub"
_KEYID = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class TrustedKey:
    """A trusted key and the name of the file that holds it, without its folder."""

    key: PublicKey
    file: str


class KeyStore:
    """The keys and settings by which a host trusts. Callers that change it hold the lock.

    Args:
        paths: Where they are.
        owner: The user id that may own the files, besides root.
        calls: The system calls that write.
    """

    def __init__(
        self, paths: Paths, *, owner: int | None = None, calls: files.Calls = files.SYSTEM
    ) -> None:
        self._paths = paths
        self._owner = os.geteuid() if owner is None else owner
        self._calls = calls

    def entries(self) -> list[TrustedKey]:
        """Return the trusted keys, sorted by file name; none where the folder is missing.

        Raises:
            StateError: The folder, one above it or a ``.pub`` file is not safe, or is not a key.
        """
        if not files.exists(self._paths.keys):
            return []
        with files.trusted_folder(self._paths.root, self._paths.keys, owner=self._owner) as folder:
            with os.scandir(folder) as found:
                names = sorted(e.name for e in found if e.name.endswith(_PUB) and e.name[0] != ".")
            if len(names) > _MAX_KEYS:
                raise StateError("there are more than 256 trusted keys", hint="remove old ones")
            return [TrustedKey(self._read(name, folder), name) for name in names]

    def trusted(self) -> list[PublicKey]:
        """Return the trusted keys, for ``bundle.open_bundle``; each once."""
        return list({found.key.keyid: found.key for found in self.entries()}.values())

    def add(self, text: bytes) -> TrustedKey:
        """Trust a key. Adding one that is trusted already changes nothing.

        Args:
            text: The content of a ``.pub`` file.

        Raises:
            KeyFormatError: It is not a public key.
            StateError: The folder is not safe, or cannot be written.
        """
        key = PublicKey.from_text(text)
        files.ensure_folder(self._paths.keys, mode=0o755)
        for found in self.entries():
            if found.key.keyid == key.keyid:
                return found
        name = key.keyid + _PUB
        self._write(self._paths.keys / name, key.to_text().encode(), "trusted key")
        return TrustedKey(key, name)

    def remove(self, keyid: str, *, force: bool = False) -> PublicKey:
        """Stop trusting a key.

        Args:
            keyid: Its id, or the first 8 or more digits of it.
            force: Whether to go on when fewer keys remain than must sign a policy.

        Raises:
            UsageError: No key has that id, or several begin like it.
            StateError: Too few keys would remain; or the folder is not safe, or cannot be written.
        """
        key = self.removable(keyid, force=force)
        for name in [f.file for f in self.entries() if f.key.keyid == key.keyid]:
            self._unlink(self._paths.keys / name)
        return key

    def removable(self, keyid: str, *, force: bool = False) -> PublicKey:
        """Return the key that ``remove`` would remove, and raise what it would raise."""
        found = self.entries()
        key = _pick([f.key for f in found], keyid)
        remaining = {f.key.keyid for f in found} - {key.keyid}
        threshold = self.config().threshold
        if len(remaining) < threshold and not force:
            raise StateError(
                f"{len(remaining)} keys would remain, but {threshold} must sign a policy",
                hint="add the new key first, or use --force",
                data={"remaining": len(remaining), "threshold": threshold},
            )
        return key

    def config(self) -> TrustConfig:
        """Return the host's settings; the defaults where there is no file.

        Raises:
            StateError: The file, or a folder above it, is not safe, or is not understood.
        """
        path = self._paths.trust_config
        if not files.exists(path):
            return TrustConfig()
        with files.trusted_folder(self._paths.root, path.parent, owner=self._owner) as folder:
            data = files.read_limited(
                path.name,
                _MAX_CONFIG,
                what="trust settings file",
                owners={0, self._owner},
                forbid=files.OTHERS_WRITE,
                dir_fd=folder,
            )
        return TrustConfig.from_bytes(data)

    def save_config(self, config: TrustConfig) -> None:
        """Write the host's settings.

        Raises:
            StateError: They cannot be written, or would not be understood.
        """
        data = config.to_bytes()
        TrustConfig.from_bytes(data)
        files.ensure_folder(self._paths.etc, mode=0o755)
        self._write(self._paths.trust_config, data, "trust settings file")

    def _read(self, name: str, folder: int) -> PublicKey:
        shown = files.printable(name)
        data = files.read_limited(
            name,
            MAX_KEY_FILE,
            what=f"trusted key {shown}",
            owners={0, self._owner},
            forbid=files.OTHERS_WRITE,
            dir_fd=folder,
        )
        try:
            return PublicKey.from_text(data)
        except KeyFormatError as error:
            raise StateError(
                f"the trusted key {shown} is damaged: {error.message}",
                hint="put the right file in its place, or remove it",
            ) from error

    def _write(self, path: Path, data: bytes, what: str) -> None:
        files.write_atomic(path, data, what=what, mode=0o644, calls=self._calls)

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink()
        except OSError as error:
            raise StateError(
                "cannot remove the key", hint="run the command as root", detail=str(error)
            ) from error


def write_key_pair(prefix: Path, key: PrivateKey) -> tuple[Path, Path]:
    """Write ``<prefix>.key`` (mode 0600, secret) and ``<prefix>.pub``. Neither may exist yet.

    Raises:
        StateError: One of them exists, or cannot be written; then neither is left behind.
    """
    private, public = Path(f"{prefix}.key"), Path(f"{prefix}{_PUB}")
    files.write_new(
        public, key.public.to_text().encode(), what=f"public key {files.named(public)}", mode=0o644
    )
    try:
        files.write_new(
            private, key.to_text().encode(), what=f"private key {files.named(private)}", mode=0o600
        )
    except BaseException:
        public.unlink(missing_ok=True)
        raise
    return private, public


def load_private_key(path: Path, *, owner: int | None = None) -> PrivateKey:
    """Read a private key file.

    Raises:
        StateError: Anybody but its owner may use it, it is somebody else's, or no regular file.
        KeyFormatError: It is not a private key.
    """
    data = files.read_limited(
        path,
        MAX_KEY_FILE,
        what=f"private key {files.named(path)}",
        owners={0, os.geteuid() if owner is None else owner},
        forbid=files.OTHERS_ANY,
    )
    try:
        return PrivateKey.from_text(data)
    except KeyFormatError as error:
        raise KeyFormatError(f"{files.named(path)}: {error.message}", hint=error.hint) from error


def _pick(keys: list[PublicKey], keyid: str) -> PublicKey:
    hint = "see: aegisbpf keys list"
    if not _KEYID.fullmatch(keyid):
        raise UsageError("a key id has 8 to 64 hex digits", hint=hint)
    found = {key.keyid: key for key in keys if key.keyid.startswith(keyid)}
    if len(found) != 1:
        which = "several trusted keys begin" if found else "no trusted key begins"
        raise UsageError(f"{which} with {keyid}", hint=hint)
    return next(iter(found.values()))
