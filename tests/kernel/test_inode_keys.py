"""What the kernel calls files: the same as stat where stat knows, and never a guess."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from aegis_tools.errors import KernelError
from aegis_tools.kernel.inode_keys import Identifier
from aegis_tools.kernel.pins import Pins


def test_files_of_all_types_are_identified_as_stat_does_where_it_knows(
    loaded: Pins, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("file")
    names = ["file", "folder", "pipe", "link"]
    with Identifier(loaded) as identifier:
        found = identifier.identify_in(str(tmp_path), [*names, "missing"])
        followed = identifier.identify([str(tmp_path / "link"), "/dev/null", "/no/such/file"])
    for name in names:
        ident, known = found[name], (tmp_path / name).lstat()
        assert ident is not None
        assert (ident.ino, ident.mode) == (known.st_ino, known.st_mode)
        assert ident.dev == os.major(known.st_dev) << 20 | os.minor(known.st_dev)
    assert found["missing"] is None
    assert found["link"] is not None
    assert found["link"].is_link
    assert followed[str(tmp_path / "link")] == found["file"]
    assert followed["/no/such/file"] is None


def test_more_files_than_may_be_open_at_once_are_identified(loaded: Pins, tmp_path: Path) -> None:
    names = [f"f{n}" for n in range(1500)]
    for name in names:
        (tmp_path / name).touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_NOFILE, (700, 700))
        with Identifier(loaded) as identifier:
            found = identifier.identify_in(str(tmp_path), names)
        os._exit(0 if all(found[name] is not None for name in names) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_a_file_does_not_seem_missing_because_no_more_can_be_opened(
    loaded: Pins, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    opened = []
    pid = os.fork()
    if pid == 0:
        with Identifier(loaded) as identifier:
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
            try:
                while True:
                    opened.append(os.open("/dev/null", os.O_PATH))
            except OSError:
                pass
            with pytest.raises(KernelError, match="no more files"):
                identifier.identify([str(tmp_path / "file")])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
