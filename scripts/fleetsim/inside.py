"""What runs inside a light host, as its first process: its own root, then sshd.

Started in mount, network and pid namespaces of its own by ``host.py``. What it writes goes to a
tmpfs over this machine's root, so that an installation in one host is seen by nobody else.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path

from pyroute2 import IPRoute

MS_BIND, MS_REC = 0x1000, 0x4000
PRIVATE = ("var/lib/aegisbpf", "etc/aegisbpf", "opt/aegisbpf")
"""What of this machine no host may see, but may remove where it is its own."""
libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    arguments = (source.encode(), os.fsencode(target), kind.encode(), flags, options.encode())
    if libc.mount(*arguments):
        raise OSError(ctypes.get_errno(), f"mount {kind} on {target}")


def enter(folder: Path) -> None:
    """Make a root that only this host writes, and go there."""
    mount("tmpfs", folder, "tmpfs", options="size=256m,mode=0755")
    upper, work, root = (folder / name for name in ("upper", "work", "root"))
    for path in (upper, work, root):
        path.mkdir()
    mount("overlay", root, "overlay", options=f"lowerdir=/,upperdir={upper},workdir={work}")
    mount("proc", root / "proc", "proc")
    for name in ("dev", "sys"):
        mount(f"/{name}", root / name, "", MS_BIND | MS_REC)
    mount("bpf", root / "sys/fs/bpf", "bpf", options="mode=0700")
    mount("tmpfs", root / "run", "tmpfs", options="mode=0755")
    for name in PRIVATE:
        # In the overlay: what lies below stays.
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir(mode=0o755, parents=True)
    os.chroot(root)
    os.chdir("/")


def connect(address: str) -> None:
    """Give the host its address."""
    host, prefix = address.split("/")
    with IPRoute() as ip:
        eth0 = ip.link_lookup(ifname="eth0")[0]
        ip.addr("add", index=eth0, address=host, prefixlen=int(prefix))
        for name in ("lo", "eth0"):
            ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up")


def main() -> None:
    """Set the host up with what standard input says, and become its sshd."""
    folder, name, address, program, config = sys.argv[1:]
    libc.prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    sys.stdin.readline()  # until its end of the network is there
    connect(address)
    enter(Path(folder))
    Path("/run/sshd").mkdir(mode=0o755)
    Path("/proc/sys/kernel/hostname").write_text(name, encoding="ascii")
    # As an installation lays it out, so that another version can come to lie beside it.
    version, current = Path("/opt/aegisbpf/versions/0"), Path("/opt/aegisbpf/current")
    (version / "bin").mkdir(parents=True)
    (version / ".complete").write_text("0", encoding="ascii")
    (version / "bin/aegisbpf").symlink_to(program)
    current.symlink_to("versions/0")
    os.execv("/usr/sbin/sshd", ["/usr/sbin/sshd", "-D", "-e", "-f", config])


if __name__ == "__main__":
    main()
