"""Tests of this folder run as root inside a disposable machine: ``scripts/vm test``.

They are all marked ``vm``, which the default marker expression leaves out. Selected outside a
machine they are an error, never skipped.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("vm")
    yield
    if "AEGIS_VM_KERNEL" not in os.environ and any(item.get_closest_marker("vm") for item in items):
        raise pytest.UsageError("tests/vm run inside a machine: scripts/vm test --kernel 6.1")


@pytest.fixture(scope="session")
def kernel_name() -> str:
    """Return the series of the machine's kernel, ``5.10`` to ``7.2``."""
    return os.environ["AEGIS_VM_KERNEL"]
