"""Where a monitor's objects are pinned, and how to open them.

    <bpffs>/aegis-monitors/NAME/progs/… maps/… links/…   what is loaded
    <bpffs>/aegis-monitors/NAME/about                    a link whose text says what that is
    <bpffs>/aegis-monitors/staging-PID-NAME/…            being loaded or unloaded, or left so

A folder comes into its place, and leaves it, by one rename: a monitor is loaded, or it is not.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from aegis_tools.errors import KernelError
from aegis_tools.kernel import syscall
from aegis_tools.kernel.maps import Map

PARTS = ("links", "progs", "maps", "premade")
ABOUT = "about"
STAGING = "staging-"
_MAX_REASON = 300


@dataclass(frozen=True)
class Refused:
    """A variant that was passed over.

    Attributes:
        variant: Its name.
        reason: Why, for a person.
    """

    variant: str
    reason: str


@dataclass(frozen=True)
class About:
    """What a load put in its place.

    Attributes:
        variant: Its name; empty where nothing tells.
        digest: SHA-256 of the object file.
        refused: The better variants, and why it is none of them.
    """

    variant: str = ""
    digest: str = ""
    refused: tuple[Refused, ...] = field(default_factory=tuple)

    def text(self) -> str:
        """Return it as the text of a link, which is at most 4095 bytes."""
        short = [Refused(one.variant, one.reason[:_MAX_REASON]) for one in self.refused]
        return json.dumps({**asdict(self), "refused": [asdict(one) for one in short]})


def parse_about(text: str) -> About:
    """Return what a link's text says; an empty one where it is not of ours."""
    try:
        found = json.loads(text)
        refused = tuple(Refused(str(r["variant"]), str(r["reason"])) for r in found["refused"])
        return About(str(found["variant"]), str(found["digest"]), refused)
    except (ValueError, LookupError, TypeError, RecursionError):
        return About()


class MonitorPins:
    """The pins of one monitor.

    Args:
        base: ``Paths.monitor_pins``.
        name: Of the monitor.
        folder: Where, if not in its place.
    """

    def __init__(self, base: Path, name: str, folder: Path | None = None) -> None:
        self.base = base
        self.name = name
        self.folder = folder or base / name

    @property
    def staging(self) -> MonitorPins:
        """The pins of this process's load of it."""
        return MonitorPins(self.base, self.name, self.base / f"{STAGING}{os.getpid()}-{self.name}")

    def path(self, part: str, name: str = "") -> Path:
        """Return the path of a pin, or of a part's folder."""
        return self.folder / part / name if name else self.folder / part

    def names(self, part: str) -> list[str]:
        """Return the sorted names pinned in a part; none where it does not exist."""
        try:
            return sorted(os.listdir(self.path(part)))  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []

    def is_loaded(self) -> bool:
        """Return whether it is in its place; also where some of its pins were removed since."""
        return self.folder.is_dir()

    def is_attached(self) -> bool:
        """Return whether every program has its link."""
        programs = set(self.names("progs"))
        return bool(programs) and programs <= set(self.names("links"))

    def about(self) -> About:
        """Return what was loaded."""
        try:
            return parse_about(os.readlink(self.path(ABOUT)))  # noqa: PTH115
        except OSError:
            return About()

    def open_map(self, name: str) -> Map:
        """Open a pinned map.

        Raises:
            KernelError: It is not loaded, or this pin is gone.
        """
        return Map(self._open("maps", name))

    def open_program(self, name: str) -> int:
        """Return a descriptor for a pinned program. Raises KernelError."""
        return self._open("progs", name)

    def _open(self, part: str, name: str) -> int:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return syscall.obj_get(str(self.path(part, name)))
        if not self.is_loaded():
            raise not_loaded(self.name)
        raise KernelError(
            f"some pins of {self.name} were removed",
            hint=f"run: aegisbpf monitor unload {self.name} && aegisbpf monitor load {self.name}",
            detail=f"missing: {part}/{name}",
        )

    def remove(self) -> int:
        """Remove all, links first: it sees nothing any more before anything else is lost.

        Returns:
            How many pins there were.
        """
        count = 0
        for part in PARTS:
            for name in self.names(part):
                with contextlib.suppress(FileNotFoundError):
                    self.path(part, name).unlink()
                    count += 1
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self.path(part).rmdir()
        self.path(ABOUT).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.folder.rmdir()
        return count


def not_loaded(name: str) -> KernelError:
    """Return the error for a monitor that is not loaded."""
    return KernelError(
        f"{name} is not loaded",
        hint=f"run: aegisbpf monitor load {name}",
        data={"monitor": name, "loaded": False},
    )


def leftovers(base: Path) -> list[MonitorPins]:
    """Return the pins of loads and unloads that are going on, or did not end."""
    try:
        found = sorted(path for path in base.glob(f"{STAGING}*") if path.is_dir())
    except OSError:
        return []
    return [MonitorPins(base, path.name.split("-", 2)[-1], path) for path in found]


def clear(base: Path) -> None:
    """Remove what a load or unload left behind when it was killed. The caller holds the lock."""
    for pins in leftovers(base):
        pins.remove()


def tidy(base: Path) -> None:
    """Remove the folder of all monitors where none is left."""
    with contextlib.suppress(OSError):
        base.rmdir()
