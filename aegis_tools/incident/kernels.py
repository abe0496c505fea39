"""What a kernel offers, by the file it was configured with; which of several is to boot. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from aegis_tools.control.bootconfig import lsmlist
from aegis_tools.control.bootconfig.entries import Entry

NEEDED = {
    "CONFIG_BPF_SYSCALL": "BPF",
    "CONFIG_BPF_JIT": "the BPF compiler",
    "CONFIG_BPF_LSM": "BPF LSM",
    "CONFIG_DEBUG_INFO_BTF": "BTF, which describes its types",
}
"""Options that a kernel has to be built with, and what each is."""

LIST = "lsm-list"
_UNSET = re.compile(r"# (CONFIG_\w+) is not set")


class Verdict(NamedTuple):
    """One thing that a kernel has, or has not.

    Attributes:
        name: The option, or LIST.
        ok: Whether it has it; None where nothing tells.
        message: In one line, for a person.
    """

    name: str
    ok: bool | None
    message: str


class Kernel(NamedTuple):
    """A kernel that can be booted.

    Attributes:
        release: Its.
        verdicts: On what is needed of the kernel itself, then on its boot entry's list.
        running: It is this boot's.
        default: It is what boots where nobody chooses.
    """

    release: str
    verdicts: tuple[Verdict, ...]
    running: bool = False
    default: bool = False

    @property
    def lacks(self) -> list[Verdict]:
        """What it is known not to have, the list aside: that can be changed."""
        return [one for one in self.verdicts if one.ok is False and one.name != LIST]

    @property
    def unsure(self) -> bool:
        """Whether its configuration does not tell."""
        return any(one.ok is None for one in self.verdicts if one.name != LIST)

    @property
    def has_list(self) -> bool:
        """Whether it boots with bpf in its list."""
        return any(one.ok is True for one in self.verdicts if one.name == LIST)

    @property
    def works(self) -> bool:
        """Whether it has all, as far as anything tells."""
        return all(one.ok is not False for one in self.verdicts)

    def to_dict(self) -> dict[str, object]:
        """Return it as ``--json`` and the record have it."""
        return {
            "release": self.release,
            "works": self.works,
            "running": self.running,
            "default": self.default,
            "verdicts": [one._asdict() for one in self.verdicts],
        }


def options(text: str) -> dict[str, str]:
    """Return the options of a kernel's configuration: ``y``, ``m``, ``n``, a number or a text."""
    found = {}
    for line in text.splitlines():
        if line.startswith("CONFIG_"):
            name, _, value = line.partition("=")
            found[name] = value.strip('"')
        elif unset := _UNSET.fullmatch(line):
            found[unset[1]] = "n"
    return found


def judge(text: str, asked: str | None) -> tuple[Verdict, ...]:
    """Say what a kernel has of what is needed.

    Args:
        text: Its configuration; empty where there is none.
        asked: The ``lsm=`` of its boot entry; None for the list it is built with.
    """
    known = options(text)
    found = [_built(name, what, known) for name, what in NEEDED.items()]
    names = asked if asked is not None else known.get("CONFIG_LSM")
    where = f"lsm={asked}" if asked is not None else f"its own list, {names}"
    if names is None:
        return (*found, Verdict(LIST, None, "nothing tells which modules it starts"))
    if lsmlist.BPF in lsmlist.split(names):
        return (*found, Verdict(LIST, True, "bpf is in its list"))
    return (*found, Verdict(LIST, False, f"bpf is not in {where}"))


def _built(name: str, what: str, known: Mapping[str, str]) -> Verdict:
    if not known:
        return Verdict(name, None, f"nothing tells whether it has {what}")
    # An option that depends on another one that is off is not in the file at all.
    has = known.get(name) == "y"
    return Verdict(name, has, f"it has {what}" if has else f"it has no {what} ({name})")


def version_key(release: str) -> tuple[int, ...]:
    """Return what sorts releases as versions: 6.1.0-9 comes before 6.1.0-56 and 6.12.0."""
    return tuple(int(number) for number in re.findall(r"\d+", release))


def of_entries(
    choices: Mapping[str, Entry], texts: Mapping[str, str], *, running: str, default: Entry | None
) -> dict[str, Kernel]:
    """Return the kernel of every entry that is not for recovery, by the entry's name.

    Args:
        choices: Entries by name, in the menu's order.
        texts: Configurations by release.
        running: This boot's release.
        default: The entry that boots where nobody chooses.
    """
    return {
        name: Kernel(
            entry.release,
            judge(texts.get(entry.release, ""), entry.lsm),
            running=entry.release == running,
            default=entry == default,
        )
        for name, entry in choices.items()
        if not entry.recovery
    }


def best(choices: Mapping[str, Entry], kernels: Mapping[str, Kernel], wanted: str = "") -> str:
    """Return the name of the entry to boot by default; empty where none will do.

    Args:
        choices: Entries by name, in the menu's order.
        kernels: Of them, by the same name.
        wanted: Only this release, whatever its configuration says; empty for the newest that has
            all, one that boots with bpf in its list before others, and one that tells before one
            that does not.
    """
    if wanted:
        fit = [name for name, kernel in kernels.items() if kernel.release == wanted]
    else:
        fit = [name for name, kernel in kernels.items() if not kernel.lacks]

    def rank(name: str) -> tuple[bool, bool, bool, tuple[int, ...]]:
        kernel = kernels[name]
        can = kernel.has_list or choices[name].generated
        return can, not kernel.unsure, kernel.has_list, version_key(kernel.release)

    return max(fit, key=rank, default="")
