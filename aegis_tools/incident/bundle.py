"""The evidence of a host as one ``tar.gz``, for people who cannot log in: without secrets.

Nothing in it is copied as it is: every text goes through ``redact``. No key, no environment, no
command line of a process but the kernel's is read for it. ::

    aegis-bundle/manifest.json  diagnose.json  status.json  health.json  history.json
                 boot/NAME.txt  journal/UNIT.txt  incidents/ID/record.json  record.md  evidence/NAME
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from aegis_tools import __version__
from aegis_tools.control import files
from aegis_tools.control.bootclock import SYSTEM, Seams
from aegis_tools.control.health import read_report
from aegis_tools.control.history import History
from aegis_tools.control.service import ENABLED
from aegis_tools.control.status import read_status
from aegis_tools.errors import AegisError, UsageError
from aegis_tools.incident import content, readers
from aegis_tools.incident.facts import read_facts
from aegis_tools.incident.markdown import to_markdown
from aegis_tools.incident.redact import redact
from aegis_tools.incident.scenarios import diagnose
from aegis_tools.incident.shelf import EVIDENCE, RECORD, Shelf
from aegis_tools.kernel.features import read_host_features
from aegis_tools.paths import Paths

TOP = "aegis-bundle"
MAX_TOTAL = 64 << 20
MAX_INCIDENTS = 10
JOURNAL_LINES = 3000
_MAX_FILE = 4 << 20
_JOURNAL_SECONDS = 15
_BOOT_FILES = {
    "cmdline": "proc/cmdline",
    "lsm": "sys/kernel/security/lsm",
    "os-release": "etc/os-release",
    "kernel": "proc/version",
    "grub-settings": "etc/default/grub",
    "grub-drop-in": "etc/default/grub.d/99-aegisbpf.cfg",
}


class Made(NamedTuple):
    """A bundle that was written.

    Attributes:
        path: Where.
        bytes: How large.
        sha256: Of the file.
        names: What is in it.
        problems: What could not be collected, and why.
    """

    path: str
    bytes: int
    sha256: str
    names: tuple[str, ...]
    problems: tuple[str, ...]


class Collection:
    """Texts by name, without secrets, within bounds.

    Args:
        limit: Bytes of all of them.
    """

    def __init__(self, limit: int = MAX_TOTAL) -> None:
        self._left = limit
        self.files: dict[str, bytes] = {}
        self.problems: list[str] = []

    def text(self, name: str, data: bytes | str) -> None:
        """Add a text; of a long one the end is kept."""
        raw = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
        kept = redact(raw[-_MAX_FILE:].decode("utf-8", "replace")).encode()
        if len(raw) > _MAX_FILE:
            self.problems.append(f"{name}: only its end is there")
        self._keep(name, kept)

    def json(self, name: str, value: Any) -> None:
        """Add a document."""
        self._keep(name, json.dumps(content.clean(value), indent=1, ensure_ascii=False).encode())

    def part(self, name: str, add: Callable[[], None]) -> None:
        """Collect a part; that it fails is a problem in the bundle, and not the end of it."""
        try:
            add()
        except AegisError as error:
            self.problems.append(f"{name}: {error.message}")
        except (OSError, ValueError, LookupError) as error:
            self.problems.append(f"{name}: {error}")

    def _keep(self, name: str, data: bytes) -> None:
        if len(data) > self._left:
            self.problems.append(f"{name}: left out, the bundle would become too large")
            return
        self._left -= len(data)
        self.files[name] = data


def write_bundle(
    paths: Paths, output: Path, identifier: str = "", *, seams: Seams = SYSTEM
) -> Made:
    """Collect the evidence and write it, whole or not at all, for the owner's eyes only (0600).

    Args:
        paths: The host.
        output: Where to; a file in its place is replaced.
        identifier: The incident whose record is packed; empty for the newest ten.
        seams: Time and other programs.

    Raises:
        UsageError: There is no such incident, or the output is no file.
        StateError: It cannot be written.
    """
    _check_output(output)
    shelf = Shelf(paths)
    if identifier:
        shelf.read(identifier)
    found = collect(paths, [identifier] if identifier else shelf.ids()[:MAX_INCIDENTS], seams)
    data = pack(found.files, int(seams.wall()))
    files.write_atomic(output, data, what=f"bundle {files.named(output)}", mode=0o600)
    digest = hashlib.sha256(data).hexdigest()
    return Made(str(output), len(data), digest, tuple(sorted(found.files)), tuple(found.problems))


def collect(paths: Paths, identifiers: list[str], seams: Seams) -> Collection:
    """Read everything; see the module."""
    found = Collection()
    shelf = Shelf(paths)
    for identifier in identifiers:
        found.part(identifier, lambda name=identifier: _incident(found, shelf, name))  # type: ignore[misc]
    found.part("diagnose", lambda: _diagnosis(found, paths))
    found.part("status", lambda: found.json("status.json", read_status(paths).to_dict()))
    found.part("health", lambda: _health(found, paths))
    found.part("history", lambda: _history(found, paths))
    for name, where in _BOOT_FILES.items():
        found.part(name, lambda n=name, w=where: _boot_file(found, paths, n, w))  # type: ignore[misc]
    found.part("kernel configuration", lambda: _kernel_config(found, paths))
    if paths.root == Path("/") and readers.has_systemd():
        for unit in ENABLED:
            found.part(unit, lambda u=unit: _journal(found, seams, u))  # type: ignore[misc]
        found.part("kernel log", lambda: _kernel_log(found, seams))
    manifest = {
        "format": 1,
        "version": __version__,
        "made": content.iso(seams.wall()),
        "incidents": identifiers,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in found.files.items()},
        "problems": list(found.problems),
    }
    found.json("manifest.json", manifest)
    return found


def pack(entries: dict[str, bytes], when: int) -> bytes:
    """Return a ``tar.gz`` of files below TOP, in the order of their names, all 0600 and root's."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=when) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(entries):
            info = tarfile.TarInfo(f"{TOP}/{name}")
            info.size, info.mode, info.mtime = len(entries[name]), 0o600, when
            info.uname = info.gname = "root"
            tar.addfile(info, io.BytesIO(entries[name]))
    return buffer.getvalue()


