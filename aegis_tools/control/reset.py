"""Remove everything from the kernel, and prove that nothing is denied any more."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aegis_tools.errors import KernelError
from aegis_tools.kernel import syscall
from aegis_tools.kernel.pins import PARTS, Pins

_PATIENCE = 10.0


@dataclass(frozen=True)
class Report:
    """What a reset did.

    Attributes:
        links: Hooks that were detached.
        pins: Pins that were removed, links included.
        probed: Paths that were denied by a rule and have been opened since.
        programs: Our LSM programs still in the kernel: 0.
    """

    links: int
    pins: int
    probed: tuple[str, ...]
    programs: int = 0


def reset(
    pins: Pins,
    denied: Iterable[str],
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Remove links, programs and maps, in this order, and wait until the hooks are gone.

    Works with the agent dead and with any pins missing. The caller holds the lock.

    Args:
        pins: What to remove.
        denied: Paths to open as the probe: regular files that live rules name.
        sleep: Waits seconds.
        clock: Seconds that only grow.

    Raises:
        KernelError: A hook is still there, held by a process; or a file is still refused.
    """
    links = len(pins.names("links"))
    count = sum(len(pins.names(part)) for part in PARTS)
    paths = tuple(denied)
    pins.remove_all()
    deadline = clock() + _PATIENCE
    while (left := our_lsm_programs()) and clock() < deadline:
        sleep(0.05)
    if left:
        raise _still_attached(left)
    refused = [path for path in paths if is_refused(path)]
    if refused:
        raise KernelError(
            f"{len(refused)} files are still refused, the first: {refused[0]}",
            hint="another security module refuses them; see: dmesg",
            data={"refused": refused},
        )
    return Report(links, count, paths)


def _still_attached(left: Mapping[int, str]) -> KernelError:
    """Return the refusal that names who holds the programs, where a process does."""
    held_by = holders(left)
    if not held_by:
        return KernelError(
            f"hooks are still attached ({len(left)}), and no process holds them",
            hint="run it again; if they stay, they are pinned elsewhere: findmnt -t bpf",
            data={"programs": sorted(left.values())},
        )
    named = ", ".join(f"{comm} ({pid})" for pid, comm in sorted(held_by.items()))
    return KernelError(
        f"hooks are still attached ({len(left)}): held open by {named}",
        hint="end it, then run: aegisbpf reset",
        data={"programs": sorted(left.values()), "processes": sorted(held_by)},
    )


def holders(programs: Collection[int], proc: Path = Path("/proc")) -> dict[int, str]:
    """Return the command names by id of the processes with a descriptor of a program or its link.

    Args:
        programs: Program ids.
        proc: Where procfs is; ``fdinfo`` names the ``prog_id`` of both (proc_pid_fdinfo(5)).
    """
    found = {}
    for info in proc.glob("[0-9]*/fdinfo/*"):
        with contextlib.suppress(OSError, ValueError):
            lines = info.read_text(encoding="ascii").splitlines()
            ids = {int(line.split()[1]) for line in lines if line.startswith("prog_id:")}
            if ids & set(programs):
                process = info.parents[1]
                found[int(process.name)] = process.joinpath("comm").read_text().strip()
    return found


def is_refused(path: str) -> bool:
    """Return whether opening a regular file for reading gives EPERM, as our hooks do."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EPERM
    return False


def our_lsm_programs() -> dict[int, str]:
    """Return the names by id of our LSM programs that the kernel has, pinned or not."""
    found = {}
    for ident in syscall.program_ids():
        with contextlib.suppress(OSError):
            fd = syscall.program_fd(ident)
            try:
                kind, name = syscall.program_name(fd)
            finally:
                os.close(fd)
            if kind == syscall.PROG_TYPE_LSM and name.startswith("aegis_"):
                found[ident] = name
    return found
