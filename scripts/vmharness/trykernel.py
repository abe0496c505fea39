"""Boot any kernel with nothing but busybox, bpftool and an object, and see whether it loads it.

The first root of the machine is all there is: no disk, no network, none of the kernel's modules.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from vmharness.kernels import HarnessError

SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin"
COMMAND_LINE = "console=ttyS0 quiet panic=-1 rdinit=/init lsm=lockdown,yama,bpf"
FOLDERS = ("proc", "sys", "tmp")
INIT = """\
#!/busybox sh
/busybox mount -t proc proc /proc
/busybox mount -t sysfs sysfs /sys
/busybox mount -t securityfs securityfs /sys/kernel/security
/busybox mount -t bpf bpf /sys/fs/bpf
ulimit -l unlimited
echo "TRIED release $(/busybox uname -r)"
echo "TRIED lsm $(/busybox cat /sys/kernel/security/lsm)"
[ -e /sys/kernel/btf/vmlinux ] && echo "TRIED btf yes"
/bpftool prog loadall /object /sys/fs/bpf/tried > /tmp/said 2>&1 && echo "TRIED loaded yes"
/busybox tail -n 15 /tmp/said
echo "TRIED end yes"
/busybox poweroff -f
"""


def program(name: str) -> Path:
    """Return where a program is.

    Raises:
        HarnessError: It is not installed.
    """
    found = shutil.which(name, path=SEARCH)
    if not found:
        raise HarnessError(f"{name} is not installed")
    return Path(found).resolve()


def libraries(executable: Path) -> set[Path]:
    """Return what the loader maps for a program, itself included."""
    done = subprocess.run(["ldd", str(executable)], capture_output=True, text=True, check=False)
    return {Path(name) for name in re.findall(r"(/\S+) \(0x", done.stdout)}


def contents(target: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of each file of the machine, by name."""
    found = {"init": (0o100755, INIT.encode()), "object": (0o100644, target.read_bytes())}
    needed: set[Path] = set()
    for name in ("busybox", "bpftool"):
        path = program(name)
        found[name] = (0o100755, path.read_bytes())
        needed |= libraries(path)
    for path in needed:
        found[str(path).lstrip("/")] = (0o100755, path.read_bytes())
    return found


def archive(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """Return files as the kernel unpacks them into its first root: cpio(5), "newc"."""
    folders = {str(above) for name in files for above in Path(name).parents if str(above) != "."}
    every = dict.fromkeys(sorted(folders | set(FOLDERS)), (0o040755, b""))
    every |= files
    return b"".join(_members({**every, "TRAILER!!!": (0, b"")}))


def _members(files: Mapping[str, tuple[int, bytes]]) -> Iterator[bytes]:
    for number, (name, (mode, data)) in enumerate(files.items(), 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        yield head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def boot(kernel: Path, initrd: Path, seconds: float) -> str:
    """Boot it, and return what it wrote to its serial line.

    Raises:
        HarnessError: The emulator is not there, or did not start.
    """
    command = [str(program("qemu-system-x86_64")), "-accel", "tcg", "-cpu", "max,la57=off"]
    command += ["-m", "768", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += ["-serial", "stdio", "-kernel", str(kernel), "-initrd", str(initrd)]
    command += ["-append", COMMAND_LINE]
    try:
        done = subprocess.run(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
        data = done.stdout
    except subprocess.TimeoutExpired as error:
        data = error.stdout or b""
    return data.decode("utf-8", "replace")


def verdict(console: str) -> dict[str, object]:
    """Return what the machine said: release, lsm, btf, loaded, and why not."""
    told = dict(re.findall(r"TRIED (\w+) (\S*)", console))
    loaded = told.get("loaded") == "yes"
    said = [line.strip() for line in console.splitlines() if line.strip()]
    return {
        "release": told.get("release", ""),
        "lsm": [name for name in told.get("lsm", "").split(",") if name],
        "btf": "btf" in told,
        "came_up": "release" in told,
        "loaded": loaded and "bpf" in told.get("lsm", "").split(","),
        "detail": [] if loaded else [line for line in said if "TRIED" not in line][-15:],
    }
