"""What a reader of the code may rely on: short modules, short functions, nothing of one machine."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from repository import REPOSITORY, files, is_python, name_of, text_of

MODULE_LINES = 450
FUNCTION_LINES = 60
PYTHON = [path for path in files() if is_python(path)]
SHIPPED = [path for path in PYTHON if path.relative_to(REPOSITORY).parts[0] != "tests"]
TEXTS = [path for path in files() if path.name != "LICENSE" and path != Path(__file__).resolve()]
HERE_ONLY = re.compile(r"/(?:work|tmp/(?:wt|venv)|home/\w+|root/\.pyenv|opt/(?:wheels|pypi))\b")
MARKS = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")


def long_functions(source: str) -> list[str]:
    """Return the functions that have more than FUNCTION_LINES lines."""
    return [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_a_module_can_be_read_in_one_go(path: Path) -> None:
    assert len(text_of(path).splitlines()) <= MODULE_LINES


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    assert long_functions(text_of(path)) == []


def test_a_long_function_is_found() -> None:
    body = "    pass\n" * FUNCTION_LINES
    assert long_functions(f"def f():\n{body}") == [f"f: {FUNCTION_LINES + 1} lines"]
    assert long_functions(f"def f():\n{body[:-9]}") == []


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(text_of(path)))


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_a_file_belongs_to_no_machine_and_leaves_nothing_undone(path: Path) -> None:
    text = text_of(path)
    assert HERE_ONLY.findall(text) == []
    assert MARKS.findall(text) == []


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_a_text_file_ends_with_one_newline(path: Path) -> None:
    text = text_of(path)
    assert not text or (text.endswith("\n") and not text.endswith("\n\n"))
