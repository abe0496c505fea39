"""Errors that a file is the matter of name it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from aegis_tools.cli.main import failed, run
from aegis_tools.cli.output import App


@pytest.mark.parametrize(
    "command",
    [
        ("keys", "add", "FILE"),
        ("policy", "lint", "FILE"),
        ("policy", "sign", "POLICY", "--key", "FILE", "--serial", "1", "--output", "out"),
        ("policy", "sign", "POLICY", "--key", "KEY", "--serial", "1", "--output", "FILE/below"),
        ("keys", "generate", "FILE/below"),
        ("block", "restore", "FILE"),
        ("events", "--file", "FILE/below"),
    ],
)
@pytest.mark.parametrize("content", [None, "no key, and no policy"])
def test_what_a_person_named_is_named_in_the_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], content: Any
) -> None:
    found, policy = tmp_path / "given", tmp_path / "policy.conf"
    policy.write_text("version=1\n[deny_port]\n4444:tcp\n")
    if content:
        found.write_text(content)
    assert run(["--root", str(tmp_path / "root"), "keys", "generate", str(tmp_path / "k")]) == 0
    known = {"FILE": str(found), "POLICY": str(policy), "KEY": str(tmp_path / "k.key")}
    words = [word.replace("FILE", str(found)) if "/" in word else word for word in command]
    capsys.readouterr()
    assert run(["--root", str(tmp_path / "root"), *(known.get(w, w) for w in words)]) > 1
    out, err = capsys.readouterr()
    assert str(found) in out + err


def test_an_error_nobody_foresaw_names_the_file_as_well(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for kind in (errno.EACCES, errno.EIO):
        failed(App(), OSError(kind, os.strerror(kind), "/srv/walked\x1b"))
        assert "/srv/walked\\x1b" in capsys.readouterr().err
    failed(App(), OSError(errno.EXDEV, "no", "/srv/a", None, "/srv/b"))
    assert "/srv/a and /srv/b" in capsys.readouterr().err
