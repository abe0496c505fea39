"""Where our objects are pinned, and how to open them.

    <bpffs>/aegis/maps/NAME  progs/NAME  links/NAME    what is loaded
    <bpffs>/aegis/object                               a link whose text names the object file
    <bpffs>/aegis/staging-PID/…                        a load in progress, or a dead one
    <bpffs>/aegis/upgrade/…                            what replaces the above, being moved there

The links directory is published last: where it is, the load was complete. What lies in ``upgrade``
counts before what it replaces (kernel.replace).
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from aegis_tools.errors import KernelError, NotLoadedError
from aegis_tools.kernel import syscall
from aegis_tools.kernel.layout import GLOBAL_MAPS, SPECS
from aegis_tools.kernel.maps import Map

PARTS = ("links", "progs", "maps")
LSM_PROGRAM = "aegis_file_open"
FALLBACK_PROGRAM = "aegis_sys_enter"
STAGING = "staging-"
UPGRADE = "upgrade"
OBJECT = "object"


@dataclass(frozen=True)
class Pins:
    """The pins below one directory of a BPF file system."""

    base: Path

    @property
    def staging(self) -> Pins:
        """The pins of this process's load in progress.

        Each process has its own: a system call that outlives its killed process can then
        not pin into the next load.
        """
        return Pins(self.base / f"{STAGING}{os.getpid()}")

    def stagings(self) -> list[Pins]:
        """Return the pins of every load in progress, or dead."""
        try:
            return [Pins(path) for path in self.base.glob(f"{STAGING}*") if path.is_dir()]
        except OSError:
            return []

    @property
    def upgrade(self) -> Pins:
        """The pins that replace these, where a replacement was not finished."""
        return Pins(self.base / UPGRADE)

    def path(self, part: str, name: str = "") -> Path:
        """Return the path of a pin, or of a part's directory."""
        return self.base / part / name if name else self.base / part

    def names(self, part: str) -> list[str]:
        """Return the sorted names pinned in a part; none where it does not exist."""
        # In this order: a pin that is moved from the one to the other meanwhile is met.
        found = {name for base in (self.base / UPGRADE, self.base) for name in _names(base / part)}
        return sorted(found)

    def object(self) -> str:
        """Return which object file is loaded, as it was named at the load; empty where unknown."""
        for base in (self.base / UPGRADE, self.base):
            with contextlib.suppress(OSError):
                return str(Path(base, OBJECT).readlink())
        return ""

    def is_loaded(self) -> bool:
        """Return whether a load was completed here; also where all of its maps were removed since.

        Its links may still be there then, and refuse what they refused.
        """
        return self.path("links").is_dir() and (
            self.path("maps").is_dir() or bool(self.names("links"))
        )

    def is_attached(self) -> bool:
        """Return whether every program that hooks something has its link."""
        hooks = {name for name in self.names("progs") if name.startswith("aegis_")}
        return bool(hooks) and hooks <= set(self.names("links"))

    def is_fallback(self) -> bool:
        """Return whether the audit fallback is loaded instead of the LSM hooks."""
        return FALLBACK_PROGRAM in self.names("progs")

    def missing(self) -> list[str]:
        """Return the pins that a complete load has and this one lacks, as ``maps/NAME``.

        Links are no part of it: a detached load is a complete one.
        """
        there = {part: set(self.names(part)) for part in ("maps", "progs")}
        lacking = [f"maps/{name}" for name in (*SPECS, *GLOBAL_MAPS) if name not in there["maps"]]
        if "inode_keys" not in there["progs"]:
            lacking.append("progs/inode_keys")
        if not there["progs"] & {LSM_PROGRAM, FALLBACK_PROGRAM}:
            lacking.append(f"progs/{LSM_PROGRAM}")
        return lacking

    def open_map(self, name: str) -> Map:
        """Open a pinned map.

        Raises:
            NotLoadedError: Nothing is loaded.
            KernelError: Something is, but this pin is gone.
        """
        return Map(self._open("maps", name))

    def _open(self, part: str, name: str) -> int:
        for base in (self.base / UPGRADE, self.base):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return syscall.obj_get(str(base / part / name))
        raise self._gone(f"{part}/{name}")

    def _gone(self, pin: str) -> KernelError:
        if not any(self.names(part) for part in PARTS):
            return NotLoadedError()
        return KernelError(
            "some of our pins were removed; hooks may still be attached",
            hint="run: aegisbpf reset && aegisbpf load   (then apply the policy again)",
            detail=f"missing: {pin}",
            data={"missing": self.missing()},
        )

    def open_program(self, name: str) -> int:
        """Return a descriptor for a pinned program.

        Raises:
            NotLoadedError: Nothing is loaded.
            KernelError: Something is, but this pin is gone.
        """
        return self._open("progs", name)

    def check_complete(self) -> None:
        """Raise KernelError where pins of this load are gone."""
        lacking = self.missing()
        if lacking:
            raise self._gone(lacking[0])

    def remove(self, part: str, name: str = "") -> None:
        """Remove one pin, or a whole part; nothing is an error."""
        if name:
            for base in (self.base, self.base / UPGRADE):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    Path(base, part, name).unlink()
            return
        for pinned in _names(self.path(part)):
            self.remove(part, pinned)
        with contextlib.suppress(OSError):
            self.path(part).rmdir()

    def remove_all(self) -> None:
        """Remove everything, links first: enforcement ends before anything else is lost."""
        nested = [*self.stagings(), self.upgrade]
        for pins in (self, *nested):
            for part in (*PARTS, "premade"):
                pins.remove(part)
            pins.path(OBJECT).unlink(missing_ok=True)
        for pins in (*nested, self):
            with contextlib.suppress(OSError):
                pins.base.rmdir()


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
