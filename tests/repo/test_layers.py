"""Imports go one way: cli → soak → incident, monitors → agent → control → policy, kernel → errors.

rollout stands alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parent.parent.parent / "aegis_tools"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAY_IMPORT = {
    "errors": set[str](),
    "paths": {"errors"},
    "policy": {"errors", "policy"},
    "kernel": {"errors", "paths", "kernel"},
    "control": {"errors", "paths", "policy", "kernel", "control"},
    "agent": {"errors", "paths", "policy", "kernel", "control", "agent", "__version__"},
    "incident": {
        "errors",
        "paths",
        "policy",
        "kernel",
        "control",
        "agent",
        "incident",
        "__version__",
    },
    "monitors": {"errors", "paths", "policy", "kernel", "control", "agent", "monitors"},
    "rollout": {"rollout"},
    "soak": {
        "errors",
        "paths",
        "policy",
        "kernel",
        "control",
        "agent",
        "incident",
        "soak",
        "__version__",
    },
    "cli": {
        "errors",
        "paths",
        "policy",
        "kernel",
        "control",
        "agent",
        "incident",
        "monitors",
        "soak",
        "cli",
        "__version__",
    },
    "__main__": {"cli"},
    "__init__": set[str](),
}
HEAVY = {"yaml", "nacl", "sh", "prometheus_client", "pyroute2", "sqlalchemy", "jeepney"}
STORE = "aegis_tools.monitors.store"
"""Its modules are SQLAlchemy from end to end, so each of them is as heavy; none but they import
either at the top.
"""


class Import(NamedTuple):
    """An import statement: the module named, and whether it runs when the file is imported."""

    name: str
    line: int
    at_top: bool


def imports(source: str) -> Iterator[Import]:
    """Yield what a file imports; ``if TYPE_CHECKING`` costs nothing, so it is not at the top."""
    tree = ast.parse(source)
    lazy = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.If)
        and (not isinstance(outer, ast.If) or "TYPE_CHECKING" in ast.dump(outer.test))
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, id(node) not in lazy)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            if base == "aegis_tools":
                for alias in node.names:
                    yield Import(f"{base}.{alias.name}", node.lineno, id(node) not in lazy)
            else:
                yield Import(base, node.lineno, id(node) not in lazy)


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def in_store(path: Path) -> bool:
    return path.relative_to(PACKAGE).parts[:2] == ("monitors", "store")


def violations(source: str, layer: str, *, of_store: bool = False) -> list[str]:
    """Return the imports that a module of ``layer`` may not have."""
    found = []
    for name, line, at_top in imports(source):
        if of_store and name.split(".")[0] == "sqlalchemy":
            continue
        if name.startswith("."):
            found.append(f"{line}: relative import")
        elif name.split(".")[0] == "aegis_tools":
            wanted = name.split(".")[1] if "." in name else "__init__"
            if wanted not in MAY_IMPORT[layer]:
                found.append(f"{line}: {layer} imports {name}")
            elif at_top and name.startswith(STORE) and not of_store:
                found.append(f"{line}: {name} at the top of the module")
        elif at_top and name.split(".")[0] in HEAVY:
            found.append(f"{line}: {name} at the top of the module")
    return found


def test_there_is_a_package_to_look_at() -> None:
    assert len(MODULES) > 30


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_module_imports_downward_only(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert violations(source, layer_of(path), of_store=in_store(path)) == []


@pytest.mark.parametrize(
    ("source", "layer"),
    [
        ("from aegis_tools.kernel import maps", "policy"),
        ("from aegis_tools.control import plan", "kernel"),
        ("import aegis_tools.cli.main", "control"),
        ("def f():\n    from aegis_tools.agent import run", "control"),
        ("from aegis_tools.incident import record", "agent"),
        ("from aegis_tools.cli import output", "incident"),
        ("from aegis_tools.soak import verdict", "incident"),
        ("from aegis_tools.cli import output", "soak"),
        ("from . import errors", "policy"),
        ("import yaml", "policy"),
        ("from nacl.signing import SigningKey", "policy"),
        ("from aegis_tools import cli", "control"),
        ("import sqlalchemy", "monitors"),
        ("from aegis_tools.monitors.store.query import search", "cli"),
    ],
)
def test_an_import_that_is_not_allowed_is_found(source: str, layer: str) -> None:
    assert violations(source, layer)


@pytest.mark.parametrize(
    ("source", "layer"),
    [
        ("from aegis_tools.errors import PolicyError", "policy"),
        ("def f():\n    import yaml", "policy"),
        ("if TYPE_CHECKING:\n    import yaml", "policy"),
        ("from aegis_tools import __version__", "cli"),
        ("import shutil", "kernel"),
    ],
)
def test_an_import_that_is_allowed_is_not_found(source: str, layer: str) -> None:
    assert violations(source, layer) == []
