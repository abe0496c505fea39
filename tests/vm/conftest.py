"""Tests of this folder run as root inside a disposable machine: ``scripts/vm test``.

They are all marked ``vm``, which the default marker expression leaves out. Selected outside a
machine they are an error, never skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from battery import Host, load_and_be_killed, loop_ext4, overlay

from benchmarks.environment import counts_instructions

HERE = Path(__file__).parent


ONCE = "6.12"
"""The kernel that runs the tests marked ``once``: they are about programs, not about kernels.

``once("7.2")`` names another, so that no machine has to run all of them, or more than one.
"""


def belongs_elsewhere(item: pytest.Item, kernel: str) -> bool:
    """Return whether a test is run in the machines of other kernels only."""
    mark = item.get_closest_marker("once")
    return mark is not None and kernel not in (mark.args or (ONCE,))


COUNTED = "test_counted.py"
"""What needs a machine that counts instructions (``--icount``), where nothing else is run."""


def needs_another_machine(item: pytest.Item) -> bool:
    """Return whether a test is run by another clock than this machine's."""
    return (item.path.name == COUNTED) != counts_instructions()


def loads_by_itself(item: pytest.Item) -> bool:
    """Return whether a test loads and removes as a document says: nothing may rely on the
    machine's own load afterwards, so these come last."""
    fixtures = getattr(item, "fixturenames", ())
    return item.get_closest_marker("once") is not None and "loaded" not in fixtures


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, None, None]:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("vm")
    kernel = os.environ.get("AEGIS_VM_KERNEL")
    if kernel is not None:
        elsewhere = [
            item for item in items if belongs_elsewhere(item, kernel) or needs_another_machine(item)
        ]
        items[:] = [item for item in items if item not in elsewhere]
        config.hook.pytest_deselected(items=elsewhere)
    items.sort(key=loads_by_itself)
    yield
    if "AEGIS_VM_KERNEL" not in os.environ and any(item.get_closest_marker("vm") for item in items):
        raise pytest.UsageError("tests/vm run inside a machine: scripts/vm test --kernel 6.1")


@pytest.fixture(scope="session")
def kernel_name() -> str:
    """Return the series of the machine's kernel, ``5.10`` to ``7.2``."""
    return os.environ["AEGIS_VM_KERNEL"]


@pytest.fixture(scope="session")
def loaded() -> Iterator[Host]:
    """Load once: the verifier takes seconds here.

    By a process that is then killed, so that every test of the battery also shows that
    enforcement needs nobody.
    """
    # A commit waits for grace periods, which an emulated processor makes long.
    Path("/sys/kernel/rcu_expedited").write_text("1")
    pins = load_and_be_killed(Path("/sys/fs/bpf/aegis"))
    with Host(pins) as host:
        host.clear()
        yield host
    pins.remove_all()


@pytest.fixture
def host(loaded: Host) -> Iterator[Host]:
    """Return the loaded programs with no rules, and leave them without any."""
    yield loaded
    loaded.clear()


@pytest.fixture(scope="session")
def ext4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with loop_ext4(tmp_path_factory.mktemp("ext4")) as mounted:
        yield mounted


@pytest.fixture(params=["tmpfs", "ext4", "overlay"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Return an empty folder on each file system in turn."""
    if request.param == "tmpfs":
        yield tmp_path
    elif request.param == "ext4":
        folder: Path = request.getfixturevalue("ext4") / tmp_path.name
        folder.mkdir()
        yield folder
    else:
        with overlay(tmp_path) as merged:
            yield merged


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder of the machine's BPF file system to pin in; what is pinned goes with it."""
    folder = Path("/sys/fs/bpf") / tmp_path.name
    yield folder
    if folder.exists():
        shutil.rmtree(folder)
