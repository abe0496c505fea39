"""The documents say what is there: commands, versions, decisions."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from repository import REPOSITORY, files, name_of, text_of

from aegis_tools import __version__
from aegis_tools.cli.main import COMMANDS

DOCUMENTS = [path for path in files() if path.suffix == ".md"]
GUIDES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE"]
ADRS = sorted((REPOSITORY / "docs" / "adr").glob("[0-9]*.md"))


def code_lines(text: str) -> list[str]:
    """Return the commands in the fenced blocks of a document."""
    blocks = re.findall(r"^```(?:sh|console|bash)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line.removeprefix("$ ").removeprefix("# ") for line in lines]


@pytest.mark.parametrize("name", GUIDES)
def test_what_a_visitor_looks_for_is_there(name: str) -> None:
    assert text_of(REPOSITORY / name).strip()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_a_command_in_a_document_exists(path: Path) -> None:
    unknown = []
    for line in code_lines(text_of(path)):
        words = shlex.split(line, comments=True) if line.startswith("aegis") else []
        named = [word for word in words[1:2] if not word.startswith("-")]
        unknown += [word for word in named if word not in {*COMMANDS, "version", "help"}]
    assert unknown == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_a_make_target_in_a_document_exists(path: Path) -> None:
    makefile = text_of(REPOSITORY / "Makefile")
    targets = {
        word
        for line in re.findall(r"^([a-z][a-z ]*):", makefile, re.MULTILINE)
        for word in line.split()
    }
    named = {line.split()[1] for line in code_lines(text_of(path)) if line.startswith("make ")}
    assert named - targets - {"-C"} == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_a_link_to_a_file_leads_to_one(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text_of(path))
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_the_changelog_starts_with_this_version_or_what_comes_next() -> None:
    text = text_of(REPOSITORY / "CHANGELOG.md")
    versions = re.findall(r"^## \[([^\]]+)\]", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert __version__ in versions


def test_the_package_has_the_version_of_its_metadata() -> None:
    metadata = text_of(REPOSITORY / "pyproject.toml")
    assert re.search(rf'^version = "{re.escape(__version__)}"$', metadata, re.MULTILINE)


def test_every_decision_is_in_the_index_under_its_title() -> None:
    index = text_of(REPOSITORY / "docs" / "adr" / "README.md")
    rows = re.findall(r"^\| \[(\d{4})\]\(([^)]+)\) \| (.+) \|$", index, re.MULTILINE)
    titles = [text_of(path).splitlines()[0].removeprefix("# ") for path in ADRS]
    assert rows == [
        (path.name[:4], path.name, title.split(": ", 1)[1])
        for path, title in zip(ADRS, titles, strict=True)
    ]
    assert [path.name[:4] for path in ADRS] == [f"{n:04}" for n in range(1, len(ADRS) + 1)]


@pytest.mark.parametrize("path", ADRS, ids=name_of)
def test_a_decision_has_its_parts(path: Path) -> None:
    headings = re.findall(r"^## (.+)$", text_of(path), re.MULTILINE)
    assert headings == ["Context", "Decision", "Consequences"]


def test_every_header_of_bpf_names_its_licence() -> None:
    sources = [path for path in files() if path.suffix in (".c", ".h")]
    assert sources
    for path in sources:
        assert text_of(path).startswith("/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */")
