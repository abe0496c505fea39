"""What is on the disk of a whole-system machine. No effects here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from vmharness.kernels import cache_folder

SUITE = "bookworm"
SUITES = (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
DISK_MIB = 3072
FIRST_SECTOR = 2048
SECTOR = 512
USER = "admin"
"""May use sudo without a password, as an operator of a fleet does."""

PACKAGES = (
    "bpftool",
    "ca-certificates",
    "dbus",
    "grub-pc",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "libpam-systemd",
    "linux-image-cloud-amd64",
    "lz4",
    "openssh-server",
    "procps",
    "python3",
    "qemu-guest-agent",
    "sudo",
    "systemd",
    "systemd-sysv",
    "udev",
    "util-linux-extra",
)

LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")

FILES: Mapping[str, str] = {
    # What boots quickly where every instruction is emulated: few modules, little compression.
    "/etc/initramfs-tools/conf.d/aegis": "MODULES=list\nCOMPRESS=lz4\nRESUME=none\n",
    "/usr/share/initramfs-tools/modules.d/aegis": "virtio_pci\nvirtio_blk\next4\n",
    "/etc/default/grub.d/10-serial.cfg": (
        "GRUB_TIMEOUT=0\nGRUB_RECORDFAIL_TIMEOUT=0\nGRUB_TERMINAL=console\n"
        'GRUB_CMDLINE_LINUX="console=ttyS0"\n'
    ),
    "/etc/fstab": "/dev/vda1 / ext4 errors=remount-ro 0 1\n",
    "/etc/hostname": "aegis\n",
    "/etc/hosts": "127.0.0.1 localhost\n127.0.1.1 aegis\n::1 localhost\n",
    "/etc/resolv.conf": "nameserver 10.0.2.3\n",
    "/etc/systemd/network/10-user.network": (
        "[Match]\nName=en* eth*\n\n"
        "[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    ),
    f"/etc/sudoers.d/{USER}": f"{USER} ALL=(ALL) NOPASSWD: ALL\n",
    # A journal that is there after a reboot, and not minutes behind after a power cut.
    "/etc/systemd/journald.conf.d/aegis.conf": "[Journal]\nStorage=persistent\nSyncIntervalSec=5\n",
}
"""Placed before the packages are installed, so none of them may be a package's own."""

FINISH = (
    "systemctl enable systemd-networkd",
    "systemctl mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service"
    " fstrim.timer"
    " systemd-networkd-wait-online.service",
    f"useradd --create-home --shell /bin/bash {USER}",
    "rm -f /etc/machine-id /var/lib/dbus/machine-id",
    "touch /etc/machine-id",
    # Nobody comes in before a test has put its own key there.
    "passwd --lock root",
    "chmod 0440 /etc/sudoers.d/*",
    "ln -s /opt/aegis/bin/aegisbpf /usr/local/bin/aegisbpf",
    "ln -s /opt/aegis/bin/aegis-tools /usr/local/bin/aegis-tools",
)
"""Run in the tree once it is there."""

GRUB_SCRIPT = """\
#!/bin/sh
# Runs instead of init, once: makes the disk boot by itself.
mount -t proc proc /proc && mount -t sysfs sys /sys
grub-install /dev/vda && update-grub && rm -f "$0" && sync && echo GRUB-INSTALLED
mount -o remount,ro /
poweroff -f
"""
GRUB_SCRIPT_PATH = "/grub-once"
GRUB_DONE = b"GRUB-INSTALLED"


def mmdebstrap_arguments(staged: Path, tree: Path, settings: Sequence[str]) -> list[str]:
    """Return the command that makes the tree; it reads the sources list from standard input.

    Args:
        staged: Folder that holds FILES.
        tree: The folder to make.
        settings: apt settings of the host, as ``apt.conf`` lines.
    """
    arguments = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=directory"]
    arguments += [f"--aptopt={line}" for line in settings]
    arguments += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    arguments += [f"--include={','.join(PACKAGES)}", f"--essential-hook=sync-in {staged} /"]
    return [*arguments, SUITE, str(tree), "-"]


def partition_table() -> str:
    """Return what sfdisk reads: one bootable partition, with room for GRUB before it."""
    return f"label: dos\nstart={FIRST_SECTOR}, type=83, bootable\n"


def filesystem_kib() -> int:
    """Return the size of the one file system."""
    return DISK_MIB * 1024 - FIRST_SECTOR * SECTOR // 1024


def key(parts: Sequence[object]) -> str:
    """Return a short name for a list of things: the same for the same list."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def base_key() -> str:
    """Return the name of the disk that this recipe makes."""
    return key([SUITES, DISK_MIB, PACKAGES, LEFT_OUT, dict(FILES), FINISH, GRUB_SCRIPT])


def folder(environment: Mapping[str, str]) -> Path:
    """Return where disks and snapshots are kept, beside the kernels."""
    return cache_folder(environment).parent / "system"
