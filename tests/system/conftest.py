"""Tests of this folder each get a whole system of their own, in a few seconds.

They run on the host as root and reach the machine as an operator would; the machine starts from a
snapshot that has booted, with this checkout in /opt/aegis and nothing loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from vmharness.system.machine import Keys, Machine
from vmharness.system.qemu import Qemu
from vmharness.system.snapshot import Snapshot, ready

HERE = Path(__file__).parent


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("system")
    yield


@pytest.fixture(scope="session")
def snapshot() -> Snapshot:
    """Return the machine that every test starts from; made first where the cache has none."""
    return ready(os.environ)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Return this run's SSH key."""
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def another(snapshot: Snapshot, keys: Keys) -> Iterator[Callable[[], Machine]]:
    """Return what starts one more machine; all of them end with the test."""
    with ExitStack() as stack:

        def start() -> Machine:
            machine = Machine(stack.enter_context(Qemu(snapshot.disk, state=snapshot.state)), keys)
            stack.callback(machine.close)
            machine.open()
            return machine

        yield start


@pytest.fixture
def machine(another: Callable[[], Machine]) -> Machine:
    """Return a whole system: booted, with our program installed, nothing loaded."""
    return another()
