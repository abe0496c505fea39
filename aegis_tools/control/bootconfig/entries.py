"""What a boot loader offers, whichever it is. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from aegis_tools.control.bootconfig import cmdline

_RECOVERY_WORDS = ("single", "recovery")


class Entry(NamedTuple):
    """One entry that boots Linux.

    Attributes:
        title: As the menu shows it.
        id: The boot loader's name for it; may be empty.
        kernel: The image, as the boot loader names it.
        line: The kernel's command line.
        recovery: It is made for recovery, without what only normal entries get.
        generated: It is made from the settings that ours are among; others keep their own line.
    """

    title: str
    id: str
    kernel: str
    line: str
    recovery: bool = False
    generated: bool = True

    @property
    def lsm(self) -> str | None:
        """The ``lsm=`` that counts; None without one."""
        return cmdline.effective(self.line)

    @property
    def release(self) -> str:
        """The kernel's release, by the name of its image."""
        return PurePosixPath(self.kernel).name.partition("-")[2]


class Foreign(NamedTuple):
    """A place where somebody else sets ``lsm=``.

    Attributes:
        where: A file, or a boot entry.
        value: The list it sets.
    """

    where: str
    value: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return self._asdict()


def is_recovery(name: str, line: str) -> bool:
    """Return whether an entry of GRUB's is for recovery, by its id or else by what it boots."""
    if name:
        return "-recovery-" in name
    return any(one.text in _RECOVERY_WORDS for one in cmdline.arguments(line))


def normal(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries that ``lsm=`` is set for."""
    return [one for one in entries if one.generated and not one.recovery]
