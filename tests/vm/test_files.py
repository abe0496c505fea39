"""A file under a rule cannot be opened, whatever way leads to it."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import struct
from pathlib import Path

import pytest
from battery import (
    FILE_OPS,
    OPEN_OPS,
    Host,
    Kind,
    Op,
    Rule,
    bind_mount,
    call,
    can_read,
    file_rule,
    in_child,
    io_uring,
    mount,
    net_rule,
    overlay,
    refused,
    touch,
    unshare_mounts,
)

OPENAT2 = 437
RESOLVE_NO_XDEV, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 1, 8, 16


@pytest.fixture
def secret(place: Path) -> Path:
    path = place / "secret"
    path.write_text("secret")
    (place / "other").write_text("other")
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("secret")
    return path


def replace(path: Path, name: str = "new") -> None:
    """Replace a file as editors and passwd do."""
    new = path.with_name(name)
    new.write_text("replaced")
    new.rename(path)


@pytest.mark.parametrize(
    "flags",
    [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND],
)
def test_no_kind_of_open_passes_and_a_neighbour_opens(
    host: Host, tmp_path: Path, plain: Path, flags: int
) -> None:
    (tmp_path / "other").write_text("other")
    host.apply(file_rule(plain))
    with refused():
        touch(plain, flags)
    touch(tmp_path / "other", flags)
    host.clear()
    assert plain.read_text() == "secret"


def test_every_alias_is_denied(host: Host, secret: Path) -> None:
    hard, soft = secret.with_name("hard"), secret.with_name("soft")
    hard.hardlink_to(secret)
    soft.symlink_to(secret)
    anchor = os.open(secret, os.O_PATH)
    folder = os.open(secret.parent, os.O_RDONLY)
    try:
        host.apply(file_rule(secret))
        for alias in (secret, hard, soft, secret.parent / ".." / secret.parent.name / "secret"):
            with refused():
                touch(alias)
        with refused():
            touch("secret", dir_fd=folder)
        with refused():
            touch(f"/proc/self/fd/{anchor}")
        with refused():
            touch(f"/proc/self/root{secret}")
        touch(secret.with_name("other"))
    finally:
        os.close(anchor)
        os.close(folder)


def test_a_rule_for_a_symbolic_link_holds_for_what_it_leads_to(host: Host, secret: Path) -> None:
    link = secret.with_name("link")
    link.symlink_to(secret)
    host.apply(file_rule(link))
    for path in (link, secret):
        with refused():
            touch(path)
    replace(secret)
    for path in (link, secret):
        with refused():
            touch(path)


def test_a_renamed_file_is_denied_by_its_inode(host: Host, secret: Path) -> None:
    host.apply(file_rule(secret))
    moved = secret.with_name("moved")
    secret.rename(moved)
    with refused():
        touch(moved)


def test_a_replaced_file_is_denied_by_its_name(host: Host, secret: Path) -> None:
    host.apply(file_rule(secret))
    for _ in range(3):
        replace(secret)
        with refused():
            touch(secret)


def test_a_deleted_and_recreated_file_is_denied(host: Host, secret: Path) -> None:
    host.apply(file_rule(secret))
    secret.unlink()
    with refused():
        secret.write_text("again")
    with refused():
        touch(secret)


def test_a_file_that_did_not_exist_is_denied_once_it_does(host: Host, place: Path) -> None:
    later = place / "later"
    compiled = host.apply(file_rule(later))
    assert [problem.error for problem in compiled.problems] == [False]
    replace(later)
    with refused():
        touch(later)
    with refused():
        touch(later, os.O_CREAT | os.O_WRONLY)


@pytest.mark.parametrize("length", [1, 39, 40, 64, 65, 254, 255])
def test_a_name_of_any_length_is_compared_whole(host: Host, tmp_path: Path, length: int) -> None:
    name = "n" * length
    other = name[:-1] + "m"
    host.apply(file_rule(tmp_path / name))
    for path in (tmp_path / name, tmp_path / other):
        replace(path, "-")
    with refused():
        touch(tmp_path / name)
    touch(tmp_path / other)
    if length > 1:
        replace(tmp_path / name[:-1], "-")
        touch(tmp_path / name[:-1])


def test_a_bind_mount_is_no_way_around(host: Host, secret: Path, tmp_path: Path) -> None:
    host.apply(file_rule(secret))
    replace(secret)
    target = tmp_path / "bound"
    target.mkdir()
    with bind_mount(secret.parent, target), refused():
        touch(target / "secret")
    target.rmdir()
    target.touch()
    with bind_mount(secret, target), refused():
        touch(target)


def test_another_mount_namespace_is_no_way_around(host: Host, secret: Path, tmp_path: Path) -> None:
    target = tmp_path / "bound"
    target.mkdir()
    host.apply(file_rule(secret))

    def through_a_mount_of_its_own() -> None:
        unshare_mounts()
        mount(secret.parent, target, None, 0x1000)
        assert can_read(target / "other")
        touch(target / "secret")

    assert in_child(through_a_mount_of_its_own) == errno.EPERM


@pytest.mark.parametrize("resolve", [0, RESOLVE_NO_XDEV, RESOLVE_BENEATH, RESOLVE_IN_ROOT])
def test_openat2_is_no_way_around(host: Host, plain: Path, resolve: int) -> None:
    def openat2(name: str) -> None:
        how = struct.pack("QQQ", os.O_RDONLY, 0, resolve)
        os.close(call(OPENAT2, folder, name.encode(), how, len(how)))

    (plain.parent / "other").touch()
    host.apply(file_rule(plain))
    folder = os.open(plain.parent, os.O_RDONLY)
    try:
        openat2("other")
        with refused():
            openat2("secret")
    finally:
        os.close(folder)


def io_uring_open(path: Path) -> int:
    """Open a file through io_uring; return the completion's result."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return io_uring(struct.pack("BBHiQQIIQ", 18, 0, 0, -100, 0, ctypes.addressof(name), 0, 0, 1))


