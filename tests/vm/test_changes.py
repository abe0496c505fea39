"""Changing a file's name, place or owner: denied by ``modify``, and where a rule would be lost."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from battery import FILE_OPS, Host, Mode, Op, can_read, file_rule, libc, refused, touch

Change = Callable[[Path], object]
RENAME_EXCHANGE = 2


def exchange(one: Path, other: Path) -> None:
    paths = (os.fsencode(one), os.fsencode(other))
    if libc.renameat2(-100, paths[0], -100, paths[1], RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")


def other(path: Path) -> Path:
    beside = path.with_name("beside")
    beside.touch()
    return beside


OF_A_FILE: dict[str, Change] = {
    "unlink": lambda path: path.unlink(),
    "rename away": lambda path: path.rename(path.with_name("away")),
    "rename onto": lambda path: other(path).rename(path),
    "exchange": lambda path: exchange(path, other(path)),
    "exchange, named second": lambda path: exchange(other(path), path),
    "link away": lambda path: path.with_name("away").hardlink_to(path),
    "chmod": lambda path: path.chmod(0o600),
    "chown": lambda path: os.chown(path, 1, 1),
    "times": lambda path: os.utime(path, (1, 1)),
}
OF_A_DIRECTORY: dict[str, Change] = {
    "rmdir": lambda path: path.rmdir(),
    "rename": lambda path: path.rename(path.with_name("away")),
    "chmod": lambda path: path.chmod(0o700),
}
OF_A_NAME: dict[str, Change] = {
    "create": lambda path: touch(path, os.O_CREAT | os.O_WRONLY),
    "mkdir": lambda path: path.mkdir(),
    "fifo": os.mkfifo,
    "device": lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    "symlink": lambda path: path.symlink_to("/"),
    "rename onto": lambda path: other(path).rename(path),
    "link onto": lambda path: path.hardlink_to(other(path)),
}
CHANGES = [
    *(("file", name) for name in OF_A_FILE),
    *(("directory", name) for name in OF_A_DIRECTORY),
    *(("name", name) for name in OF_A_NAME),
]
ALL = {"file": OF_A_FILE, "directory": OF_A_DIRECTORY, "name": OF_A_NAME}


def make(place: Path, kind: str, name: str) -> Path:
    """Make what the change is to be tried on, in a folder of its own."""
    path = place / name.replace(" ", "-") / "target"
    path.parent.mkdir()
    if kind == "file":
        path.write_text("data")
    elif kind == "directory":
        path.mkdir()
    return path


def test_modify_denies_every_change_and_nothing_else(host: Host, place: Path) -> None:
    targets = [(make(place / kind, kind, name), ALL[kind][name]) for kind, name in made(place)]
    host.apply(*(file_rule(path, Op.MODIFY) for path, _ in targets))
    for path, change in targets:
        with refused():
            change(path)
        if path.is_file():
            touch(path, os.O_RDWR)


def test_the_other_operations_deny_no_change(host: Host, place: Path) -> None:
    targets = [
        (make(place / kind, kind, name), ALL[kind][name])
        for kind, name in made(place)
        if (kind, name) != ("name", "create")  # opens as well
    ]
    host.apply(*(file_rule(path) for path, _ in targets))
    for path, change in targets:
        change(path)


def made(place: Path) -> list[tuple[str, str]]:
    for kind in ALL:
        (place / kind).mkdir()
    return CHANGES


def test_modify_of_a_directory_denies_changes_below_it(host: Host, tmp_path: Path) -> None:
    path = make(tmp_path, "file", "ruled")
    host.apply(file_rule(path.parent, Op.MODIFY, depth=2))
    for change in (OF_A_FILE["unlink"], OF_A_FILE["rename away"], OF_A_FILE["chmod"]):
        with refused():
            change(path)
    for change in OF_A_NAME.values():
        with refused():
            change(path.with_name("new"))
    with refused():
        path.parent.rename(tmp_path / "moved")
    assert path.read_text() == "data"
    path.write_text("changed")


class TestRulesThatWouldBeLost:
    """A file known by name or directory only may not leave it."""

    def test_a_file_known_by_name_only_can_be_neither_moved_nor_linked(
        self, host: Host, place: Path
    ) -> None:
        path = place / "later"
        host.apply(file_rule(path, Op.READ))
        path.write_text("data")
        (place / "sub").mkdir()
        for change in (
            lambda: path.rename(place / "away"),
            lambda: path.rename(place / "sub" / "away"),
            lambda: (place / "away").hardlink_to(path),
            lambda: exchange(path, other(path)),
            lambda: exchange(other(path), path),
        ):
            with refused():
                change()
        path.unlink()

    def test_a_file_below_a_directory_rule_cannot_leave_the_directory(
        self, host: Host, place: Path
    ) -> None:
        path = make(place, "file", "ruled")
        (path.parent / "sub").mkdir()
        host.apply(file_rule(path.parent, Op.READ, depth=5))
        for change in (
            lambda: path.rename(place / "away"),
            lambda: (place / "away").hardlink_to(path),
            lambda: (path.parent / "sub").rename(place / "sub"),
            lambda: exchange(other(path.parent), path),
        ):
            with refused():
                change()
        path.rename(path.with_name("renamed"))
        path.with_name("linked").hardlink_to(path.with_name("renamed"))
        with refused():
            touch(path.with_name("renamed"))

    def test_the_directory_itself_may_be_renamed_and_stays_covered(
        self, host: Host, place: Path
    ) -> None:
        path = make(place, "file", "ruled")
        host.apply(file_rule(path.parent, depth=5))
        path.parent.rename(place / "moved")
        assert not can_read(place / "moved" / "target")

    def test_an_audit_rule_for_the_file_does_not_let_it_leave_an_enforcing_directory(
        self, host: Host, tmp_path: Path
    ) -> None:
        path = make(tmp_path, "file", "ruled")
        host.apply(
            file_rule(path, FILE_OPS, mode=Mode.AUDIT), file_rule(path.parent, Op.READ, depth=5)
        )
        with refused():
            path.rename(tmp_path / "away")

    def test_a_rule_for_another_operation_does_not_let_it_leave_either(
        self, host: Host, tmp_path: Path
    ) -> None:
        path = make(tmp_path, "file", "ruled")
        host.apply(file_rule(path, Op.EXEC), file_rule(path.parent, Op.READ, depth=5))
        with refused():
            path.rename(tmp_path / "away")

    def test_an_audit_rule_denies_no_move(self, host: Host, tmp_path: Path) -> None:
        path = make(tmp_path, "file", "ruled")
        host.apply(file_rule(path.parent, depth=5, mode=Mode.AUDIT))
        path.rename(tmp_path / "away")


class TestDirectories:
    def test_everything_below_is_denied_and_nothing_beside(self, host: Host, place: Path) -> None:
        ruled = place / "ruled"
        deep = ruled / "a" / "b"
        deep.mkdir(parents=True)
        for path in (ruled / "f", ruled / "a" / "f", deep / "f", place / "f"):
            path.touch()
        host.apply(file_rule(ruled, depth=32))
        for path in (ruled, ruled / "a", ruled / "f", ruled / "a" / "f", deep / "f"):
            with refused():
                touch(path)
        touch(place / "f")
        touch(place)
        with refused():
            (deep / "new").write_text("new")

    @pytest.mark.parametrize("depth", [1, 2, 3])
    def test_the_depth_is_exact(self, host: Host, tmp_path: Path, depth: int) -> None:
        folder = tmp_path / "ruled"
        levels = [folder.joinpath(*"abcd"[:n]) / "f" for n in range(5)]
        levels[-1].parent.mkdir(parents=True)
        for path in levels:
            path.touch()
        host.apply(file_rule(folder, depth=depth))
        assert [can_read(path) for path in levels] == [n >= depth for n in range(5)]

    def test_32_levels_are_covered_and_no_more(self, host: Host, tmp_path: Path) -> None:
        ruled = tmp_path / "ruled"
        last = ruled.joinpath(*["d"] * 31)
        (last / "e").mkdir(parents=True)
        (last / "f").touch()
        (last / "e" / "f").touch()
        host.apply(file_rule(ruled, depth=32))
        assert not can_read(last / "f")
        assert can_read(last / "e" / "f")

    def test_listing_is_reading(self, host: Host, tmp_path: Path) -> None:
        (tmp_path / "ruled" / "sub").mkdir(parents=True)
        host.apply(file_rule(tmp_path / "ruled", Op.READ, depth=1))
        for path in (tmp_path / "ruled", tmp_path / "ruled" / "sub"):
            with refused():
                list(path.iterdir())
        host.apply(file_rule(tmp_path / "ruled", Op.WRITE, depth=1))
        assert [path.name for path in (tmp_path / "ruled").iterdir()] == ["sub"]

    def test_what_is_moved_in_is_covered(self, host: Host, tmp_path: Path) -> None:
        ruled, path = tmp_path / "ruled", tmp_path / "outside"
        ruled.mkdir()
        path.write_text("data")
        host.apply(file_rule(ruled, depth=1))
        path.rename(ruled / "inside")
        assert not can_read(ruled / "inside")

    def test_nested_rules_each_deny_their_own(self, host: Host, tmp_path: Path) -> None:
        outer, inner = tmp_path / "outer", tmp_path / "outer" / "inner"
        inner.mkdir(parents=True)
        for path in (outer / "f", inner / "f"):
            path.touch()
        host.apply(file_rule(outer, Op.WRITE, depth=2), file_rule(inner, Op.READ, depth=1))
        touch(outer / "f")
        for path, flags in ((outer / "f", 1), (inner / "f", 0), (inner / "f", 1)):
            with refused():
                touch(path, flags)


def test_a_change_refused_reports_eperm_and_not_another_error(host: Host, tmp_path: Path) -> None:
    path = make(tmp_path, "file", "ruled")
    host.apply(file_rule(path, Op.MODIFY))
    with pytest.raises(OSError, match="not permitted") as caught:
        path.unlink()
    assert caught.value.errno == errno.EPERM
