"""Paths of a file system to paths from here, and back."""

from __future__ import annotations

from aegis_tools.kernel.mountpaths import MountPaths, inside, locate
from aegis_tools.kernel.mounts import Mount


def mount(dev: int, root: str, point: str) -> Mount:
    return Mount(dev, root, point, "ext4", ("rw",))


ROOT = mount(1, "/", "/")
DATA = mount(2, "/", "/srv/data")
PART = mount(3, "/part", "/mnt/part")


def test_the_root_file_system_is_where_it_says() -> None:
    assert locate([ROOT], "/etc/shadow") == "/etc/shadow"
    assert locate([ROOT], "/") == "/"


def test_a_mounted_file_system_gets_its_mount_point() -> None:
    assert locate([DATA], "/a/b") == "/srv/data/a/b"
    assert locate([DATA], "/") == "/srv/data/"


def test_a_bind_mount_shows_only_what_is_below_its_root() -> None:
    assert locate([PART], "/part/x") == "/mnt/part/x"
    assert locate([PART], "/part") == "/mnt/part"
    assert locate([PART], "/partner") is None
    assert locate([PART], "/other") is None


def test_the_widest_root_is_preferred() -> None:
    wide = mount(3, "/", "/whole")
    assert locate([PART, wide], "/part/x") == "/whole/part/x"


def test_a_path_is_inside_its_deepest_and_newest_mount() -> None:
    assert inside([ROOT, DATA], "/srv/data/a") == (DATA, "/a")
    assert inside([ROOT, DATA], "/srv/database") == (ROOT, "/srv/database")
    newer = mount(9, "/sub", "/srv/data")
    assert inside([ROOT, DATA, newer], "/srv/data/a") == (newer, "/sub/a")
    assert inside([ROOT], "/") == (ROOT, "/")
    assert inside([], "/") is None


def test_an_unknown_device_reads_the_mounts_again_once_a_second() -> None:
    now, mounted, reads = [0.0], [ROOT], []

    def read() -> list[Mount]:
        reads.append(now[0])
        return list(mounted)

    paths = MountPaths(read, lambda: now[0])
    assert paths.locate(1, "/etc") == "/etc"
    assert paths.locate(2, "/x") == "dev:2:/x"
    mounted.append(DATA)
    assert paths.locate(2, "/x") == "dev:2:/x"
    now[0] = 2.0
    assert paths.locate(2, "/x") == "/srv/data/x"
    assert reads == [0.0, 2.0]


def test_a_mount_point_that_is_no_utf8_is_shown_with_escapes() -> None:
    odd = mount(5, "/", b"/mnt/\xff".decode("utf-8", "surrogateescape"))
    assert MountPaths(lambda: [odd], lambda: 0.0).locate(5, "/x") == "/mnt/\\xff/x"
