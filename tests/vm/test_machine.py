"""What every other test of this folder takes for granted about the machine."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
from pathlib import Path

import pytest


def filesystem_at(path: str) -> str:
    """Return the type of what is mounted last on ``path``."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [fields[2] for fields in mounts if fields[1] == path][-1]


def test_the_kernel_is_the_one_asked_for(kernel_name: str) -> None:
    assert os.uname().release.startswith(f"{kernel_name}.")


def test_bpf_is_an_active_security_module() -> None:
    assert "bpf" in Path("/sys/kernel/security/lsm").read_text().strip().split(",")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/sys/fs/bpf", "bpf"),
        ("/sys/kernel/security", "securityfs"),
        ("/sys/kernel/tracing", "tracefs"),
        ("/sys/fs/cgroup", "cgroup2"),
        ("/tmp", "tmpfs"),
        ("/run", "tmpfs"),
        ("/", "overlay"),
    ],
)
def test_the_filesystem_is_mounted(path: str, kind: str) -> None:
    assert filesystem_at(path) == kind


def test_locked_memory_is_not_limited() -> None:
    assert resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize("folder", ["/etc", "/var/lib", "/usr/local/bin", "/root"])
def test_system_folders_can_be_written(folder: str) -> None:
    path = Path(folder, "aegis-vm-probe")
    path.write_text("probe")
    assert path.read_text() == "probe"
    path.unlink()


def test_loopback_carries_a_connection() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=10) as client,
    ):
        accepted, peer = server.accept()
        accepted.close()
        assert peer == client.getsockname()


def test_a_module_of_this_kernel_can_be_loaded() -> None:
    subprocess.run(["modprobe", "dummy"], check=True, timeout=60)
    assert Path("/sys/module/dummy").is_dir()


def test_a_map_can_be_pinned() -> None:
    pin = "/sys/fs/bpf/aegis-vm-probe"
    options = ["type", "hash", "key", "4", "value", "4", "entries", "65536", "name", "probe"]
    subprocess.run(["bpftool", "map", "create", pin, *options], check=True, timeout=60)
    assert Path(pin).exists()
    Path(pin).unlink()
