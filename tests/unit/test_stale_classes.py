"""When an entry is stale, and what is mounted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.control.merge import inode_key
from aegis_tools.control.stale import classify, mounted_devices, read_mounts
from aegis_tools.control.stale_classes import CLASSES
from aegis_tools.kernel.inode_keys import InodeId

HERE = InodeId(ino=5, dev=1, generation=7, mode=0o100644)
OTHER = InodeId(ino=6, dev=1, generation=7, mode=0o100644)


@pytest.mark.parametrize(
    ("inodes", "generation", "why"),
    [
        ((HERE,), 7, ""),
        ((HERE,), None, ""),
        ((HERE,), 8, "inode-reused"),
        ((HERE,), 0, "inode-reused"),
        ((OTHER,), 7, "path-moved"),
        ((OTHER, HERE), 7, ""),
        ((), 7, "inode-gone"),
    ],
)
def test_an_entry_is_stale_when_its_path_leads_elsewhere(
    inodes: tuple[InodeId, ...], generation: int | None, why: str
) -> None:
    assert classify(inodes, inode_key("1:5"), generation) == why
    assert not why or why in CLASSES


def test_a_device_is_read_as_the_kernel_counts_it() -> None:
    text = "36 35 98:300 /mnt1 /mnt2 rw - ext3 /dev/root rw\n36 35 0:44 / / rw - tmpfs t rw\n"
    assert mounted_devices(text) == {98 << 20 | 300, 44}


@given(st.text())
def test_a_strange_mountinfo_is_no_error(text: str) -> None:
    assert all(number >= 0 for number in mounted_devices(text))


def test_every_mount_namespace_counts(tmp_path: Path) -> None:
    for number, device in ((1, "8:1"), (2, "8:2"), (3, "8:2")):
        (tmp_path / str(number) / "ns").mkdir(parents=True)
        (tmp_path / str(number) / "ns/mnt").symlink_to(f"mnt:[{number}]")
        (tmp_path / str(number) / "mountinfo").write_text(f"1 0 {device} / / rw - ext4 x rw\n")
    (tmp_path / "4").mkdir()
    assert read_mounts(tmp_path) == {8 << 20 | 1, 8 << 20 | 2}
