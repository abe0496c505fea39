"""Runs as root inside the machine: builds its root, runs the command, leaves the status.

It stands alone (the host copies it into the control folder) and starts no other program before the
command: under emulation each costs a tenth of a second, each mount(2) next to nothing.

The machine's first root reads every file anew through 9p. The one built here is an overlay over
the same host root, read with caching, so it is writable everywhere and twice as fast.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BASE = Path("/run/aegis-vm")
CONTROL = BASE / "control"
HOST = BASE / "host"
ROOT = BASE / "root"
CANNOT_RUN = 125

_MS_RDONLY, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x1, 0x1000, 0x4000, 0x40000
_MNT_DETACH = 2
_CLONE_NEWNS = 0x00020000
_PIVOT_ROOT = 155  # x86-64
_HOST_OPTIONS = "trans=virtio,version=9p2000.L,access=any,msize=524288,cache=loose"
_KERNEL_FILESYSTEMS = (
    ("bpf", "/sys/fs/bpf"),
    ("securityfs", "/sys/kernel/security"),
    ("tracefs", "/sys/kernel/tracing"),
    ("cgroup2", "/sys/fs/cgroup"),
)
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Do the job; whatever happens, leave a status."""
    job = json.loads((CONTROL / "job.json").read_text(encoding="utf-8"))
    try:
        _live_at_most(job["deadline"])
        _build_root(job)
        _enter_root()
        _mount_kernel_filesystems()
        _raise_limits()
        _finish(_run(job))
    except OSError as error:
        with (CONTROL / "stderr").open("a", encoding="utf-8") as stderr:
            stderr.write(f"vm: cannot prepare the machine: {error}\n")
        _finish(CANNOT_RUN)


def _live_at_most(seconds: int) -> None:
    """End the machine by itself, should nobody be left on the host to do it."""
    if os.fork():
        return
    time.sleep(seconds)
    Path("/proc/sysrq-trigger").write_text("o", encoding="ascii")
    os._exit(0)


def _build_root(job: dict[str, Any]) -> None:
    _check(_libc.umount2(_c(HOST), 0), HOST)
    # A share can be mounted once at a time; virtme-ng's own mount of it has no cache.
    _mount(job["host_share"], HOST, "9p", _MS_RDONLY, _HOST_OPTIONS)
    layers = BASE / "layers"
    layers.mkdir()
    ROOT.mkdir()
    _mount("tmpfs", layers, "tmpfs", 0, "mode=0755")
    upper, work = layers / "upper", layers / "work"
    upper.mkdir()
    work.mkdir()
    _mount("overlay", ROOT, "overlay", 0, f"lowerdir={HOST},upperdir={upper},workdir={work}")
    for name in ("proc", "sys", "dev"):
        _bind(Path("/", name), _inside(f"/{name}"), _MS_REC)
    _hide_tmp_and_run(job)
    _link_modules(job["modules"])


def _hide_tmp_and_run(job: dict[str, Any]) -> None:
    """Put a tmpfs on /tmp and /run, and back on them what the command needs of the host's."""
    for number, path in enumerate(job["keep"]):
        _bind(_inside(path), BASE / "keep" / str(number))
    _mount("tmpfs", _inside("/tmp"), "tmpfs", 0, "mode=1777")
    _mount("tmpfs", _inside("/run"), "tmpfs", 0, "mode=0755")
    for number, path in enumerate(job["keep"]):
        _bind(BASE / "keep" / str(number), _inside(path))
    for number, path in enumerate(job["shared"]):
        _bind(BASE / "shared" / str(number), _inside(path))
    _bind(CONTROL, _inside(str(CONTROL)))
    _inside("/run/lock").mkdir()


def _link_modules(modules: str) -> None:
    link = _inside("/usr/lib/modules") / os.uname().release
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(modules)


def _enter_root() -> None:
    _check(_libc.unshare(_CLONE_NEWNS), "a mount namespace")
    _mount("none", Path("/"), None, _MS_REC | _MS_PRIVATE, None)
    old = ROOT / "run" / "old-root"
    old.mkdir()
    _check(_libc.syscall(_PIVOT_ROOT, _c(ROOT), _c(old)), "the new root")
    os.chdir("/")
    _check(_libc.umount2(b"/run/old-root", _MNT_DETACH), "the old root")
    Path("/run/old-root").rmdir()


def _mount_kernel_filesystems() -> None:
    mounted = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    for kind, where in _KERNEL_FILESYSTEMS:
        if [where, kind] not in mounted:
            _mount(kind, Path(where), kind, 0, "mode=0700" if kind == "bpf" else None)


def _raise_limits() -> None:
    infinity = resource.RLIM_INFINITY
    # 5.10 still counts BPF maps against locked memory.
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (infinity, infinity))
    resource.setrlimit(resource.RLIMIT_NOFILE, (65536, 65536))


def _run(job: dict[str, Any]) -> int:
    (CONTROL / "ready").touch()
    with (CONTROL / "stdout").open("ab") as out, (CONTROL / "stderr").open("ab") as err:
        try:
            status = subprocess.run(
                job["command"],
                cwd=job["directory"],
                env=job["environment"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                check=False,
            ).returncode
        except FileNotFoundError as error:
            err.write(f"vm: {error.filename}: no such program\n".encode())
            return 127
    return status if status >= 0 else 128 - status


def _finish(status: int) -> None:
    """Leave the status, which the host watches for; it appears whole, after all output."""
    part = CONTROL / "status.part"
    part.write_text(f"{status}\n", encoding="ascii")
    part.rename(CONTROL / "status")


def _inside(path: str) -> Path:
    return ROOT / path.lstrip("/")


def _bind(source: Path, target: Path, flags: int = 0) -> None:
    target.mkdir(parents=True, exist_ok=True)
    _mount(str(source), target, None, _MS_BIND | flags, None)


def _mount(source: str, target: Path, kind: str | None, flags: int, options: str | None) -> None:
    arguments = (_c(source), _c(target), kind and _c(kind), flags, options and _c(options))
    _check(_libc.mount(*arguments), target)


def _c(text: str | Path) -> bytes:
    return os.fsencode(text)


def _check(result: int, what: object) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(what))


if __name__ == "__main__":
    main()
    sys.exit(0)