def _check_output(output: Path) -> None:
    if output.is_dir():
        raise UsageError(f"{files.named(output)} is a folder", hint="name a file in it")
    if output.exists() and not output.is_symlink() and not output.is_file():
        raise UsageError(f"{files.named(output)} is no file", hint="name a file")


def _incident(found: Collection, shelf: Shelf, identifier: str) -> None:
    held = shelf.read(identifier).to_dict()
    where = f"incidents/{identifier}"
    found.json(f"{where}/{RECORD}", held)
    found.text(f"{where}/record.md", to_markdown(held))
    for one in held["files"]:
        found.part(f"{where}/{one['name']}", lambda name=one["name"]: found.text(  # type: ignore[misc]
            f"{where}/{EVIDENCE}/{name}",
            files.read_limited(shelf.folder(identifier) / EVIDENCE / name, 2 * _MAX_FILE,
                               what="evidence file", owners={0, os.geteuid()}),
        ))  # fmt: skip


def _diagnosis(found: Collection, paths: Paths) -> None:
    facts = read_facts(paths)
    found.json("diagnose.json", {**diagnose(facts).to_dict(), "facts": facts.to_dict()})


def _health(found: Collection, paths: Paths) -> None:
    report = read_report(paths, read_host_features(paths.root), now=int(time.time()))
    found.json("health.json", report.to_dict())


def _history(found: Collection, paths: Paths) -> None:
    listing = History(paths.history).read(500)
    entries = [dataclasses.asdict(one) for one in listing.entries]
    found.json("history.json", {"entries": entries, "damaged": listing.damaged,
                                "note": listing.note})  # fmt: skip


def _boot_file(found: Collection, paths: Paths, name: str, where: str) -> None:
    path = paths.root / where
    if path.is_file():
        with path.open("rb") as file:
            found.text(f"boot/{name}.txt", file.read(65536))


def _kernel_config(found: Collection, paths: Paths) -> None:
    path = paths.root / f"boot/config-{os.uname().release}"
    if path.is_file():
        text = files.read_limited(path, _MAX_FILE, what="kernel configuration", follow=True)
        wanted = ("CONFIG_BPF", "CONFIG_LSM", "CONFIG_DEBUG_INFO_BTF", "CONFIG_SECURITY")
        lines = [line for line in text.decode("utf-8", "replace").splitlines()
                 if line.removeprefix("# ").startswith(wanted)]  # fmt: skip
        found.text("boot/kernel-config.txt", "\n".join(lines) + "\n")


def _journal(found: Collection, seams: Seams, unit: str) -> None:
    argv = ["journalctl", "--no-pager", "--quiet", "--output=short-iso-precise",
            f"--lines={JOURNAL_LINES}", f"--unit={unit}"]  # fmt: skip
    found.text(f"journal/{unit}.txt", seams.run(argv, timeout=_JOURNAL_SECONDS))


def _kernel_log(found: Collection, seams: Seams) -> None:
    argv = ["journalctl", "--no-pager", "--quiet", "--output=short-monotonic", "--dmesg",
            f"--lines={JOURNAL_LINES}"]  # fmt: skip
    found.text("journal/kernel.txt", seams.run(argv, timeout=_JOURNAL_SECONDS))