def test_io_uring_is_no_way_around(host: Host, plain: Path) -> None:
    (plain.parent / "other").touch()
    host.apply(file_rule(plain))
    assert io_uring_open(plain) == -errno.EPERM
    assert io_uring_open(plain.parent / "other") >= 0


def test_truncation_is_a_write(host: Host, place: Path) -> None:
    path = place / "data"
    path.write_text("data")
    old = os.open(path, os.O_RDWR)
    try:
        host.apply(file_rule(path, Op.WRITE))
        with refused():
            os.truncate(path, 0)
        with refused():
            os.ftruncate(old, 0)
        with refused():
            touch(path, os.O_RDONLY | os.O_TRUNC)
        assert path.read_text() == "data"
    finally:
        os.close(old)


@pytest.mark.parametrize(
    ("ops", "reading", "writing", "running", "deleting"),
    [
        (Op.READ, False, True, True, True),
        (Op.WRITE, True, False, True, True),
        (Op.EXEC, True, True, False, True),
        (Op.MODIFY, True, True, True, False),
        (FILE_OPS, False, False, False, False),
    ],
)
def test_only_the_operations_that_a_rule_names_are_denied(
    host: Host, tmp_path: Path, ops: Op, reading: bool, writing: bool, running: bool, deleting: bool
) -> None:
    path = tmp_path / "true"
    shutil.copy("/bin/true", path)
    host.apply(file_rule(path, ops))
    assert (in_child(lambda: touch(path)) == 0) == reading
    assert (in_child(lambda: touch(path, os.O_WRONLY)) == 0) == writing
    assert (in_child(lambda: os.execv(path, ["true"])) == 0) == running
    assert (in_child(path.unlink) == 0) == deleting


class TestOverlay:
    """The inode numbers of an overlay are its own; rules are made from what it says."""

    def test_a_rule_on_the_merged_path_holds_before_and_after_copy_up(
        self, host: Host, tmp_path: Path
    ) -> None:
        (tmp_path / "lower").mkdir()
        (tmp_path / "lower" / "secret").write_text("secret")
        with overlay(tmp_path) as merged:
            host.apply(file_rule(merged / "secret", Op.READ))
            with refused():
                touch(merged / "secret")
            touch(merged / "secret", os.O_WRONLY | os.O_APPEND)
            assert (tmp_path / "upper" / "secret").exists()
            with refused():
                touch(merged / "secret")
            Path("/proc/sys/vm/drop_caches").write_text("2")
            with refused():
                touch(merged / "secret")

    def test_a_rule_on_the_lower_file_is_seen_through_the_overlay(
        self, host: Host, tmp_path: Path
    ) -> None:
        (tmp_path / "lower").mkdir()
        lower = tmp_path / "lower" / "secret"
        lower.write_text("secret")
        with overlay(tmp_path) as merged:
            host.apply(file_rule(lower))
            with refused():
                touch(lower)
            assert not can_read(merged / "secret")


class TestInodeReuse:
    """An inode number alone does not say which file it is."""

    def test_another_file_with_the_number_is_not_denied(self, host: Host, ext4: Path) -> None:
        old = ext4 / "old"
        old.write_text("old")
        number = old.stat().st_ino
        host.apply(file_rule(old))
        old.unlink()
        reused = self.file_with(ext4, number)
        assert reused.read_text() == "new"

    def test_a_rule_without_a_generation_holds_for_the_number(self, host: Host, ext4: Path) -> None:
        old = ext4 / "old-number"
        old.write_text("old")
        known = host.identify(old)
        host.apply(self.inode_rule(known.dev, known.ino))
        with refused():
            touch(old)
        old.unlink()
        with refused():
            touch(self.file_with(ext4, known.ino))

    @staticmethod
    def inode_rule(dev: int, ino: int) -> Rule:
        return net_rule(Kind.INODE, f"{dev}:{ino}", OPEN_OPS)

    @staticmethod
    def file_with(folder: Path, number: int) -> Path:
        """Create files until one gets the number."""
        for attempt in range(200):
            path = folder / f"try-{number}-{attempt}"
            with path.open("x") as file:
                file.write("new")
            if path.lstat().st_ino == number:
                return path
        raise AssertionError(f"inode number {number} was not used again")
