"""Load, attach and pin a monitor; take it away again.

All is made in a staging folder, links last, and renamed into its place at once. Killed at any
instant, a monitor is loaded or it is not; the next load or unload clears the rest.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aegis_tools.errors import CommandError, KernelError
from aegis_tools.kernel import syscall
from aegis_tools.kernel.accounting import raise_memlock
from aegis_tools.kernel.loader import OBJECTS, verify_object, without_dots
from aegis_tools.kernel.run import Runner, run
from aegis_tools.monitors import filters
from aegis_tools.monitors.choose import fits
from aegis_tools.monitors.filters import Filter
from aegis_tools.monitors.pins import ABOUT, PARTS, About, MonitorPins, Refused, clear, tidy
from aegis_tools.monitors.registry import Monitor, Variant

_REFUSAL = re.compile(r"prog '([^']+)': (?:BPF program load failed|failed to load): (.+)")


@dataclass(frozen=True)
class Loaded:
    """What a load led to.

    Attributes:
        monitor: Its name.
        fresh: False where it was loaded already.
        about: What is loaded now.
        changed: Something was changed, if only the filter.
    """

    monitor: str
    fresh: bool
    about: About
    changed: bool


@dataclass(frozen=True)
class _Wish:
    """What is asked of a load, and the means; see ``load``."""

    monitor: Monitor
    has: Callable[[str], bool]
    ring_bytes: int | None
    wanted: Filter
    objects: Path
    runner: Runner


class RefusedError(Exception):
    """The kernel does not take a variant. ``detail`` is all that it said."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def load(
    base: Path,
    monitor: Monitor,
    has: Callable[[str], bool],
    *,
    ring_bytes: int | None = None,
    wanted: Filter | None = None,
    objects: Path = OBJECTS,
    runner: Runner = run,
) -> Loaded:
    """Load one monitor; where it is loaded, only its filter changes. The caller holds the lock.

    Args:
        base: ``Paths.monitor_pins``, on a BPF file system.
        monitor: Which.
        has: What the kernel has; see ``choose.kernel_names``.
        ring_bytes: Size of its ring, a power of two of at least a page; None for its usual one.
        wanted: What is let through; None for all.
        objects: Where the object files are.
        runner: Runs bpftool.

    Raises:
        KernelError: The kernel takes no variant, or another one or another size is loaded.
    """
    wish = _Wish(monitor, has, ring_bytes, wanted or Filter(), objects, runner)
    pins = MonitorPins(base, monitor.name)
    clear(base)
    if pins.is_loaded():
        return _keep(pins, wish)
    raise_memlock()
    base.mkdir(mode=0o700, exist_ok=True)
    staging = pins.staging
    try:
        about = _build(staging, wish)
        staging.folder.rename(pins.folder)
    except BaseException:
        staging.remove()
        tidy(base)
        raise
    return Loaded(monitor.name, True, about, True)


def _keep(pins: MonitorPins, wish: _Wish) -> Loaded:
    """Change the filter of what is loaded, if what is loaded is what would be."""
    monitor, ring_bytes, wanted = wish.monitor, wish.ring_bytes, wish.wanted
    about, again = pins.about(), f"{monitor.name} && aegisbpf monitor load {monitor.name}"
    variant = next((one for one in monitor.variants if one.name == about.variant), None)
    if (
        variant is None
        or about.digest != digest_of(variant, wish.objects)
        or not pins.is_attached()
        or monitor.events not in pins.names("maps")
    ):
        raise KernelError(
            f"another version of {monitor.name} is loaded, or not all of it",
            hint=f"run: aegisbpf monitor unload {again}",
            detail=f"variant {about.variant!r}, object {about.digest}",
        )
    with pins.open_map(monitor.events) as ring:
        size = ring.max_entries
    if ring_bytes and ring_bytes != size:
        raise KernelError(
            f"{monitor.name} is loaded with a ring of {size} bytes",
            hint=f"run: aegisbpf monitor unload {again} --ring-size {ring_bytes}",
        )
    changed = filters.read(pins) != wanted
    if changed:
        filters.write(pins, wanted)
    return Loaded(monitor.name, False, about, changed)


