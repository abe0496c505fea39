"""What was there before us: ``<state>/lsm.json``, written before anything is changed.

::

    {"format": 1, "loader": "grub", "boot_id": "…", "active": ["lockdown", "yama"],
     "names": ["lockdown", "yama", "bpf"], "lines": {}, "files": {}, "digests": {}, "options": null}

``active`` is what was active when ``lsm enable`` was run, for ``lsm status --verify-boot`` to find
what a boot lost. ``names`` is the list that we set, empty where nothing had to be changed. The rest
is grubby's: by kernel the command line, by path the text of each file, and after the change its
SHA-256, which says whether the old text may be put back; and grubenv's ``kernelopts``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from aegis_tools.control import files
from aegis_tools.errors import BootError, StateError
from aegis_tools.paths import Paths
from aegis_tools.policy import strictjson

_FORMAT = 1
_MAX_FILE = 8 << 20
_WHAT = "record of the boot configuration"


class NotRestoredError(BootError):
    """A change failed, and what was there before could not be put back."""

    code = "boot_not_restored"


@dataclass(frozen=True)
class Record:
    """See the module."""

    loader: str
    boot_id: str
    active: tuple[str, ...]
    names: tuple[str, ...] = ()
    lines: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    options: str | None = None

    @property
    def value(self) -> str | None:
        """The ``lsm=`` that we set; None where we set none."""
        return ",".join(self.names) or None

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        return strictjson.dumps({"format": _FORMAT, **asdict(self)}) + b"\n"


def parse(data: bytes) -> Record:
    """Read the file's content.

    Raises:
        ValueError: It is none.
    """
    try:
        top = strictjson.loads(data)
        if top.pop("format") != _FORMAT:
            raise ValueError("an unknown format")
        found = Record(**{**top, "active": tuple(top["active"]), "names": tuple(top["names"])})
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"a field is missing or of a wrong kind: {error}") from error
    texts: list[Any] = [found.loader, found.boot_id, *found.active, *found.names, found.options]
    for table in (found.lines, found.files, found.digests):
        if not isinstance(table, dict):
            raise ValueError("a table is none")
        texts += table.values()
    if not all(isinstance(text, str) for text in texts if text is not None):
        raise ValueError("a text is none")
    return found


def read(paths: Paths) -> Record | None:
    """Return the record; None where there is none.

    Raises:
        StateError: It is damaged, or others can change it.
    """
    owners = {0, os.geteuid()}
    data = files.read_if_present(paths.lsm_record, _MAX_FILE, what=_WHAT, owners=owners)
    try:
        return None if data is None else parse(data)
    except ValueError as error:
        raise StateError(
            "the record of the boot configuration is damaged",
            hint="move it away (its name is shown with --verbose), then: aegisbpf lsm status",
            detail=f"{paths.lsm_record}: {error}",
        ) from error


def write(paths: Paths, record: Record | None) -> None:
    """Write the record, or take it away. The caller holds the lock.

    Raises:
        StateError: It cannot be written.
    """
    if record is None:
        files.remove(paths.lsm_record, what=_WHAT)
        return
    files.ensure_folder(paths.state)
    files.write_atomic(paths.lsm_record, record.to_bytes(), what=_WHAT)
