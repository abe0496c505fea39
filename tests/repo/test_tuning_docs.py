"""The documents on capacity and tuning say what the program does: tables, figures, commands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from repository import REPOSITORY, text_of

from aegis_tools.cli.main import parser_of
from aegis_tools.control import sizes
from aegis_tools.control.tune.model import Aims
from aegis_tools.kernel.loader import RINGBUF_BYTES

PAGES = ("capacity-planning.md", "tuning.md")
SCRIPT = REPOSITORY / "scripts" / "tuning-docs"


def prose(name: str) -> str:
    """Return a document without its tables, its lines joined."""
    text = text_of(REPOSITORY / "docs" / name)
    return " ".join(re.sub(r"(?m)^\|.*$", "", text).split())


def check(root: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(root / "scripts/tuning-docs"), "--check"]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_the_tables_are_what_the_constants_say() -> None:
    done = check(REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_a_figure_that_is_wrong_or_a_table_that_is_gone_is_found(page: str, tmp_path: Path) -> None:
    for folder in ("docs", "scripts"):
        (tmp_path / folder).mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    for name in PAGES:
        shutil.copy(REPOSITORY / "docs" / name, tmp_path / "docs")
    assert check(tmp_path).returncode == 0
    path = tmp_path / "docs" / page
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r"(?m)^(\| .*?)MiB", r"\1KiB", text, count=1), encoding="utf-8")
    found = check(tmp_path)
    assert (found.returncode, page in found.stdout) == (1, True)
    path.write_text(text.replace("<!-- /ring -->", ""), encoding="utf-8")
    assert check(tmp_path).returncode == 1


@pytest.mark.parametrize(
    ("page", "figures"),
    [
        (
            PAGES[0],
            [
                f"takes {sizes.FILE_RECORD} bytes of it, one of the network {sizes.NET_RECORD}",
                f"holds {sizes.events_in(RINGBUF_BYTES)} events of files",
                f"{sizes.events_in(RINGBUF_BYTES, sizes.NET_RECORD):,} tries",
            ],
        ),
        (
            PAGES[1],
            [
                f"(by default {Aims().pause})",
                f"At most {Aims().ring_most >> 20} MiB and a quarter of the memory",
                f"from {Aims().tight:.0%} on".replace("%", " %"),
                f"in {Aims().days} days",
            ],
        ),
    ],
)
def test_figures_in_sentences_are_those_of_the_program(page: str, figures: list[str]) -> None:
    text = prose(page)
    assert [figure for figure in figures if figure not in text] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_a_table_or_a_sentence_is_one(page: str) -> None:
    text = text_of(REPOSITORY / "docs" / page)
    for line in re.findall(r"`aegisbpf ([^`]+)`", text):
        words = shlex.split(line)
        parser_of(words[0]).parse_args(words[1:])