def _build(staging: MonitorPins, wish: _Wish) -> About:
    """Fill the staging folder with the first variant that the kernel takes."""
    refused: list[Refused] = []
    details: list[str] = []
    for fit in fits(wish.monitor, wish.has):
        reason = fit.reason
        if not reason:
            try:
                _try(staging, fit.variant, wish)
                digest = digest_of(fit.variant, wish.objects)
                about = About(fit.variant.name, digest, tuple(refused))
                staging.path(ABOUT).symlink_to(about.text())
                return about
            except RefusedError as error:
                staging.remove()
                reason = error.reason
                details.append(error.detail)
        refused.append(Refused(fit.variant.name, reason))
    name = wish.monitor.name
    raise KernelError(
        f"this kernel does not take {name}: "
        + "; ".join(f"{one.variant}: {one.reason}" for one in refused),
        hint=f"see what it said: aegisbpf monitor load {name} --verbose",
        detail="\n".join(details),
        data={"refused": [{"variant": r.variant, "reason": r.reason} for r in refused]},
    )


def _try(staging: MonitorPins, variant: Variant, wish: _Wish) -> None:
    """Load and attach one variant. Raises RefusedError where the kernel does not take it."""
    path = str(verify_object(variant.object, wish.objects))
    for folder in (staging.folder, *map(staging.path, PARTS)):
        folder.mkdir(mode=0o700)
    reuse = _make_ring(staging, wish)
    try:
        with without_dots(staging.folder) as folder:
            wish.runner(["bpftool", "prog", "loadall", path, str(staging.path("progs")), *reuse,
                         "pinmaps", str(folder / "maps")], timeout=300)  # fmt: skip
    except CommandError as error:
        if "stderr" not in error.data:  # not the kernel: there is no bpftool, or it took too long
            raise
        raise RefusedError(_reason(error.detail), error.detail) from None
    for name in staging.names("premade"):
        staging.path("premade", name).unlink()
    staging.path("premade").rmdir()
    filters.write(staging, wish.wanted)
    attach(staging)


def _make_ring(staging: MonitorPins, wish: _Wish) -> list[str]:
    """Make a ring of another size than usual; return what has bpftool take it."""
    events, size = wish.monitor.events, wish.ring_bytes
    if not size or size == wish.monitor.ring_bytes:
        return []
    ring = str(staging.path("premade", events))
    wish.runner(["bpftool", "map", "create", ring, "type", "ringbuf", "key", "0", "value", "0",
                 "entries", str(size), "name", events[:15]])  # fmt: skip
    return ["map", "name", events, "pinned", ring]


def attach(pins: MonitorPins) -> None:
    """Attach every program. Only the pin holds a link, so that without it nothing runs on."""
    for name in pins.names("progs"):
        program = pins.open_program(name)
        try:
            link = syscall.attach(program)
            try:
                syscall.obj_pin(str(pins.path("links", name)), link)
            finally:
                os.close(link)
        except OSError as error:
            text = os.strerror(error.errno or 0)
            raise RefusedError(f"{name} cannot be attached: {text}", str(error)) from None
        finally:
            os.close(program)


def _reason(output: str) -> str:
    """Return in a line why bpftool could not load an object."""
    found = _REFUSAL.search(output)
    if found:
        return f"{found[1]} is refused: {found[2].strip()}"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "the kernel did not say why"


def digest_of(variant: Variant, objects: Path = OBJECTS) -> str:
    """Return the SHA-256 of a variant's object. Raises KernelError where it is not ours."""
    return hashlib.sha256(verify_object(variant.object, objects).read_bytes()).hexdigest()


def unload(base: Path, name: str) -> int:
    """Remove one monitor; return how many pins it had. The caller holds the lock."""
    clear(base)
    pins = MonitorPins(base, name)
    count = 0
    if pins.is_loaded():
        leaving = pins.staging
        pins.folder.rename(leaving.folder)
        count = leaving.remove()
    tidy(base)
    return count
