"""A soak on a disk that is full: a file system of 96 KiB, of its own."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from soak_host import Host

from aegis_tools.errors import StateError
from aegis_tools.soak import telling

OOPS = "BUG: kernel NULL pointer dereference, address: 0000000000000008"
MNT_DETACH = 2


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    content = host.at.settings.read_bytes()
    libc = ctypes.CDLL(None, use_errno=True)
    target = os.fsencode(host.paths.soaks)
    assert libc.mount(b"none", target, b"tmpfs", 0, b"size=96k,mode=700") == 0
    host.at.path.mkdir(mode=0o700)
    host.at.settings.write_bytes(content)
    yield host
    assert libc.umount2(target, MNT_DETACH) == 0


def fill(host: Host) -> Path:
    path = host.paths.soaks / "fill"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 512)
    return path


def turns_until_it_is_full(host: Host) -> None:
    """Make turns: the last block may have some room."""
    for _ in range(100):
        host.turn()
        host.later(1)


def test_a_soak_goes_on_after_its_disk_was_full_and_knows_what_happened(tiny: Host) -> None:
    host = tiny
    host.turns(3)
    size = host.at.samples.stat().st_size
    filled = fill(host)
    host.says(OOPS)
    for _ in range(3):
        with pytest.raises(StateError, match="cannot write"):
            turns_until_it_is_full(host)
        host.later(60)
    assert host.at.samples.stat().st_size >= size
    filled.unlink()
    host.turns(2)
    assert host.told("kernel") == [OOPS]
    assert not telling.untold(host.paths).exists()
    assert host.rows()[-1].timestamp == int(host.wall) - 60
