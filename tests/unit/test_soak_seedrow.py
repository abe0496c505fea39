"""The seed's sampler: a row more in a file of such rows, and in no other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aegis_tools.cli.main import run
from aegis_tools.errors import StateError
from aegis_tools.soak import columns, seedrow
from aegis_tools.soak.columns import Sample

ROW = Sample(1_768_471_200, 0.5, 8.25, 1, 2, 3, 4, 5, agent="running")


def test_rows_are_added_to_a_new_file_an_empty_one_and_one_of_the_seeds(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.touch()
    for _ in range(2):
        assert seedrow.add(path, ROW) == "1768471200,0.500,8.250,1,2,3,4,5"
    assert len(columns.parse(path.read_text())[0]) == 2
    path.write_bytes(seedrow.HEADER.replace("\n", "\r\n").encode() + b"1,2,3,4,5,6,7,8\r\n")
    seedrow.add(path, ROW)
    assert len(columns.parse(path.read_text())[0]) == 2


@pytest.mark.parametrize(
    "text", ["root:x:0:0\n", "timestamp,cpu_pct\n", columns.HEADER, seedrow.HEADER[:-1], "x"]
)
def test_a_file_of_anything_else_is_left_as_it_was(text: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(StateError, match="has other rows") as refused:
        seedrow.add(path, ROW)
    assert str(path) in refused.value.message
    assert path.read_text() == text


def test_what_is_no_file_is_refused_by_name_and_reason(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "x")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path, "it is a folder"),
        (tmp_path / "none" / "x", "its folder does not exist"),
        (tmp_path / "file" / "x", "a part of its path is no folder"),
        (tmp_path / "link", "it is a symbolic link"),
        (tmp_path / "pipe", "it is no regular file"),
        (Path("/dev/full"), "it is no regular file"),
    ):
        with pytest.raises(StateError) as refused:
            seedrow.add(path, ROW)
        assert refused.value.message == f"cannot write the file {path}: {reason}"
        assert "disk" not in refused.value.hint


def test_a_dry_run_refuses_a_file_of_other_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n")
    words = ["--root", str(tmp_path), "soak", "sample", "--csv", str(path), "--dry-run"]
    assert run(words) == StateError.exit_code
    assert "has other rows" in capsys.readouterr().err
