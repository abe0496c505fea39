"""What this kernel and this boot can do. Readers only; each names what it read."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from aegis_tools.errors import BootError, KernelError

BPF_FS_MAGIC = 0xCAFE4A11
DISABLE_PARAMETER = "aegisbpf.disable=1"
DISABLE_FILES = ("run/aegisbpf.disable", "etc/aegisbpf.disable")
"""Made by scripts/break-glass: until the next boot, and over boots."""


@dataclass(frozen=True)
class Features:
    """The facts that decide how much we can do.

    Attributes:
        release: Kernel release.
        lsms: Active security modules, in order; empty where securityfs does not say.
        btf: The kernel describes its own types (CO-RE needs it).
        disabled: Nothing of ours may be loaded.
        disabled_by: The kernel parameter, or the file, that says so; empty where nothing does.
    """

    release: str
    lsms: tuple[str, ...]
    btf: bool
    disabled: bool
    disabled_by: str = ""

    @property
    def lsm_active(self) -> bool:
        """BPF LSM takes part in decisions on this boot."""
        return "bpf" in self.lsms

    def to_dict(self) -> dict[str, object]:
        """Return the features as ``--json`` prints them."""
        return {**asdict(self), "lsms": list(self.lsms), "lsm_active": self.lsm_active}


def read_features(root: Path = Path("/")) -> Features:
    """Read the facts below ``root``."""
    by = _disabled_by(root)
    lsms = _text(root / "sys/kernel/security/lsm").strip()
    return Features(
        release=platform.release(),
        lsms=tuple(lsms.split(",")) if lsms else (),
        btf=(root / "sys/kernel/btf/vmlinux").exists(),
        disabled=bool(by),
        disabled_by=by,
    )


def _disabled_by(root: Path) -> str:
    if DISABLE_PARAMETER in _text(root / "proc/cmdline").split():
        return DISABLE_PARAMETER
    return next((f"/{name}" for name in DISABLE_FILES if _is_there(root / name)), "")


def _is_there(path: Path) -> bool:
    """Whoever may not look there may load nothing either."""
    try:
        return path.exists()
    except OSError:
        return False


def read_host_features(root: Path) -> Features:
    """Read the facts of this host for a program whose files are below ``root``.

    The kernel is the same for every root, but what is below it can switch us off, too.
    """
    found = read_features()
    by = found.disabled_by or _disabled_by(root)
    return replace(found, disabled=bool(by), disabled_by=by)


def check_enabled(features: Features) -> None:
    """Raise BootError where the kernel command line, or break-glass, forbids all of ours."""
    if features.disabled:
        where, hint = why_disabled(features)
        raise BootError(f"loading is disabled {where}", hint=hint)


def why_disabled(features: Features) -> tuple[str, str]:
    """Return what keeps us from loading, and what to do about it."""
    if features.disabled_by.startswith("/"):
        files = " ".join(f"/{name}" for name in DISABLE_FILES)
        hint = f"when the policy is right: rm -f {files}; then: aegisbpf boot"
        return f"since the glass was broken ({features.disabled_by})", hint
    return f"on the kernel command line ({DISABLE_PARAMETER})", "reboot without the parameter"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def mount_securityfs(root: Path = Path("/")) -> None:
    """Mount securityfs where it is missing: without it nobody can say which LSMs are active."""
    where = root / "sys/kernel/security"
    if not (where / "lsm").exists():
        with contextlib.suppress(KernelError, OSError):
            mount_if_missing("securityfs", where)


def is_bpffs(path: Path) -> bool:
    """Return whether ``path`` is on a BPF file system (statfs f_type, linux/magic.h)."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(256)
    if libc.statfs(str(path).encode(), buffer) != 0:
        return False
    return bool(ctypes.c_long.from_buffer(buffer).value == BPF_FS_MAGIC)


def mount_if_missing(kind: str, path: Path) -> None:
    """Mount a pseudo file system such as ``bpf`` or ``securityfs`` at ``path``.

    Raises:
        KernelError: The mount is not possible.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    path.mkdir(parents=True, exist_ok=True)
    nosuid_nodev_noexec = 2 | 4 | 8
    if libc.mount(kind.encode(), str(path).encode(), kind.encode(), nosuid_nodev_noexec, None):
        raise KernelError(
            f"the {kind} file system cannot be mounted",
            hint="run as root, on a kernel with CONFIG_BPF_SYSCALL",
            detail=f"mount {kind} at {path}: errno {ctypes.get_errno()}",
        )
