"""Make the disk: Debian packages, a file system, and one boot in which GRUB installs itself."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from vmharness import sources
from vmharness.fetch import KEYRING, host_entries, host_settings
from vmharness.kernels import HarnessError
from vmharness.system import recipe

BUILD_SECONDS = 900
GRUB_SECONDS = 240
WHERE = {
    "mmdebstrap": "mmdebstrap",
    "sfdisk": "fdisk",
    "mke2fs": "e2fsprogs",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "ssh": "openssh-client",
}
"""The Debian package of each program."""


def say(text: str) -> None:
    """Print one line of progress."""
    print(f"system-vm: {text}", file=sys.stderr, flush=True)


def base(environment: Mapping[str, str]) -> Path:
    """Return the disk that boots by itself, made now if the cache has none of this recipe.

    Raises:
        HarnessError: A program is missing, or failed.
    """
    folder = recipe.folder(environment)
    target = folder / f"base-{recipe.base_key()}.qcow2"
    if target.is_file():
        return target
    require_programs()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(folder / ".base.lock"):
        if not target.is_file():
            with tempfile.TemporaryDirectory(prefix=".base-", dir=folder) as temporary:
                _build(Path(temporary), environment).rename(target)
    return target


def require_programs() -> None:
    """Say which programs are missing.

    Raises:
        HarnessError: One is, or we are not root.
    """
    missing = [package for name, package in WHERE.items() if not shutil.which(name, path=search())]
    if missing:
        raise HarnessError(
            f"not installed: {' '.join(missing)}", hint=f"apt-get install {' '.join(missing)}"
        )
    if os.geteuid() != 0:
        raise HarnessError("a Debian tree is made by root", hint="run it as root")


def search() -> str:
    """Return PATH with the folders of administrators' programs."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file: who comes second finds the work done."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(
    arguments: Sequence[str], *, stdin: str = "", cwd: Path | None = None, seconds: float = 300
) -> str:
    """Run a program and return its output.

    Raises:
        HarnessError: It failed or took too long.
    """
    try:
        done = subprocess.run(
            arguments,
            input=stdin,
            cwd=cwd,
            env={**os.environ, "PATH": search(), "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HarnessError(f"{arguments[0]} took more than {seconds:g} s") from None
    if done.returncode:
        raise HarnessError(f"{arguments[0]} failed", detail=f"{done.stdout}\n{done.stderr}".strip())
    return done.stdout


def _build(temporary: Path, environment: Mapping[str, str]) -> Path:
    started = time.monotonic()
    tree, raw, disk = (temporary / name for name in ("tree", "raw", "disk.qcow2"))
    _make_tree(temporary, tree, environment)
    say(f"a Debian tree after {time.monotonic() - started:.0f} s")
    with raw.open("wb") as file:
        file.truncate(recipe.DISK_MIB << 20)
    run(["sfdisk", "--quiet", str(raw)], stdin=recipe.partition_table())
    offset = recipe.FIRST_SECTOR * recipe.SECTOR
    options = f"offset={offset},lazy_itable_init=0,lazy_journal_init=0"
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-d", str(tree), "-E", options]
    run([*command, str(raw), f"{recipe.filesystem_kib()}k"])
    _install_grub(tree, raw, temporary / "console")
    run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(disk)])
    say(f"a disk that boots by itself after {time.monotonic() - started:.0f} s")
    return disk


def _make_tree(temporary: Path, tree: Path, environment: Mapping[str, str]) -> None:
    staged = temporary / "staged"
    for name, text in recipe.FILES.items():
        path = staged / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    mirrors = sources.choose(host_entries(), environment)
    run(
        recipe.mmdebstrap_arguments(staged, tree, host_settings(environment)),
        stdin=sources.render_suites(recipe.SUITES, mirrors, KEYRING),
        seconds=BUILD_SECONDS,
    )
    for command in recipe.FINISH:
        run(["chroot", str(tree), "/bin/sh", "-c", command])
    script = tree / recipe.GRUB_SCRIPT_PATH.lstrip("/")
    script.write_text(recipe.GRUB_SCRIPT, encoding="utf-8")
    script.chmod(0o755)


def _install_grub(tree: Path, raw: Path, console: Path) -> None:
    """Boot the kernel directly, with a script for init that installs GRUB and turns it off."""
    [kernel] = (tree / "boot").glob("vmlinuz-*")
    [initrd] = (tree / "boot").glob("initrd.img-*")
    append = f"root=/dev/vda1 rw console=ttyS0 quiet init={recipe.GRUB_SCRIPT_PATH}"
    arguments = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]
    arguments += ["-m", "1024", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    arguments += ["-drive", f"file={raw},format=raw,if=virtio,cache=unsafe"]
    arguments += ["-serial", f"file:{console}", "-nic", "none"]
    arguments += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", append]
    run(["setpriv", "--pdeathsig", "KILL", *arguments], seconds=GRUB_SECONDS)
    output = console.read_bytes()
    if recipe.GRUB_DONE not in output:
        raise HarnessError("GRUB was not installed", detail=output.decode("utf-8", "replace"))
