"""Which variant of a monitor fits this kernel, by what the kernel says of itself.

Names are looked for in the strings of the kernel's BTF: no list of versions, which distributions'
kernels do not keep to. A string may name something else, such as a member of a struct; so what
fits here may still be refused, and then the next variant is taken.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from aegis_tools.errors import KernelError
from aegis_tools.monitors.registry import Monitor, Variant

BTF = Path("/sys/kernel/btf/vmlinux")
_HEADER = struct.Struct("HBBIIIII")
"""magic, version, flags, hdr_len, type_off, type_len, str_off, str_len (linux/btf.h)."""
_MAGIC = 0xEB9F
_TRACEPOINT = "btf_trace_"


class Fit(NamedTuple):
    """How a variant fits.

    Attributes:
        variant: Which.
        missing: What the kernel lacks for it.
        unwanted: What the kernel has, and it does not know of.
    """

    variant: Variant
    missing: tuple[str, ...]
    unwanted: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why it does not fit, for a person; empty where it does."""
        parts = [f"the kernel has no {kind}" for kind in _by_kind(self.missing)]
        parts += [f"it misses what the kernel does by {kind}" for kind in _by_kind(self.unwanted)]
        return "; ".join(parts)


def _by_kind(names: tuple[str, ...]) -> list[str]:
    points = [name.removeprefix(_TRACEPOINT) for name in names if name.startswith(_TRACEPOINT)]
    functions = [name for name in names if not name.startswith(_TRACEPOINT)]
    kinds = {"function": functions, "tracepoint": points}
    return [f"{kind} {', '.join(found)}" for kind, found in kinds.items() if found]


def fits(monitor: Monitor, has: Callable[[str], bool]) -> list[Fit]:
    """Return how each variant fits, the best first.

    Args:
        monitor: Which.
        has: Says whether the kernel has a function or tracepoint, as ``Variant.needs`` names them.
    """
    return [
        Fit(
            variant,
            tuple(name for name in variant.needs if not has(name)),
            tuple(name for name in variant.lacks if has(name)),
        )
        for variant in monitor.variants
    ]


@contextmanager
def kernel_names(path: Path = BTF) -> Iterator[Callable[[str], bool]]:
    """Yield a function that says whether the kernel's BTF has a name.

    Raises:
        KernelError: The kernel does not describe itself.
    """
    try:
        with path.open("rb") as file:
            data = _mapped(file.fileno()) or file.read()
        magic, _, _, header, _, _, offset, length = _HEADER.unpack_from(data)
    except (OSError, struct.error) as error:
        raise KernelError(
            "this kernel does not describe its own types",
            hint="use a kernel with CONFIG_DEBUG_INFO_BTF, as distributions' kernels are",
            detail=str(error),
        ) from None
    start = header + offset
    if magic != _MAGIC:
        raise KernelError(
            "this kernel describes its types in a way that is not known",
            hint="report it, with the output of: uname -r",
            detail=f"magic {magic:#x}",
        )

    def has(name: str) -> bool:
        return data.find(b"\0%b\0" % name.encode(), start, start + length) >= 0

    try:
        yield has
    finally:
        if isinstance(data, mmap.mmap):
            data.close()


def _mapped(fd: int) -> mmap.mmap | None:
    """Map the file, which kernels before 6.16 do not allow (btf_sysfs_vmlinux_mmap)."""
    try:
        return mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    except (OSError, ValueError):
        return None
