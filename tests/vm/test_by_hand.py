"""Rules made by hand refuse, on every file system, from the command on until they are removed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from battery import Host, Mode, can_read, file_rule, refused, searched_once, touch

from aegis_tools.cli.main import run
from aegis_tools.paths import Paths

Command = Callable[..., None]

# The oldest and the newest kernel: what the hooks answer is tried on all of them elsewhere.
pytestmark = pytest.mark.once("7.2")


@pytest.fixture
def aegisbpf(host: Host, tmp_path: Path) -> Iterator[Command]:
    """Return the program, with its state below a temporary root and the pins of the host."""
    root = tmp_path / "root"
    pins = root / "sys/fs/bpf/aegis"
    pins.parent.mkdir(parents=True)
    pins.symlink_to(host.pins.base)

    def command(*argv: str | Path, code: int = 0) -> None:
        assert run(["--root", str(root), *map(str, argv)]) == code, argv

    with searched_once(Paths(root)):
        yield command


def test_a_file_is_refused_from_the_add_on_until_the_del(aegisbpf: Command, place: Path) -> None:
    path, absent = place / "file", place / "absent"
    path.write_text("secret")
    assert can_read(path)
    aegisbpf("block", "add", path, absent)
    with refused():
        path.read_text()
    with refused():
        absent.write_text("x")
    aegisbpf("block", "del", path)
    assert can_read(path)
    with refused():
        absent.write_text("x")
    aegisbpf("block", "clear")
    absent.write_text("x")


def test_a_directory_rule_refuses_what_is_below(aegisbpf: Command, place: Path) -> None:
    deep = place / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").write_text("secret")
    aegisbpf("block", "add", f"{place / 'a'}/", "--operations", "read")
    with refused():
        (deep / "file").read_text()
    touch(deep / "new", 0o101)
    aegisbpf("block", "del", f"{place / 'a'}/")
    assert can_read(deep / "file")


def test_by_inode_and_by_path_lead_to_the_same_rule(
    host: Host, aegisbpf: Command, place: Path
) -> None:
    path = place / "file"
    path.write_text("secret")
    inode = host.identify(path)
    aegisbpf("block", "add", "--inode", f"{inode.dev}:{inode.ino}")
    with refused():
        path.read_text()
    aegisbpf("block", "del", "--inode", f"{inode.dev}:{inode.ino}")
    assert can_read(path)
    aegisbpf("block", "add", path)
    aegisbpf("block", "del", "--inode", f"{inode.dev}:{inode.ino}")
    assert can_read(path)


def test_a_stale_entry_goes_and_the_replaced_file_is_still_refused(
    host: Host, aegisbpf: Command, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text("secret")
    aegisbpf("block", "add", path)
    host.set(MODE=0)
    (tmp_path / "new").write_text("secret")
    (tmp_path / "new").rename(path)
    host.set(MODE=1)
    aegisbpf("block", "clear-stale")
    with refused():
        path.read_text()
    (tmp_path / "linked").hardlink_to(path)
    with refused():
        (tmp_path / "linked").read_text()


def test_no_instant_is_open_while_a_hidden_rule_takes_the_place_of_the_removed(
    host: Host, aegisbpf: Command, tmp_path: Path
) -> None:
    """Two names of one file: the inode's entry belongs to the first rule until it goes."""
    one, other, third = (tmp_path / name for name in ("one", "other", "third"))
    one.write_text("secret")
    other.hardlink_to(one)
    third.hardlink_to(one)
    opened: list[int] = []
    stop = threading.Event()

    def hammer() -> None:
        count = 0
        while not stop.is_set():
            count += can_read(third)
        opened.append(count)

    host.apply(file_rule(third.with_name("nothing")), mode=Mode.ENFORCE)
    aegisbpf("block", "add", one)
    aegisbpf("block", "add", other, "--operations", "read,write,exec,modify")
    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        aegisbpf("block", "del", one)
    finally:
        stop.set()
        thread.join()
    assert opened == [0]
    assert not can_read(other)


def test_an_audit_rule_refuses_nothing(aegisbpf: Command, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("secret")
    aegisbpf("block", "add", path, "--mode", "audit")
    assert can_read(path)
    aegisbpf("block", "add", path)
    with refused():
        path.read_text()
    aegisbpf("block", "add", path, "--mode", "audit")
    assert can_read(path)


def test_an_allowed_cgroup_is_refused_nothing(aegisbpf: Command, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("secret")
    aegisbpf("block", "add", path)
    aegisbpf("allow", "cgroup", "add", "/")
    assert can_read(path)
    aegisbpf("allow", "cgroup", "del", "/")
    with refused():
        path.read_text()
