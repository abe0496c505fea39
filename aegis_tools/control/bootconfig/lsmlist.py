"""Lists of security modules, as in ``lsm=`` and in the kernel's list of active ones. Pure.

``lsm=`` replaces the whole list: a module that it leaves out is off, except those that are always
on (``capability``, and those built to start early or last, such as ``lockdown`` and ``ima``).
Names that the kernel does not know do no harm, and neither does ``capability``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from aegis_tools.errors import BootError

BPF = "bpf"
CAPABILITY = "capability"
EARLY = "lockdown"
"""Started before the list is read, in every distribution's kernel."""

_NAME = re.compile(r"[a-z0-9_]+")


def split(text: str) -> tuple[str, ...]:
    """Return the names of a list such as ``lockdown,yama,bpf``, each once, in order."""
    return tuple(dict.fromkeys(name for name in text.strip().split(",") if name))


def desired(active: Iterable[str], base: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the list to boot with: ``base``, then what is active, then ``bpf``.

    Args:
        active: Active now, in order; ``capability`` needs no asking for.
        base: A list to keep, its order first.

    Raises:
        BootError: A name could mean something to a shell or to a boot loader.
    """
    names = [name for name in dict.fromkeys([*base, *active]) if name != CAPABILITY]
    if BPF not in names:
        names.append(BPF)
    if not all(map(_NAME.fullmatch, names)):
        raise BootError(
            "the list of security modules holds a name that is none",
            hint="see it with: aegisbpf lsm status; put lsm= right where it is set",
            detail=repr(names),
        )
    return tuple(names)


def always_on(active: Collection[str], asked: Collection[str] | None) -> frozenset[str]:
    """Return the active modules that no list turns off.

    Args:
        active: Active now.
        asked: What this boot's list named; None where that is not known.
    """
    if asked is None:
        return frozenset({CAPABILITY, EARLY})
    return frozenset({CAPABILITY, *active}) - (frozenset(asked) - {CAPABILITY})


def lost(active: Sequence[str], then: Collection[str], always: Collection[str]) -> tuple[str, ...]:
    """Return the active modules that a boot which asks for ``then`` would not have."""
    return tuple(name for name in active if name not in then and name not in always)


def parse_config(text: str) -> tuple[tuple[str, ...] | None, bool | None]:
    """Return what a kernel's build configuration says.

    Returns:
        (the list without ``lsm=``, whether BPF LSM is built in); None where it does not say.
    """
    names: tuple[str, ...] | None = None
    built: bool | None = None
    for line in text.splitlines():
        if line.startswith('CONFIG_LSM="'):
            names = split(line.partition("=")[2].strip('"'))
        elif line == "CONFIG_BPF_LSM=y":
            built = True
        elif line == "# CONFIG_BPF_LSM is not set":
            built = False
    return names, built
