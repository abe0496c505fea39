"""Where the output that a person names may go, before any work is done for it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from aegis_tools.control import files
from aegis_tools.errors import UsageError

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
OTHER_USER = 65534
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "state.json"
    path.write_bytes(b"old")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("a symbolic link", lambda path: path.symlink_to("state.json")),
        ("a symbolic link", lambda path: path.symlink_to("nowhere")),
        ("a pipe", os.mkfifo),
        ("a folder", Path.mkdir),
        pytest.param(
            "not a regular file",
            lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 7)),
            marks=ROOT,
        ),
    ],
)
def test_an_output_is_refused_where_something_other_than_a_file_has_its_name(
    kind: str, make: Callable[[Path], None], old: Path
) -> None:
    output = old.parent / "output"
    make(output)
    with pytest.raises(UsageError, match=f"cannot write the plot to .*output: it is {kind}"):
        files.check_output(output, what="plot")
    assert names(old.parent) == ["output", "state.json"]


def test_an_output_is_refused_where_it_is_what_is_read(old: Path) -> None:
    other = old.with_name("other")
    other.hardlink_to(old)
    for output in (old, old.parent / "." / "state.json", other):
        with pytest.raises(UsageError, match="would replace the file that is read"):
            files.check_output(output, what="plot", source=old)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("none/output", "its folder does not exist"),
        ("state.json/output", "not a directory"),
        ("o" * 300, "file name too long"),
        ("", "it is a folder"),
    ],
)
def test_an_output_is_refused_where_no_file_can_be(name: str, why: str, old: Path) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        files.check_output(old.parent / name, what="plot")
    assert caught.value.hint


def test_an_output_is_refused_in_a_folder_that_cannot_be_written() -> None:
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(OTHER_USER)
            files.check_output(Path("/usr/output"), what="plot")
        except UsageError as error:
            os._exit(0 if "its folder cannot be written" in error.message else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_an_output_may_be_new_or_replace_a_file(old: Path) -> None:
    for output in (old, old.with_name("new")):
        files.check_output(output, what="plot", source=old.with_name("missing"))
        files.check_output(output, what="plot", source=Path(__file__))
    assert names(old.parent) == ["state.json"]
