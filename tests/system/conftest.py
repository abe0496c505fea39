"""Tests of this folder each get a whole system of their own, in a few seconds.

They run on the host as root and reach the machine as an operator would; the machine starts from a
snapshot that has booted, with this checkout in /opt/aegis and nothing loaded.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from types import FrameType

import pytest
from enforcing_support import enforce
from vmharness.kernels import HarnessError
from vmharness.system.machine import Keys, Machine
from vmharness.system.qemu import Qemu
from vmharness.system.snapshot import Snapshot, loaded, ready

HERE = Path(__file__).parent
PATIENCE_SECONDS = 1500
"""A boot, or a search of the host, takes minutes where another machine runs beside it."""
EVIDENCE = (
    "findmnt --noheadings --output OPTIONS /; systemctl --failed --no-legend --plain;"
    " journalctl --boot --priority warning --no-pager --output short-monotonic --lines 40"
)
STORED = {make: cache(partial(make, os.environ)) for make in (ready, loaded)}
"""Found once a run, so that a file that is edited meanwhile changes nothing."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("system")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(PATIENCE_SECONDS))
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport]:
    """Tell with a failure what its machines had to say."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        machines = {one for one in item.funcargs.values() if isinstance(one, Machine)}
        report.sections += [("system", evidence(one)) for one in machines]
    return report


def evidence(machine: Machine) -> str:
    """Return what a system warned of, by a way that needs no login."""
    try:
        return machine.agent.run("/bin/sh", "-c", EVIDENCE)[1]
    except HarnessError as error:
        return f"{error}\n{machine.qemu.console()[-2000:]}"


@pytest.fixture(scope="session", autouse=True)
def _end_as_if_interrupted() -> Iterator[None]:
    """Let SIGTERM, too, end the machines first."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Return this run's SSH key."""
    return Keys(tmp_path_factory.mktemp("keys"))


def start(stack: ExitStack, snapshot: Snapshot, keys: Keys) -> Machine:
    """Start a machine from a snapshot; it ends with the stack."""
    machine = Machine(stack.enter_context(Qemu(snapshot.disk, state=snapshot.state)), keys)
    stack.callback(machine.close)
    machine.open()
    return machine


@pytest.fixture
def another(keys: Keys) -> Iterator[Callable[[Snapshot], Machine]]:
    """Return what starts one more machine from a snapshot; all of them end with the test."""
    with ExitStack() as stack:
        yield lambda snapshot: start(stack, snapshot, keys)


@pytest.fixture
def machine(another: Callable[[Snapshot], Machine]) -> Machine:
    """Return a whole system: booted, with our program installed, nothing loaded."""
    return another(STORED[ready]())


@pytest.fixture(scope="module")
def loaded_machines(keys: Keys) -> Iterator[Callable[[], Machine]]:
    """Return what starts one more loaded machine; all of them end with the module's tests."""
    with ExitStack() as stack:
        yield lambda: start(stack, STORED[loaded](), keys)


@pytest.fixture(scope="module")
def shared_machine(loaded_machines: Callable[[], Machine]) -> Machine:
    """Return one that is loaded, for tests of a module that leave it as they found it."""
    return loaded_machines()


@pytest.fixture
def loaded_machine(another: Callable[[Snapshot], Machine]) -> Machine:
    """Return one where ``aegisbpf load`` has been run: in audit, without a policy."""
    return another(STORED[loaded]())


@pytest.fixture
def enforcing_machine(loaded_machine: Machine) -> Machine:
    """Return one with units installed, that refuses a secret (see enforcing_support)."""
    loaded_machine.run("aegisbpf service install")
    enforce(loaded_machine)
    return loaded_machine
