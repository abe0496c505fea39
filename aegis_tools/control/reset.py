"""Remove everything from the kernel, and prove that nothing is denied any more."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

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
        raise KernelError(
            f"{len(left)} hooks are still attached: a process holds them open",
            hint="find it: bpftool link show; end it, then run: aegisbpf reset",
            data={"programs": left},
        )
    refused = [path for path in paths if is_refused(path)]
    if refused:
        raise KernelError(
            f"{len(refused)} files are still refused, the first: {refused[0]}",
            hint="another security module refuses them; see: dmesg",
            data={"refused": refused},
        )
    return Report(links, count, paths)


def is_refused(path: str) -> bool:
    """Return whether opening a regular file for reading gives EPERM, as our hooks do."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EPERM
    return False


def our_lsm_programs() -> list[str]:
    """Return the names of our LSM programs that the kernel has, pinned or not."""
    found = []
    for ident in syscall.program_ids():
        with contextlib.suppress(OSError):
            fd = syscall.program_fd(ident)
            try:
                kind, name = syscall.program_name(fd)
            finally:
                os.close(fd)
            if kind == syscall.PROG_TYPE_LSM and name.startswith("aegis_"):
                found.append(name)
    return found
