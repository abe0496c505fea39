"""The kernel matrix, and which Debian packages make up a kernel. No effects here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

META_PACKAGE = "linux-image-amd64"
"""The generic flavour; the cloud flavour has no 9p, which the machine's root needs."""

_PARTS = re.compile(r"linux-(?:binary|modules|base)-\d\S*")
_EXACT = re.compile(r"(linux-image-\d\S*) \(= ([^)]+)\)")


class HarnessError(Exception):
    """Something the caller can act on.

    Args:
        message: What is wrong, in one line.
        hint: What to do next.
        detail: Output of the program that failed, shown below the message.
    """

    def __init__(self, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail


@dataclass(frozen=True)
class Kernel:
    """One kernel of the matrix.

    Args:
        name: The series, as in ``--kernel 6.1`` and in the cache.
        suites: Debian suites that carry it; those ending in ``-security`` come from that archive.
        cmdline: What the kernel needs on its command line to be usable for LSM programs.
    """

    name: str
    suites: tuple[str, ...]
    cmdline: tuple[str, ...] = ()

    def has(self, version: str) -> bool:
        """Say whether a package version (``6.1.176-1``) is of this series."""
        return version.startswith(f"{self.name}.")


MATRIX: Mapping[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        Kernel(
            "5.10",
            ("bullseye", "bullseye-security"),
            # Its built-in list (CONFIG_LSM) has no bpf; this is that list and bpf.
            ("lsm=lockdown,yama,loadpin,safesetid,integrity,apparmor,selinux,smack,tomoyo,bpf",),
        ),
        Kernel("6.1", ("bookworm", "bookworm-security")),
        Kernel("6.12", ("trixie", "trixie-security")),
        Kernel("7.2", ("sid",)),
    )
}


@dataclass(frozen=True)
class Package:
    """A stanza of a package list: ``depends`` is the field's text, empty when absent."""

    name: str
    version: str
    depends: str = ""


@dataclass(frozen=True)
class Installed:
    """A kernel in the cache: its image, and the folder that ``modprobe -d`` would take."""

    kernel: Kernel
    root: Path

    @property
    def image(self) -> Path:
        """The compressed kernel image."""
        return self.root / "vmlinuz"

    @property
    def modules(self) -> Path:
        """The folder with one folder a release, ``lib/modules``."""
        return self.root / "lib" / "modules"


def find(name: str) -> Kernel:
    """Return the kernel called ``name``.

    Raises:
        HarnessError: The matrix has no such kernel.
    """
    try:
        return MATRIX[name]
    except KeyError:
        known = ", ".join(MATRIX)
        raise HarnessError(f"no kernel {name!r} in the matrix", hint=f"one of: {known}") from None


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return where kernels are kept: ``AEGIS_CACHE``, else below the user's cache folder."""
    if environment.get("AEGIS_CACHE"):
        return Path(environment["AEGIS_CACHE"]) / "kernels"
    base = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME", "/")) / ".cache")
    return Path(base) / "aegis-tools" / "kernels"


def parse_packages(text: str) -> list[Package]:
    """Read stanzas as ``apt-cache show`` prints them; fields we do not need are skipped."""
    packages = []
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
        if "Package" in fields and "Version" in fields:
            packages.append(
                Package(fields["Package"], fields["Version"], fields.get("Depends", ""))
            )
    return packages


def version_key(version: str) -> tuple[int, ...]:
    """Order kernel package versions: every number in it, left to right."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def newest_image(kernel: Kernel, metas: Iterable[Package]) -> Package:
    """Return the image package that the newest meta package of the series depends on.

    Args:
        kernel: The kernel wanted.
        metas: Every version of the meta package in the suites.

    Returns:
        The image's exact name and version; its own ``depends`` is not known yet.

    Raises:
        HarnessError: No meta package of this series, or one without an image.
    """
    candidates = [meta for meta in metas if kernel.has(meta.version)]
    if not candidates:
        suites = ", ".join(kernel.suites)
        raise HarnessError(
            f"no {kernel.name} kernel in the package lists of {suites}",
            hint="run again with a mirror that carries them: AEGIS_DEBIAN_MIRROR=URL",
        )
    meta = max(candidates, key=lambda package: version_key(package.version))
    match = _EXACT.search(meta.depends)
    if match is None:
        raise HarnessError(f"{meta.name} {meta.version} depends on no kernel image")
    return Package(match[1], match[2])


def downloads(image: Package) -> list[str]:
    """Return ``name=version`` of what holds the kernel and its modules.

    Until 6.12 that is the image package itself. Since then the image is empty and depends on
    ``linux-binary-*`` (vmlinuz), ``linux-modules-*`` and ``linux-base-*`` of the same version.
    """
    parts = _PARTS.findall(image.depends)
    return [f"{name}={image.version}" for name in parts or [image.name]]
